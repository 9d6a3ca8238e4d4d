"""The pages: every command in them runs, or is one that the command line would take; links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from command_lines import problem, words
from conftest import BRIEF, Example
from markdown_it import MarkdownIt
from markdown_it.token import Token
from test_trust import write_key
from typer.testing import CliRunner

from edgekd import methods
from edgekd.__main__ import app
from edgekd.networks import ResNet
from edgekd.types import Images, Run, Teacher

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SIGNING = importlib.util.find_spec("model_signing") is not None
NAMES = {  # what a page calls something -> what it is in the example's folder
    "TEACHER": "teacher.pt", "OUT": "out", "OUT/bundle": "out/bundle", "BUNDLE": "out/bundle", "ROOT": ".",
    "FILE": "teacher.pt", "A": "a", "B": "b", "C": "c", "NPZ": "test.npz", "IMAGE": "image.png", "NAME": "cpu",
    "CODE": "E0312",
}  # fmt: skip
BOARD = ("--on", "ssh://")  # needs one
PERSON = ("--open",)  # needs a browser and somebody who looks


@cache
def tokens(path: Path) -> tuple[Token, ...]:
    flat: list[Token] = []
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8")):
        flat += [token, *(token.children or ())]
    return tuple(flat)


def block_lines(path: Path) -> Iterator[str]:
    """Lines of code blocks, without the prompt."""
    for token in tokens(path):
        if token.type in ("fence", "code_block") and token.info.strip() in ("", "console", "bash", "sh"):
            yield from (line.strip().removeprefix("$ ") for line in token.content.splitlines())


def commands(path: Path) -> list[str]:
    """The edgekd lines of a page's blocks; "or later: edgekd ..." behind one is another."""
    parts = (part for line in block_lines(path) for part in re.split(r"\s{2,}or later: |; (?=edgekd )", line))
    return [part for part in parts if part.startswith("edgekd ")]


def runnable(line: str) -> bool:
    """Whether a line can be run here: no board, no browser, no training but the example's, which is gone on with."""
    given = words(line)
    if given[:2] == ["profiles", "measure"] or any(word.startswith((*BOARD, *PERSON)) for word in given):
        return False
    if "--sign" in given or given[0] == "sign" or "--key" in given:
        return SIGNING and given[0] != "compress"
    if "litert" in given:  # the example's bundle is for TensorRT, without a .tflite
        return False
    if "openvino" in given:
        return importlib.util.find_spec("openvino") is not None
    return given[0] != "compress" or given == ["compress", "teacher.pt", "--profile", "jetson"]


ALL = list(dict.fromkeys(line for path in PAGES for line in commands(path)))
RUN = list(dict.fromkeys(" ".join(words(line)) for line in ALL if runnable(line)))


def test_every_command_is_one_that_the_command_line_takes() -> None:
    assert len(ALL) > 30
    wrong = {line: said for line in ALL if (said := problem(line))}
    assert not wrong
    assert problem("edgekd bench BUNDLE --onn ssh://x") and problem("edgekd compress")  # the check can fail


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_within_text_have_options_that_exist(path: Path) -> None:
    inline = {token.content for token in tokens(path) if token.type == "code_inline"}
    lines = [re.sub(r"\bN\b", "1", re.sub(r" --on$", " --on URL", t)) for t in inline if t.startswith("edgekd ")]
    wrong = {line: said for line in lines if (said := problem(line, whole=False))}
    assert not wrong


@pytest.fixture(scope="module")
def folder(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the pages name: teacher, data, a picture, output folders, keys, somebody's weights."""
    work = tmp_path_factory.mktemp("pages") / "work"
    shutil.copytree(example.folder, work)
    for name in ("out", "a", "b", "c"):
        shutil.copytree(work / "teacher-jetson", work / name)
    strange = work / "strange"  # a CIFAR-10 network's bare weights, and data of its size
    strange.mkdir()
    images = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
    torch.save(ResNet(images, 10, depth=3, width=16, large_stem=False).state_dict(), strange / "weights.th")
    rng = np.random.default_rng(0)
    np.savez(strange / "test.npz", images=rng.integers(0, 256, (8, 32, 32, 3), np.uint8), labels=np.arange(8))
    if SIGNING:
        write_key(work / "key.pem")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(work / "own"))
        os.chdir(work)
        yield work
    os.chdir(before)


def test_every_command_that_can_run_here_runs(folder: Path) -> None:
    """In the order of the pages, in one folder, as a reader would: what one line writes the next may read."""
    assert len(RUN) > 20
    signed = [line for line in RUN if line.startswith("sign ")]
    lines = [*signed, *(line for line in RUN if line not in signed)]  # before they are verified
    failed = {}
    for line in lines:
        given = [NAMES.get(word, word) for word in line.split()]
        given = [word.replace("~/.config/edgekd", str(folder / "own" / "edgekd")) for word in given]
        if given[0] in ("compress", "plan"):
            given += BRIEF
        if given[0] == "bench":
            given += ["--quick", "--threads", "1"]
        os.chdir(folder / "strange" if "weights.th" in given else folder)
        done = CliRunner().invoke(app, given)
        allowed = (0, 5) if given[0] == "bench" else (4, 0) if given[0] == "doctor" else (0,)
        if done.exit_code not in allowed:
            failed[line] = f"exit {done.exit_code}: {done.stderr[-600:]} {done.exception!r}"
    assert not failed
    assert (folder / "own" / "edgekd" / "profiles" / "my-camera.toml").is_file()


def test_lines_of_other_programs_name_what_is_there() -> None:
    """make's targets, torchrun's edgekd, the runner's options, Python files."""
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    seen = 0
    for path in PAGES:
        inline = [token.content for token in tokens(path) if token.type == "code_inline"]
        for line in (*block_lines(path), *inline):
            if match := re.match(r"make ([a-z]+)", line):
                assert match[1] in made, line
            elif line.startswith("torchrun "):
                assert not problem(f"edgekd {line.partition('-m edgekd ')[2]}"), line
            elif match := re.match(r"python3? (\S+\.py)", line):
                assert (ROOT / match[1]).is_file() or match[1] == "cli.py", line
            elif match := re.match(r"(benchmarks|edgekd|targets|tests|docs|profiles)/[\w/.-]+$", line):
                assert (ROOT / line).exists() or any(ROOT.glob(line)), f"{path.name}: {line}"
            else:
                continue
            seen += 1
    assert seen > 30


def test_links_lead_somewhere() -> None:
    linked = set()
    for path in PAGES:
        for token in tokens(path):
            target = str(token.attrGet("href") or "") if token.type == "link_open" else ""
            if target and "://" not in target:
                file, _, heading = target.partition("#")
                there = (path.parent / file).resolve() if file else path
                assert there.exists(), f"{path.name}: {target}"
                assert not heading or heading in headings(there), f"{path.name}: {target}"
                linked.add(there)
    lost = [path.name for path in PAGES if path not in linked and path.name != "README.md"]
    assert not lost, f"no page leads to {lost}"


def headings(path: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    flat = tokens(path)
    titles = [after.content for token, after in itertools.pairwise(flat) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_python_in_the_pages_parses_and_imports_what_is_there() -> None:
    seen = 0
    for path in PAGES:
        for token in tokens(path):
            if token.type != "fence" or token.info.strip() != "python":
                continue
            for node in ast.walk(ast.parse(token.content)):
                if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "edgekd":
                    module = importlib.import_module(str(node.module))
                    assert all(hasattr(module, alias.name) for alias in node.names), f"{path.name}: {node.module}"
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgekd":
                    assert hasattr(importlib.import_module("edgekd"), node.attr), f"{path.name}: edgekd.{node.attr}"
            seen += 1
    assert seen >= 8


def test_the_method_of_the_page_is_one(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """extending.md's module trains a student, and gives the same one after an interruption of its random numbers."""
    page = tokens(ROOT / "docs" / "extending.md")
    (text,) = [token.content for token in page if token.type == "fence" and "def distill(" in token.content]
    module = ModuleType("noise")
    monkeypatch.setitem(sys.modules, "noise", module)
    exec(compile(text, "extending.md", "exec"), module.__dict__)
    monkeypatch.setitem(methods.METHODS, "noise", module)
    config = methods.configure("noise", "fast", {"batch": 8, "student_steps": 3}, teacher)
    states: list[dict[str, torch.Tensor]] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        student = ResNet(teacher.images, 4, depth=1, width=4, large_stem=False)
        student.load_state_dict(states[0] if states else student.state_dict())
        states += [] if states else [{n: t.clone() for n, t in student.state_dict().items()}]
        (out := tmp_path / str(seed)).mkdir()
        sampler = methods.distill(
            "noise", teacher, student, config, Run(torch.device("cpu"), 0, out, lambda *_, **__: None)
        )
        assert sampler(2).shape == (2, 1, 8, 8)
        states.append({n: t.clone() for n, t in student.state_dict().items()})
    assert any(not torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert all(torch.equal(states[1][n], states[2][n]) for n in states[1])


def test_index_names_every_page() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").iterdir() if f"({path.name})" not in text] == ["README.md"]
