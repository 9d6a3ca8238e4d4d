"""Calibration of INT8: every method of ranges.py is tried, and the one whose graph answers most like fp32 is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekd.export.int8 import Scheme, quantised
from edgekd.export.network import Logits, Pixels
from edgekd.export.ranges import METHODS, Histogram, Ranges, histograms, ranges
from edgekd.export.running import float_tensors, model_logits, runner

IMAGES = (100, 512)  # that ranges are measured on: of large networks the first, of small ones the second
MEASURED = 300_000_000  # numbers in the tensors of all these images: seconds
WITHIN_S = 120.0  # seconds after which no further method is begun; the first one always is


@dataclass(frozen=True)
class Calibration:
    """One way to the ranges of an INT8 graph, and how its graph did."""

    images: str  # that the ranges were measured on: "generated" or "real"
    method: str  # of ranges.METHODS
    agreement: float | None  # with the fp32 graph, top-1 on generated images held out, 0 to 1; None: see note
    note: str = ""  # why there is no agreement


@dataclass(frozen=True)
class Calibrated:
    """The INT8 graph that was kept, and what else was tried."""

    graph: onnx.ModelProto
    ranges: Ranges
    chosen: Calibration
    tried: tuple[Calibration, ...]
    counts: Mapping[str, int]  # images that ranges were measured on, by Calibration.images
    held_out: int  # generated images that the agreement is of


def balanced(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Places of `count` of the labels (N,), or of all, so that classes are as even as they allow; the first of each."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(int((labels == label).sum()))
    chosen: NDArray[np.int64] = np.sort(np.lexsort((labels, rank))[:count])
    return chosen


def count_for(fp32: Path, pixels: Pixels) -> int:
    """How many images the ranges of a graph are measured on: within IMAGES, by how many numbers an image leads to."""
    model = onnx.load(fp32)
    of_one = sum(array.size for array in runner(model, float_tensors(model))(pixels[:1]).values())
    return int(np.clip(MEASURED // of_one, *IMAGES))


def calibrate(
    fp32: Path,
    sets: Mapping[str, Pixels],
    held_out: Pixels,
    *,
    scheme: Scheme,
    within_s: float = WITHIN_S,
    clock: Callable[[], float] = time.monotonic,
) -> Calibrated:
    """Tries every method on every set of images, and keeps the graph that agrees most with fp32 on `held_out`.

    sets: what ranges may be measured on, uint8 (N, C, H, W) by name, never noise; held_out: other generated images. Of
    those alike the earlier counts, in the order of METHODS, then of `sets`. A graph that gives NaN or Inf has no
    agreement; where all do, the first is kept, for the gate to refuse.
    """
    model, start = onnx.load(fp32), clock()
    answers = model_logits(model, held_out).argmax(1)
    measured = dict[str, dict[str, Histogram]]()
    tried, best = list[Calibration](), None
    for place, method in enumerate(METHODS):
        for name, pixels in sets.items():
            if place and clock() - start > within_s:
                tried.append(Calibration(name, method, None, f"not tried: {within_s:g} seconds were over"))
                continue
            if name not in measured:
                measured[name] = histograms(model, pixels)
            found = ranges(measured[name], method, symmetric=scheme.symmetric)
            graph = quantised(model, found, scheme=scheme)
            share = agreement(model_logits(graph, held_out), answers)
            one = Calibration(name, method, share, "" if share is not None else "its graph gives NaN or Inf")
            tried.append(one)
            if best is None or (share or 0.0) > (best[2].agreement or 0.0):
                best = graph, found, one
    assert best is not None
    return Calibrated(*best, tuple(tried), {name: len(pixels) for name, pixels in sets.items()}, len(held_out))


def agreement(logits: Logits, answers: NDArray[np.int64]) -> float | None:
    """Share of the images whose largest logit (N, K) is the answer (N,), 0 to 1; None for NaN or Inf."""
    return float((logits.argmax(1) == answers).mean()) if np.isfinite(logits).all() else None
