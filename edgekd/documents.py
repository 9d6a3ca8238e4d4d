"""Documents of the smaller commands: as JSON, or as lines and tables for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from edgekd import console
from edgekd.agreement import SETS
from edgekd.files import plain

if TYPE_CHECKING:
    from edgekd.device import Outcome


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


def following(file: Path) -> str:
    """The command that follows a look at a teacher, a graph or a bundle."""
    quoted = shlex.quote(str(file))
    if file.is_dir():
        return f"edgekd bench {quoted}"
    if file.suffix == ".onnx":
        packed = (file.parent / "manifest.json").is_file()
        return f"edgekd bench {shlex.quote(str(file.parent))}" if packed else f"edgekd eval {quoted} --data test.npz"
    return f"edgekd plan {quoted} --profile NAME   (edgekd profiles list shows the names)"


def _readable(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_readable(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_readable(v) for v in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


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
        console.prose(f"note: {note}", indent=6)
    console.warn(document["warnings"])


def without_data(found: Mapping[str, Any]) -> None:
    """A manifest's fidelity as a table, with what it may mean below; nothing where there is none."""
    if not found:
        return
    heads = ("agree", "95 % interval", "balanced", "images")
    table = Table(
        "without data", *(Column(head, justify="right") for head in heads),
        caption=f"another source: {found['other']}; agree: teacher and student, both in torch, name the same class; "
        "balanced: the mean over all classes, 0 for one that the teacher never names",
        caption_justify="left",
    )  # fmt: skip
    for name, of in found["sets"].items():
        within = f"{of['low']:.1%} to {of['high']:.1%}"
        table.add_row(SETS.get(name, name), f"{of['share']:.2%}", within, f"{of['balanced']:.2%}", f"{of['images']:,}")
    console.out.print(table)
    sure, expected = found["calibration"], found["expected"]
    lines = [
        f"sure      teacher {sure['teacher']:.1%}, student {sure['student']:.1%} on average; calibration error "
        f"{sure['error']:.1%} against the teacher",
        f"expected  {expected['low']:.0%} to {expected['high']:.0%} of the teacher's top-1 ({expected['level']:.0%} "
        f"interval): an estimate from {expected['pairs']} pairs of small images, no guarantee; --eval-data settles it"
        if expected
        else "expected  accuracy not known: agreement unlike that of the estimate's pairs; --eval-data settles it",
    ]
    for line in lines:
        console.prose(line)


def board_line(outcome: Outcome) -> None:
    """What became of one board, as one line of JSON."""
    print(json.dumps(outcome.document, ensure_ascii=False), flush=True)


def fleet(outcomes: Sequence[Outcome], bundle: Path, as_json: bool) -> None:
    """What became of each board: a row per graph, or one JSON document. A board alone that failed raises its error."""
    if len(outcomes) == 1 and outcomes[0].error is not None:
        raise outcomes[0].error
    if as_json:
        print(json.dumps({"bundle": str(bundle), "boards": [o.document for o in outcomes]}, indent=2))
        return
    figures = [Column(name, justify="right", no_wrap=True) for name in ("p50 ms", "p90 ms", "agree")]
    table = Table(
        Column("board", overflow="fold"), "device", "runtime", "graph", *figures, Column("valid", no_wrap=True)
    )
    lines = []
    for o in outcomes:
        if o.report is None:
            assert o.error is not None
            table.add_row(escape(o.board.name), *["-"] * 6, f"[red]{o.error.code}[/]")
            fix = f"\n  fix     {o.error.fix}" if o.error.fix else ""
            lines.append(f"failed    {o.error.what}\n  why     {o.error.why}{fix}")
            continue
        runtime, device = o.report["runtime"], o.report["device"]
        facts = [o.board.name, str(device["name"]), f"{runtime['name']} {runtime['version']}"]
        for name, graph in o.report["graphs"].items():
            t = graph["latency_ms"]
            shown = [f"{t['p50']:.3f}", f"{t['p90']:.3f}", f"{graph['agreement']:.1%}"]
            table.add_row(*map(escape, facts), escape(name), *shown, "yes" if o.valid else "[yellow]no[/]")
            facts = ["", "", ""]
        lines.append(f"report    {o.path}")
        lines += [] if o.valid else [f"not valid {o.board.name}: {'; '.join(o.report['reasons'])}"]
        lines += [f"beware    {o.board.name}: {warning}" for warning in o.warnings]
    console.out.print(table)
    for line in lines:
        console.out.print(line, highlight=False, markup=False, soft_wrap=True)
    console.then(f"edgekd report {shlex.quote(str(bundle))}")
