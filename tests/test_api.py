"""edgekd as a library: light to import, documented, and the example of the docs runs."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FEW, Example

import edgekd
from edgekd.steps import Distilled
from edgekd.types import Teacher

ROOT = Path(__file__).parent.parent
QUICK: dict[str, Any] = {
    "method": "rdskd",
    "family": "cnn:4",
    "settings": {name: int(value) for name, _, value in (setting.partition("=") for setting in FEW)},
}


def test_import_is_light() -> None:
    code = "import sys, edgekd; dir(edgekd); sys.exit(len({'torch', 'numpy', 'onnx', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there_and_documented() -> None:
    assert set(edgekd.__all__) <= set(dir(edgekd))
    for name in edgekd.__all__:
        thing = getattr(edgekd, name)
        assert name == "METHODS" or len(inspect.getdoc(thing) or "") > 20, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = edgekd.nothing


def distilled(teacher: Teacher, folder: Path, seen: list[tuple[str, int, int]]) -> Distilled:
    def progress(phase: str, step: int, steps: int, **figures: float) -> None:
        assert figures["loss"] == figures["loss"] and all(isinstance(value, float) for value in figures.values())
        seen.append((phase, step, steps))

    return edgekd.distill(teacher, edgekd.load_profile("cpu"), folder, log=progress, **QUICK)


def test_progress_and_no_global_state(teacher: Teacher, tmp_path: Path) -> None:
    """In a thread, with another global seed, it is the same student; the global random state is left alone."""
    steps: list[tuple[str, int, int]] = []
    found: list[Distilled] = []
    torch.manual_seed(1)
    one = distilled(teacher, tmp_path / "one", [])
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    thread = threading.Thread(target=lambda: found.append(distilled(teacher, tmp_path / "two", steps)))
    thread.start()
    thread.join()
    assert torch.equal(before, torch.random.get_rng_state()) and not one.student.training
    assert steps == [("generator", 1, 5), ("generator", 5, 5), ("student", 1, 5), ("student", 5, 5)]
    (two,) = found
    for name, tensor in one.student.state_dict().items():
        assert torch.equal(tensor, two.student.state_dict()[name]), name
    more: list[tuple[str, int, int]] = []
    again = distilled(teacher, tmp_path / "two", more)
    assert not more and torch.allclose(one.student(PIXELS), again.student(PIXELS), atol=1e-5)


PIXELS = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)


def test_another_run_in_the_folder_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    distilled(teacher, tmp_path, [])
    with pytest.raises(edgekd.EdgekdError) as refused:
        edgekd.distill(teacher, edgekd.load_profile("cpu"), tmp_path, **QUICK | {"seed": 1})
    assert refused.value.code == "E0222"


def test_the_example_of_the_docs(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, data = example.folder / "teacher.pt", example.folder / "test.npz"
    monkeypatch.setattr(sys, "argv", ["example.py", str(teacher), str(tmp_path), str(data), "--fast"])
    runpy.run_path(str(ROOT / "docs" / "example.py"), run_name="__main__")
    said = capsys.readouterr().out
    for words in ("4 classes", "student 5/5  loss", "fp32: ", "student distilled already", "deploy ", "p50 "):
        assert words in said, words
    assert {path.name for path in (tmp_path / "graphs").iterdir()} == {"student.fp32.onnx", "student.int8.onnx"}
    assert (tmp_path / "run" / "bundle" / "report.json").is_file()
