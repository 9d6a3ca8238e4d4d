"""The link from agreement to accuracy: its form, its ends, and that the shipped one is what the results give."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekd.agreement import EDGE, SETS, Link, expected_accuracy, inverse, logit, scale, shipped

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

LINK = Link("2026-01-01", 40, ("digits",), ("held_out", "other"), 1.0, 0.5, -2.0, 1.5, -1.0, 6.0, 0.9, 0.95, 0.8)


@dataclass
class Found:
    balanced: float


def sets(**shares: float) -> dict[str, Found]:
    return {name: Found(share) for name, share in shares.items()}


def test_interval_by_hand() -> None:
    shares = {"held_out": 0.5, "other": math.e / (1 + math.e)}  # logits 0 and 1
    assert scale(shares, LINK.measures) == pytest.approx(0.5)
    found = expected_accuracy(sets(**shares), LINK)
    assert found and found.pairs == 40
    assert (found.low, found.middle, found.high) == pytest.approx(
        tuple(1 / (1 + math.exp(-x)) for x in (1.25 - 2, 1.25, 1.25 + 1.5))
    )


def test_below_the_pairs_nothing_is_known_and_above_no_more_than_at_their_end() -> None:
    assert expected_accuracy(sets(held_out=0.2, other=0.2), LINK) is None
    steep = dataclasses.replace(LINK, highest=3.0)
    top = expected_accuracy(sets(held_out=0.99, other=0.99), steep)  # more than any pair counts as the most of a pair
    assert top and top.middle == pytest.approx(inverse(1.0 + 0.5 * 3.0))


def test_logit_and_its_inverse_stop_at_the_edges() -> None:
    assert logit(0.0) == logit(EDGE) == pytest.approx(-logit(1.0)) and inverse(logit(0.3)) == pytest.approx(0.3)
    assert inverse(logit(1.0)) == 1.0 and inverse(logit(0.0)) == 0.0


def test_shipped_interval_is_monotone_and_of_shares() -> None:
    link = shipped()
    assert link.slope > 0 and link.residual_low < 0 < link.residual_high and set(link.measures) <= set(SETS)
    found = [expected_accuracy(sets(**dict.fromkeys(SETS, float(share))), link) for share in np.linspace(0, 1, 201)]
    known = [one for one in found if one]
    assert len(known) > 50
    for name in ("low", "middle", "high"):
        values = [getattr(one, name) for one in known]
        assert values == sorted(values) and values[0] >= 0 and values[-1] <= 1
    assert all(one.low <= one.middle <= one.high for one in known)


def test_shipped_link_is_what_the_results_give() -> None:
    from agreement_link import fitted, read_pairs

    link, pairs = shipped(), read_pairs()
    again = fitted(pairs, link.measures, made=link.made)
    for field in dataclasses.fields(Link):
        now, then = getattr(again, field.name), getattr(link, field.name)
        assert now == (pytest.approx(then, abs=2e-6) if isinstance(then, float) else then), field.name
    assert link.pairs == len(pairs) >= 20 and len(link.data_sets) >= 3
    assert link.covered_pairs >= 0.85  # the aim; that of whole data sets is lower, and is told


def test_residuals_and_quantiles_by_hand() -> None:
    from agreement_link import quantiles, residuals, straight

    x, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 6.0])
    assert straight(x[:3], y[:3]) == pytest.approx((0.0, 1.0)) and residuals(x, y)[3] == pytest.approx(3.0)
    assert straight(x, -y)[1] == 0.0  # more agreement never counts against a student
    assert quantiles(np.arange(1.0, 40.0)) == (2.0, 38.0)  # ranks 2 and 38 of 39
    assert quantiles(np.arange(5.0)) == (0.0, 4.0)  # too few for the level


def test_link_of_made_up_pairs_covers_what_it_aims_at() -> None:
    from agreement_link import Pair, coverage, fitted

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 4, 60)
    ratios = [inverse(0.5 + 1.2 * v + rng.normal(0, 0.4)) for v in x]
    pairs = [
        Pair(str(n), str(n % 4), dict.fromkeys(SETS, inverse(v)), r)
        for n, (v, r) in enumerate(zip(x, ratios, strict=True))
    ]
    link = fitted(pairs, ("held_out",), made="2026-01-01")
    assert link.intercept == pytest.approx(0.5, abs=0.3) and link.slope == pytest.approx(1.2, abs=0.2)
    assert link.covered_pairs >= 0.85 and link.covered_data_sets >= 0.8
    assert coverage(pairs, ("held_out",), lambda pair: pair.name)[0] == pytest.approx(link.covered_pairs, abs=1e-3)
