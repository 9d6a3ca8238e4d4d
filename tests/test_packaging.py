"""The seams: what the wheel holds, who imports whom, and how large a module is."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EDGEKD, TARGETS = ROOT / "edgekd", ROOT / "targets"
PYTHONS = [
    path
    for version in ("3.6", "3.8", "3.10", "3.12", "3.13")
    for path in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python3"))[:1]
]


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere, for type checkers only excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def reachable(start: Path) -> set[str]:
    """Files of edgekd that importing `start` may load, with what they import from elsewhere."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in imported(waiting.pop()):
            if name in seen:
                continue
            seen.add(name)
            parts = name.split(".")
            for path in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
                if parts[0] == "edgekd" and path.is_file():
                    waiting.append(path)
    return seen


def test_wheel_holds_edgekd_only(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = ("edgekd", "targets", "profiles", "pyproject.toml", "README.md", "LICENSE")
    source.mkdir()
    for name in tracked:
        subprocess.run(["cp", "-r", ROOT / name, source / name], check=True)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(source),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"edgekd"}
    for folder, inside in (("edgekd", "edgekd"), ("targets", "edgekd/targets"), ("profiles", "edgekd/profiles")):
        files = [f.relative_to(ROOT / folder) for f in (ROOT / folder).rglob("*") if f.is_file()]
        wanted = {f"{inside}/{f.as_posix()}" for f in files if "__pycache__" not in f.parts}
        assert wanted <= set(names), wanted - set(names)


def test_host_and_device_share_no_line_of_code() -> None:
    for path in EDGEKD.rglob("*.py"):
        assert not {
            n for n in imported(path) if n.split(".")[0] in ("targets", "runner") or n.startswith("edgekd.targets")
        }
    allowed = set(sys.stdlib_module_names) | {"ai_edge_litert", "numpy", "onnxruntime", "openvino", "tensorrt"}
    for path in TARGETS.glob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= allowed, path


def test_nothing_under_distill_can_open_a_data_set() -> None:
    for path in (EDGEKD / "methods").glob("*.py"):
        found = reachable(path)
        assert "edgekd.checkpoint" in found  # the walk does reach what is imported
        openers = ("edgekd.datasets", "edgekd.evaluation", "torchvision", "torch.utils.data", "sklearn")
        assert not {n for n in found if n.startswith(openers)}, path


@pytest.mark.parametrize("python", PYTHONS or [None], ids=lambda p: p.parts[-3] if p else "none")
def test_runner_parses_on_the_pythons_of_boards(python: Path | None) -> None:
    if python is None:
        pytest.skip("no other Python versions under ~/.pyenv on this machine")
    code = "import sys; [compile(open(f, encoding='utf-8').read(), f, 'exec') for f in sys.argv[1:]]"
    done = subprocess.run(
        [python, "-c", code, *map(str, TARGETS.glob("*.py"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_runner_keeps_to_python_3_6() -> None:
    for path in TARGETS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        ast.parse(text, feature_version=(3, 7))  # the oldest that the parser knows
        assert ":=" not in text and not re.search(r"-> .*(\blist|\bdict|\btuple)\[", text) and "print(f" not in text


def test_modules_stay_small_and_have_a_docstring() -> None:
    for path in (*EDGEKD.rglob("*.py"), *TARGETS.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        assert ast.get_docstring(ast.parse(text)), path


def test_error_codes_mean_one_thing_each() -> None:
    """A code may stand in several places of one module that say the same, never in two modules with other words."""
    homes: dict[str, set[str]] = {}
    for path in EDGEKD.rglob("*.py"):
        for code in re.findall(r'code="(E\d{4})"', path.read_text(encoding="utf-8")):
            homes.setdefault(code, set()).add(path.name)
    assert len(homes) > 30 and all(re.fullmatch(r"E\d{4}", code) for code in homes)


def test_command_line_runs_from_a_checkout(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0 and done.stdout.startswith("edgekd ")
