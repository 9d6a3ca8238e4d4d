"""Coefficients of one way to run networks, from measured rows and what was known before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.latency.prediction import KINDS, TERMS, quantities
from edgekd.types import Cost, Hardware, Latency

Array = NDArray[np.float64]

START_US = {  # before anything is known: multiples of the time at the peak and the bandwidth; us for launches
    "conv_us_per_mmac": 2.0, "pointwise_us_per_mmac": 2.0, "depthwise_us_per_mmac": 8.0, "linear_us_per_mmac": 1.0,
    "traffic_us_per_mb": 1.0, "weights_us_per_mb": 1.0, "layer_us": 5.0, "other_us": 5.0, "fixed_us": 10.0,
}  # fmt: skip
LOOSE = 1.5  # standard deviation of a coefficient's logarithm around START_US
TIGHT = 0.7  # around a prior's coefficient
NOISE, FREEDOM = 0.04, 4.0  # of a row's logarithm; of Student's distribution, so that one bad row does little
STEPS, FOLDS = 60, 10
COVERED = 0.9  # of the rows that were left out lie in the interval
SLACK = 0.05  # least half width of an interval: devices drift

Rows = Sequence[tuple[Cost, str, float]]


def fitted(
    rows: Rows, hardware: Hardware, prior: Sequence[Latency], *, source: str = "fitted to measurements", batch: int = 1
) -> tuple[Latency, ...]:
    """Coefficients for each precision of `rows`: (network, precision, milliseconds of one batch).

    prior: entries of the way that was measured, one for each precision of the rows (its runtime, unit and threads are
    kept); coefficients that it has not start from the hardware's peaks. Every coefficient stays above zero and near the
    prior unless the rows say otherwise, so that few rows do no harm. `error` is the half width that covers nine tenths
    of the rows when each was predicted from the others (ten parts). Raises InputError for no rows, for times that are
    not above zero, for a precision without an entry.
    """
    if not rows or min(ms for _, _, ms in rows) <= 0:
        raise InputError(
            "coefficients cannot be fitted to these measurements",
            code="E0339",
            why="there are none" if not rows else "a time is not above zero",
            fix="measure some networks first",
        )
    known = {way.precision: way for way in prior}
    if lacking := {precision for _, precision, _ in rows} - known.keys():
        raise InputError(
            f"nothing is known about {', '.join(sorted(lacking))} on this device",
            code="E0339",
            why=f"the profile has entries for {', '.join(sorted(known)) or 'nothing'}",
            fix="add a [[latency]] entry for it",
        )
    return tuple(
        _one(known[precision], [(of, ms) for of, p, ms in rows if p == precision], hardware, source, batch)
        for precision in dict.fromkeys(precision for _, precision, _ in rows)
    )


def _one(way: Latency, rows: Sequence[tuple[Cost, float]], hardware: Hardware, source: str, batch: int) -> Latency:
    multiple = way.coefficients.get("channel_multiple", 1.0)
    amounts = [quantities(of, way.precision, batch, multiple) for of, _ in rows]
    a = np.array([[found[name] for name in TERMS] for found in amounts])
    log_us = np.log([ms * 1e3 for _, ms in rows])
    centre, deviation = _prior(way, hardware)
    log = _solve(a, log_us, centre, deviation)
    errors = np.log(a @ np.exp(log)) - log_us
    if len(rows) > 2:
        for part in np.array_split(np.random.default_rng(0).permutation(len(rows)), min(FOLDS, len(rows))):
            kept = np.setdiff1d(np.arange(len(rows)), part)
            errors[part] = np.log(a[part] @ np.exp(_solve(a[kept], log_us[kept], centre, deviation))) - log_us[part]
    error = float(np.expm1(np.quantile(np.abs(errors), COVERED, method="higher")))
    coefficients = {name: float(f"{value:.4g}") for name, value in zip(TERMS, np.exp(log), strict=True)}
    if multiple > 1:
        coefficients["channel_multiple"] = multiple
    width = max(error, SLACK) if len(rows) > 2 else max(error, way.error)
    return replace(way, coefficients=coefficients, error=round(width, 3), basis="measured", source=source)


def _prior(way: Latency, hardware: Hardware) -> tuple[Array, Array]:
    """(logarithms of TERMS' coefficients before the fit, their standard deviations)."""
    peaks = hardware.peak_gflops
    peak = peaks.get(way.precision) or max(peaks.values(), key=lambda figure: figure.value)
    scale = dict.fromkeys(KINDS.values(), 2e3 / peak.value)
    scale |= dict.fromkeys(("traffic_us_per_mb", "weights_us_per_mb"), 1e3 / hardware.bandwidth_gb_per_s.value)
    start = {name: START_US[name] * scale.get(name, 1.0) for name in TERMS}
    given = {name: way.coefficients[name] for name in TERMS if way.coefficients.get(name, 0.0) > 0}
    centre = np.log([given.get(name, start[name]) for name in TERMS])
    return centre, np.array([TIGHT if name in given else LOOSE for name in TERMS])


def _solve(a: Array, log_us: Array, centre: Array, deviation: Array) -> Array:
    """Logarithms of the coefficients by iterated linear least squares with Student's weights and a Gaussian prior."""
    log = centre.copy()
    for _ in range(STEPS):
        parts = a * np.exp(log)
        total = parts.sum(axis=1)
        residual = log_us - np.log(total)
        jacobian = parts / total[:, None]
        weight = 1 / (NOISE**2 * (1 + (residual / NOISE) ** 2 / FREEDOM))
        normal = (jacobian.T * weight) @ jacobian + np.diag(deviation**-2)
        step = np.linalg.solve(normal, (jacobian.T * weight) @ residual - (log - centre) / deviation**2)
        log = log + step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-9))
        if np.abs(step).max() < 1e-6:
            break
    return log
