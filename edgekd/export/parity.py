"""The gates: how far each graph may be from the network it was made of, and where it leaves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ExportError
from edgekd.export.layers import LayerDifference, against_the_standard, compare_layers, parting, worst
from edgekd.export.network import Logits, Pixels
from edgekd.export.running import onnx_logits

FP32_TOLERANCE = 1e-4  # largest difference of a logit
FP32_ROUNDING = 1e-6  # of the largest logit, allowed where that is more: logits above 100 have no finer digits in fp32
AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "int8": 0.98}  # least top-1 agreement with torch on generated images
LEAD = 0.1  # of the probability, of the first class over the second: with less, torch has not decided between them
DECIDED, HALF = 0.99, 0.5  # INT8 may do with: this agreement where torch has decided, if that is half of the images
APART = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.1}  # relative difference of a tensor from which a layer has left
COMPARED, FEW = 64, 4  # images that layers are compared on; with ONNX's reference implementation, which is slow
SHOWN = 5  # layers in a message

Layers = Callable[[], Sequence[LayerDifference]]


class ParityError(ExportError):
    """A graph that is not the network. figures: those of check_parity; layers: all, in the graph's order."""

    def __init__(
        self, precision: str, problem: str, *, figures: Mapping[str, float], layers: Sequence[LayerDifference]
    ) -> None:
        super().__init__(
            f"the {precision} graph is not the student",
            code="E0611",
            why=problem + (told(layers, APART[precision]) if precision != "fp32" else _told_of_fp32(layers)),
            fix="deploy fp32 for now:  --precision fp32" if precision != "fp32" else "please report this network",
        )
        self.problem, self.figures, self.layers = problem, figures, layers


@dataclass(frozen=True)
class Gate:
    """What became of a graph at its gate."""

    figures: Mapping[str, float]
    refused: ParityError | None = None

    def document(self) -> dict[str, Any]:
        """For the manifest: the figures; of a refused graph the reason and its worst layers as well."""
        figures = _finite(self.figures)
        if self.refused is None:
            return figures
        layers = [_finite(asdict(layer)) for layer in worst(self.refused.layers, SHOWN)]
        return {**figures, "refused": self.refused.problem, "worst_layers": layers}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """None for NaN and Inf, which JSON does not have."""
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}


def check_parity(precision: str, graph: Logits, torch_: Logits, *, layers: Layers | None = None) -> dict[str, float]:
    """How far a graph is from torch on the same pixels, as `measured` gives it.

    layers: asked only when the gate stays shut. Raises ParityError where `shut` says why; it names the first layer
    where the graph leaves the fp32 one, and the worst; of an fp32 graph those where ONNX Runtime leaves ONNX's
    reference implementation.
    """
    figures = measured(graph, torch_)
    if problem := shut(precision, figures):
        raise ParityError(precision, problem, figures=figures, layers=layers() if layers is not None else ())
    return figures


def measured(graph: Logits, torch_: Logits) -> dict[str, float]:
    """{max_abs, relative, agreement, decided, agreement_decided, images} of a graph's logits (N, K) beside torch's.

    relative: largest difference over the largest logit (or 1). decided: share of the images on which torch's first
    class leads by LEAD; agreement_decided: the agreement on those, 1 where there are none. With NaN or Inf there is no
    agreement, and NaN stands for it; documents say null.
    """
    finite = bool(np.isfinite(graph).all())
    difference = float(np.abs(graph - torch_).max()) if finite else float("inf")
    same, decided = graph.argmax(1) == torch_.argmax(1), leads(torch_) >= LEAD
    return {
        "max_abs": difference,
        "relative": difference / max(1.0, float(np.abs(torch_).max())),
        "agreement": float(same.mean()) if finite else float("nan"),
        "decided": float(decided.mean()),
        "agreement_decided": (float(same[decided].mean()) if decided.any() else 1.0) if finite else float("nan"),
        "images": len(graph),
    }


def leads(logits: Logits) -> NDArray[np.float64]:
    """By how much the first class of each row (N, K) is more probable than the second, in [0, 1]."""
    scores = np.exp(logits - logits.max(1, keepdims=True), dtype=np.float64)
    first_two = np.sort(scores / scores.sum(1, keepdims=True), axis=1)[:, -2:]
    found: NDArray[np.float64] = first_two[:, 1] - first_two[:, 0]
    return found


def shut(precision: str, figures: Mapping[str, float]) -> str:
    """Why the gate stays shut, empty where it opens.

    It stays shut for NaN or Inf, for fp32 above FP32_TOLERANCE or FP32_ROUNDING, and below AGREEMENT. Generated images
    lie nearer to the borders between classes than real ones: where torch itself has not decided, a step of INT8 turns
    answers over that were as good as even (benchmarks/NOTES.md), so that INT8 may reach DECIDED on the others instead.
    """
    difference, relative, agreement = figures["max_abs"], figures["relative"], figures["agreement"]
    largest = difference / relative if 0 < relative < math.inf else 1.0
    allowed, least = max(FP32_TOLERANCE, FP32_ROUNDING * largest), AGREEMENT[precision]
    if not math.isfinite(agreement):
        return "it gives NaN or Inf"
    if precision == "fp32" and difference > allowed:
        return f"a logit differs by {difference:.2g} ({relative:.2g} of the largest); {allowed:.2g} is allowed"
    if agreement >= least:
        return ""
    problem = f"it agrees with torch on {agreement:.1%} of the generated images; {least:.1%} is asked"
    if precision != "int8":
        return problem
    decided, where = figures["decided"], figures["agreement_decided"]
    if decided >= HALF and where >= DECIDED:
        return ""
    return (
        f"{problem}, or {DECIDED:.1%} of those where torch has decided, if they are half: {where:.1%} of {decided:.0%}"
    )


def told(layers: Sequence[LayerDifference], limit: float, of: str = "the fp32 graph") -> str:
    """Where the graphs part, in words to go behind a reason; empty where there is nothing to tell."""
    first = parting(layers, limit)
    if first is None:
        return ""
    rows = [f"{one.operator} {one.tensor} {one.relative:.2g}, cosine {one.cosine:.4f}" for one in worst(layers, SHOWN)]
    return (
        f". It leaves {of} at {first.operator} {first.node!r} (tensor {first.tensor}, relative difference "
        f"{first.relative:.2g}). Furthest apart: {'; '.join(rows)}"
    )


def _told_of_fp32(layers: Sequence[LayerDifference]) -> str:
    """Where ONNX Runtime leaves the standard; where it does not, what follows from that."""
    if layers and all(layer.relative <= APART["fp32"] for layer in layers):
        return ". ONNX Runtime and ONNX's reference implementation compute all its layers alike: the export changed it"
    return told(layers, APART["fp32"], "what ONNX's reference implementation computes")


def gates(
    graphs: Mapping[str, Path], fp32: Path, pixels: Pixels, torch_: Logits
) -> tuple[dict[str, Gate], dict[str, Logits]]:
    """Every graph at its gate, and its logits on pixels of generated images; torch_: the network's own.

    fp32: the graph that the others were made from; it is held against torch whether it is one of `graphs` or not.
    Raises ParityError where that one fails, or all of `graphs` do: there would be nothing to deploy.
    """
    logits = {precision: onnx_logits(path, pixels) for precision, path in graphs.items()}
    source = logits["fp32"] if "fp32" in logits else onnx_logits(fp32, pixels)
    found = {
        "fp32": Gate(check_parity("fp32", source, torch_, layers=lambda: against_the_standard(fp32, pixels[:FEW])))
    }
    for precision, path in graphs.items():
        if precision == "fp32":
            continue
        try:
            compare = _comparison(fp32, path, pixels)
            found[precision] = Gate(check_parity(precision, logits[precision], torch_, layers=compare))
        except ParityError as refused:
            found[precision] = Gate(refused.figures, refused)
    refusals = [gate.refused for precision, gate in found.items() if precision in graphs and gate.refused]
    if len(refusals) == len(graphs):
        raise refusals[0]
    return {precision: found[precision] for precision in graphs}, logits


def own_gates(logits: Mapping[str, Logits], torch_: Logits) -> dict[str, Gate]:
    """Precision -> gate of a runtime's own forms of the graphs, by their logits (N, K); torch_: the network's own.

    Raises ParityError where fp32 fails, or every form does.
    """
    found: dict[str, Gate] = {}
    for precision, answers in logits.items():
        try:
            found[precision] = Gate(check_parity(precision, answers, torch_))
        except ParityError as refused:
            if precision == "fp32":
                raise
            found[precision] = Gate(refused.figures, refused)
    refusals = [gate.refused for gate in found.values() if gate.refused]
    if len(refusals) == len(found):
        raise refusals[0]
    return found


def _comparison(fp32: Path, path: Path, pixels: Pixels) -> Layers:
    return lambda: compare_layers(fp32, path, pixels[:COMPARED])
