"""Holds documents against edgekd's JSON Schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from edgekd.schema_command import schema_of


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema_of(name))


def problems(name: str, document: Any) -> list[str]:
    """What the schema has against a document; empty: it is one."""
    return [f"{error.json_path}: {error.message[:300]}" for error in validator(name).iter_errors(document)]


def some_of(part: str, values: Any) -> list[str]:
    """What a shared definition has against some of its names alone; that others are missing does not count."""
    whole = schema_of("report")["$defs"]["common"]
    schema = whole | {"$ref": f"#/$defs/{part}"}
    found = Draft202012Validator(schema).iter_errors(values)
    return [f"{error.json_path}: {error.message[:300]}" for error in found if error.validator != "required"]
