"""How far predictions are from rows that they were not fitted to, and how often the interval holds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from latency_hardware import speed
from latency_model import MULTIPLES, STACKS, Array, Fit, fit_family
from latency_rows import Row

from edgekd.latency.prediction import ACTIVATION_BYTES, BYTES

COVERED, FOLDS, FEW = 0.9, 10, 12
STEPS_LEFT_OUT = 8  # of a fit that begins at the one of all rows


def logs(fit: Fit, rows: Sequence[Row]) -> Array:
    """Logarithm of predicted over measured."""
    return np.array([np.log(fit.predicted_ms(row) / row.latency_ms) for row in rows])


def left_out(rows: Sequence[Row], full: Fit, key: Callable[[Row], Hashable]) -> Array:
    """`logs` of each row by a fit without the rows of its key; NaN where nothing would be left."""
    keys = [key(row) for row in rows]
    found = np.full(len(rows), np.nan)
    for one in dict.fromkeys(keys):
        kept = [row for row, other in zip(rows, keys, strict=True) if other != one]
        if kept:
            fit = fit_family(kept, MULTIPLES[rows[0].family], start=full, steps=STEPS_LEFT_OUT)
            mine = [i for i, other in enumerate(keys) if other == one]
            found[mine] = logs(fit, [rows[i] for i in mine])
    return found


def in_ten(rows: Sequence[Row]) -> Callable[[Row], int]:
    """A tenth for each row at random; rows of one network run in one way share theirs."""
    names = sorted({_network(row) for row in rows})
    tenth = dict(zip(names, np.random.default_rng(0).permutation(len(names)) % FOLDS, strict=True))
    return lambda row: int(tenth[_network(row)])


def _network(row: Row) -> str:
    return f"{row.device} {row.runtime} {row.unit} {row.threads} {row.precision} {row.model}"


def stack(row: Row) -> str:
    return STACKS.get(row.runtime, row.runtime) + f" {row.unit}"


def widths(rows: Sequence[Row], errors: Array) -> dict[str, float]:
    """Stack -> relative half width that covers COVERED of its rows, of the whole family where the stack has FEW."""
    spread = np.abs(errors)
    found = {}
    for name in dict.fromkeys(stack(row) for row in rows):
        mine = spread[[stack(row) == name for row in rows]]
        mine, every = mine[~np.isnan(mine)], spread[~np.isnan(spread)]
        quantile = float(np.quantile(mine if len(mine) >= FEW else every, COVERED, method="higher"))
        few = float(mine.max()) if 0 < len(mine) < FEW else 0.0
        found[name] = float(np.expm1(max(quantile, few)))
    return found


def coverage(rows: Sequence[Row], errors: Array) -> Array:
    """Whether each row lies in an interval whose width comes from the other half of the rows."""
    half = np.random.default_rng(1).permutation(len(rows)) % 2
    held = np.zeros(len(rows), dtype=bool)
    for side in (0, 1):
        other = np.flatnonzero(half != side).tolist()
        width = widths([rows[i] for i in other], errors[other])
        widest = max(width.values(), default=0.0)
        for i in np.flatnonzero(half == side).tolist():
            held[i] = abs(errors[i]) <= np.log1p(width.get(stack(rows[i]), widest))
    return np.asarray(held, dtype=float)


def roofline_ms(row: Row) -> float:
    """The slower of compute at the peak and traffic at the bandwidth, nothing else."""
    at = speed(row.device, row.unit, row.precision, row.threads)
    assert at is not None
    moved = (
        sum(op.read_elements + op.written_elements for op in row.of.ops) * ACTIVATION_BYTES[row.precision] * row.batch
    )
    weights = sum(op.weights for op in row.of.ops) * BYTES[row.precision]
    return max(row.of.macs * row.batch / (at.gmacs_per_s * 1e6), (moved + weights) / (at.gb_per_s * 1e6))


def mean(errors: Array) -> float:
    """Mean of |predicted / measured - 1|, rounded; NaN for none."""
    known = errors[~np.isnan(errors)]
    return round(float(np.abs(np.expm1(known)).mean()), 3) if len(known) else float("nan")


def grouped(
    rows: Sequence[Row], name: Callable[[Row], str], errors: Mapping[str, Array]
) -> dict[str, dict[str, float]]:
    """Name -> figure -> mean error of its rows, and how many they are."""
    found: dict[str, dict[str, float]] = {}
    for one in dict.fromkeys(map(name, rows)):
        mine = [i for i, row in enumerate(rows) if name(row) == one]
        found[one] = {"rows": len(mine)} | {figure: mean(values[mine]) for figure, values in errors.items()}
    return found
