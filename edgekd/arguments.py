"""Texts of the command line as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgekd.errors import UsageError
from edgekd.files import opened, parsed

if TYPE_CHECKING:
    from edgekd.types import Teacher

WORD = re.compile(r"(?!(true|false|null|NaN|Infinity)$)[A-Za-z][\w./-]*")  # what is text as a setting without quotes


def there(checkpoint: Path) -> None:
    """Raises TeacherError where no checkpoint can be read from. Needs no torch, whose import takes seconds."""
    opened(checkpoint).close()


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


def count(text: str | None, option: str) -> int | None:
    """A number of parameters such as "500k", "1.5M" or "20000". Raises UsageError."""
    return None if text is None else max(1, round(_scaled(text, option, {"k": 1e3, "m": 1e6, "": 1.0}, "500k")))


def megabytes(text: str | None, option: str) -> float | None:
    """A size such as "300kB", "2MB" or "2" in 10**6 bytes. Raises UsageError."""
    units = {"kb": 1e-3, "mb": 1.0, "gb": 1e3, "b": 1e-6, "": 1.0}
    return None if text is None else _scaled(text, option, units, "2GB" if option == "--max-ram" else "300kB")


def _scaled(text: str, option: str, units: Mapping[str, float], example: str) -> float:
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower())
    value = float(match[1]) * units.get(match[2], 0.0) if match else 0.0
    if value <= 0:
        raise UsageError(
            f"{option} {text} cannot be read", code="E0232", fix=f"write a number and a unit, e.g.  {option} {example}"
        )
    return value


def settings(given: list[str] | None) -> dict[str, Any]:
    """Each "name=value" of --set as a mapping; a word needs no quotes. Raises UsageError."""
    found: dict[str, Any] = {}
    for item in given or []:
        name, _, value = item.partition("=")
        try:
            found[name] = value if WORD.fullmatch(value) else parsed(value)
        except ValueError as error:
            fix = "write name=value, e.g.  --set student_lr=1e-3  or  --set optimizer=sgd"
            raise UsageError(f"--set {item} is not a setting", code="E0205", fix=fix) from error
    return found


def limits(latency: str | None, params: str | None, mb: float | None, memory: str | None) -> dict[str, float]:
    """The options that limit a student, by the names of Limits. Raises UsageError."""
    found = {
        "latency_ms": milliseconds(latency),
        "parameters": count(params, "--max-params"),
        "model_mb": mb,
        "memory_mb": megabytes(memory, "--max-memory"),
    }
    return {name: value for name, value in found.items() if value is not None}


def folder(teacher: Path, profile: str) -> Path:
    """Where results go when nobody says."""
    return Path(f"{teacher.stem}-{Path(profile).stem}")


def here(out: Path | None) -> Path | None:
    """A folder of this machine. Raises UsageError for a URL."""
    if out is not None and re.match(r"\w[\w+.-]+:/", str(out)):
        raise UsageError(
            f"-o {out} is a URL",
            code="E0252",
            why="compress alone keeps its folder elsewhere",
            fix="name a folder here",
        )
    return out


def nothing_beside_a_plan(ctx: typer.Context) -> None:
    """Raises UsageError for an option on the command line that the plan holds already."""
    held = (
        "profile", "latency", "max_params", "max_mb", "max_memory", "like_teacher", "precision", "student", "method",
        "budget", "minutes", "prior", "setting", "seed",
    )  # fmt: skip
    given = [name for name in held if (source := ctx.get_parameter_source(name)) and source.name == "COMMANDLINE"]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} beside --plan",
            code="E0228",
            why="the plan says it",
            fix="edit the plan, or leave --plan out",
        )
