"""edgekd explain: every code that an error can have is explained, and nothing else."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_lines import problem
from typer.testing import CliRunner

from edgekd.__main__ import app
from edgekd.console import errors
from edgekd.errors import InputError
from edgekd.explain_command import catalogue, codes

ROOT = Path(__file__).parent.parent


def raised(path: Path) -> dict[str, str]:
    """Error codes in a module, wherever given: code=..., a default, a Finding. What is compared is left out."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text if re.search(r"E\d{4}", text) else "")  # half of the modules name none
    compared = {id(node) for outer in ast.walk(tree) if isinstance(outer, ast.Compare) for node in ast.walk(outer)}
    return {
        node.value: f"{path.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in compared
        and re.fullmatch(r"E\d{4}", node.value)
    }  # fmt: skip


def test_every_code_is_explained_and_no_other() -> None:
    found: dict[str, str] = {}
    for folder in ("edgekd", "targets"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found |= raised(path)
    assert len(found) > 150 and "E0332" in found and "E0130" in found
    missing = {code: place for code, place in found.items() if code not in catalogue()}
    assert not missing, f"raised and not in edgekd/explanations.toml: {missing}"
    stale = set(catalogue()) - set(found)
    assert not stale, f"in edgekd/explanations.toml and raised nowhere: {stale}"


def test_texts_are_short_whole_and_different() -> None:
    texts = catalogue()
    for code, text in texts.items():
        assert re.fullmatch(r"E\d{4}", code) and all(vars(text).values()), code
        assert len(text.title) <= 80 and len(text.cause) <= 260 and len(text.fix) <= 200, code
        assert not text.title.endswith(".") and text.cause.endswith("."), code
    assert len({text.title for text in texts.values()}) == len(texts)


def test_examples_are_commands_that_exist() -> None:
    broken = {
        code: said
        for code, text in catalogue().items()
        if text.command.startswith("edgekd ") and (said := problem(text.command))
    }
    assert not broken
    for wrong in ("edgekd nonsense", "edgekd plan", "edgekd plan t.pt --foo", "edgekd try b i --top many"):
        assert problem(wrong), wrong  # the check can fail


def test_one_code() -> None:
    done = CliRunner().invoke(app, ["explain", "e0312"])
    assert done.exit_code == 0
    for part in ("E0312", "cause", "fix", "state_dict", "$ edgekd inspect", "error[E0312]"):
        assert part in done.stdout


def test_all_codes_and_json() -> None:
    everything = CliRunner().invoke(app, ["explain"]).stdout.splitlines()
    assert len(everything) == len(catalogue()) and everything[0].startswith("E0130")
    document = json.loads(CliRunner().invoke(app, ["explain", "E0703", "--json"]).stdout)
    assert document["code"] == "E0703" and set(document) == {"code", "title", "cause", "fix", "command", "shows"}
    assert set(json.loads(CliRunner().invoke(app, ["explain", "--json"]).stdout)) == set(catalogue())


@pytest.mark.parametrize("code", ["E9999", "312", "", "E03122"])
def test_unknown_code(code: str) -> None:
    done = CliRunner().invoke(app, ["explain", code])
    assert done.exit_code == 2 and "E0247" in done.stderr and not done.stdout


def test_nearest_code_is_offered() -> None:
    assert "Did you mean 'E0312'?" in CliRunner().invoke(app, ["explain", "E312"]).stderr


def test_errors_name_it_in_five_lines_at_most() -> None:
    done = CliRunner().invoke(app, ["explain", "E9999"])
    lines = done.stderr.splitlines()
    assert 2 <= len(lines) <= 5 and lines[-1].split()[:4] == ["see", "edgekd", "explain", "E0247"]
    assert lines[-1].endswith("(exit 2)")


def test_needs_no_torch() -> None:
    code = (
        "import sys; from edgekd.__main__ import app\n"
        "try: app(['explain', 'E0312'])\n"
        "except SystemExit: pass\n"
        "sys.exit(len({'torch', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_codes_for_the_shell() -> None:
    assert ("E0312", "A pickle that may run code") in codes("e031") and codes("X") == []


def test_errors_show_what_to_type_below_its_label(capsys: pytest.CaptureFixture[str]) -> None:
    """A fix of several lines, with brackets that are no markup, and the code on a line of its own."""
    with pytest.raises(typer.Exit) as left, errors(debug=False, as_json=False):
        raise InputError("it is [bold]", code="E0312", why="one\ntwo", fix="save(a[0])\nsave(b)")
    assert left.value.exit_code == 3
    assert capsys.readouterr().err.splitlines() == [
        "error[E0312] it is [bold]",
        "  why   one",
        "        two",
        "  fix   save(a[0])",
        "        save(b)",
        "  see   edgekd explain E0312  (exit 3)",
    ]
