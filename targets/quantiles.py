"""Percentiles with their intervals, and the histogram of runs."""

from typing import Any, Dict, List, Optional, Tuple

import numpy as np

BINS = 60  # of the histogram
SURE = 0.95  # of an interval


def percentiles(times_ms: List[float]) -> Dict[str, Any]:
    """p50 p90 p95 p99, mean, standard deviation, extremes, the number of runs and their histogram.

    "interval95" holds [low, high] of p50 and p90, None where there are too few runs for one.
    """
    t = np.asarray(times_ms)
    found: Dict[str, Any] = {"p%d" % q: float(np.percentile(t, q)) for q in (50, 90, 95, 99)}
    found.update(mean=float(t.mean()), std=float(t.std()), min=float(t.min()), max=float(t.max()), rounds=len(t))
    found["interval95"] = {"p%d" % q: interval(times_ms, q / 100.0) for q in (50, 90)}
    found["histogram"] = histogram(times_ms)
    return found


def interval(times_ms: List[float], share: float) -> Optional[List[float]]:
    """[low, high] that holds the quantile of all runs with at least 95 %, whatever their distribution; None: too few.

    Two of the sorted runs (David and Nagaraja, Order Statistics, 7.1). It takes the runs as independent of each other;
    neighbours are a little alike, so the truth is somewhat wider.
    """
    ranks = order_statistics(len(times_ms), share)
    if ranks is None:
        return None
    ordered = np.sort(np.asarray(times_ms))
    return [float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])]


def order_statistics(count: int, share: float) -> Optional[Tuple[int, int]]:
    """Ranks (from 1) of the two runs out of `count` that hold a quantile, each side missing it with at most 2.5 %.

    The number of runs below the quantile is binomial: the lower rank l is the largest with P(B < l) <= 2.5 %, the upper
    one u the smallest with P(B >= u) <= 2.5 %.
    """
    k = np.arange(count + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])  # logarithms
    choose = factorials[count] - factorials - factorials[::-1]
    at_most = np.cumsum(np.exp(choose + k * np.log(share) + (count - k) * np.log(1 - share)))  # P(B <= k)
    low = int(np.searchsorted(at_most, (1 - SURE) / 2, side="right"))
    high = int(np.searchsorted(at_most, (1 + SURE) / 2, side="left")) + 1
    return (low, high) if 1 <= low and high <= count else None


def histogram(times_ms: List[float]) -> Dict[str, Any]:
    """Runs in 60 equal bins: 61 "edges_ms", 60 "counts", and how many were "above" the last edge.

    From the fastest to a little over p99, three times the median at most: late runs would leave one full bin.
    """
    t = np.asarray(times_ms)
    low, high = float(t.min()), 1.02 * float(min(np.percentile(t, 99), 3 * np.median(t)))
    counts, edges = np.histogram(t, bins=BINS, range=(low, max(high, low + 1e-6)))
    above = len(t) - int(counts.sum())
    return {"edges_ms": [round(float(e), 6) for e in edges], "counts": [int(c) for c in counts], "above": above}
