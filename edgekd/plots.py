"""Pictures of figures. matplotlib without a display; nothing here computes what it shows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from edgekd.families import name_of
from edgekd.files import written
from edgekd.types import Candidate, Prediction, Profile, Search

SIZE = (8.0, 4.8)  # inches
MARKS = "osD^vP*XhH<>"


def pareto(found: Search, profile: Profile, path: Path) -> None:
    """Writes every candidate of a search as predicted milliseconds against what is expected of it, PNG or SVG.

    Each in the precision that it is deployed in. Full marks keep every limit, pale ones do not; the line joins those
    that nothing faster is expected to beat, with the interval of each prediction; the ring is the one that was chosen.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    families: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in found.candidates:
        families[candidate.spec.family].append(candidate)
    for index, (family, members) in enumerate(sorted(families.items())):
        colour, mark = f"C{index % 10}", MARKS[index % len(MARKS)]
        for fits in (False, True):
            shown = [c for c in members if (not c.broken) is fits]
            axes.scatter(
                [_deployed(c).latency_ms for c in shown],
                [c.expected for c in shown],
                color=colour, marker=mark, s=28, alpha=0.9 if fits else 0.2, linewidths=0,
                label=family if fits or not any(not c.broken for c in members) else None,
            )  # fmt: skip
    front = sorted(found.front, key=lambda c: _deployed(c).latency_ms)
    predicted = [_deployed(c) for c in front]
    middle = [p.latency_ms for p in predicted]
    spread = [[p.latency_ms - p.low_ms for p in predicted], [p.high_ms - p.latency_ms for p in predicted]]
    axes.errorbar(
        middle, [c.expected for c in front], xerr=spread, color="0.35", linewidth=1, elinewidth=0.6, capsize=2, zorder=1
    )
    chosen = _deployed(found.chosen).latency_ms
    axes.scatter([chosen], [found.chosen.expected], s=170, facecolors="none", edgecolors="black", linewidths=1.6)
    axes.annotate(
        name_of(found.chosen.spec), (chosen, found.chosen.expected), xytext=(12, -4), textcoords="offset points",
        fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )  # fmt: skip
    if profile.limits.latency_ms is not None:
        axes.axvline(profile.limits.latency_ms, color="0.5", linestyle="--", linewidth=1)
        axes.annotate(
            f"limit {profile.limits.latency_ms:g} ms", (profile.limits.latency_ms, 0.02),
            xycoords=("data", "axes fraction"), xytext=(-4, 0), textcoords="offset points",
            ha="right", fontsize=8, color="0.35",
        )  # fmt: skip
    axes.set(
        xscale="log", ylabel="expected",
        xlabel=f"predicted latency on {profile.name}, batch {profile.batch}, as deployed (ms)",
    )  # fmt: skip
    axes.grid(alpha=0.25, linewidth=0.5)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=len(families))
    with written(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)


def _deployed(candidate: Candidate) -> Prediction:
    return candidate.predicted[candidate.precision]
