"""Texts of the command line as values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import UsageError

if TYPE_CHECKING:
    from edgekd.types import Teacher


def teacher(
    file: Path, arch: str | None, size: str | None, mean: str | None, std: str | None, names: str | None
) -> Teacher:
    """The teacher of a file and the options that say what the file does not. Raises UsageError, TeacherError."""
    from edgekd.teacher import load_teacher, normalisation

    try:
        channels, height, width = (int(v) for v in size.lower().split("x")) if size else (0, 0, 0)
        means, stds = None if mean is None else _numbers(mean), None if std is None else _numbers(std)
    except ValueError as error:
        raise UsageError(
            f"--input {size} --mean {mean} --std {std} cannot be read",
            code="E0203",
            fix="write e.g.  --input 3x32x32 --mean .485,.456,.406 --std .229,.224,.225",
        ) from error
    whole = (channels, height, width) if size else None
    if isinstance(means, str):
        named = normalisation(means)
        means, stds = named[0], stds or named[1]
    if isinstance(stds, str):
        stds = normalisation(stds)[1]
    return load_teacher(file, arch=arch, size=whole, mean=means, std=stds, classes=names.split(",") if names else None)


def _numbers(text: str) -> tuple[float, ...] | str:
    """Numbers, or a name."""
    return text if text[:1].isalpha() and text not in ("inf", "nan") else tuple(float(v) for v in text.split(","))


def milliseconds(text: str | None) -> float | None:
    """A time such as "2ms" or "2". Raises UsageError."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("ms"))
    except ValueError:
        value = 0.0
    if value <= 0:
        raise UsageError(f"--latency {text} is not a time", code="E0204", fix="write milliseconds, e.g.  --latency 2ms")
    return value


def settings(given: list[str] | None) -> dict[str, Any]:
    """Each "name=number" of --set as a mapping. Raises UsageError."""
    found = {}
    for item in given or []:
        name, _, value = item.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError as error:
            fix = "write name=number, e.g.  --set student_lr=1e-3"
            raise UsageError(f"--set {item} is not a setting", code="E0205", fix=fix) from error
    return found
