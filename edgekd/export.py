"""Student to ONNX, one graph per precision, each held against torch with ONNX Runtime before anything is packed."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from edgekd.errors import ExportError, InputError
from edgekd.files import from_dict, plain, written
from edgekd.types import Images, Profile

FP32_TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit where that is above 1
INT8_AGREEMENT = 0.9  # least top-1 agreement of the int8 graph with torch on generated images
DYNAMO_OPSET = 18  # the lowest that torch.onnx.export(dynamo=True) writes itself

Pixels = NDArray[np.uint8]  # (N, C, H, W)
Logits = NDArray[np.float32]  # (N, K)


class Deployed(nn.Module):
    """A network with its normalisation inside: pixels 0..255 as float32 (N, C, H, W) -> logits (N, K)."""

    def __init__(self, model: nn.Module, images: Images) -> None:
        super().__init__()
        self.model = model
        self.scale: Tensor
        self.shift: Tensor
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (images.mean, images.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels * self.scale + self.shift)
        return logits


def torch_logits(model: nn.Module, images: Images, pixels: Pixels) -> Logits:
    """Logits of the network on pixels, in fp32 on the CPU, in parts of 256."""
    deployed = Deployed(model, images).cpu().eval()
    with torch.no_grad():
        parts = [deployed(part.float()) for part in torch.from_numpy(pixels).split(256)]
    logits: Logits = torch.cat(parts).numpy()
    return logits


def onnx_logits(graph: Path, pixels: Pixels) -> Logits:
    """Logits of a graph that `export_fp32` or `export_int8` wrote, by ONNX Runtime on the CPU, in parts of 256."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # as targets/onnxrt.py: AVX2 saturates otherwise
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = range(0, len(pixels), 256)
    logits = np.concatenate([session.run(None, {name: pixels[i : i + 256].astype(np.float32)})[0] for i in parts])
    return logits.astype(np.float32)


def export_fp32(model: nn.Module, images: Images, classes: Sequence[str], path: Path, *, opset: int) -> None:
    """Writes the fp32 graph: dynamic batch, normalisation inside, class names and input facts in its metadata.

    Raises ExportError where torch or onnx cannot express the network at this opset.
    """
    deployed = Deployed(model, images).cpu().eval()
    deployed.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload] # else Shape and Reshape nodes stay
    example = torch.zeros(2, images.channels, images.height, images.width)
    try:
        with _quiet():
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=["pixels"],
                output_names=["logits"],
                opset_version=max(opset, DYNAMO_OPSET),
                verbose=False,
            )
        assert program is not None
        graph = program.model_proto
        if opset < DYNAMO_OPSET:
            _lower(graph, opset)
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # both exporters raise many kinds; all mean the same to the user
        raise ExportError(
            f"the network cannot be written as ONNX opset {opset}",
            code="E0610",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="choose a profile with another opset, or another --student",
        ) from error
    _describe(graph, images, classes, "fp32")
    with written(path) as temporary:
        onnx.save_model(graph, temporary)


def export_int8(fp32: Path, path: Path, calibration: Pixels, *, target: str) -> None:
    """Writes the INT8 graph (explicit Q/DQ, per-channel weights), calibrated on pixels of generated images.

    TensorRT wants symmetric int8 activations; ONNX Runtime is several times faster with uint8 ones. The choice follows
    the target. Never call it with noise: a ResNet-18 calibrated so falls from 70 to 8 % on ImageNet.
    """
    symmetric = target == "tensorrt"
    prepared = path.with_name(f".{path.name}.prepared")
    try:
        with _quiet(), written(path) as temporary:
            quant_pre_process(fp32, prepared)
            quantize_static(
                prepared,
                temporary,
                _Reader(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
            )
            graph = onnx.load(temporary)
            facts = {p.key: p.value for p in onnx.load(fp32).metadata_props} | {"edgekd.precision": "int8"}
            onnx.helper.set_model_props(graph, facts)
            onnx.save_model(graph, temporary)
    finally:
        prepared.unlink(missing_ok=True)


def check_parity(precision: str, graph: Logits, torch_: Logits) -> dict[str, float]:
    """How far a graph is from torch on the same pixels: {max_abs, relative, agreement}.

    relative: largest difference over the largest logit (or 1). Raises ExportError for NaN or Inf, for fp32 above
    FP32_TOLERANCE, for int8 below INT8_AGREEMENT.
    """
    difference = float(np.abs(graph - torch_).max())
    relative = difference / max(1.0, float(np.abs(torch_).max()))
    agreement = float((graph.argmax(1) == torch_.argmax(1)).mean())
    problem = ""
    if not np.isfinite(graph).all():
        problem = "it gives NaN or Inf"
    elif precision == "fp32" and relative > FP32_TOLERANCE:
        problem = f"a logit differs by {difference:.2g} ({relative:.2g} of the largest); {FP32_TOLERANCE:g} is allowed"
    elif precision == "int8" and agreement < INT8_AGREEMENT:
        problem = f"it agrees with torch on {agreement:.1%} of the generated images; {INT8_AGREEMENT:.0%} is asked"
    if problem:
        fix = "deploy fp32 for now:  --precision fp32" if precision != "fp32" else "please report this network"
        raise ExportError(f"the {precision} graph is not the student", code="E0611", why=problem, fix=fix)
    return {"max_abs": difference, "relative": relative, "agreement": agreement}


def export(
    student: nn.Module, images: Images, classes: Sequence[str], profile: Profile, calibration: Pixels, folder: Path
) -> dict[str, Path]:
    """Writes the graphs of `profile` into `folder`: precision -> path. INT8 is made from the fp32 graph."""
    paths = {p: folder / f"student.{p}.onnx" for p in ("fp32", *(q for q in profile.precisions if q != "fp32"))}
    export_fp32(student, images, classes, paths["fp32"], opset=profile.opset)
    if "int8" in paths:
        export_int8(paths["fp32"], paths["int8"], calibration, target=profile.target)
    return {p: path for p, path in paths.items() if p in profile.precisions}


@dataclass(frozen=True)
class GraphFacts:
    """What the metadata of a graph that edgekd wrote say of it."""

    images: Images
    classes: tuple[str, ...]
    precision: str
    opset: int
    nodes: int


def graph_facts(path: Path) -> GraphFacts:
    """Reads them. Raises InputError for a file that is no ONNX graph or not one of edgekd's."""
    if not path.is_file():
        raise InputError(f"{path} is not there", code="E0350")
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds for damaged files
        raise InputError(f"{path} is not a whole ONNX graph", code="E0351", why=str(error).strip()) from error
    facts = {p.key: p.value for p in graph.metadata_props}
    try:
        images = from_dict(Images, json.loads(facts["edgekd.images"]), where=str(path))
        classes, precision = tuple(json.loads(facts["edgekd.classes"])), facts["edgekd.precision"]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} was not written by edgekd",
            code="E0352",
            why=f"its metadata lack {error}",
            fix="name the teacher's checkpoint or a graph of a bundle",
        ) from error
    return GraphFacts(images, classes, precision, graph.opset_import[0].version, len(graph.graph.node))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pixels: Pixels) -> None:
        self.batches: Iterator[Pixels] = iter(np.array_split(pixels, max(1, len(pixels) // 32)))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"pixels": batch.astype(np.float32)}


def _lower(graph: onnx.ModelProto, opset: int) -> None:
    """Rewrites a graph of opset 18 for an older one in place. onnx's own converter has no way down for these operators.

    Raises ValueError for an operator whose meaning changed in between and that is not known here.
    """
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        then = onnx.defs.get_schema(node.op_type, opset).since_version
        if then == onnx.defs.get_schema(node.op_type, DYNAMO_OPSET).since_version:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if (
            node.op_type in ("ReduceMean", "ReduceMax") and node.input[1] in constants
        ):  # axes were an attribute before 18
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            kept = [a for a in node.attribute if a.name == "keepdims"]
            del node.input[1:], node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("axes", axes)])
        elif node.op_type == "Reshape" and (
            not attributes.get("allowzero")
            or (node.input[1] in constants and onnx.numpy_helper.to_array(constants[node.input[1]]).all())
        ):  # allowzero came with 14; without a zero in the shape it says nothing
            del node.attribute[:]
        elif node.op_type not in ("Add", "Sub", "Mul", "Div", "Relu", "Identity"):
            raise ValueError(f"{node.op_type} of opset {DYNAMO_OPSET} has no known form in opset {opset}")
    used = {name for node in graph.graph.node for name in node.input}
    for name in constants.keys() - used:
        graph.graph.initializer.remove(constants[name])
    del graph.opset_import[:]
    graph.opset_import.append(onnx.helper.make_opsetid("", opset))
    graph.ir_version = onnx.helper.find_min_ir_version_for(graph.opset_import)


def _describe(graph: onnx.ModelProto, images: Images, classes: Sequence[str], precision: str) -> None:
    facts = {
        "edgekd.classes": json.dumps(list(classes), ensure_ascii=False),
        "edgekd.input": "float32 pixels 0..255, NCHW, RGB or gray; normalisation is inside the graph",
        "edgekd.images": json.dumps(plain(images)),
        "edgekd.precision": precision,
    }
    onnx.helper.set_model_props(graph, facts)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters log and warn about their own insides; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
