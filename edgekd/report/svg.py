"""Drawings as SVG inside a page: no style attributes (the page forbids them), colours by class, for light and dark."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup, escape

# What matplotlib draws in -> the class that the page's style sheet colours, light or dark.
INK, MUTED = "#010101", "#010102"
COLOURS = tuple(f"#0101{n:02x}" for n in range(0x10, 0x18))
CLASSES = {INK: "ink", MUTED: "muted"} | {colour: f"c{n}" for n, colour in enumerate(COLOURS)}
SIZE = 9  # points of text; drawings are made as wide as a phone, so that they need not shrink on one
WIDTH = 4.9  # inches
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
STYLE: Any = {  # matplotlib's settings
    "svg.fonttype": "none",
    "svg.hashsalt": "edgekd",
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "xtick.labelsize": SIZE - 1,
    "ytick.labelsize": SIZE - 1,
    "legend.fontsize": SIZE - 1,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.parse_math": False,
}


def drawing(height: float, rows: int = 1, *, share: bool = False) -> tuple[Any, list[Any]]:
    """An empty matplotlib figure of the page's width and `height` inches, and its axes from top to bottom.

    share: the rows have one horizontal axis.

    To be called, filled and given to `inline` inside matplotlib.rc_context(STYLE).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.subplots(rows, 1, squeeze=False, sharex=share)[:, 0]
    for one in axes:
        one.set_facecolor("none")
    return figure, list(axes)


def inline(figure: Any, name: str, alternative: str) -> Markup:
    """The figure as <svg role="img">. name: in front of every id, unique in the page. alternative: what it shows."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(text.getvalue())  # noqa: S314  matplotlib wrote it
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rsplit("}", 1)[-1] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _without_style(element)
        _named(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", alternative)
    root.set("class", "drawing")
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704  built as a tree, so escaped


def figure(picture: Markup, caption: str) -> Markup:
    """A drawing with its caption."""
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(picture, escape(caption))


def _without_style(element: ElementTree.Element) -> None:
    """The declarations of the style attribute as attributes of their own; our colours as classes."""
    declared = dict(part.split(":", 1) for part in element.attrib.pop("style", "").split(";") if ":" in part)
    values = {name.strip(): value.strip() for name, value in declared.items()}
    if "font" in values:
        size = re.search(r"([\d.]+)px", values.pop("font"))
        values["font-size"] = size[1] if size else str(SIZE)
    values.pop("font-family", None)
    classes = []
    for name in ("fill", "stroke"):
        colour = values.get(name, element.get(name, "")).lower()
        if colour in CLASSES:
            classes.append(f"{name}-{CLASSES[colour]}")
            values.pop(name, None)
            element.attrib.pop(name, None)
    for name, value in values.items():
        element.set(name, value)
    if classes:
        element.set("class", " ".join(classes))


def _named(element: ElementTree.Element, name: str) -> None:
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
