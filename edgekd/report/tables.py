"""The tables of one student's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from edgekd.report.cells import NONE, Table, at, cell, pointer
from edgekd.report.circumstances import within
from edgekd.report.reading import FIGURES, Subject
from edgekd.report.verdict import predictions

SELF = Markup('<span class="none">itself</span>')


def comparison(subject: Subject, documents: Mapping[str, Any]) -> Table:
    """Teacher against student: what they know, cost and take, a column per graph."""
    graphs = documents["manifest"]["graphs"]
    columns = {"teacher": "teacher", **{precision: f"student {precision}" for precision in graphs}}

    def measured(unit: str, *place: str) -> list[Markup]:
        return [cell(documents, pointer("report", "graphs", name, *place), unit) for name in columns]

    def counted(name: str) -> list[Markup]:
        student = cell(documents, pointer("manifest", "student", name), "count")
        return [cell(documents, pointer("manifest", "teacher", name), "count"), *[student] * len(graphs)]

    rows: list[tuple[str | Markup, ...]] = []
    if documents["report"]["evaluated"]:
        rows.append(("top-1 on the evaluation data", *measured("share", "accuracy")))
        top5 = measured("share", "evaluation", "top5")
        rows += [("top-5", *top5)] if any(one != NONE for one in top5) else []
    rows.append(("agreement with the teacher", SELF, *measured("share", "agreement")[1:]))
    rows += [("parameters", *counted("parameters")), ("multiply-adds per image", *counted("macs"))]
    rows.append(("graph, MB", *measured("mb", "mb")))
    places = predictions(documents)
    if places:
        student, teacher = places
        cells = [_prediction(documents, f"{teacher}/{_nearest(documents)}")]
        cells += [_prediction(documents, f"{student}/{precision}") for precision in graphs]
        rows.append((f"predicted on {documents['manifest']['profile']['name']}, ms (90 % interval)", *cells))
    rows += [(f"measured here, {q}, ms", *measured("ms", "latency_ms", q)) for q in ("p50", "p90")]
    note = (
        f"MB: 10\N{SUPERSCRIPT SIX} bytes. Milliseconds: one batch of {documents['report']['batch']}. "
        f"Agreement: on {documents['report']['samples']:,} generated images that the student was not trained on."
    )
    return Table("Teacher against student", ("", *columns.values()), tuple(rows), note)


def limits(documents: Mapping[str, Any], deployed: str) -> Table:
    """The profile's limits beside the figures that are held to them; those of the graph to deploy."""
    places = predictions(documents)
    there = documents["manifest"]["profile"]["name"] == "cpu" or places is None
    latency = f"/report/graphs/{deployed}/latency_ms/p90" if there else f"/result/sizing/predicted/{deployed}/high_ms"
    found = {
        "latency_ms": (
            f"latency, ms ({'p90 measured here' if there else 'upper end of the prediction'})",
            latency,
            "ms",
        ),
        "model_mb": ("graph, MB", f"/report/graphs/{deployed}/mb", "mb"),
        "memory_mb": ("working memory, MB (from the plan)", "/plan/chosen/memory_mb", "mb"),
        "parameters": ("parameters", "/manifest/student/parameters", "count"),
    }
    rows = []
    for name, (text, place, unit) in found.items():
        allowed = cell(documents, f"/manifest/profile/limits/{name}", "count" if name == "parameters" else "figure")
        if allowed != NONE:
            rows.append((text, allowed, cell(documents, place, unit)))
    return Table(f"Limits of the profile, and {deployed}", ("", "allowed", "this student"), tuple(rows))


def _nearest(documents: Mapping[str, Any]) -> str:
    """The precision that the teacher is compared in: its graph is fp32."""
    predicted = documents["result"]["sizing"]["teacher_predicted"]
    return "fp32" if "fp32" in predicted else str(next(iter(predicted)))


def _prediction(documents: Mapping[str, Any], place: str) -> Markup:
    middle, low, high = (cell(documents, f"{place}/{name}_ms", "ms") for name in ("latency", "low", "high"))
    return (
        middle
        if NONE in (middle, low)
        else Markup('{} <span class="within">({} to {})</span>').format(middle, low, high)
    )


def graphs(documents: Mapping[str, Any], place: str, device: str) -> Table:
    """One device's graphs: size, latency in full, speed over its fp32 graph, and what they know."""
    names = list(at(documents, place)["graphs"])

    def row(label: str, unit: str, *of: str) -> tuple[str | Markup, ...]:
        return (label, *(cell(documents, place + pointer("graphs", name, *of), unit) for name in names))

    def intervals(quantile: str) -> list[tuple[str | Markup, ...]]:
        cells = [within(documents, place + pointer("graphs", name), quantile) for name in names]
        return [(f"{quantile}, 95 % interval, ms", *cells)] if any(one != NONE for one in cells) else []

    def where_known(label: str, unit: str, *of: str) -> list[tuple[str | Markup, ...]]:
        found = row(label, unit, *of)
        return [found] if any(one != NONE for one in found[1:]) else []

    rows = [row("MB", "mb", "mb"), *(row(f"{q}, ms", "ms", "latency_ms", q) for q in FIGURES if q != "rounds")]
    rows[3:3] = intervals("p90")
    rows[2:2] = intervals("p50")
    rows += [row("runs", "count", "latency_ms", "rounds")]
    rows += [row("load, ms", "ms", "load_ms"), row("first run, ms", "ms", "first_ms")]
    rows += where_known("after idle, median, ms", "ms", "idle_start_ms", "p50")
    rows += where_known("after idle, slowest, ms", "ms", "idle_start_ms", "max")
    rows += where_known("idle before each, s", "figure", "idle_start_ms", "idle_s")
    rows += where_known("energy, J", "figure", "energy", "joules")
    rows += where_known("energy above idle, J", "figure", "energy", "joules_above_idle")
    rows += [("speed over fp32", *(_over_fp32(documents, place, name) for name in names))]
    rows += [row("agreement with the teacher", "share", "agreement"), row("top-1", "share", "accuracy")]
    rows += [row("logits off the host's", "figure", "max_abs_from_host")]
    note = "Logits off the host's: the largest difference on the samples from what this graph gave where it was made."
    return Table(f"Precisions and their latency on {device}", ("", *names), tuple(rows), note)


def _over_fp32(documents: Mapping[str, Any], place: str, graph: str) -> Markup:
    ratio = pointer("derived", "over_fp32", place[1:], graph)
    value = at(documents, ratio)
    if value is None:
        return Markup("")
    said, look = ("slower than fp32", "bad") if value < 1 else ("faster", "good")
    return Markup('{} <span class="{}">{}</span>').format(cell(documents, ratio, "times"), look, said)


def front(documents: Mapping[str, Any], precision: str, most: int = 16) -> Table:
    """The students of the plan that nothing faster is expected to beat; the chosen one marked."""
    plan = documents["plan"]
    rows = []
    for index, row in enumerate(plan["front"][:most]):
        place = pointer("plan", "front", index)
        chosen = row["student"] == plan["chosen"]["student"]
        name: str | Markup = Markup("{} <strong>(chosen)</strong>").format(row["student"]) if chosen else row["student"]
        if row["broken_limits"]:
            name = Markup('{} <span class="bad">breaks {}</span>').format(name, "; ".join(row["broken_limits"]))
        predicted = _prediction(documents, f"{place}/predicted_ms/{precision}")
        figures = [("expected", "figure"), ("cost/parameters", "millions"), ("cost/macs", "millions")]
        rows.append((name, predicted, *(cell(documents, f"{place}/{of}", unit) for of, unit in figures)))
    head = ("student", f"predicted {precision}, ms", "expected", "params, M", "MACs, M")
    left = len(plan["front"]) - len(rows)
    note = f"Expected: {plan['expected_from']}" + (f" {left} more are in the JSON block of this page." if left else "")
    return Table("The front of the plan", head, tuple(rows), note)


def calibrations(documents: Mapping[str, Any]) -> Table | None:
    """How the ranges of the INT8 graph were chosen, and what was tried to recover it; None where nothing says."""
    place = "/manifest/parity/int8"
    found = at(documents, f"{place}/calibration")
    if not found:
        return None
    rows: list[tuple[str | Markup, ...]] = []
    for index, one in enumerate(found["tried"]):
        kept = {name: one[name] for name in ("images", "method")} == found["chosen"]
        said = cell(documents, f"{place}/calibration/tried/{index}/agreement", "share")
        rows.append((f"{one['method']}, {one['images']} images", "", said, "kept" if kept else one["note"]))
    for index, one in enumerate(at(documents, f"{place}/recovery") or []):
        shares = (cell(documents, f"{place}/recovery/{index}/{when}", "share") for when in ("before", "after"))
        verdict = "kept" if one["kept"] else "not kept"
        rows.append((one["name"], *shares, f"{verdict}: {one['note']}" if one["note"] else verdict))
    counts = " and ".join(f"{count:,} {name}" for name, count in found["images"].items())
    note = (
        f"Agreement with the fp32 graph on {found['held_out']:,} generated images that neither ranges nor weights come "
        f"from; the gate asks others. Ranges were measured on {counts} images. After {found['within_s']:g} s no more "
        f"calibrations are begun; tuning ends within {found['recovery_within_s']:g} s."
    )
    return Table("INT8: calibration and recovery", ("", "before", "agreement", ""), tuple(rows), note)


def settings(caption: str, documents: Mapping[str, Any], place: str, without: tuple[str, ...] = ()) -> Table:
    """A mapping of a document, a row per name; mappings inside it in rows of their own."""
    rows: list[tuple[str | Markup, ...]] = []

    def add(prefix: str, where: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            inner, label = where + pointer(name), f"{prefix}{name}"
            if label in without:
                continue
            if isinstance(value, Mapping):
                add(f"{label}: ", inner, value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                rows.append((label, cell(documents, inner, "exact")))
            else:
                rows.append((label, _words(value)))

    add("", place, at(documents, place) or {})
    return Table(caption, ("", "value"), tuple(rows), words=True)


def _words(value: Any) -> str | Markup:
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return Markup("<code>{}</code>").format(value) if _is_hash(value) else str(value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
