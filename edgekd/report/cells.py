"""Figures of a document as a page shows them: each says where it comes from, so that a test can hold it to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

NONE = Markup('<span class="none">not known</span>')  # a dash alone is nothing to a screen reader


@dataclass(frozen=True)
class Table:
    """A table of a page. The first cell of each row is its heading."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | Markup, ...], ...]
    note: str = ""  # below it
    words: bool = False  # cells are words, not figures: to the left


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:,.1f}"


TEXT: Mapping[str, Callable[[Any], str]] = {
    "share": lambda v: f"{100 * v:.2f} %",
    "ms": _milliseconds,
    "mb": lambda v: f"{v:.3f}",  # 10**6 bytes
    "count": lambda v: f"{v:,}",
    "millions": lambda v: f"{v / 1e6:.3f}",
    "times": lambda v: f"{v:.2f}\N{MULTIPLICATION SIGN}",
    "exact": str,
    "figure": lambda v: f"{v:.4g}",
}


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901): where a value lies in the page's documents."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def at(documents: Any, place: str) -> Any:
    """The value at a JSON pointer; None where there is none."""
    value = documents
    for part in place.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def cell(documents: Any, place: str, unit: str) -> Markup:
    """The figure at a JSON pointer as <data> with its whole value, its place and its unit. unit: a name of TEXT."""
    value = at(documents, place)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return NONE
    text = TEXT[unit](value)
    return Markup('<data value="{}" data-at="{}" data-unit="{}">{}</data>').format(repr(value), place, unit, text)
