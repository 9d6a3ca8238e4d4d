"""The drawings of a page. Each shows what a table beside it, or the page's JSON block, holds in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
from markupsafe import Markup

from edgekd.report import svg
from edgekd.report.cells import TEXT

MOST_CLASSES = 30  # bars
BLUE = (0.24, 0.52, 0.9)  # on white as on black


def histogram(report: Mapping[str, Any], device: str, name: str) -> Markup | None:
    """How many runs took how long, a row per graph. None where the report keeps no histogram (older runners)."""
    graphs = {n: g["latency_ms"] for n, g in report["graphs"].items() if "histogram" in g["latency_ms"]}
    if not graphs:
        return None
    with matplotlib.rc_context(svg.STYLE):
        figure, rows = svg.drawing(1.15 * len(graphs) + 0.3, len(graphs))
        for axes, (graph, t) in zip(rows, graphs.items(), strict=True):
            edges, counts = t["histogram"]["edges_ms"], t["histogram"]["counts"]
            axes.stairs(counts, edges, fill=True, color=svg.COLOURS[0], alpha=0.75)
            for quantile, line in (("p50", "-"), ("p90", "--"), ("p99", ":")):
                if t[quantile] <= edges[-1]:
                    axes.axvline(t[quantile], color=svg.INK, linestyle=line, linewidth=1)
            above = t["histogram"]["above"]
            later = f", {above} later than shown" if above else ""
            axes.set_title(f"{graph}: {t['rounds']:,} runs{later}", loc="left")
            axes.set_ylabel("runs")
            axes.locator_params(axis="y", nbins=3)
            axes.locator_params(axis="x", nbins=6)
        rows[-1].set_xlabel("milliseconds of one batch")
        spread = "; ".join(f"{n} p50 {TEXT['ms'](t['p50'])}, p90 {TEXT['ms'](t['p90'])}" for n, t in graphs.items())
        picture = svg.inline(figure, name, f"Histogram of latency on {device}, in milliseconds: {spread}")
    return svg.figure(picture, f"Latency on {device}: solid line p50, dashed p90, dotted p99")


def plan(found: Mapping[str, Any], precision: str, limit_ms: float | None, name: str) -> Markup:
    """Every student that was looked at: predicted milliseconds against what is expected of it."""

    def point(row: Mapping[str, Any]) -> tuple[float, float]:
        return row["predicted_ms"][precision]["latency_ms"], row["expected"]

    with matplotlib.rc_context(svg.STYLE):
        figure, (axes,) = svg.drawing(3.1)
        for fits, look in ((False, {"alpha": 0.7, "label": "breaks a limit", "marker": "x", "linewidths": 0.8}),
                           (True, {"label": "keeps every limit", "linewidths": 0})):  # fmt: skip
            points = [point(row) for row in found["candidates"] if (not row["broken_limits"]) is fits]
            if points:
                axes.scatter(*zip(*points, strict=True), color=svg.COLOURS[0 if fits else 3], s=16, **look)
        front = sorted(point(row) for row in found["front"])
        axes.plot(*zip(*front, strict=True), color=svg.COLOURS[1], linewidth=1.2, label="front")
        chosen = point(found["chosen"])
        axes.scatter(*chosen, s=130, facecolors="none", edgecolors=svg.INK, linewidths=1.5, label="chosen")
        if limit_ms is not None:
            axes.axvline(limit_ms, color=svg.MUTED, linestyle="--", linewidth=1, label=f"limit {limit_ms:g} ms")
        axes.set(xscale="log", xlabel=f"predicted latency, {precision} (ms)", ylabel="expected")
        _plain_logarithm(axes.xaxis)
        axes.grid(alpha=0.3, linewidth=0.5, color=svg.MUTED)
        figure.legend(loc="outside upper center", ncols=3)
        said = (
            f"Scatter of {len(found['candidates'])} students: predicted latency against expectation. "
            f"Chosen: {found['chosen']['student']} at {chosen[0]:.3g} ms, expected {chosen[1]:.3f}"
        )
        picture = svg.inline(figure, name, said)
    return svg.figure(picture, "Students that were looked at; the line joins those that nothing faster should beat")


def training(log: Sequence[Mapping[str, Any]], name: str) -> Markup | None:
    """Loss, agreement and the terms of the images' losses over time. None without figures."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": {}, "agreement": {}, "terms": {}}
    for line in log:
        for key, value in line.items():
            if key in ("time_s", "phase", "step") or not isinstance(value, int | float):
                continue
            panel, label = (
                (key, line["phase"]) if key in ("loss", "agreement") else ("terms", f"{line['phase']}: {key}")
            )
            panels[panel].setdefault(label, []).append((line["time_s"], value))
    shown = {panel: curves for panel, curves in panels.items() if curves}
    if not shown:
        return None
    with matplotlib.rc_context(svg.STYLE):
        figure, rows = svg.drawing(1.9 * len(shown), len(shown), share=True)
        for axes, (panel, curves) in zip(rows, shown.items(), strict=True):
            for index, (label, points) in enumerate(curves.items()):
                alone = {"marker": "o", "markersize": 3} if len(points) < 8 else {}
                axes.plot(*zip(*points, strict=True), color=svg.COLOURS[index % 8], linewidth=1.2, label=label, **alone)
            axes.set_ylabel(panel if panel != "terms" else "terms of the losses")
            if panel == "loss" and all(value > 0 for points in curves.values() for _, value in points):
                axes.set_yscale("log")
                _plain_logarithm(axes.yaxis)
            axes.grid(alpha=0.3, linewidth=0.5, color=svg.MUTED)
            axes.legend(loc="best", ncols=2 if len(curves) > 2 else 1, handlelength=1.2, columnspacing=1.0)
        rows[-1].set_xlabel("seconds of training")
        last = "; ".join(
            f"{panel} of {label} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
            for panel, curves in shown.items() if panel != "terms"
            for label, points in curves.items()
        )  # fmt: skip
        picture = svg.inline(figure, name, f"Curves over {log[-1]['time_s']:.0f} seconds of training: {last}")
    return svg.figure(picture, "The training over time")


def bars(series: Mapping[str, Sequence[tuple[str, float]]], label: str, name: str) -> Markup:
    """Shares by class, a bar per series. series: name -> (class, share in [0, 1]), the same classes in each."""
    classes = [of for of, _ in next(iter(series.values()))][:MOST_CLASSES]
    thick = 0.8 / len(series)
    with matplotlib.rc_context(svg.STYLE):
        figure, (axes,) = svg.drawing(0.9 + max(0.3, 0.12 * len(series) + 0.08) * len(classes))
        for index, (of, shares) in enumerate(series.items()):
            places = [row + (index - (len(series) - 1) / 2) * thick for row in range(len(classes))]
            values = [100 * share for _, share in shares[: len(classes)]]
            axes.barh(places, values, height=0.9 * thick, color=svg.COLOURS[index], label=of)
        axes.set_yticks(range(len(classes)), [_short(of) for of in classes])
        axes.set(xlim=(0, 100), xlabel=f"{label} (%)")
        axes.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=len(series))
        low = {of: min(shares, key=lambda pair: pair[1]) for of, shares in series.items()}
        said = "; ".join(f"{of} lowest for {pair[0]} with {pair[1]:.1%}" for of, pair in low.items())
        picture = svg.inline(figure, name, f"Bars, {label} by class: {said}")
    return svg.figure(picture, f"{label[0].upper()}{label[1:]} by class")


def heat(counts: Sequence[Sequence[int]], of: str, name: str) -> Markup:
    """A confusion matrix of many classes as shares of each row: the darker, the more."""
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    with matplotlib.rc_context(svg.STYLE):
        figure, (axes,) = svg.drawing(4.4)
        colours = matplotlib.colors.LinearSegmentedColormap.from_list(
            "deep", [(0.24, 0.52, 0.9, 0.0), (0.24, 0.52, 0.9, 1.0)]
        )
        axes.imshow(shares, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xlabel="answer (index of the class)", ylabel="label (index of the class)")
        right = sum(row[i] for i, row in enumerate(counts))
        total = sum(map(sum, counts))
        picture = svg.inline(figure, name, f"Confusion matrix of {of}: {right} of {total} images on the diagonal")
    return svg.figure(picture, f"Confusion of {of}: a row per label, a column per answer")


def against(points: Mapping[str, tuple[float, float]], across: str, up: str, name: str) -> Markup:
    """Several students on one device: milliseconds against quality. points: student -> (ms, share in [0, 1])."""
    best: list[tuple[float, float]] = []
    for ms, share in sorted(points.values(), key=lambda p: (p[0], -p[1])):
        if not best or share > best[-1][1]:
            best.append((ms, share))
    with matplotlib.rc_context(svg.STYLE):
        figure, (axes,) = svg.drawing(2.9)
        if len(best) > 1:
            axes.plot([ms for ms, _ in best], [100 * share for _, share in best], color=svg.MUTED, linewidth=1)
        for index, (label, (ms, share)) in enumerate(points.items()):
            axes.scatter([ms], [100 * share], color=svg.COLOURS[index % 8], s=34, label=label)
        axes.set(xlabel=f"{across} (ms)", ylabel=f"{up} (%)")
        axes.margins(0.15)
        axes.grid(alpha=0.3, linewidth=0.5, color=svg.MUTED)
        figure.legend(loc="outside upper center", ncols=2)
        said = "; ".join(f"{label} {ms:.3g} ms, {share:.1%}" for label, (ms, share) in points.items())
        picture = svg.inline(figure, name, f"Scatter of {across} against {up}: {said}")
    return svg.figure(picture, f"{up[0].upper()}{up[1:]} against {across}; the line joins those that nothing beats")


def _plain_logarithm(axis: Any) -> None:
    """0.1, 1, 10 and some between, without powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(text: str, most: int = 18) -> str:
    """A label that fits, without what XML has no place for."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"
