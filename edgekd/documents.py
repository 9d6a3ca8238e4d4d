"""Documents of the smaller commands: as JSON, or as lines and tables for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from edgekd import console
from edgekd.files import plain

if TYPE_CHECKING:
    from edgekd.types import Profile


def show(document: Mapping[str, Any], text: str | Mapping[str, Any], as_json: bool) -> None:
    """A document as JSON, or a line or table for people."""
    if as_json:
        print(json.dumps(plain(document), indent=2, ensure_ascii=False))
    elif isinstance(text, str):
        console.out.print(text, highlight=False, soft_wrap=True, markup=False)
    else:
        table = Table(show_header=False, box=None)
        for name, value in text.items():
            table.add_row(f"[bold]{escape(name)}[/]", escape(_readable(value)))
        console.out.print(table)


def _readable(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_readable(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_readable(v) for v in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def profile_list(found: Mapping[str, Profile], as_json: bool) -> None:
    """One line per profile."""
    if as_json:
        print(json.dumps({name: plain(profile) for name, profile in found.items()}, indent=2, ensure_ascii=False))
        return
    table = Table(Column("profile", no_wrap=True), "device", "precisions", "latency limit")
    for name, p in found.items():
        device = p.summary if p.name == name else f"-> {p.name}"
        limit = "-" if p.limits.latency_ms is None else f"{p.limits.latency_ms:g} ms"
        table.add_row(name, device, ", ".join(p.precisions), limit)
    console.out.print(table)


def teacher(document: Mapping[str, Any], as_json: bool) -> None:
    """What inspect found of a teacher: facts, layers, and in yellow what was assumed."""
    if as_json:
        print(json.dumps(plain(document), indent=2, ensure_ascii=False))
        return
    long = ("layers", "warnings", "notes")
    show(document, {name: value for name, value in document.items() if name not in long}, False)
    table = Table("layer", "operator", "output", Column("parameters", justify="right"), Column("MACs", justify="right"))
    for layer in document["layers"]:
        shape = "x".join(map(str, layer["output"]))
        table.add_row(escape(layer["name"]), layer["operator"], shape, f"{layer['parameters']:,}", f"{layer['macs']:,}")
    console.out.print(table)
    for note in document["notes"]:
        console.out.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.warn(document["warnings"])
