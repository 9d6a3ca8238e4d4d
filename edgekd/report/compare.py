"""Several students side by side: the same devices lined up, and the best marked where figures do compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from edgekd.report import figures
from edgekd.report.cells import NONE, Table, at, cell, pointer
from edgekd.report.page import write_html
from edgekd.report.reading import HERE, Subject
from edgekd.report.verdict import derived, predictions, student_name, verdict

LATENCIES = ("p50", "p90", "p99")
Row = tuple[str | Markup, ...]


def write_comparison(subjects: Sequence[Subject], path: Path) -> Path:
    """Writes one page for several students, whole or not at all; gives its path."""
    return write_html("compare.html", comparison(subjects), path)


def comparison(subjects: Sequence[Subject]) -> dict[str, Any]:
    """What the template shows. The page's documents are {"runs": [...]} in the order of `subjects`."""
    runs = []
    for subject in subjects:
        known = {name: value for name, value in subject.documents.items() if name not in ("plan", "settings")}
        runs.append(known | {"derived": derived(subject.documents)})
    documents, names = {"runs": runs}, _names(subjects)
    devices = _devices(documents, names)
    return {
        "title": f"{len(runs)} students side by side",
        "documents": documents,
        "overview": _overview(runs, names),
        "figures": _figures(documents, names),
        "devices": devices,
        "notes": _notes(runs),
        "left_out": [
            f"{name}: {note}" for name, subject in zip(names, subjects, strict=True) for note in subject.notes
        ],
    }


def _names(subjects: Sequence[Subject]) -> list[str]:
    short = [subject.name for subject in subjects]
    return short if len(set(short)) == len(short) else [str(subject.folder) for subject in subjects]


def _overview(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    said = {True: "deployable", False: "not deployable", None: "not judged"}

    def judged(run: Mapping[str, Any]) -> str:
        found = verdict(run)
        return said[found.deployable] + (f": {'; '.join(found.broken)}" if found.broken else "")

    words: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "verdict": judged,
        "profile": lambda run: run["manifest"]["profile"]["name"],
        "teacher": lambda run: (
            f"{run['manifest']['teacher']['architecture']}, {run['manifest']['teacher']['sha256'][:12]}"
        ),
        "student": student_name,
        "graph to deploy": lambda run: run["derived"]["deployed"],
        "method": lambda run: run["manifest"]["method"]["name"],
        "budget": lambda run: run["manifest"]["method"]["budget"],
        "prior": lambda run: str(run["manifest"]["method"]["config"].get("prior", "none")),
        "seed": lambda run: str(run["manifest"]["method"]["seed"]),
    }
    rows = tuple((label, *(value(run) for run in runs)) for label, value in words.items())
    return Table("What was compared", ("", *names), rows, words=True)


def _figures(documents: Mapping[str, Any], names: Sequence[str]) -> Table:
    runs = documents["runs"]
    rows: list[Row] = []

    def row(label: str, unit: str, place: Callable[[str], str], best: Callable[..., Any] | None) -> None:
        places = [f"/runs/{index}" + place(run["derived"]["deployed"]) for index, run in enumerate(runs)]
        if any(at(documents, where) is not None for where in places):
            rows.append((label, *_marked(documents, places, unit, best)))

    quality = max if _same_evaluation(runs) else None
    row("top-1", "share", lambda p: f"/report/graphs/{p}/accuracy", quality)
    row("top-5", "share", lambda p: f"/report/graphs/{p}/evaluation/top5", quality)
    row("agreement", "share", lambda p: f"/report/graphs/{p}/agreement", max if _same_teacher(runs) else None)
    row("parameters", "count", lambda _: "/manifest/student/parameters", min)
    row("multiply-adds", "count", lambda _: "/manifest/student/macs", min)
    row("graph, MB", "mb", lambda p: f"/report/graphs/{p}/mb", min)
    device = len({run["manifest"]["profile"]["name"] for run in runs}) == 1
    if all(predictions(run) for run in runs):
        label = "predicted on the profile's device, ms"
        row(label, "ms", lambda p: f"/result/sizing/predicted/{p}/latency_ms", min if device else None)
    return Table("Figures of the graphs to deploy", ("", *names), tuple(rows))


def _devices(documents: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """A table and a drawing for each device that any of them was measured on."""
    found: dict[tuple[str, ...], dict[int, str]] = {}
    for index, run in enumerate(documents["runs"]):
        for board in (HERE, *run["boards"]):
            place = pointer("runs", index, *(("report",) if board == HERE else ("boards", board)))
            report = at(documents, place)
            runtime = report["runtime"]
            key = (board, report["device"]["name"], f"{runtime['name']} {runtime.get('version', '')}")
            found.setdefault(key, {})[index] = place
    return [
        {"name": f"{board}: {device}, {runtime}", **_device(documents, names, places, board)}
        for (board, device, runtime), places in found.items()
    ]


def _device(
    documents: Mapping[str, Any], names: Sequence[str], places: Mapping[int, str], board: str
) -> dict[str, Any]:
    reports = {index: at(documents, place) for index, place in places.items()}
    fair = all(report["valid"] for report in reports.values()) and len({r["batch"] for r in reports.values()}) == 1
    graphs = dict.fromkeys(graph for report in reports.values() for graph in report["graphs"])
    rows: list[Row] = []
    for graph in graphs:
        for quantile in LATENCIES:
            spots = [
                f"{places[index]}{pointer('graphs', graph)}/latency_ms/{quantile}" if index in places else ""
                for index in range(len(names))
            ]
            best = min if fair and graph != "teacher" else None
            rows.append((f"{graph}, {quantile}, ms", *_marked(documents, spots, "ms", best)))
    rows.append(("valid", *(_validity(reports.get(index)) for index in range(len(names)))))
    key, label = _measure(documents["runs"])
    points = {}
    for index, report in reports.items():
        graph = report["graphs"].get(documents["runs"][index]["derived"]["deployed"])
        if graph is not None and key and graph[key] is not None:
            points[names[index]] = (graph["latency_ms"]["p50"], graph[key])
    slug = "against-" + hashlib.sha256(next(iter(places.values())).encode()).hexdigest()[:8]
    picture = figures.against(points, f"p50 on {board}", label, slug) if len(points) > 1 else None
    note = "" if fair else "Nothing is marked: not every measurement is valid, or the batches differ."
    return {"table": Table(f"Latency on {board}", ("", *names), tuple(rows), note), "picture": picture}


def _validity(report: Mapping[str, Any] | None) -> str | Markup:
    if report is None:
        return NONE
    return "yes" if report["valid"] else f"no: {'; '.join(report['reasons'])}"


def _measure(runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What stands for quality in the drawings; ("", "") where nothing compares."""
    if _same_evaluation(runs):
        return "accuracy", "top-1"
    return ("agreement", "agreement with the teacher") if _same_teacher(runs) else ("", "")


def _marked(
    documents: Mapping[str, Any], places: Sequence[str], unit: str, best: Callable[..., Any] | None
) -> list[Markup]:
    """A cell per place; `best` (min or max) marks those that reach it, unless all do."""
    values = [at(documents, place) if place else None for place in places]
    known = [value for value in values if value is not None]
    goal = best(known) if best and len(known) > 1 and len(set(known)) > 1 else None
    cells = []
    for place, value in zip(places, values, strict=True):
        figure = cell(documents, place, unit) if value is not None else NONE
        marked = value is not None and value == goal
        cells.append(Markup('{} <span class="best">best</span>').format(figure) if marked else figure)
    return cells


def _same_evaluation(runs: Sequence[Mapping[str, Any]]) -> bool:
    hashes = {(run["report"].get("evaluation") or {}).get("sha256") for run in runs}
    return len(hashes) == 1 and None not in hashes


def _same_teacher(runs: Sequence[Mapping[str, Any]]) -> bool:
    return len({run["manifest"]["teacher"]["sha256"] for run in runs}) == 1


def _notes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    if not _same_evaluation(runs):
        found.append("Top-1 is not compared: the students were not all evaluated on the same data.")
    if _same_teacher(runs):
        found.append("Agreement was measured on the images that each run generated for itself.")
    else:
        found.append("Agreement is not compared: the teachers differ.")
    if len({run["manifest"]["profile"]["name"] for run in runs}) > 1:
        found.append("Predictions are not compared: the profiles differ.")
    return found
