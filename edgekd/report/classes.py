"""Class by class: shares, the confusion matrix and the most common mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgekd.report.cells import Table, at, cell, pointer

MATRIX = 20  # classes; a larger matrix is drawn, not written
MISTAKES = 12  # rows
SHADES = 9  # classes .heat1 to .heat9 of the style sheet


def shares(documents: Mapping[str, Any], deployed: str) -> tuple[Table, dict[str, list[tuple[str, float]]], str] | None:
    """Top-1 by class of teacher and student where there is evaluation data, else agreement: a table, bars, their label.

    The deployed graph's classes set the rows, the worst first where there are many. None from older runners.
    """
    report, names = documents["report"], documents["manifest"]["classes"]
    graphs = {name: report["graphs"][name] for name in ("teacher", deployed) if name in report["graphs"]}
    evaluated = all(graph.get("evaluation") for graph in graphs.values())
    place = ("evaluation", "by_class") if evaluated else ("agreement_by_class",)
    if not evaluated:
        graphs.pop("teacher", None)
    found = {name: at(graph, pointer(*place)) for name, graph in graphs.items()}
    if found[deployed] is None:
        return None
    label = "top-1 on the evaluation data" if evaluated else "agreement with the teacher on generated images"
    rows, bars = [], {title(name): [] for name in graphs}  # type: ignore[var-annotated]
    for index, of in enumerate(found[deployed]["class"]):
        where = {name: one["class"].index(of) for name, one in found.items() if of in one["class"]}

        def there(name: str, key: str, where: Mapping[str, int] = where) -> Markup:
            unit = "share" if key == "share" else "count"
            spot = pointer("report", "graphs", name, *place, key, where[name]) if name in where else ""
            return cell(documents, spot, unit)

        rows.append((names[of], there(deployed, "images"), *(there(name, "share") for name in graphs)))
        if found[deployed]["share"][index] is not None:
            for name in graphs:
                share = found[name]["share"][where[name]] if name in where else None
                if share is not None:
                    bars[title(name)].append((names[of], share))
    note = found[deployed]["note"] and f"Only {found[deployed]['note']} are kept."
    head = ("class", "images", *(f"{title(name)}" for name in graphs))
    whole = {name: pairs for name, pairs in bars.items() if len(pairs) == len(bars[title(deployed)])}
    return Table(f"{label[0].upper()}{label[1:]} by class", head, tuple(rows), note), whole, label


def title(graph: str) -> str:
    """How a graph is called beside others."""
    return graph if graph == "teacher" else f"student {graph}"


def confusion(documents: Mapping[str, Any], graph: str) -> Table | None:
    """A row per label, a column per answer, the more the darker. None without evaluation data or with many classes."""
    counts, names = _counts(documents, graph), documents["manifest"]["classes"]
    if counts is None or len(names) > MATRIX:
        return None
    rows = []
    for label, row in enumerate(counts):
        cells = []
        for answer, count in enumerate(row):
            shade = round(SHADES * count / max(1, sum(row)))
            figure = cell(
                documents, pointer("report", "graphs", graph, "evaluation", "confusion", label, answer), "count"
            )
            cells.append(Markup('<span class="heat{}">{}</span>').format(shade, figure))
        rows.append((names[label], *cells))
    return Table(f"Confusion of the {title(graph)}: a row per label, a column per answer", ("", *names), tuple(rows))


def mistakes(documents: Mapping[str, Any], graph: str) -> Table | None:
    """The most common mistakes. None without a matrix, or without a mistake."""
    counts, names = _counts(documents, graph), documents["manifest"]["classes"]
    if counts is None:
        return None
    found = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j]
    found.sort(key=lambda one: (-one[0], one[1], one[2]))
    place = ("report", "graphs", graph, "evaluation", "confusion")
    rows = [(names[i], names[j], cell(documents, pointer(*place, i, j), "count")) for _, i, j in found[:MISTAKES]]
    caption = f"Most common mistakes of the {title(graph)}"
    return Table(caption, ("label", "answer", "images"), tuple(rows)) if rows else None


def too_many(documents: Mapping[str, Any], graph: str) -> bool:
    """Whether there is evaluation data, but no matrix was kept."""
    found = at(documents, pointer("report", "graphs", graph, "evaluation"))
    return found is not None and found["confusion"] is None


def _counts(documents: Mapping[str, Any], graph: str) -> Sequence[Sequence[int]] | None:
    found: Sequence[Sequence[int]] | None = at(documents, pointer("report", "graphs", graph, "evaluation", "confusion"))
    return found
