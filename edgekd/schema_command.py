"""edgekd schema: the JSON Schemas of every document that edgekd writes or prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd import console
from edgekd.errors import UsageError
from edgekd.files import nearest
from edgekd.options import AsJson, Debug

FOLDER = Path(__file__).with_name("schemas")
SHARED = "common"  # definitions only; no document of its own


def schemas() -> dict[str, str]:
    """Name -> what it describes, by name."""
    files = sorted(path for path in FOLDER.glob("*.json") if path.stem != SHARED)
    return {path.stem: _read(path.stem)["description"] for path in files}


def names(incomplete: str) -> list[str]:
    """Names that begin so, for the shell."""
    return [name for name in schemas() if name.startswith(incomplete)]


def schema_of(name: str) -> dict[str, Any]:
    """A schema (JSON Schema 2020-12) with all that it refers to in its $defs, as the standard bundles schemas.

    Raises UsageError for an unknown name.
    """
    known = schemas()
    if name not in known:
        raise UsageError(
            f"there is no schema {name!r}.{nearest(name, known)}", code="E0260", fix="all of them:  edgekd schema"
        )
    whole, waiting = _read(name), [name]
    parts: dict[str, Any] = {}
    while waiting:
        for other in sorted(_referred(_read(waiting.pop()))):
            if other != name and other not in parts:
                parts[other] = _read(other)
                waiting.append(other)
    return whole | ({"$defs": parts} if parts else {})


def _read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return values


def _referred(value: Any) -> set[str]:
    """Names of the other schemas that a part of one refers to."""
    if isinstance(value, list):
        return {name for item in value for name in _referred(item)}
    if not isinstance(value, dict):
        return set()
    found = {name for item in value.values() for name in _referred(item)}
    target = value.get("$ref")
    if isinstance(target, str) and target.startswith("urn:"):
        found.add(target.partition("#")[0].rpartition(":")[2])
    return found


def schema(
    name: Annotated[
        str | None, typer.Argument(help="As in the list; without one: the list.", autocompletion=names)
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """The JSON Schemas of what edgekd writes and what --json prints: a list, or one of them."""
    with console.errors(debug=debug, as_json=as_json):
        known = schemas()
        if name is not None:
            print(json.dumps(schema_of(name), indent=2, ensure_ascii=False))
        elif as_json:
            print(json.dumps(known, indent=2, ensure_ascii=False))
        else:
            for one, text in known.items():
                console.out.print(f"{one:<17} {text}", highlight=False, markup=False, soft_wrap=True)
            console.then("edgekd schema report > report.schema.json")
