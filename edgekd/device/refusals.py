"""What ssh and boards say when something is wrong, as errors with a remedy."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgekd.device.board import Board
from edgekd.errors import EdgekdError, EnvironmentLacking, MeasurementError

OLDEST_PYTHON = (3, 6)
NO_SPACE = ("no space left on device", "disk quota exceeded", "disk full")


def legible(text: str) -> str:
    """A line that others wrote, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:500]


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((legible(line) for line in reversed(text.splitlines()) if line.strip()), "")


def refused(board: Board, said: str, config: Path | None) -> MeasurementError:
    """Why ssh did not reach the board, from the words on its stderr."""
    line, why = board.ssh_line(config), last_line(said) or "ssh ended and said nothing"
    if "HOST IDENTIFICATION HAS CHANGED" in said:
        entry = f"[{board.host}]:{board.port}" if board.port else board.host
        return MeasurementError(
            f"{board.name} shows another host key than before",
            code="E0513",
            why="it was installed anew, or another machine answers in its place",
            fix=f"if you know that it was installed anew:  ssh-keygen -R {shlex.quote(entry)}  then  {line}",
        )
    if "Host key verification failed" in said:
        return MeasurementError(
            f"{board.name} has a host key that this machine does not know",
            code="E0512",
            why=why,
            fix=f"{line}   once, and compare the fingerprint that it shows",
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        copy = board.ssh_line(config).replace("ssh", "ssh-copy-id", 1)
        return MeasurementError(
            f"{board.name} takes no key of yours", code="E0511", why=why, fix=f"{copy}   (passwords are not asked for)"
        )
    return MeasurementError(
        f"{board.name} cannot be reached",
        code="E0510",
        why=why,
        fix=f"is it on, is the network right? {line} true   must work by itself",
    )


def full(board: Board, folder: str, why: str) -> EnvironmentLacking:
    """The board's disk is full."""
    return EnvironmentLacking(
        f"{board.name}: no space left in {folder}",
        code="E0523",
        why=why,
        fix="make room there, or name a folder on another disk: --on ssh://host/folder",
    )


def python_lacking(board: Board, python: str, found: str, config: Path | None) -> EdgekdError | None:
    """What the board's Python lacks, from the line `major minor module...` that it wrote; None when nothing."""
    line = board.ssh_line(config)
    if not found.strip():
        return EnvironmentLacking(
            f"{board.name} has no {python}",
            code="E0520",
            why="the runner is Python; ssh starts it with the PATH of a shell without a terminal",
            fix="install Python 3 there, or name one: --python /path/of/python3",
        )
    major, minor, *missing = found.split()
    if (int(major), int(minor)) < OLDEST_PYTHON:
        return EnvironmentLacking(
            f"{board.name}: {python} is Python {major}.{minor}",
            code="E0521",
            why="the runner needs 3.6 or later",
            fix="name a later one of the board: --python /path/of/python3",
        )
    if missing:
        wanted = f"{python} -m pip install {' '.join(missing)}"
        return EnvironmentLacking(
            f"{board.name}: Python {major}.{minor} there has no {' and no '.join(missing)}",
            code="E0522",
            why="edgekd installs nothing on a board",
            fix=f"{line} {shlex.quote(wanted)}   or another interpreter: --python PATH",
        )
    return None
