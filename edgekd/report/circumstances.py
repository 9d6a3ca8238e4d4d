"""How a report's figures were measured: the device's condition, a long run, intervals. A board may send anything."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import matplotlib
from markupsafe import Markup

from edgekd.report import svg
from edgekd.report.cells import NONE, Table, at, cell, pointer

BESIDE = (
    ("governor", "governor", ""),
    ("power mode", "power_mode", ""),
    ("battery", "battery", ""),
    ("clock of the fastest core, MHz", "clocks_mhz/cpu_fastest", "figure"),
    ("limit of that clock, MHz", "clock_limit_mhz", "figure"),
    ("hottest sensor, \N{DEGREE SIGN}C", "hottest_c", "figure"),
    ("load of the last minute", "load_1min", "figure"),
    ("GPU busy", "gpu_load", "share"),
)
SHOWN_WINDOWS = 30  # of a long run in its table; the drawing has them all


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def texts(value: Any) -> list[str]:
    """A list of texts, where it is a list."""
    return [str(one) for one in value] if isinstance(value, list) else []


def within(documents: Mapping[str, Any], graph: str, quantile: str) -> Markup:
    """The 95 % interval of a quantile. graph: JSON pointer."""
    low, high = (cell(documents, f"{graph}/latency_ms/interval95/{quantile}/{end}", "ms") for end in (0, 1))
    return NONE if NONE in (low, high) else Markup('<span class="within">{} to {}</span>').format(low, high)


def condition(documents: Mapping[str, Any], place: str, device: str) -> Table | None:
    """The device before and after the measurement. None where the report does not say (older runners)."""
    found = at(documents, place + "/condition")
    if not isinstance(found, Mapping):
        return None
    rows: list[tuple[str | Markup, ...]] = []
    for label, key, unit in BESIDE:
        values = [_value(documents, f"{place}/condition/{when}/{key}", unit) for when in ("before", "after")]
        if any(value != NONE for value in values):
            rows.append((label, *values))
    clocks = at(documents, f"{place}/condition/before/clocks_mhz")
    for name in clocks if isinstance(clocks, Mapping) else ():
        if not name.startswith("cpu_"):
            spots = [f"{place}/condition/{when}{pointer('clocks_mhz', name)}" for when in ("before", "after")]
            rows.append((f"clock of {name}, MHz", *(cell(documents, spot, "figure") for spot in spots)))
    rows.append(
        ("throttled", "", words(at(documents, place + "/throttled"), at(documents, place + "/condition/throttled_by")))
    )
    for label, key in (
        ("other processes, cores", "foreign_cores"),
        ("in the worst second, cores", "foreign_cores_most"),
    ):
        rows.append((label, "", cell(documents, f"{place}/{key}", "figure")))
    rows.append(("taken by the virtual machine's host, cores", "", cell(documents, f"{place}/steal_cores", "figure")))
    rows.append(
        (
            "runner and runtime alone (identity graph), \N{MICRO SIGN}s",
            "",
            cell(documents, f"{place}/overhead_us", "figure"),
        )
    )
    rows.append(("peak memory of the runner, MB", "", cell(documents, f"{place}/peak_memory_mb", "mb")))
    meter = at(documents, place + "/energy/source")
    rows.append(("energy by", "", str(meter) if meter else "no meter that may be read"))
    if meter:
        rows.append(("idle, W", cell(documents, f"{place}/energy/idle_w", "figure"), ""))
    return Table(f"Condition of {device}", ("", "before", "after or meanwhile"), tuple(rows), words=True)


def words(state: Any, why: Any) -> str:
    """A state with its reasons: "yes: the clock fell"."""
    told = "; ".join(map(str, why)) if isinstance(why, list) and why else ""
    return f"{state if state is not None else 'not known'}" + (f" ({told})" if told else "")


def _value(documents: Mapping[str, Any], place: str, unit: str) -> str | Markup:
    if unit:
        return cell(documents, place, unit)
    value = at(documents, place)
    return NONE if value is None else str(value)


def windows(documents: Mapping[str, Any], place: str) -> list[Mapping[str, Any]]:
    """The windows of a long run that are what they should be; empty where there was none."""
    found = at(documents, place + "/soak/windows")
    listed = found if isinstance(found, list) else []
    return [w for w in listed if isinstance(w, Mapping) and number(w.get("at_s")) and number(w.get("p50"))]


def soak(documents: Mapping[str, Any], place: str, device: str) -> dict[str, Any] | None:
    """Verdict, table and drawing of the long run; None where there was none."""
    found = windows(documents, place)
    if not found or len(found) != len(at(documents, place + "/soak/windows")):
        return None
    facts = at(documents, place + "/soak")
    step = -(-len(found) // SHOWN_WINDOWS)
    rows = []
    for index in range(0, len(found), step):
        spot = f"{place}/soak/windows/{index}"
        units = (("at_s", "figure"), ("p50", "ms"), ("runs", "count"), ("clock_mhz", "figure"), ("hottest_c", "figure"))
        cells = [cell(documents, f"{spot}/{key}", unit) for key, unit in units]
        rows.append((*cells,))
    head = ("from, s", "p50, ms", "runs", "MHz", "\N{DEGREE SIGN}C")
    note = "" if step == 1 else f"Shown is one window in {step}; all are in the JSON block of this page."
    return {
        "said": f"{facts.get('graph')}: {facts.get('said')}",
        "reasons": texts(facts.get("reasons")),
        "throttled": words(facts.get("throttled"), facts.get("throttled_by")),
        "table": Table(f"The long run on {device}", head, tuple(rows), note),
        "picture": _curve(found, device, "soak-" + hashlib.sha256(place.encode()).hexdigest()[:8]),
    }


def _curve(found: list[Mapping[str, Any]], device: str, name: str) -> Markup:
    """p50 of each window over the minutes, and clock and temperature below it where they are known."""
    panels = [("p50", "p50, ms"), ("clock_mhz", "MHz"), ("hottest_c", "\N{DEGREE SIGN}C")]
    known = [(key, label) for key, label in panels if all(number(w.get(key)) for w in found)]
    minutes = [w["at_s"] / 60 for w in found]
    with matplotlib.rc_context(svg.STYLE):
        figure, rows = svg.drawing(1.1 + 1.1 * len(known), len(known), share=True)
        for axes, (key, label) in zip(rows, known, strict=True):
            values = [w[key] for w in found]
            axes.plot(minutes, values, color=svg.COLOURS[0], linewidth=1.2, marker="o", markersize=2.5)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0, top=1.15 * max(values) or 1.0)
            axes.grid(alpha=0.3, linewidth=0.5, color=svg.MUTED)
        rows[-1].set_xlabel("minutes at full load")
        said = f"Curve over {minutes[-1]:.1f} minutes: p50 from {found[0]['p50']:.3g} to {found[-1]['p50']:.3g} ms"
        picture = svg.inline(figure, name, said)
    return svg.figure(picture, f"A long run at full load on {device}")
