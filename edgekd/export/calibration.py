"""Ranges of an INT8 graph's tensors, from running the fp32 graph on images, by several methods at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from edgekd.export.network import Logits, Pixels
from edgekd.export.running import at_once, runner

BINS = 2048  # of a histogram, from the lowest to the highest value
LEVELS = 128  # positive numbers of int8: what entropy squeezes a histogram into
SHARES = np.linspace(0.2, 1.0, 41)  # of the whole range, that mse tries
EDGE = 16  # bins between two thresholds that entropy tries

Range = tuple[float, float]  # lowest and highest value that has an integer of its own; what is beyond is clipped


@dataclass(frozen=True)
class Histogram:
    """The values of a tensor over all images."""

    lowest: float
    highest: float
    counts: NDArray[np.float64]  # (BINS,)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(BINS,) the value in the middle of each bin."""
        return self.lowest + (np.arange(BINS) + 0.5) * (self.highest - self.lowest) / BINS


def histograms(fp32: Path, pixels: Pixels) -> dict[str, Histogram]:
    """Of every float tensor that a node of the fp32 graph computes, and of its input. pixels: uint8 (N, C, H, W).

    The images go through the graph twice: the first pass finds where the bins begin and end.
    """
    model = onnx.load(fp32)
    typed = onnx.shape_inference.infer_shapes(model).graph
    floats = {v.name for v in (*typed.value_info, *typed.output) if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    names = [name for node in model.graph.node for name in node.output if name in floats]
    run = runner(model, names, optimise=False)
    first = run(pixels[:1])
    step = at_once(first)
    ends: dict[str, Range] = dict.fromkeys(names, (np.inf, -np.inf))
    for at in range(0, len(pixels), step):
        for name, array in run(pixels[at : at + step]).items():
            least, most = torch.aminmax(torch.from_numpy(array))
            ends[name] = (min(ends[name][0], least.item()), max(ends[name][1], most.item()))
    counts = {name: np.zeros(BINS) for name in names}
    for at in range(0, len(pixels), step):
        for name, array in run(pixels[at : at + step]).items():
            low, high = ends[name]
            if low < high:
                counts[name] += torch.histc(torch.from_numpy(array), BINS, low, high).numpy()
    found = {name: Histogram(*ends[name], counts[name]) for name in names}
    entry = model.graph.input[0].name
    fed = np.histogram(pixels, BINS, (0, 255))[0].astype(np.float64)
    return {entry: Histogram(0.0, 255.0, fed), **found}


def minmax(values: Histogram) -> Range:
    """All that occurs."""
    return values.lowest, values.highest


def percentile(share: float) -> Callable[[Histogram], Range]:
    """Without the values beyond a share, in (0, 1), of those on each side of zero together."""

    def found(values: Histogram) -> Range:
        size, counts = np.abs(values.centres), values.counts
        order = np.argsort(size, kind="stable")
        passed = np.searchsorted(np.cumsum(counts[order]), share * counts.sum())
        return _within(values, float(size[order][min(passed, BINS - 1)]))

    return found


def mse(values: Histogram) -> Range:
    """The part of the range that rounding to 256 steps and clipping change least, in squares."""
    x, low, high = values.centres, min(values.lowest, 0.0), max(values.highest, 0.0)
    errors = []
    for share in SHARES:
        step = share * (high - low) / 255 or 1.0
        rounded = np.clip(np.round(x / step), np.round(share * low / step), np.round(share * high / step)) * step
        errors.append(float((rounded - x) ** 2 @ values.counts))
    best = SHARES[int(np.argmin(errors))]
    return best * low, best * high


def entropy(values: Histogram) -> Range:
    """The threshold whose 128 steps keep the distribution of absolute values best, by Kullback and Leibler.

    As TensorRT calibrates: Migacz, 8-bit inference with TensorRT, GTC 2017. Zero itself is left out, as ReLU makes it.
    """
    size = np.abs(values.centres)
    largest = size.max()
    counts = np.histogram(size, BINS, (0, largest), weights=values.counts)[0]
    counts[0] = 0
    if not counts.any():
        return minmax(values)
    distances = {}
    for kept in range(LEVELS, BINS + 1, EDGE):
        reference = counts[:kept].copy()
        reference[-1] += counts[kept:].sum()  # what is clipped
        starts = np.arange(LEVELS) * kept // LEVELS
        taken = counts[:kept] > 0
        filled = np.add.reduceat(taken.astype(float), starts)
        mean = np.divide(np.add.reduceat(counts[:kept], starts), filled, out=np.zeros(LEVELS), where=filled > 0)
        widths = np.diff(np.append(starts, kept))
        squeezed = np.where(taken, np.repeat(mean, widths), 0.0)
        distances[kept] = _divergence(reference, squeezed)
    kept = min(distances, key=lambda count: distances[count])
    return _within(values, largest * kept / BINS)


METHODS: dict[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile 99.99": percentile(0.9999),
    "percentile 99.9": percentile(0.999),
    "entropy": entropy,
    "mse": mse,
}


def ranges(found: Mapping[str, Histogram], method: str) -> dict[str, Range]:
    """The range of every tensor by one of METHODS."""
    return {name: METHODS[method](values) for name, values in found.items()}


def balanced(logits: Logits, count: int) -> NDArray[np.int64]:
    """Indices of `count` images, each class that occurs as often as it can be; in the images' order.

    logits: the teacher's, (N, K). The rarest classes give all that they have.
    """
    labels = logits.argmax(1)
    turn = np.empty(len(labels), dtype=np.int64)  # which of its class an image is
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        turn[places] = np.arange(len(places))
    return np.sort(np.argsort(turn, kind="stable")[:count])


def _within(values: Histogram, threshold: float) -> Range:
    return max(values.lowest, -threshold), min(values.highest, threshold)


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Of q from p, both made to sum to 1; where q has nothing it is taken for very little."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-30)
    here = p > 0
    return float((p[here] * np.log(p[here] / np.maximum(q[here], 1e-12))).sum())
