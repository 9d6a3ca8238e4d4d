"""Command lines as they stand in texts, held against the real options and arguments without running anything."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import typer
from typer.main import get_command

from edgekd.__main__ import app

AT_ONCE = ("--install-completion", "--show-completion")


def words(line: str) -> list[str]:
    """The arguments of a line such as "edgekd bench BUNDLE [--quick] ...   # comment", without the program's name."""
    line = re.split(r"\s#|\s{2,}|\s\.{2,3}(?:\s|$)|\s&&\s", line.strip())[0]
    line = re.sub(r"(\w)\.\.\.$", r"\1", line)
    line = re.sub(r"\[(-[^][]*?)(?: \.\.\.)?\]", r"\1", line)  # what may be left out
    return shlex.split(line)[1:]


@cache
def program() -> Any:
    """The command line as typer makes it: a twentieth of a second each time."""
    return get_command(app)


def problem(line: str, *, whole: bool = True) -> str:
    """Why the command line would not take `line`; empty: it does. whole: that arguments are missing counts as well."""
    given = words(line)
    command, path = program(), "edgekd"
    while found := getattr(command, "commands", None):
        if not given or given[0].startswith("-"):
            break
        name = given.pop(0)
        if name not in found:
            return f"{path} has no command {name!r}"
        command, path = found[name], f"{path} {name}"
    if given and given[0] in AT_ONCE:  # parsing does it: it would change this user's shell
        known = [name for parameter in command.params for name in parameter.opts]
        return "" if given[0] in known else f"{path}: no option {given[0]}"
    try:
        command.make_context(path, given)
    except typer.Exit:
        return ""  # --help, --version
    except Exception as error:  # typer brings its own copy of click's errors, which it does not name in public
        kind = type(error).__name__
        if kind == "NoArgsIsHelpError" or (kind == "MissingParameter" and not whole):
            return ""
        return f"{path}: {kind}: {error}"
    return ""
