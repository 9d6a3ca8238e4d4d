"""200 bad command lines: an error with an exit code that is documented, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_lines import program
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgekd.__main__ import app

ALLOWED = {0, 1, 2, 3, 4, 5, 6, 7, 8}  # 70 is our bug
FILES = ("missing.pt", "empty.pt", "text.pt", "folder", "wrong.npz", "text.toml", "text.onnx", "text.png", "")
WORDS = (
    "cpu",
    "jetson",
    "rpi-5",
    "nothing",
    "-1",
    "0",
    "2ms",
    "1e400",
    "nan",
    "3x32x32",
    "0x0x0",
    "a=b",
    "=",
    "é\n",
    "%",
    "[x]",
    "[/red]",
)
BOARDS = ("ftp://x", "ssh://", "ssh://a b", "ssh://host:99999", "ssh://[x]", "ssh://-oProxyCommand=x", "host")
# Commands, and how many arguments they want. No file here can be used, so that nothing is trained or measured.
COMMANDS: dict[tuple[str, ...], int] = {
    ("compress",): 1, ("plan",): 1, ("eval",): 1, ("bench",): 1, ("inspect",): 1, ("report",): 1, ("runs",): 1,
    ("verify",): 1, ("sign",): 1, ("try",): 2, ("explain",): 1, ("schema",): 1, ("methods",): 0,
    ("profiles", "show"): 1, ("profiles", "check"): 1, ("profiles", "new"): 1, ("profiles", "list"): 0,
}  # fmt: skip


def options_of(path: tuple[str, ...]) -> list[str]:
    command = program()
    for name in path:
        command = command.commands[name]
    names = [name for p in command.params if p.param_type_name == "option" for name in p.opts]
    return sorted(set(names) - {"--open", "--help", "--debug", "--install-completion", "--show-completion"})


OPTIONS = {path: [*options_of(path), "--nonsense", "--sed"] for path in COMMANDS}


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    path = draw(st.sampled_from(sorted(COMMANDS)))
    count = COMMANDS[path] + draw(st.sampled_from((0, 0, 0, 1, -1)))
    given_ = [draw(st.sampled_from(FILES + WORDS)) for _ in range(max(0, count))]
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(OPTIONS[path]))
        values = BOARDS if name == "--on" else FILES + WORDS
        given_ += [name] + [draw(st.sampled_from(values))] * draw(st.sampled_from((0, 1, 1, 1)))
    return [*path, *given_]


@pytest.fixture(scope="module", autouse=True)
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder, before = tmp_path_factory.mktemp("pool"), Path.cwd()
    (folder / "empty.pt").touch()
    for name in ("text.pt", "text.toml", "text.onnx", "text.png"):
        (folder / name).write_text("no such thing = [")
    (folder / "folder").mkdir()
    np.savez(folder / "wrong.npz", images=np.zeros((2, 5), np.uint8), labels=np.zeros(3, np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "own"))
        os.chdir(folder)
        yield
    os.chdir(before)


@settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(lines())
def test_no_traceback(line: list[str]) -> None:
    done = CliRunner().invoke(app, line)
    said = f"{line}: exit {done.exit_code}, {done.exception!r}\n{done.stderr}"
    assert done.exception is None or isinstance(done.exception, SystemExit), said
    assert done.exit_code in ALLOWED and "Traceback" not in done.stderr, said
    if done.exit_code not in (0, 1) and "error[" in done.stderr:
        assert len(done.stderr[done.stderr.index("error[") :].strip().splitlines()) <= 5, said
