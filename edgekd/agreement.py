"""What agreement without data says of accuracy: an interval for the student's share of its teacher's top-1.

An estimate from trained pairs of small images (benchmarks/agreement_link.py fits it, agreement.toml holds it), not a
guarantee: pairs unlike those can lie outside. `--eval-data` settles it.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekd.files import from_dict

COEFFICIENTS = Path(__file__).parent / "agreement.toml"
SETS: Mapping[str, str] = {  # of images that edgekd/fidelity.py compares teacher and student on
    "held_out": "held out",  # of the training's source, but not shown to the student
    "sure": "of these, the surest quarter of each class",  # by the teacher
    "other": "another source",
    "noise": "held out, with Gaussian noise",
    "shift": "held out, shifted",
    "contrast": "held out, in another contrast",
    "pure_noise": "pure noise",
}
EDGE = 0.005  # shares nearer than this to 0 or 1 count as this near: they are of finite sets of images


@dataclass(frozen=True)
class Link:
    """logit(student's top-1 / teacher's) = intercept + slope * x + residual; x: mean logit of balanced agreements."""

    made: str  # date of the fit
    pairs: int  # that it was fitted to
    data_sets: tuple[str, ...]  # that their teachers know
    measures: tuple[str, ...]  # names of SETS
    intercept: float
    slope: float  # >= 0
    residual_low: float  # quantiles of pairs left out of the fit, in logits
    residual_high: float
    lowest: float  # x of the pairs
    highest: float
    level: float  # that the interval aims at
    covered_pairs: float  # share of the pairs inside the interval that was fitted without them
    covered_data_sets: float  # the same, fitted without all pairs of their data set


@dataclass(frozen=True)
class Expected:
    """Where the student's top-1 is expected, as a share of the teacher's in [0, 1]; a better student counts as 1."""

    low: float
    middle: float
    high: float
    level: float  # that the interval aims at
    pairs: int  # that this was learnt from
    data_sets: tuple[str, ...]
    covered_pairs: float  # of Link
    covered_data_sets: float


class Share(Protocol):
    """Agreement on a set of images: edgekd/fidelity.py's Agreement."""

    @property
    def balanced(self) -> float: ...


def expected_accuracy(sets: Mapping[str, Share], link: Link | None = None) -> Expected | None:
    """The interval for agreements by the names of SETS. None: not known, no pair of the fit agrees as little.

    Agreements above those of all pairs count as the highest of them: more agreement never means less accuracy here.
    link: another fit than the one that comes with edgekd.
    """
    link = link or shipped()
    x = min(link.highest, scale({name: of.balanced for name, of in sets.items()}, link.measures))
    if x < link.lowest:
        return None
    middle = link.intercept + link.slope * x
    low, high = (inverse(middle + residual) for residual in (link.residual_low, link.residual_high))
    about = (link.level, link.pairs, link.data_sets, link.covered_pairs, link.covered_data_sets)
    return Expected(low, inverse(middle), high, *about)


@functools.cache
def shipped() -> Link:
    """The fit that comes with edgekd."""
    return from_dict(Link, tomllib.loads(COEFFICIENTS.read_text(encoding="utf-8")), where=COEFFICIENTS.name)


def scale(shares: Mapping[str, float], measures: tuple[str, ...]) -> float:
    """Mean logit of the named shares."""
    return sum(logit(shares[name]) for name in measures) / len(measures)


def logit(share: float) -> float:
    """ln(p / (1 - p)) of a share in [0, 1], which is held EDGE away from both ends."""
    share = min(max(share, EDGE), 1 - EDGE)
    return math.log(share / (1 - share))


def inverse(x: float) -> float:
    """The share whose logit is x; within EDGE of the ends it is 0 or 1, as `logit` cannot tell them apart."""
    if abs(x) > logit(1) - 1e-9:
        return float(x > 0)
    return 1 / (1 + math.exp(-x))
