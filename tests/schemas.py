"""Holds documents against edgekd's JSON Schemas."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from edgekd.schema_command import schema_of

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


def _validator(schema: Any) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # two seconds, which collecting the tests need not take

    return Draft202012Validator(schema)


@cache
def validator(name: str) -> Draft202012Validator:
    return _validator(schema_of(name))


def problems(name: str, document: Any) -> list[str]:
    """What the schema has against a document; empty: it is one."""
    return [f"{error.json_path}: {error.message[:300]}" for error in validator(name).iter_errors(document)]


def some_of(part: str, values: Any) -> list[str]:
    """What a shared definition has against some of its names alone; that others are missing does not count."""
    whole = schema_of("report")["$defs"]["common"]
    schema = whole | {"$ref": f"#/$defs/{part}"}
    found = _validator(schema).iter_errors(values)
    return [f"{error.json_path}: {error.message[:300]}" for error in found if error.validator != "required"]
