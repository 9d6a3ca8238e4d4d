"""LiteRT: its own form of a network held against torch, INT8 as well, its files in a bundle, and the runner's part.

What writes .tflite needs edgekd[litert], which is large and not among the tools of development; what the runner does
is tested on the graphs of tests/litert with ai-edge-litert alone.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BRIEF, CLASSES, FACTS, pictures
from numpy.typing import NDArray
from schemas import problems
from torch import nn
from trt_api import runner
from typer.testing import CliRunner

from edgekd import load_profile, load_teacher
from edgekd.__main__ import app
from edgekd.bundle import SCHEMA, read_bundle, write_bundle
from edgekd.device import run_bundle
from edgekd.errors import EnvironmentLacking, ExportError, InputError
from edgekd.export import (
    ParityError,
    Source,
    export,
    export_tflite,
    graph_facts,
    litert_gates,
    onnx_logits,
    passing,
    quantise,
    tflite_logits,
    torch_logits,
)
from edgekd.export import litert as module
from edgekd.families import named
from edgekd.files import data_dir, plain, sha256
from edgekd.profile_rules import problems as wrong
from edgekd.student import build_student
from edgekd.types import Bundle, Images, Manifest, Teacher

HERE = Path(__file__).parent / "litert"  # graphs and answers that its make.py wrote
runtimes, setting = runner("runtimes"), runner("setting")
on_host = pytest.mark.skipif(not module.installed(), reason="no litert-torch: pip install 'edgekd[litert]'")
on_device = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="no LiteRT: pip install ai-edge-litert"
)
PIXELS = pictures(128, seed=4)[0][:, None]  # (128, 1, 8, 8)
CALIBRATION = pictures(256, seed=5)[0][:, None]


@pytest.fixture(scope="module")
def network(teacher_file: Path) -> nn.Module:
    return load_teacher(teacher_file).model


@pytest.fixture(scope="module")
def graphs(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return export(network, FACTS, CLASSES, load_profile("cpu"), CALIBRATION, tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def forms(network: nn.Module, graphs: dict[str, Path]) -> dict[str, Path]:
    """LiteRT's own form of each graph, for three images at once."""
    source = Source(network, FACTS, 3, CALIBRATION)
    files, _, _ = litert_gates(graphs, graphs["fp32"], PIXELS, torch_logits(network, FACTS, PIXELS), source)
    return dict(zip(graphs, files, strict=True))


# --- made and held against torch on the host


@on_host
def test_own_form_is_the_network(forms: dict[str, Path], network: nn.Module) -> None:
    rng = np.random.default_rng(0)
    for pixels in (PIXELS, rng.integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)):  # 50 are no multiple of 3
        found, wanted = tflite_logits(forms["fp32"], pixels), torch_logits(network, FACTS, pixels)
        assert found.dtype == np.float32 and found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-4


@on_host
def test_int8_is_per_channel_and_integer_throughout(forms: dict[str, Path], network: nn.Module) -> None:
    """Pixels, normalisation and logits are float32; all between is int8, with a scale per channel of the weights."""
    tensors = {t["name"]: t for t in module.opened(forms["int8"]).get_tensor_details()}
    interpreter = module.opened(forms["int8"])
    for end in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert end["dtype"] == np.float32
    weights = [t for t in tensors.values() if t["dtype"] == np.int8 and len(t["quantization_parameters"]["scales"]) > 1]
    assert len(weights) >= 9 and all(not t["quantization_parameters"]["zero_points"].any() for t in weights)
    floats = [t for t in tensors.values() if t["dtype"] == np.float32 and t["shape"].size == 4 and t["shape"][0] == 3]
    assert len(floats) == 3  # pixels, scaled, shifted
    found, wanted = tflite_logits(forms["int8"], PIXELS), torch_logits(network, FACTS, PIXELS)
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.98
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()  # averaged ranges would clip: 0.12


@on_host
def test_same_file_every_time_with_the_graphs_metadata(
    forms: dict[str, Path], graphs: dict[str, Path], network: nn.Module, tmp_path: Path
) -> None:
    source = Source(network, FACTS, 3, CALIBRATION)
    again = {precision: Path(shutil.copy(path, tmp_path)) for precision, path in graphs.items()}
    files, _, _ = litert_gates(again, again["fp32"], PIXELS, torch_logits(network, FACTS, PIXELS), source)
    assert [sha256(path) for path in files] == [sha256(path) for path in forms.values()]
    from ai_edge_litert.tools import flatbuffer_utils

    for precision, path in forms.items():
        model = flatbuffer_utils.read_model(str(path))
        said = {entry.name: bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
        assert json.loads(said[b"edgekd.classes"]) == list(CLASSES)
        assert said[b"edgekd.precision"].decode() == precision
        assert said[b"edgekd.weights_sha256"].decode() == graph_facts(graphs[precision]).weights_sha256


@on_host
@pytest.mark.parametrize("student", ["bottleneck:1x8", "wrn16-1", "mobilenetv2:0.35", "mobilenetv3:0.35", "mcu:1x8"])
def test_every_family_has_the_form(student: str, tmp_path: Path) -> None:
    images = Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
    spec = named(student, images, CLASSES)
    assert spec is not None
    squares = np.random.default_rng(0).integers(0, 256, (64, 3, 4, 4), dtype=np.uint8)
    pixels = np.kron(squares, np.ones((8, 8), np.uint8))
    model = build_student(spec, seed=0).train()
    with torch.no_grad():  # statistics of these images, so that answers depend on them
        for _ in range(50):
            model((torch.from_numpy(pixels) / 255 - 0.5) / 0.25)
    export_tflite(model.eval(), images, tmp_path / "a.tflite")
    quantise(tmp_path / "a.tflite", tmp_path / "b.tflite", pixels)
    wanted = torch_logits(model, images, pixels)
    whole, integers = (tflite_logits(tmp_path / name, pixels) for name in ("a.tflite", "b.tflite"))
    assert np.abs(whole - wanted).max() < 1e-4
    spread = np.square(wanted - wanted.mean(0)).mean()  # small: answers of random weights lie close together
    assert np.square(integers - wanted).mean() < 0.6**2 * spread


@on_host
def test_gates_hold_what_litert_answers(
    graphs: dict[str, Path], network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, told = torch_logits(network, FACTS, PIXELS), list[str]()
    source = Source(network, FACTS, 1, CALIBRATION)
    with pytest.raises(ParityError):
        litert_gates(graphs, graphs["fp32"], PIXELS, wanted[:, ::-1], source)
    true = module.tflite_logits
    monkeypatch.setattr(
        module, "tflite_logits", lambda path, x: -true(path, x) if "int8" in path.name else true(path, x)
    )
    found = passing(graphs, graphs["fp32"], PIXELS, wanted, "litert", told.append, source)
    assert set(found.graphs) == set(found.logits) == set(found.own) == {"fp32"}
    assert [path.name for path in found.files] == ["student.fp32.tflite"]
    assert found.parity["int8"]["refused"].startswith("run by LiteRT, it agrees with torch on")
    assert found.parity["fp32"]["litert"]["agreement"] == 1
    assert len(told) == 1 and told[0].startswith("the int8 graph is not packed: run by LiteRT")


@on_host
def test_int8_alone_is_made_too(graphs: dict[str, Path], network: nn.Module) -> None:
    wanted, source = torch_logits(network, FACTS, PIXELS), Source(network, FACTS, 1, CALIBRATION)
    files, found, _ = litert_gates({"int8": graphs["int8"]}, graphs["fp32"], PIXELS, wanted, source)
    assert [path.name for path in files] == ["student.int8.tflite"] and set(found) == {"int8"}


@on_host
def test_network_that_it_cannot_express(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.flatten(1)[:, x.flatten(1).sum(0).argsort()][:, : int(x.sum())]  # a length known when it runs

    with pytest.raises(ExportError) as caught:
        export_tflite(Sorted(), FACTS, tmp_path / "a.tflite")
    assert caught.value.code == "E0613" and caught.value.why and not list(tmp_path.iterdir())


@on_host
def test_nothing_of_it_prints_or_goes_over_the_network(tmp_path: Path) -> None:
    """stdout is the document's. Its package brings clients of model hubs, which what is used here does not call."""
    code = """
import sys
def hook(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(event)
sys.addaudithook(hook)
from pathlib import Path
import numpy as np
from conftest import FACTS
from edgekd.export import export_tflite, quantise, tflite_logits
from edgekd.families import named
from edgekd.student import build_student
folder = Path(sys.argv[1])
export_tflite(build_student(named("cnn:4", FACTS, ("a", "b")), seed=0).eval(), FACTS, folder / "a.tflite")
quantise(folder / "a.tflite", folder / "b.tflite", np.zeros((4, 1, 8, 8), np.uint8) + 128)
tflite_logits(folder / "b.tflite", np.zeros((2, 1, 8, 8), np.uint8))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert [line for line in done.stderr.splitlines() if "XNNPACK" not in line] == []  # that comes from its library


def test_without_litert_the_bundle_has_onnx_alone(
    graphs: dict[str, Path], network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)  # as Python marks what cannot be imported
    wanted, told = torch_logits(network, FACTS, PIXELS), list[str]()
    source = Source(network, FACTS, 1, CALIBRATION)
    found = passing(graphs, graphs["fp32"], PIXELS, wanted, "litert", told.append, source)
    assert found.graphs == graphs and not found.files and not found.own and told == [module.ABSENT]
    assert "litert" not in found.parity["fp32"]


def test_profile_of_half_precision_is_refused() -> None:
    profile = dataclasses.replace(load_profile("cpu"), target="litert", runtime=None)
    assert not wrong(profile)
    found = wrong(dataclasses.replace(profile, precisions=("fp32", "fp16")))
    assert any(f.key == "precisions" and "LiteRT" in f.what for f in found)


@on_host
def test_compress_for_litert_and_bench_by_another(teacher_file: Path, tmp_path: Path) -> None:
    """From a teacher to a report, and a manifest that vouches for LiteRT's files too."""
    shutil.copy(teacher_file, tmp_path / "teacher.pt")
    text = (data_dir("profiles") / "cpu.toml").read_text(encoding="utf-8").replace('"onnxrt"', '"litert"')
    (tmp_path / "pc.toml").write_text(text, encoding="utf-8")
    names = ["teacher.pt", "pc.toml", "out"]
    teacher, profile, out = (str(tmp_path / name) for name in names)
    done = CliRunner().invoke(app, ["compress", teacher, "--profile", profile, "-o", out, *BRIEF, "--json"])
    assert done.exit_code in (0, 1), done.output  # 1: a student of five steps may miss a limit
    bundle = read_bundle(Path(out) / "bundle")
    report = json.loads((bundle.folder / "report.json").read_text(encoding="utf-8"))
    assert not problems("manifest", plain(bundle.manifest)) and not problems("report", report)
    assert report["runtime"]["name"] == "litert" and report["runtime"]["note"] == ""
    assert bundle.manifest.parity["fp32"]["litert"]["agreement"] >= 0.999
    assert "teacher" not in report["graphs"]
    for precision in bundle.manifest.graphs:
        graph, name = report["graphs"][precision], f"student.{precision}.tflite"
        assert graph["file"] == name and graph["threads"] >= 1 and graph["max_abs_from_host"] < 1e-3
        assert {name, f"student.{precision}.onnx"} <= set(bundle.manifest.files)
        assert graph["mb"] == pytest.approx((bundle.folder / name).stat().st_size / 1e6)
    done = CliRunner().invoke(app, ["bench", str(bundle.folder), "--quick", "--runtime", "onnxrt", "--json"])
    report = json.loads(done.stdout)
    assert report["runtime"]["name"] == "onnxruntime" and "not LiteRT's: --runtime" in report["runtime"]["note"]
    assert report["graphs"]["fp32"]["file"] == "student.fp32.onnx"
    assert report["graphs"]["int8"]["max_abs_from_host"] < 1e-3


# --- the runner, and who chooses it


def answers() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(pixels, torch's logits) of the graphs that lie in tests/litert."""
    with np.load(HERE / "answers.npz") as data:
        return data["pixels"], data["logits"]


def setting_of(precision: str, **changes: Any) -> Any:
    return setting.Setting((1, 8, 8), 2, precision, 1, "")._replace(**changes)


def refused(exit_code: int, call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(setting.Refused) as caught:
        call(*arguments)
    assert caught.value.exit_code == exit_code, str(caught.value)
    return str(caught.value)


@on_device
def test_runner_gives_torchs_answers() -> None:
    """Any number of images, whatever the batch that the graph was made for, and they are the caller's own."""
    opened, (pixels, wanted) = runner("litert_rt").opened(), answers()
    infer, facts = opened.load(str(HERE / "student.fp32.tflite"), setting_of("fp32"), print)
    for count in (1, 2, 7, 64):
        found = infer(pixels[:count].astype(np.float32))
        assert found.dtype == np.float32 and np.abs(found - wanted[:count]).max() < 1e-5
    first = infer(pixels[:2].astype(np.float32))
    kept = first.copy()
    infer(255 - pixels[:2].astype(np.float32))
    assert np.array_equal(first, kept)
    assert facts == {"threads": 1} and opened.describe()["name"] == "litert" and opened.describe()["version"]
    infer, _ = opened.load(str(HERE / "student.int8.tflite"), setting_of("int8"), print)
    found = infer(pixels.astype(np.float32))
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


@on_device
def test_threads_are_handed_over() -> None:
    rt, asked = runner("litert_rt"), list[Any]()

    def interpreter(**options: Any) -> Any:
        asked.append(options["num_threads"])
        return true(**options)

    true = rt.opened().interpreter
    opened = rt.LiteRt(interpreter, "0")
    for threads, wanted in ((1, 1), (2, 2), (0, rt.cores())):
        _, facts = opened.load(str(HERE / "student.fp32.tflite"), setting_of("fp32", threads=threads), print)
        assert asked[-1] == facts["threads"] == wanted


@on_device
def test_what_it_does_not_take_is_said(tmp_path: Path) -> None:
    opened, graph = runner("litert_rt").opened(), str(HERE / "student.fp32.tflite")
    assert "--provider cuda" in refused(4, opened.load, graph, setting_of("fp32", provider="cuda"), print)
    (tmp_path / "broken.tflite").write_bytes(b"no graph")  # half of one ends 2.1.0: the manifest's sha256 is the guard
    said = refused(6, opened.load, str(tmp_path / "broken.tflite"), setting_of("fp32"), print)
    assert "does not take" in said and not said.endswith(": ")


@pytest.mark.parametrize(
    "target,asked,there,formless,runtime,said",
    [
        ("litert", None, ["litert", "onnxrt"], False, "litert", ""),
        ("litert", None, ["onnxrt"], False, "onnxrt", "not LiteRT's: its Python package is not on this device"),
        ("litert", None, ["onnxrt"], True, "onnxrt", "not LiteRT's: the bundle has no .tflite"),
        ("litert", "onnxrt", ["onnxrt"], False, "onnxrt", "not LiteRT's: --runtime asked for it"),
        ("litert", "onnxrt", ["onnxrt"], True, "onnxrt", "not LiteRT's: --runtime asked for it"),
    ],
)
def test_runtime_by_target(
    target: str, asked: str | None, there: list[str], formless: bool, runtime: str, said: str
) -> None:
    choice = runtimes.choose(target, asked, there, formless)
    assert choice.runtime == runtime and (said in choice.note if said else choice.note == "")


def test_bundle_without_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told from a package that is missing, and LiteRT is not even imported."""
    assert "pip install numpy ai-edge-litert" in refused(4, runtimes.choose, "litert", "litert", [])
    assert "pip install numpy ai-edge-litert" in refused(4, runtimes.choose, "litert", None, [])
    assert "no .tflite" in refused(3, runtimes.choose, "onnxrt", "litert", [], True)
    said = refused(4, runtimes.choose, "litert", None, [], True)
    assert "no .tflite" in said and "pip install numpy onnxruntime" in said
    monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace())  # there, and of no use
    assert runtimes.here("litert", None, ["student.fp32.onnx"]).runtime == "onnxrt"
    assert runtimes.here("litert", None, ["student.fp32.onnx", "student.fp32.tflite"]).runtime == "litert"
    assert runtimes.form("litert", "student.fp32.onnx", ["student.fp32.tflite"]) == "student.fp32.tflite"
    assert runtimes.form("onnxrt", "student.fp32.onnx", ["student.fp32.tflite"]) == "student.fp32.onnx"
    assert runtimes.takes("litert", "a.tflite") and not runtimes.takes("litert", "teacher.onnx")


def bundle_of(graphs: dict[str, Path], teacher: Teacher, folder: Path, files: list[Path]) -> Bundle:
    """For LiteRT; the forms in `files` are another network's, which the runner need not know."""
    profile = dataclasses.replace(load_profile("cpu"), target="litert", runtime=None)
    wanted = torch_logits(teacher.model, FACTS, PIXELS)
    manifest = Manifest(
        SCHEMA, "litert", 2, 1, FACTS, CLASSES, {}, {}, {p: {} for p in graphs}, {}, {}, {}, plain(profile), "no data",
    )  # fmt: skip
    samples: dict[str, Any] = {"pixels": PIXELS, "teacher_logits": wanted}
    samples |= {f"{precision}_logits": onnx_logits(path, PIXELS) for precision, path in graphs.items()}
    if files:
        samples |= {f"{p}_litert_logits": np.zeros_like(wanted) for p in graphs}
    return write_bundle(folder, manifest, graphs, samples, files=files)


@on_device
def test_runner_measures_its_form_and_no_other_graph(graphs: dict[str, Path], teacher: Teacher, tmp_path: Path) -> None:
    files, lines = [HERE / f"student.{precision}.tflite" for precision in graphs], list[str]()
    bundle = bundle_of(graphs, teacher, tmp_path / "bundle", files)
    report = run_bundle(bundle, quick=True, reference=graphs["fp32"], say=lines.append)
    assert report["runtime"]["name"] == "litert" and set(report["graphs"]) == {"fp32", "int8"}
    assert any("student.fp32.onnx is not measured: LiteRT does not read it" in line for line in lines)
    graph = report["graphs"]["fp32"]
    assert graph["file"] == "student.fp32.tflite" and graph["latency_ms"]["p50"] > 0
    opened = runner("litert_rt").opened()
    infer, _ = opened.load(str(files[0]), setting_of("fp32"), print)
    largest = np.abs(infer(PIXELS.astype(np.float32))).max()
    assert graph["max_abs_from_host"] == pytest.approx(largest, rel=1e-4)  # from LiteRT's on the host: zeros here


def test_runner_without_the_form_takes_onnxruntime(graphs: dict[str, Path], teacher: Teacher, tmp_path: Path) -> None:
    bundle = bundle_of({"fp32": graphs["fp32"]}, teacher, tmp_path / "bundle", [])
    report = run_bundle(bundle, quick=True)
    assert report["runtime"]["name"] == "onnxruntime" and "the bundle has no .tflite" in report["runtime"]["note"]
    with pytest.raises(InputError) as caught:
        run_bundle(bundle, quick=True, runtime="litert")
    assert "no .tflite" in caught.value.why


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is not None, reason="LiteRT is installed")
def test_runner_asked_for_what_is_not_there(graphs: dict[str, Path], teacher: Teacher, tmp_path: Path) -> None:
    bundle = bundle_of({"fp32": graphs["fp32"]}, teacher, tmp_path / "bundle", [HERE / "student.fp32.tflite"])
    with pytest.raises(EnvironmentLacking) as lacking:
        run_bundle(bundle, quick=True, runtime="litert")
    assert "pip install numpy ai-edge-litert" in lacking.value.why
