"""Ranges by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.export.calibration import BINS, METHODS, Histogram, balanced, minmax, mse, percentile


def histogram(*values: tuple[float, float], lowest: float = -1.0, highest: float = 1.0) -> Histogram:
    """Of (value, count)."""
    counts = np.zeros(BINS)
    for value, count in values:
        counts[min(BINS - 1, int((value - lowest) / (highest - lowest) * BINS))] += count
    return Histogram(lowest, highest, counts)


def test_percentile_leaves_out_the_outliers() -> None:
    values = histogram((0.1, 999), (1.0, 1))
    assert minmax(values) == (-1.0, 1.0)
    low, high = percentile(0.999)(values)
    assert (low, high) == pytest.approx((-0.1, 0.1), abs=2 / BINS)
    assert percentile(0.9999)(values)[1] == pytest.approx(1.0, abs=2 / BINS)


def test_mse_keeps_the_range_where_all_is_used_and_cuts_a_tail() -> None:
    even = Histogram(0.0, 1.0, np.ones(BINS))
    assert mse(even) == pytest.approx((0.0, 1.0))
    counts = np.zeros(BINS)
    counts[: BINS // 4], counts[-1] = 1e6, 1.0
    assert mse(Histogram(0.0, 1.0, counts))[1] < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_tensor_has_a_range(method: str) -> None:
    low, high = METHODS[method](Histogram(0.0, 0.0, np.zeros(BINS)))
    assert low == high == 0.0


def test_classes_are_balanced() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    chosen = balanced(np.eye(3, dtype=np.float32)[labels], 5)
    assert labels[chosen].tolist() == [0, 0, 1, 1, 2]
