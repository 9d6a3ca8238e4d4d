"""The gates: how far each graph may be from the network it was made of, and where it leaves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import ExportError
from edgekd.export.layers import LayerDifference, against_the_standard, compare_layers, parting, worst
from edgekd.export.network import Logits, Pixels
from edgekd.export.running import onnx_logits

FP32_TOLERANCE = 1e-4  # largest difference of a logit
FP32_ROUNDING = 1e-6  # of the largest logit, allowed where that is more: logits above 100 have no finer digits in fp32
AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "int8": 0.98}  # least top-1 agreement with torch on generated images
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
    """How far a graph is from torch on the same pixels: {max_abs, relative, agreement, images}.

    relative: largest difference over the largest logit (or 1). With NaN or Inf there is no agreement, and NaN stands
    for it; documents say null. layers: asked only when the gate stays shut. Raises ParityError for NaN or Inf, for fp32
    above FP32_TOLERANCE or FP32_ROUNDING, below AGREEMENT; it names the first layer where the graph leaves the fp32
    one, and the worst; of an fp32 graph those where ONNX Runtime leaves ONNX's reference implementation.
    """
    finite = bool(np.isfinite(graph).all())
    difference = float(np.abs(graph - torch_).max()) if finite else float("inf")
    largest = float(np.abs(torch_).max())
    relative = difference / max(1.0, largest)
    allowed = max(FP32_TOLERANCE, FP32_ROUNDING * largest)
    agreement = float((graph.argmax(1) == torch_.argmax(1)).mean()) if finite else float("nan")
    figures = {"max_abs": difference, "relative": relative, "agreement": agreement, "images": len(graph)}
    problem, least = "", AGREEMENT[precision]
    if not finite:
        problem = "it gives NaN or Inf"
    elif precision == "fp32" and difference > allowed:
        problem = f"a logit differs by {difference:.2g} ({relative:.2g} of the largest); {allowed:.2g} is allowed"
    elif agreement < least:
        problem = f"it agrees with torch on {agreement:.1%} of the generated images; {least:.1%} is asked"
    if problem:
        raise ParityError(precision, problem, figures=figures, layers=layers() if layers is not None else ())
    return figures


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
