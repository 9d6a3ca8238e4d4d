"""Which graphs go into a bundle: those that pass their gates, for OpenVINO also when it runs them itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.export import openvino_ir
from edgekd.export.network import Logits, Pixels
from edgekd.export.parity import gates


@dataclass(frozen=True)
class Passing:
    """What is packed, and how every graph fared."""

    graphs: dict[str, Path]  # precision -> ONNX file
    logits: dict[str, Logits]  # of each on the images, by ONNX Runtime
    files: tuple[Path, ...]  # OpenVINO's own form of each
    parity: dict[str, Any]  # for the manifest; the refused ones as well


def passing(
    graphs: Mapping[str, Path], fp32: Path, pixels: Pixels, torch_: Logits, target: str, warn: Callable[[str], None]
) -> Passing:
    """Every graph at its gates. fp32: the graph that the others were made from; torch_: the network's own logits.

    target: of the profile. A graph that is refused is left out, and `warn` is told. Raises ParityError where fp32 fails
    or nothing is left, ExportError where OpenVINO does not take a graph.
    """
    found, logits = gates(graphs, fp32, pixels, torch_)
    parity = {precision: gate.document() for precision, gate in found.items()}
    left = {precision: path for precision, path in graphs.items() if found[precision].refused is None}
    for precision, gate in found.items():
        if gate.refused is not None:
            warn(f"the {precision} graph is not packed: {gate.refused.why}")
    files: list[Path] = []
    if target == "openvino" and not openvino_ir.installed():
        warn(openvino_ir.ABSENT)
    elif target == "openvino":
        files, own = openvino_ir.openvino_gates(left, pixels, torch_)
        for precision, gate in own.items():
            said = gate.document()
            parity[precision]["openvino"] = {name: said[name] for name in gate.figures}
            if gate.refused is not None:
                parity[precision]["refused"] = f"run by OpenVINO, {gate.refused.problem}"
                warn(f"the {precision} graph is not packed: run by OpenVINO, {gate.refused.why}")
                del left[precision]
    return Passing(left, {precision: logits[precision] for precision in left}, tuple(files), parity)
