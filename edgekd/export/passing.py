"""Which graphs go into a bundle: those that pass their gates, for OpenVINO and LiteRT also when these run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.export import litert, openvino_ir
from edgekd.export.network import Logits, Pixels
from edgekd.export.parity import Gate, gates


@dataclass(frozen=True)
class Passing:
    """What is packed, and how every graph fared."""

    graphs: dict[str, Path]  # precision -> ONNX file
    logits: dict[str, Logits]  # of each on the images, by ONNX Runtime
    files: tuple[Path, ...]  # the own form of each for OpenVINO or LiteRT
    parity: dict[str, Any]  # for the manifest; the refused ones as well
    own: dict[str, Logits] = field(default_factory=dict)  # of LiteRT's forms, which are not made from the ONNX graphs


PRODUCTS = {"openvino": "OpenVINO", "litert": "LiteRT"}  # targets with forms of their own
MODULES = {"openvino": openvino_ir, "litert": litert}


def passing(
    graphs: Mapping[str, Path],
    fp32: Path,
    pixels: Pixels,
    torch_: Logits,
    target: str,
    warn: Callable[[str], None],
    source: litert.Source | None = None,
) -> Passing:
    """Every graph at its gates. fp32: the graph that the others were made from; torch_: the network's own logits.

    target: of the profile; source: what LiteRT's form is made of, needed for that target. A graph that is refused is
    left out, and `warn` is told. Raises ParityError where fp32 fails or nothing is left, ExportError where OpenVINO or
    LiteRT do not take a graph.
    """
    found, logits = gates(graphs, fp32, pixels, torch_)
    parity = {precision: gate.document() for precision, gate in found.items()}
    left = {precision: path for precision, path in graphs.items() if found[precision].refused is None}
    for precision, gate in found.items():
        if gate.refused is not None:
            warn(f"the {precision} graph is not packed: {gate.refused.why}")
    files: list[Path] = []
    again: dict[str, Gate] = {}
    own: dict[str, Logits] = {}
    module = MODULES.get(target)
    if module is not None and not module.installed():
        warn(module.ABSENT)
    elif target == "openvino":
        files, again = openvino_ir.openvino_gates(left, pixels, torch_)
    elif target == "litert":
        assert source is not None
        files, again, own = litert.litert_gates(left, fp32, pixels, torch_, source)
    for precision, gate in again.items():
        said = gate.document()
        parity[precision][target] = {name: said[name] for name in gate.figures}
        if gate.refused is not None:
            parity[precision]["refused"] = f"run by {PRODUCTS[target]}, {gate.refused.problem}"
            warn(f"the {precision} graph is not packed: run by {PRODUCTS[target]}, {gate.refused.why}")
            del left[precision]
    packed = {precision: logits[precision] for precision in left}
    return Passing(left, packed, tuple(files), parity, {p: answers for p, answers in own.items() if p in left})
