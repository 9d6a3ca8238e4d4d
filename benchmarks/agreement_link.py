"""Fits the link from agreement without data to accuracy, and says how far it can be trusted.

    python benchmarks/agreement_link.py compare            every choice of sets of images: coverage and width
    python benchmarks/agreement_link.py fit [--write]      the link of MEASURES; --write: edgekd/agreement.toml

Reads what benchmarks/agreement_pairs.py wrote. logit(student's top-1 / teacher's) is a straight line in the mean logit
of balanced agreements, by least squares, its slope held at or above 0. The interval is split conformal: quantiles of
the residuals of pairs that were each left out of the fit (Lei et al., JASA 2018; Barber et al., Annals of Statistics
2021). Coverage is judged by leaving out each pair, and each data set with all of its pairs, both with an interval whose
line and quantiles have not seen what was left out. What lies outside of the others' agreements counts there as well,
although edgekd says "not known" below them and no more than at their end above.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray
from record import lines

from edgekd.agreement import COEFFICIENTS, SETS, Link, inverse, logit, scale
from edgekd.files import plain, written

RESULTS = Path(__file__).resolve().parent / "results" / "agreement.jsonl"
LEVEL = 0.9
MEASURES = ("sure", "shift")  # of the least error of pairs left out, by `compare`: chosen on these very pairs
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    name: str
    data: str  # set
    shares: dict[str, float]  # balanced agreement by the names of SETS
    ratio: float  # student's top-1 over the teacher's, at most 1


def read_pairs(path: Path = RESULTS) -> list[Pair]:
    """The pairs by their names; of two lines of one name the later one."""
    found = {}
    for line in lines(path):
        shares = {name: of["balanced"] for name, of in line["fidelity"]["sets"].items()}
        ratio = min(1.0, line["student_top1"] / line["teacher_top1"])
        found[line["name"]] = Pair(line["name"], line["data"], shares, ratio)
    return [found[name] for name in sorted(found)]


def straight(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of least squares, the slope >= 0. x, y: (N,)."""
    dx = x - x.mean()
    slope = max(0.0, float(dx @ (y - y.mean())) / max(float(dx @ dx), 1e-12))
    return float(y.mean()) - slope * float(x.mean()), slope


def residuals(x: Array, y: Array) -> Array:
    """Of each point (N,) from the line of the others."""
    found = []
    for left in range(len(x)):
        intercept, slope = straight(np.delete(x, left), np.delete(y, left))
        found.append(y[left] - intercept - slope * x[left])
    return np.array(found)


def quantiles(residual: Array, level: float = LEVEL) -> tuple[float, float]:
    """The conformal ends: of N residuals those of rank (N + 1) (1 - level) / 2 from below and from above, rounded out.

    The outermost ones where N is too small for the level.
    """
    ordered = np.sort(residual)
    rank = max(1, math.floor((len(ordered) + 1) * (1 - level) / 2 + 1e-9))
    return float(ordered[rank - 1]), float(ordered[-rank])


def interval(x: Array, y: Array, at: float) -> tuple[float, float]:
    """Shares between which the pair at `at` is expected, from others' x and y (N,)."""
    intercept, slope = straight(x, y)
    low, high = quantiles(residuals(x, y))
    return inverse(intercept + slope * at + low), inverse(intercept + slope * at + high)


def points(pairs: Sequence[Pair], measures: tuple[str, ...]) -> tuple[Array, Array]:
    return np.array([scale(p.shares, measures) for p in pairs]), np.array([logit(p.ratio) for p in pairs])


def coverage(pairs: Sequence[Pair], measures: tuple[str, ...], alike: Callable[[Pair], str]) -> tuple[float, float]:
    """Share of the pairs inside the interval of those that are not `alike`, and the mean width of these intervals."""
    inside, widths = 0, []
    for pair in pairs:
        others = [other for other in pairs if alike(other) != alike(pair)]
        low, high = interval(*points(others, measures), scale(pair.shares, measures))
        inside += low <= pair.ratio <= high
        widths.append(high - low)
    return inside / len(pairs), float(np.mean(widths))


def fitted(pairs: Sequence[Pair], measures: tuple[str, ...] = MEASURES, *, made: str) -> Link:
    """The link of all pairs. made: the date."""
    x, y = points(pairs, measures)
    intercept, slope = straight(x, y)
    low, high = quantiles(residuals(x, y))
    return Link(
        made=made,
        pairs=len(pairs),
        data_sets=tuple(sorted({pair.data for pair in pairs})),
        measures=measures,
        intercept=round(intercept, 6),
        slope=round(slope, 6),
        residual_low=round(low, 6),
        residual_high=round(high, 6),
        lowest=round(float(x.min()) - 1e-6, 6),
        highest=round(float(x.max()) + 1e-6, 6),
        level=LEVEL,
        covered_pairs=round(coverage(pairs, measures, lambda pair: pair.name)[0], 4),
        covered_data_sets=round(coverage(pairs, measures, lambda pair: pair.data)[0], 4),
    )


def compare(pairs: Sequence[Pair]) -> None:
    """Prints coverage and mean width for one, two or three sets of images."""
    print("measures; left out: a pair, covered, width; a data set, covered, width")
    for count in (1, 2, 3):
        for measures in combinations(SETS, count):
            of_pairs = coverage(pairs, measures, lambda pair: pair.name)
            of_sets = coverage(pairs, measures, lambda pair: pair.data)
            print(
                f"{', '.join(measures):<32} {of_pairs[0]:6.1%} {of_pairs[1]:6.3f}  {of_sets[0]:6.1%} {of_sets[1]:6.3f}"
            )


def told(link: Link) -> str:
    """The link in words, with its interval at some agreements."""
    text = f"{link.pairs} pairs of {', '.join(link.data_sets)}; by {', '.join(link.measures)}\n"
    text += f"covered, each pair left out: {link.covered_pairs:.1%}; each data set: {link.covered_data_sets:.1%}"
    for share in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98):
        if link.lowest <= logit(share) <= link.highest:
            at = link.intercept + link.slope * logit(share)
            low, high = (inverse(at + residual) for residual in (link.residual_low, link.residual_high))
            text += f"\nagreement {share:.0%}: {low:.1%} to {high:.1%} of the teacher's top-1, middle {inverse(at):.1%}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "compare"))
    parser.add_argument("--write", action="store_true", help="write edgekd/agreement.toml")
    options = parser.parse_args()
    pairs = read_pairs()
    if options.what == "compare":
        compare(pairs)
        return 0
    link = fitted(pairs, made=datetime.datetime.now(datetime.UTC).date().isoformat())
    print(told(link))
    if options.write:
        head = "# Written by benchmarks/agreement_link.py from benchmarks/results/agreement.jsonl.\n"
        with written(COEFFICIENTS) as temporary:
            temporary.write_text(head + tomli_w.dumps(plain(link)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
