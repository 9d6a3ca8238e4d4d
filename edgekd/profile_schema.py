"""The keys of a profile's TOML, read from the dataclasses: meanings, JSON Schema, a table for the docs."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from edgekd.profile_rules import ALIGNMENTS, BASES, CLASSES, OPSETS, PEAKS, PRECISIONS, PROVIDERS, TARGETS, UNITS
from edgekd.types import Figure, Profile

ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "Profile.target": TARGETS,
    "Profile.precisions": PRECISIONS,
    "Profile.device_class": CLASSES,
    "Profile.align": ALIGNMENTS,
    "Profile.opset": tuple(OPSETS),
    "Figure.basis": BASES,
    "Latency.basis": BASES,
    "Hardware.unit": UNITS,
    "RunnerOptions.provider": PROVIDERS,
}
KEYS: Mapping[str, tuple[str, ...]] = {
    "Hardware.peak_gflops": PEAKS,
    "Hardware.cpu_peak_gflops": PEAKS,
    "Profile.pays": PEAKS,
    "Profile.slower": PEAKS,
}
SUFFIXES = {
    "_gb_per_s": "10**9 bytes/s",
    "_gflops": "10**9 operations/s",
    "_ms": "ms",
    "_mb": "10**6 bytes",
    "_gb": "10**9 bytes",
    "watts": "W",
}
SIMPLE = {
    float: ("number", "float"),
    int: ("integer", "integer"),
    str: ("string", "string"),
    bool: ("boolean", "boolean"),
}


@dataclass(frozen=True)
class Key:
    """One key of the file."""

    path: str  # e.g. "hardware.peak_gflops.<precision>.value"
    type: str  # of TOML
    unit: str  # empty: none, or that of the key above
    needed: bool
    meaning: str


@cache
def meanings(kind: type) -> Mapping[str, str]:
    """Field -> its comment in the source of the dataclass: the one place where a key is explained."""
    found: dict[str, str] = {}
    for line in inspect.getsource(kind).splitlines():
        if match := re.match(r"    (\w+): .*?  # (.+)$", line):
            found[match[1]] = match[2]
    return found


def fields(kind: type) -> Iterator[tuple[str, Any, bool]]:
    """(name, type without None, whether it must be given) of each key of a table; a profile's name is its file's."""
    hints = typing.get_type_hints(kind)
    for spec in dataclasses.fields(kind):
        if kind is Profile and spec.name == "name":
            continue
        needed = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        yield spec.name, _without_none(hints[spec.name]), needed


def item_of(hint: Any) -> tuple[str, Any]:
    """("array" or "table", type of its items), or ("", the type itself)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return "array", arguments[0]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table", arguments[1]
    return "", hint


def unit_of(name: str) -> str:
    """The unit that a key's name ends in; empty: none."""
    return next((unit for suffix, unit in SUFFIXES.items() if name.endswith(suffix)), "")


def keys(kind: type = Profile, above: str = "") -> Iterator[Key]:
    """All keys of the file in the order of the dataclasses."""
    for name, hint, needed in fields(kind):
        form, inner = item_of(hint)
        table, path = dataclasses.is_dataclass(inner), above + name
        kind_of_item = "table" if table else SIMPLE[inner][1]
        written = {"": kind_of_item, "array": f"array of {kind_of_item}s", "table": f"table of {kind_of_item}s"}[form]
        meaning = meanings(kind)[name]
        yield Key(path, written, unit_of(name), needed, meaning)
        if table and inner is not Figure:
            yield from keys(typing.cast(type, inner), path + ("[]." if form == "array" else "."))


def key_table() -> str:
    """The keys as a Markdown table; those of a figure once, at the end."""
    figure = [dataclasses.replace(key, path="(figure)." + key.path) for key in keys(Figure)]
    rows = ["| key | type | unit | needed | meaning |", "|---|---|---|---|---|"]
    for key in (*keys(), *figure):
        meaning = key.meaning.replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{key.path}` | {key.type} | {key.unit} | {'yes' if key.needed else ''} | {meaning} |")
    return "\n".join(rows) + "\n"


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 07) of the TOML, for editors (taplo, Even Better TOML) and other tools."""
    definitions: dict[str, Any] = {}
    root = _object(Profile, definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "edgekd device profile",
        **root,
        "definitions": dict(sorted(definitions.items())),
    }


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    listed = list(fields(kind))
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, _, needed in listed if needed],
        "properties": {
            name: {"description": meanings(kind)[name]} | _schema(hint, f"{kind.__name__}.{name}", definitions)
            for name, hint, _ in listed
        },
    }


def _schema(hint: Any, key: str, definitions: dict[str, Any]) -> dict[str, Any]:
    form, inner = item_of(hint)
    if form == "array":
        return {"type": "array", "items": _schema(inner, key, definitions)}
    if form == "table":
        names = {"propertyNames": {"enum": list(KEYS[key])}} if key in KEYS else {}
        return {"type": "object", "additionalProperties": _schema(inner, key, definitions)} | names
    if dataclasses.is_dataclass(inner):
        name = typing.cast(type, inner).__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _object(typing.cast(type, inner), definitions)
        return {"allOf": [{"$ref": f"#/definitions/{name}"}]}  # draft 07 ignores what stands beside a $ref
    allowed = {"enum": list(ALLOWED[key])} if key in ALLOWED else {}
    return {"type": SIMPLE[inner][0]} | allowed


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (a for a in typing.get_args(hint) if a is not type(None))
    return hint
