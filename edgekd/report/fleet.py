"""The page of a fleet: one bundle on many boards, what each measured and what kept the others from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup

from edgekd.report import circumstances, svg
from edgekd.report.cells import NONE, Table, cell, pointer
from edgekd.report.page import write_html

PAGE = "fleet.html"
FIGURES = (
    ("p50, ms", "ms", "latency_ms/p50"),
    ("p90, ms", "ms", "latency_ms/p90"),
    ("p99, ms", "ms", "latency_ms/p99"),
    ("after idle, ms", "ms", "idle_start_ms/p50"),
    ("energy, J", "figure", "energy/joules"),
    ("agreement", "share", "agreement"),
    ("top-1", "share", "accuracy"),
)
Row = tuple[str | Markup, ...]


def write_fleet(boards: Sequence[Mapping[str, Any]], bundle: Path) -> Path:
    """Writes boards/fleet.html beside the bundle, whole or not at all; gives its path. boards: Outcome.document."""
    folder = bundle.resolve().parent / "boards"
    folder.mkdir(exist_ok=True)
    return write_html(PAGE, page(boards, bundle.resolve().parent.name), folder / PAGE)


def page(boards: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """What the template shows. The page's documents are {"boards": [...]}, in the order of `boards`."""
    documents = {"boards": list(boards)}
    reached = {index: board for index, board in enumerate(boards) if board["ok"]}
    valid = sum(bool(board["valid"]) for board in boards)
    return {
        "title": f"{name} on {len(boards)} boards",
        "documents": documents,
        "verdict": "met" if valid == len(boards) else "broken" if not reached else "open",
        "summary": f"{valid} of {len(boards)} boards have a valid measurement"
        + (f", {len(boards) - len(reached)} failed" if len(reached) < len(boards) else ""),
        "overview": _overview(documents, reached),
        "pictures": _pictures(reached),
        "failed": [board for board in boards if not board["ok"]],
        "devices": [_device(documents, index, board) for index, board in reached.items()],
        "batches": sorted({str(board["report"].get("batch")) for board in reached.values()}),
    }


def _overview(documents: Mapping[str, Any], reached: Mapping[int, Mapping[str, Any]]) -> Table:
    """A row per graph of each board; columns that no board knows are left out."""
    rows: list[Row] = []
    for index, board in reached.items():
        report, place = board["report"], pointer("boards", index, "report")
        runtime = report["runtime"]
        for graph in report["graphs"]:
            spot = place + pointer("graphs", graph)
            cells = [cell(documents, f"{spot}/{where}", unit) for _, unit, where in FIGURES]
            about = (str(report["device"]["name"]), f"{runtime['name']} {runtime.get('version', '')}", graph)
            counts: str | Markup = "yes" if board["valid"] else Markup('<span class="bad">no</span>')
            hottest = cell(documents, f"{place}/condition/after/hottest_c", "figure")
            throttled = circumstances.words(report.get("throttled"), None)
            rows.append((board["board"], *about, *cells, hottest, throttled, counts))
    heads = ["board", "device", "runtime", "graph", *(label for label, _, _ in FIGURES)]
    heads += ["hottest, \N{DEGREE SIGN}C", "throttled", "valid"]
    kept = [n for n in range(len(heads)) if n < 4 or any(row[n] != NONE for row in rows)]
    table = tuple(tuple(row[n] for n in kept) for row in rows)
    note = "Energy: of one batch, the idle power in it." if any(heads[n] == "energy, J" for n in kept) else ""
    return Table("Every board", tuple(heads[n] for n in kept), table, note)


def _pictures(reached: Mapping[int, Mapping[str, Any]]) -> list[Markup]:
    """p50 of every board, a drawing per graph that more than one has."""
    names = dict.fromkeys(graph for board in reached.values() for graph in board["report"]["graphs"])
    found = []
    for graph in names:
        those = {board["board"]: board["report"]["graphs"].get(graph) for board in reached.values()}
        bars = {name: one["latency_ms"] for name, one in those.items() if one is not None}
        if len(bars) > 1:
            found.append(_bars(bars, graph))
    return found


def _bars(latencies: Mapping[str, Mapping[str, Any]], graph: str) -> Markup:
    with matplotlib.rc_context(svg.STYLE):
        figure, (axes,) = svg.drawing(0.9 + 0.3 * len(latencies))
        rows = range(len(latencies))
        for quantile, look in (("p99", {"alpha": 0.25}), ("p90", {"alpha": 0.5}), ("p50", {})):
            values = [t[quantile] for t in latencies.values()]
            axes.barh(rows, values, height=0.7, color=svg.COLOURS[0], label=quantile, **look)
        axes.set_yticks(rows, ["".join(c if c.isprintable() else "?" for c in name)[-24:] for name in latencies])
        axes.set(xlabel=f"milliseconds of one batch, {graph}", xlim=(0, None))
        axes.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=3)
        said = "; ".join(f"{name} {t['p50']:.3g} ms" for name, t in latencies.items())
        name = "p50-" + hashlib.sha256(graph.encode()).hexdigest()[:8]
        picture = svg.inline(figure, name, f"Bars, p50 of {graph} by board: {said}")
    return svg.figure(picture, f"{graph}: p50, and lighter p90 and p99")


def _device(documents: Mapping[str, Any], index: int, board: Mapping[str, Any]) -> dict[str, Any]:
    place, report = pointer("boards", index, "report"), board["report"]
    return {
        "name": board["board"],
        "device": str(report["device"]["name"]),
        "valid": bool(board["valid"]),
        "reasons": [str(reason) for reason in report["reasons"]],
        "warnings": circumstances.texts(report.get("warnings")),
        "received": board["received"],
        "intervals": _intervals(documents, place, board),
        "condition": circumstances.condition(documents, place, board["board"]),
        "soak": circumstances.soak(documents, place, board["board"]),
    }


def _intervals(documents: Mapping[str, Any], place: str, board: Mapping[str, Any]) -> Table:
    rows = []
    for graph in board["report"]["graphs"]:
        spot = place + pointer("graphs", graph)
        figures = [
            (f"{spot}/{where}", unit)
            for where, unit in (("latency_ms/rounds", "count"), ("load_ms", "ms"), ("first_ms", "ms"))
        ]
        within = [circumstances.within(documents, spot, quantile) for quantile in ("p50", "p90")]
        rows.append((graph, *within, *(cell(documents, *one) for one in figures)))
    head = ("", "p50 within, ms", "p90 within, ms", "runs", "load, ms", "first run, ms")
    return Table(f"95 % intervals on {board['board']}", head, tuple(rows))
