"""Ranges of activations: what each tensor of a graph takes on images, and which part of it eight bits should hold."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from edgekd.export.network import Pixels
from edgekd.export.running import at_once, float_tensors, runner

BINS = 8192  # of a histogram: 16 and more to a step of eight bits, so that its own width does not blur the errors
ENTROPY_BINS = 256  # onnxruntime's search takes time by their square, and with its own 128 finds the extremes only
PERCENTILE = 99.99  # percent of the values that stay inside, half of the others cut off at each end
RATIOS = np.linspace(0.1, 1.0, 91)  # of the extremes, that "mse" tries; below, bins are too wide to tell
LEVELS = {True: (-127, 127), False: (0, 255)}  # around zero or not: the lowest and the highest integer

Ranges = Mapping[str, tuple[float, float]]  # tensor -> lowest and highest number that its integers stand for


@dataclass(frozen=True)
class Histogram:
    """The finite values of a tensor over all images."""

    counts: NDArray[np.int64]  # (BINS,) of equal width from -largest to largest
    lowest: float
    highest: float

    @property
    def largest(self) -> float:
        """Absolute value; 0: nothing but zeros."""
        return max(abs(self.lowest), abs(self.highest))

    @property
    def edges(self) -> NDArray[np.float32]:
        """(BINS + 1,)"""
        return np.linspace(-self.largest, self.largest, len(self.counts) + 1, dtype=np.float32)


def histograms(model: onnx.ModelProto, pixels: Pixels) -> dict[str, Histogram]:
    """Of every float tensor that a node of an fp32 graph computes, on images (N, C, H, W). Runs them twice.

    What is not finite is left out: the gate of the fp32 graph tells of it.
    """
    names = float_tensors(model)
    run = runner(model, names)
    step = at_once(run(pixels[:1]))
    lowest, highest = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for at in range(0, len(pixels), step):
        for name, array in run(pixels[at : at + step]).items():
            least, most = array.min(initial=np.inf), array.max(initial=-np.inf)
            if not np.isfinite((least, most)).all():  # rare, and slow
                finite = array[np.isfinite(array)]
                least, most = finite.min(initial=np.inf), finite.max(initial=-np.inf)
            lowest[name], highest[name] = min(lowest[name], float(least)), max(highest[name], float(most))
    empty = {name for name in names if lowest[name] > highest[name]}
    lowest, highest = lowest | dict.fromkeys(empty, 0.0), highest | dict.fromkeys(empty, 0.0)
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for at in range(0, len(pixels), step):
        for name, array in run(pixels[at : at + step]).items():
            most = max(abs(lowest[name]), abs(highest[name]))
            if most:
                counts[name] += np.histogram(array, BINS, (-most, most))[0]
    return {name: Histogram(counts[name], lowest[name], highest[name]) for name in names}


def minmax(found: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The extremes."""
    return found.lowest, found.highest


def entropy(found: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The thresholds that change the distribution least by its KL divergence: onnxruntime's search."""
    merged = found.counts.reshape(ENTROPY_BINS, -1).sum(axis=1)
    edges = np.linspace(-found.largest, found.largest, ENTROPY_BINS + 1, dtype=np.float32)
    histogram = merged, edges, np.float32(found.lowest), np.float32(found.highest)
    low, high = _collector("entropy", PERCENTILE).get_entropy_threshold(histogram, 128)
    return float(low), float(high)


def percentile(found: Histogram, *, symmetric: bool, percent: float = PERCENTILE) -> tuple[float, float]:
    """What `percent` of the values lie in, by onnxruntime's CalibrationMethod of that name."""
    collector = _collector("percentile", percent)
    collector.histogram_dict = {
        "": (found.counts, found.edges, np.float32(found.lowest), np.float32(found.highest))
    }  # fmt: skip
    with redirect_stdout(io.StringIO()):  # it prints, and stdout is the document's
        low, high, *_ = collector.compute_percentile()[""]
    return float(low), float(high)


def mse(found: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The share of the extremes, of RATIOS, whose integers have the least squared error; the largest of those alike."""
    centres = (found.edges[:-1] + found.edges[1:]).astype(np.float64) / 2
    used = found.counts > 0
    centres, counts = centres[used], found.counts[used]
    lowest, highest = min(found.lowest, 0.0), max(found.highest, 0.0)
    if symmetric:
        lowest, highest = -found.largest, found.largest
    errors = [float(_rounded(centres, r * lowest, r * highest, symmetric) @ counts) for r in RATIOS]
    ratio = float(RATIOS[len(errors) - 1 - int(np.argmin(errors[::-1]))])
    return ratio * lowest, ratio * highest


METHODS: Mapping[str, Callable[..., tuple[float, float]]] = {
    "minmax": minmax,
    "entropy": entropy,
    "percentile": percentile,
    "mse": mse,
}  # in the order that ties are decided by


def ranges(found: Mapping[str, Histogram], method: str, *, symmetric: bool, percent: float = PERCENTILE) -> Ranges:
    """The range of every tensor by a method of METHODS; zero is inside. percent: for "percentile".

    symmetric: whether the integers will lie around zero.
    """
    more = {"percent": percent} if method == "percentile" else {}
    chosen = dict[str, tuple[float, float]]()
    for name, histogram in found.items():
        empty = not histogram.counts.any()
        low, high = (0.0, 0.0) if empty else METHODS[method](histogram, symmetric=symmetric, **more)
        chosen[name] = min(low, 0.0), max(high, 0.0)
    return chosen


def _rounded(values: NDArray[np.float64], low: float, high: float, symmetric: bool) -> NDArray[np.float64]:
    """Squared errors of values (B,) as the nearest of the numbers that the integers of a range stand for."""
    least, most = LEVELS[symmetric]
    step = (high - low) / (most - least)
    zero = 0.0 if symmetric else np.round(-low / step)
    integers = np.clip(np.round(values / step) + zero, least, most)
    return np.square((integers - zero) * step - values)


def _collector(method: str, percent: float) -> HistogramCollector:
    return HistogramCollector(
        method=method, symmetric=False, num_bins=BINS, num_quantized_bins=128, percentile=percent, scenario="same"
    )
