"""Random effects: what a family of devices shares, and what a device and a way to run it add to that.

log(coefficient of a way) = log(time at the device's peak) + family + precision + runtime + device + way, each of these
a common scale and a deviation per coefficient, with a Gaussian prior around none. Times are their sums, residuals are
logarithms with Student's tails. Fitted by iterated linear least squares in the space of the rows, so that devices with
two rows lean on the others and those with many do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from latency_hardware import silicon, speed
from latency_rows import Row
from numpy.typing import NDArray

from edgekd.latency.prediction import TERMS, quantities

Array = NDArray[np.float64]

STACKS = {"litert": "hexagon", "qnn": "hexagon", "onnxruntime-qnn": "hexagon"}  # runtimes of the same compiler
LEVELS: dict[str, Callable[[Row], str]] = {
    "family": lambda row: row.family,
    "precision": lambda row: row.precision,
    "stack": lambda row: STACKS.get(row.runtime, row.runtime),
    "runtime": lambda row: row.runtime,
    "threads": lambda row: str(min(row.threads, 2)),
    "runtime and precision": lambda row: f"{row.runtime} {row.precision}",
    "silicon": lambda row: silicon(row.device, row.unit),
    "silicon and precision": lambda row: f"{silicon(row.device, row.unit)} {row.precision}",
    "device": lambda row: row.device,
    "device and precision": lambda row: f"{row.device} {row.precision}",
    "device and threads": lambda row: f"{row.device} {row.threads}",
    "way": lambda row: f"{row.device} {row.runtime} {row.threads} {row.precision}",
}
PRIOR = {  # level -> (standard deviation of the scale, of each coefficient), of logarithms
    "family": (2.0, 0.7),
    "few": (0.4, 0.2),  # of a family with FEW rows
    "precision": (0.6, 0.25),
    "stack": (0.7, 0.3),
    "runtime": (0.2, 0.3),
    "threads": (0.3, 0.3),
    "runtime and precision": (0.1, 0.2),
    "silicon": (0.3, 0.25),
    "silicon and precision": (0.2, 0.1),
    "device": (0.25, 0.15),
    "device and precision": (0.1, 0.1),
    "device and threads": (0.2, 0.1),
    "way": (0.05, 0.05),
}
START_US = {  # of the family: multiples of the time at the peak; us per launch
    "conv_us_per_mmac": 2.0, "pointwise_us_per_mmac": 2.5, "depthwise_us_per_mmac": 8.0, "linear_us_per_mmac": 1.0,
    "traffic_us_per_mb": 1.0, "weights_us_per_mb": 1.0, "layer_us": 5.0, "other_us": 4.0, "fixed_us": 20.0,
}  # fmt: skip
MCU_START_US = START_US | {"depthwise_us_per_mmac": 3.0, "traffic_us_per_mb": 0.3, "layer_us": 10.0, "other_us": 5.0}
MULTIPLES = {
    "cuda": 8,
    "cpu": 4,
    "vulkan": 4,
    "npu": 4,
    "mcu": 1,
}  # channels are filled up to; published nets cannot tell
NOISE, FREEDOM = 0.06, 4.0  # of a row's logarithm; of Student's distribution
STEPS = 25
FEW = 20


@dataclass(frozen=True)
class Fit:
    """The effects of one family. `columns`: (level, key, term or "") -> index of its effect."""

    columns: dict[tuple[str, str, str], int]
    effects: Array
    multiple: float
    prior: dict[str, tuple[float, float]]

    def log_coefficients(self, row: Row) -> Array:
        """Logarithms of TERMS' coefficients of the way that the row was run; effects not seen are none."""
        log = _base(row)
        for level, key in _keys(row):
            if (scale := self.columns.get((level, key, ""))) is not None:
                log = log + self.effects[scale] + self.effects[scale + 1 : scale + 1 + len(TERMS)]
        return log

    def predicted_ms(self, row: Row) -> float:
        return float(amounts(row, self.multiple) @ np.exp(self.log_coefficients(row))) / 1e3


def fit_family(
    rows: Sequence[Row], multiple: float, *, prior: dict[str, tuple[float, float]] = PRIOR, start: Fit | None = None,
    steps: int = STEPS,
) -> Fit:  # fmt: skip
    """Effects of one family's rows. start: an earlier fit of about the same rows, for fewer steps."""
    columns: dict[tuple[str, str, str], int] = {}
    deviations: list[float] = []
    for row in rows:
        for level, key in _keys(row):
            if (level, key, "") not in columns:
                columns[level, key, ""] = len(deviations)
                scale, each = prior["few" if level == "family" and len(rows) < FEW else level]
                deviations += [scale] + [each] * len(TERMS)
    variance = np.array(deviations) ** 2
    effects = np.zeros(len(variance))
    if start is not None:
        for name, column in columns.items():
            if (before := start.columns.get(name)) is not None:
                effects[column : column + len(TERMS) + 1] = start.effects[before : before + len(TERMS) + 1]
    base = np.array([_base(row) for row in rows])
    amount = np.array([amounts(row, multiple) for row in rows])
    log_t = np.log([row.latency_ms * 1e3 for row in rows])
    member = [[columns[level, key, ""] for level, key in _keys(row)] for row in rows]
    now, step = _Linear(effects, base, amount, log_t, member, variance), np.zeros_like(effects)
    for _ in range(steps):
        step = now.step()
        size = min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-9))
        while True:
            then = _Linear(now.effects + size * step, base, amount, log_t, member, variance)
            if then.loss <= now.loss or size < 1e-3:
                break
            size /= 2
        gained, now = now.loss - then.loss, then
        if gained < 1e-3:
            break
    return Fit(columns, now.effects, multiple, prior)


class _Linear:
    """The rows at given effects: loss, and the step of the linear least squares there."""

    def __init__(
        self, effects: Array, base: Array, amount: Array, log_t: Array, member: list[list[int]], variance: Array
    ) -> None:
        self.effects, self.variance = effects, variance
        count, columns = len(TERMS), np.array(member)  # (rows, levels)
        index = columns[:, :, None] + 1 + np.arange(count)  # (rows, levels, terms)
        log = base + effects[columns].sum(1)[:, None] + effects[index].sum(1)
        parts = amount * np.exp(log)
        total = parts.sum(1)
        self.residual = log_t - np.log(total)
        self.jacobian = np.zeros((len(log_t), len(variance)))
        rows = np.arange(len(log_t))
        self.jacobian[rows[:, None], columns] = 1.0
        self.jacobian[rows[:, None, None], index] = (parts / total[:, None])[:, None, :]
        tails = np.log1p((self.residual / NOISE) ** 2 / FREEDOM).sum() * (FREEDOM + 1) / 2
        self.loss = float(tails + (effects**2 / variance).sum() / 2)

    def step(self) -> Array:
        """Towards the least loss, in the space of the rows: a matrix of rows by rows is solved."""
        weight = NOISE**2 * (FREEDOM + (self.residual / NOISE) ** 2) / (FREEDOM + 1)
        spread = self.jacobian * self.variance
        solved = np.linalg.solve(
            spread @ self.jacobian.T + np.diag(weight), self.residual + self.jacobian @ self.effects
        )
        found: Array = spread.T @ solved - self.effects
        return found


def amounts(row: Row, multiple: float) -> Array:
    found = quantities(row.of, row.precision, row.batch, multiple)
    return np.array([found[name] for name in TERMS])


def _keys(row: Row) -> list[tuple[str, str]]:
    return [(level, key(row)) for level, key in LEVELS.items()]


def _base(row: Row) -> Array:
    """Logarithms of the coefficients before any effect: at the device's peak, times START_US."""
    at = speed(row.device, row.unit, row.precision, row.threads)
    assert at is not None, row.device
    compute, traffic, launch = 1e3 / at.gmacs_per_s, 1e3 / at.gb_per_s, 1 / at.launches_per_us
    unit = [compute, compute, 1e3 / at.vector_gmacs_per_s, compute, traffic, traffic, launch, launch, launch]
    start = MCU_START_US if row.family == "mcu" else START_US
    log: Array = np.log(np.array(unit) * np.array([start[name] for name in TERMS]))
    return log
