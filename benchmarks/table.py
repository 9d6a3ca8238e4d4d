"""The table of the results: pair, method, prior, seeds, top-1, seconds, samples, memory; and plots over time.

    python benchmarks/table.py [benchmarks/results/*.jsonl] [--markdown] [--plots FOLDER [--format svg]]

Runs are put together only where all settings and edgekd's version are the same, but for the numbers of steps, images
and rounds that --minutes plans for each; with and without a prior are rows of their own. Top-1 is that of the last
model's fp32 graph on test images, mean and sample standard deviation over seeds. Seconds are those of the whole
command, export and measuring included; memory is the highest. --plots needs matplotlib.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from record import lines
from rich.console import Console
from rich.table import Table as RichTable

from edgekd.pace import PHASES

Line = dict[str, Any]
Table = tuple[list[str], list[list[str]]]  # heads, rows
PLANNED = {*PHASES, "rounds", "prior_images", "prior_drawn"}  # by --minutes, for each run as fast as it was then
HEADS = ["pair", "teacher", "method", "budget", "prior", "seeds", "top-1", "seconds", "samples", "peak MB", "edgekd"]


def grouped(found: Iterable[Line]) -> dict[tuple[str, ...], list[Line]]:
    """(pair, prior, method, budget with the settings that were named, edgekd, other settings) -> a line per seed.

    Lines of robustness.py and those without a method (written before methods.py) are left out; of two lines of one
    seed the later counts.
    """
    groups: dict[tuple[str, ...], dict[int, Line]] = defaultdict(dict)
    for line in found:
        if "method" not in line or "cell" in line:
            continue
        budget = " ".join([line["budget"], *re.findall(r"--set[= ](\S+)", line["command"])])
        planned = PLANNED if line["budget"].endswith("minutes") else set[str]()
        settings = json.dumps({n: v for n, v in line["settings"].items() if n not in planned}, sort_keys=True)
        name = (line["pair"], line["prior"], line["method"], budget, line["edgekd"], settings)
        groups[name][line["seed"]] = line
    order = sorted(groups, key=lambda name: (name[0], name[1] != "none", *name[1:]))
    return {name: [line for _, line in sorted(groups[name].items())] for name in order}


def spread(values: list[float]) -> float:
    """Sample standard deviation; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def percent(values: list[float]) -> str:
    """Mean and sample standard deviation of shares, in percent; the mean alone of a single one."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * spread(values):.2f}" if len(values) > 1 else mean


def methods(found: Iterable[Line]) -> Table:
    """A row per pair, prior, method and settings."""
    rows = []
    for (pair, prior, method, budget, version, _), runs in grouped(found).items():
        scored = [line for line in runs if line["top1"]["fp32"] is not None]
        teacher, student = (
            [line["top1"][name] for line in scored if name in line["top1"]] for name in ("teacher", "fp32")
        )
        seconds, peak_mb, samples = ([line[name] for line in runs] for name in ("seconds", "peak_mb", "samples"))
        rows.append([
            pair, percent(sorted(set(teacher))) if teacher else "-", method, budget, prior, str(len(runs)),
            percent(student) if student else "-", f"{statistics.mean(seconds):,.0f}",
            f"{statistics.mean(samples) / 1e6:.3g} M", f"{max(peak_mb):,.0f}", version,
        ])  # fmt: skip
    return HEADS, rows


def robustness(found: Iterable[Line]) -> Table:
    """A row per grid of robustness.py: how far top-1 moves over its cells."""
    grids: dict[tuple[str, str, str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    for line in found:
        if "cell" in line and line["top1"]["fp32"] is not None:
            name = (line["grid"], line["prior"], line["around"], line["edgekd"])
            grids[name][line["cell"], line["seed"]] = line["top1"]["fp32"]
    rows = []
    for (grid, prior, around, version), cells in sorted(grids.items()):
        values = list(cells.values())
        worst = min(cells, key=lambda cell: cells[cell])[0]
        figures = (statistics.mean(values), min(values), max(values) - min(values), spread(values))
        rows.append([grid, prior, around, str(len(cells)), *(f"{100 * f:.2f}" for f in figures), worst, version])
    return ["grid", "prior", "around", "cells", "mean", "min", "max - min", "std", "worst cell", "edgekd"], rows


def show(title: str, heads: list[str], rows: list[list[str]], *, markdown: bool) -> None:
    if not rows:
        return
    if markdown:
        for row in (heads, ["---"] * len(heads), *rows):
            print("| " + " | ".join(row) + " |")
        print()
        return
    shown = RichTable(*heads, title=title)
    for row in rows:
        shown.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # whole words in a file or a pipe
    console.print(shown, highlight=False, markup=False)


def plot(found: Iterable[Line], folder: Path, suffix: str) -> list[Path]:
    """A figure per pair: agreement on the training batches over time, a line per seed. Raises ImportError."""
    matplotlib = importlib.import_module("matplotlib")  # optional, so that neither type checker nor table needs it
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    folder.mkdir(parents=True, exist_ok=True)
    by_pair: dict[str, dict[str, list[Line]]] = defaultdict(dict)
    for (pair, prior, method, budget, version, _), runs in grouped(found).items():
        labels = [method if prior == "none" else f"{method}, prior {prior}"]
        labels += [f"{labels[0]}, {budget}", f"{labels[0]}, {budget}, {version}", f"{labels[0]} ({len(by_pair[pair])})"]
        by_pair[pair][next(label for label in labels if label not in by_pair[pair])] = runs  # the shortest that is free
    written = []
    for pair, groups in by_pair.items():
        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for index, (label, runs) in enumerate(groups.items()):
            style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--", "linewidth": 1.2}
            for line in runs:
                times, agreements = zip(*line["curve"], strict=True)
                last = line is runs[-1]
                axes.plot(times, [100 * a for a in agreements], label=label if last else None, alpha=0.8, **style)
        axes.set(title=pair, xlabel="seconds of training", ylim=(0, 101), xlim=(0, None))
        axes.set_ylabel("agreement with the teacher, %,\non the batch that is learnt from")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
        written.append(folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', pair)}.{suffix}")
        figure.savefig(written[-1], dpi=150)
        pyplot.close(figure)
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="files of methods.py and robustness.py; default: all")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    given = parser.parse_args(arguments)
    files = given.results or sorted((Path(__file__).parent / "results").glob("*.jsonl"))
    found = [line for file in files for line in lines(file)]
    show("methods", *methods(found), markdown=given.markdown)
    show("robustness on MNIST, top-1 in percent", *robustness(found), markdown=given.markdown)
    machines = sorted({f"{line['machine']} ({line['device']})" for line in found if "method" in line})
    print("machines: " + "; ".join(machines) if machines else "no line of methods.py yet")
    unknown = sum("method" not in line for line in found)
    if unknown:
        print(f"{unknown} lines without a method, written before methods.py, are left out")
    if given.plots:
        try:
            print("plots: " + ", ".join(map(str, plot(found, given.plots, given.format))))
        except ImportError:
            print("no plots: matplotlib is not installed (pip install matplotlib)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
