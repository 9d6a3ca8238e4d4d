"""Two graphs of one network, layer by layer: where they part, and how far apart they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgekd.export.network import Pixels
from edgekd.export.running import Tensors, at_once, runner

CLAMPS = ("Relu", "Clip")  # left out by onnxruntime where integers have their range; what is before gets their name


@dataclass(frozen=True)
class LayerDifference:
    """How far a tensor of a graph is from that of the same name in another, over all images."""

    tensor: str
    node: str  # that computes it
    operator: str  # of that node; "QuantizeLinear": as it is read behind its Q/DQ pair
    relative: float  # root of the squared differences over that of the squared values; infinite with NaN or Inf
    cosine: float  # 1: the same direction; not a number where one is zero throughout
    largest: float  # difference of one number


@dataclass
class _Sums:
    """Of a tensor and its counterpart, over the images so far."""

    difference: float = 0.0
    reference: float = 0.0
    other: float = 0.0
    product: float = 0.0
    largest: float = 0.0

    def add(self, reference: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        a, b = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        gap = np.abs(a - b)
        self.difference += float(gap @ gap)
        self.reference += float(a @ a)
        self.other += float(b @ b)
        self.product += float(a @ b)
        self.largest = float(np.fmax(self.largest, gap.max(initial=0.0))) if np.isfinite(gap).all() else np.inf


def compare_layers(reference: Path, other: Path, pixels: Pixels) -> list[LayerDifference]:
    """Every tensor that both graphs have by name, in the order in which `reference` computes them.

    A tensor that goes through Q/DQ pairs in `other` comes twice: as it was computed, and as it is read behind them. The
    last entry is the logits. Optimisations are off, so that every node is computed as the graph says; fp16 is rounded
    as a device does (running.rounded).
    """
    one, two = onnx.load(reference), onnx.load(other)
    pairs = _pairs(one, two)
    of_one = runner(one, list(dict.fromkeys(pair.tensor for pair in pairs)))
    of_two = runner(two, list(dict.fromkeys(pair.counterpart for pair in pairs)))
    return _compared(pairs, of_one, of_two, pixels)


def against_the_standard(graph: Path, pixels: Pixels) -> list[LayerDifference]:
    """Every tensor of an fp32 graph as ONNX Runtime computes it, against ONNX's own reference implementation.

    That one is written to be right and is slow: a few images. What both compute alike and torch does not was lost in
    the export.
    """
    model = onnx.load(graph)
    pairs = _pairs(model, model)
    names = list(dict.fromkeys(pair.tensor for pair in pairs))
    told = onnx.ModelProto()
    told.CopyFrom(model)
    known = {output.name for output in told.graph.output}
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    entry = told.graph.input[0]
    kind = onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    standard = ReferenceEvaluator(told)

    def run(part: Pixels) -> Tensors:
        found = standard.run(names, {entry.name: part.astype(kind)})
        return {name: np.asarray(array, np.float32) for name, array in zip(names, found, strict=True)}

    return _compared(pairs, run, runner(model, names), pixels)


def _compared(
    pairs: list[_Pair], of_one: Callable[[Pixels], Tensors], of_two: Callable[[Pixels], Tensors], pixels: Pixels
) -> list[LayerDifference]:
    first, second = of_one(pixels[:1]), of_two(pixels[:1])
    pairs = [pair for pair in pairs if first[pair.tensor].shape == second[pair.counterpart].shape]
    sums = [_Sums() for _ in pairs]
    step = at_once(first | {f"{name} of the other": array for name, array in second.items()})
    for at in range(0, len(pixels), step):
        a, b = of_one(pixels[at : at + step]), of_two(pixels[at : at + step])
        for total, pair in zip(sums, pairs, strict=True):
            total.add(a[pair.tensor], b[pair.counterpart])
    return [_difference(pair, total) for pair, total in zip(pairs, sums, strict=True)]


def parting(differences: Sequence[LayerDifference], limit: float) -> LayerDifference | None:
    """The first tensor whose relative difference is above `limit`; where none is, the one that is furthest apart.

    None: the graphs share no tensor, or are equal in all.
    """
    first = next((found for found in differences if found.relative > limit), None)
    return first or next((found for found in worst(differences, 1) if found.relative > 0), None)


def worst(differences: Sequence[LayerDifference], count: int = 5) -> list[LayerDifference]:
    """The tensors that are furthest apart by their relative difference, the furthest first."""
    return sorted(differences, key=lambda found: -found.relative)[:count]


@dataclass(frozen=True)
class _Pair:
    """A tensor of the reference and the one in the other graph that should equal it."""

    tensor: str
    counterpart: str
    node: str
    operator: str


def _pairs(one: onnx.ModelProto, two: onnx.ModelProto) -> list[_Pair]:
    makers = {name: node for node in two.graph.node for name in node.output}
    sources = {name: node for node in one.graph.node for name in node.output}
    read = _read_behind_pairs(two)
    found = []
    for node in one.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            continue
        for name in node.output:
            before = sources.get(node.input[0]) if node.input else None
            if name in makers and node.op_type in CLAMPS and makers[name].op_type != node.op_type and before:
                found.append(_Pair(node.input[0], name, before.name, before.op_type))  # it is left out there
            elif name in makers:
                found.append(_Pair(name, name, node.name, node.op_type))
            if name in read:
                found.append(_Pair(name, read[name], node.name, "QuantizeLinear"))
    return found


def _read_behind_pairs(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor -> the one that is read for it behind its QuantizeLinear and DequantizeLinear."""
    quantised = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    return {
        quantised[n.input[0]]: n.output[0]
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in quantised
    }


def _difference(pair: _Pair, sums: _Sums) -> LayerDifference:
    finite = np.isfinite(sums.difference) and np.isfinite(sums.largest)
    relative = np.inf if not finite or (sums.difference and not sums.reference) else 0.0
    if finite and sums.reference:
        relative = (sums.difference / sums.reference) ** 0.5
    norm = (sums.reference * sums.other) ** 0.5
    cosine = sums.product / norm if norm and np.isfinite(norm) else float("nan")
    return LayerDifference(pair.tensor, pair.node, pair.operator, float(relative), float(cosine), float(sums.largest))
