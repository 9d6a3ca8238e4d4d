"""OpenVINO's own form of a graph (IR: .xml and .bin), made of the ONNX one and held against torch at the same gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekd.errors import ExportError
from edgekd.export.network import Logits, Pixels
from edgekd.export.parity import Gate, own_gates
from edgekd.room import per_pass

ABSENT = (
    "openvino is not installed here: the bundle has the ONNX graphs alone, which OpenVINO reads as well, and nothing "
    "held them against it; for its own form:  pip install 'edgekd[openvino]'"
)


def installed() -> bool:
    """Whether OpenVINO's Python package imports here."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def export_ir(graph: Path, path: Path) -> tuple[Path, Path]:
    """Writes an ONNX graph as `path` (.xml) and the .bin beside it, with weights as they are; gives the two.

    Through read_model, as convert_model reports its use over the network. The same graph gives the same files. Raises
    ExportError for a graph that OpenVINO does not take.
    """
    import openvino

    try:
        model = openvino.Core().read_model(graph)
        for number, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name() == node.get_name():  # not ONNX's: one that counts all nodes of the process
                node.set_friendly_name(f"{node.get_type_name()} {number}")
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO {openvino.__version__} would not take {graph.name}",
            code="E0612",
            why=str(error).strip().splitlines()[-1],
            fix="choose another --student, or a profile whose target is onnxrt",
        ) from error
    return path, path.with_suffix(".bin")


def ir_logits(path: Path, pixels: Pixels) -> Logits:
    """Logits (N, K) of a graph by OpenVINO on the CPU, what is not INT8 in fp32."""
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    model = core.read_model(path)
    entry = model.input(0)
    fixed = None if entry.partial_shape[0].is_dynamic else entry.partial_shape[0].get_length()
    compiled = core.compile_model(model, "CPU", hint)
    parts, size = [], fixed or per_pass(pixels[0].size)
    for at in range(0, len(pixels), size):
        part = pixels[at : at + size]
        fed = part if fixed is None else part[np.resize(np.arange(len(part)), fixed)]  # the last may lack images
        parts.append(compiled([fed.astype(entry.element_type.to_dtype())])[0][: len(part)])
    return np.concatenate(parts).astype(np.float32)


def openvino_gates(graphs: Mapping[str, Path], pixels: Pixels, torch_: Logits) -> tuple[list[Path], dict[str, Gate]]:
    """(files to pack, precision -> gate): each ONNX graph beside itself as IR, run by OpenVINO and held against torch.

    pixels: generated images (N, C, H, W); torch_: the network's own logits on them. A refused graph has no files.
    Raises ParityError where fp32 fails, or every graph does.
    """
    forms = {precision: export_ir(graph, graph.with_suffix(".xml")) for precision, graph in graphs.items()}
    found = own_gates({precision: ir_logits(made[0], pixels) for precision, made in forms.items()}, torch_)
    return [file for precision, made in forms.items() if found[precision].refused is None for file in made], found
