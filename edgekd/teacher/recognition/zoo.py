"""Families of networks that edgekd builds only to read teachers: their sizes come from the file, not from a table.

An architecture is written as the family and the choices that no shape tells, where they are not the usual ones:
"residual", "residual:stem=2;pool=1", "mobilenet:strides=1,2,2,2,1,2,1". `read` of a family gives the networks that
the layers may be, by convention first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from edgekd.errors import TeacherError
from edgekd.files import nearest
from edgekd.teacher.recognition import dense, mobile, nine, residual, shuffle
from edgekd.teacher.recognition.layers import Layer, Network


class Family(Protocol):
    """A module with these names."""

    @property
    def Choices(self) -> Any: ...
    def read(self, given: Sequence[Layer], choices: Any = None) -> Sequence[tuple[Any, Network]]: ...


FAMILIES: dict[str, Family] = {
    "residual": residual,
    "shufflenet": shuffle,
    "mobilenet": mobile,
    "densenet": dense,
    "resnet9": nine,
}


def written(family: str, choices: Any) -> str:
    """The name that `parsed` reads: the family and what differs from the defaults of its Choices."""
    words = []
    for field in dataclasses.fields(choices):
        value = getattr(choices, field.name)
        if value != field.default:
            text = (
                ",".join(map(str, value))
                if isinstance(value, tuple)
                else int(value)
                if isinstance(value, bool)
                else value
            )
            words.append(f"{field.name}={text}")
    return ":".join([family, ";".join(words)] if words else [family])


def parsed(arch: str) -> tuple[str, Any] | None:
    """Family and choices of "family" or "family:key=value;..."; None for another name. Raises TeacherError."""
    family, _, text = arch.partition(":")
    if family not in FAMILIES:
        return None
    kind = FAMILIES[family].Choices
    known: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for word in filter(None, text.split(";")):
        key, _, value = (part.strip() for part in word.partition("="))
        try:
            default = known[key]
            if isinstance(default, tuple):
                given[key] = tuple(int(number) for number in value.split(",")) if value else ()
            else:
                given[key] = bool(int(value)) if isinstance(default, bool) else type(default)(value)
        except (KeyError, ValueError) as error:
            raise TeacherError(
                f"--arch {arch}: {word!r} cannot be read.{nearest(key, known)}",
                code="E0393",
                why=f"{family} knows {', '.join(f'{name}={value}' for name, value in known.items())}",
                fix="leave the choices out to let edgekd find them",
            ) from error
    return family, kind(**given)
