"""A profile's file from end to end: every problem and doubt at once, where loading stops at the first."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import ProfileError
from edgekd.files import from_dict
from edgekd.profile import profile_files, read_table
from edgekd.profile_rules import Finding, doubts, problems
from edgekd.profile_schema import fields, item_of
from edgekd.types import Profile


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check found in one file."""

    file: Path
    problems: tuple[Finding, ...]  # for which it is refused
    doubts: tuple[Finding, ...]  # which it may have


def check_file(path: Path) -> Verdict:
    """Checks a TOML file, an alias or a whole profile. Whatever is wrong with it is in the verdict, not raised."""
    try:
        table = read_table(path)
    except ProfileError as error:
        return Verdict(path, (_finding("(file)", error),), ())
    if set(table) == {"alias"}:
        return Verdict(path, tuple(_alias(table["alias"])), ())
    shape = tuple(_shape(Profile, {name: value for name, value in table.items() if name != "name"}, ""))
    if shape:
        return Verdict(path, shape, ())
    profile = from_dict(Profile, {"name": path.stem, **table}, where=str(path), error=ProfileError)
    return Verdict(path, tuple(problems(profile)), tuple(doubts(profile)))


def _alias(name: Any) -> Iterator[Finding]:
    if str(name) not in profile_files():
        yield Finding("alias", f"there is no profile {name!r}", "name one: edgekd profiles list", "E0330")


def _shape(kind: type, table: Any, above: str) -> Iterator[Finding]:
    """Unknown, missing and mistyped keys at every level."""
    if not isinstance(table, Mapping):
        yield Finding(above.rstrip("."), f"expected a table, found {table!r}", "write it as a table", "E0301")
        return
    known = {name: (hint, needed) for name, hint, needed in fields(kind)}
    for name in table:
        if name not in known:
            yield from _refusal(kind, {name: table[name]}, above + str(name))
    for name, (hint, needed) in known.items():
        if name not in table:
            if needed:
                yield Finding(above + name, "missing", f"add {name}", "E0303")
            continue
        form, inner = item_of(hint)
        value, path = table[name], above + name
        if dataclasses.is_dataclass(inner):
            inner = typing.cast(type, inner)
            if form == "array" and isinstance(value, list):
                for index, item in enumerate(value):
                    yield from _shape(inner, item, f"{path}[{index}].")
                continue
            if form == "table" and isinstance(value, Mapping):
                for key, item in value.items():
                    yield from _shape(inner, item, f"{path}.{key}.")
                continue
            if not form:
                yield from _shape(inner, value, f"{path}.")
                continue
        alone = dataclasses.make_dataclass("Table", [(name, hint)])
        yield from _refusal(alone, {name: value}, path)


def _refusal(kind: type, table: Mapping[str, Any], key: str) -> Iterator[Finding]:
    """What from_dict says of a table with one key, so that a check and loading use the same words."""
    try:
        from_dict(kind, table, where="", error=ProfileError)
    except ProfileError as error:
        yield _finding(key, error)


def _finding(key: str, error: ProfileError) -> Finding:
    what = error.what.removeprefix(": ").removeprefix(key.rpartition(".")[2] + ": ")
    return Finding(key, what + (f" ({error.why})" if error.code == "E0331" else ""), error.fix, error.code)
