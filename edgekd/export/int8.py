"""INT8 graphs: explicit Q/DQ pairs as each runtime wants them, calibrated on generated images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edgekd.export.fp32 import quiet
from edgekd.export.metadata import describe_like
from edgekd.export.network import Pixels
from edgekd.export.opset import tidy
from edgekd.export.placement import edge_layers, free_conv_branch, free_output, not_residual, preprocessing
from edgekd.export.ranges import PERCENTILE, Ranges, histograms, ranges
from edgekd.files import written

WEIGHTED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


@dataclass(frozen=True)
class Scheme:
    """How a runtime wants its integers."""

    activations: str  # "uint8" with zero points, or "int8" around zero
    stored_weights: bool = True  # as int8 behind a DequantizeLinear; else as fp32 behind a Q/DQ pair
    whole_graph: bool = True  # every operator with an int8 kernel; else inputs of weighted ones and residual sums only
    reduced: bool = False  # weights of 7 bits

    @property
    def symmetric(self) -> bool:
        """Whether activations lie around zero."""
        return self.activations == "int8"


UNSIGNED = Scheme("uint8")
REDUCED = Scheme("uint8", reduced=True)
TENSORRT = Scheme("int8", whole_graph=False)
TENSORRT_8 = Scheme("int8", stored_weights=False, whole_graph=False)


def scheme(target: str, version: tuple[int, ...] = (), *, weight_bits: int = 8) -> Scheme:
    """What the graphs of a target want. version: of TensorRT; empty: not known, taken for the newest.

    weight_bits: 7 or 8, for ONNX Runtime on the CPU.

    TensorRT quantises around zero, and only where the graph says so: pairs at the inputs of weighted operators, none
    at their outputs, and one at the residual input of a sum, so that it fuses with the convolution. A pair behind a
    concatenation stands for all its inputs, which so share a scale. Before 10 it wants fp32 constants. Sources are in
    tensorrt_rules.py. ONNX Runtime on x86 wants uint8 activations and int8 weights: with int8 ones a ResNet-18 was 1.4
    times as fast as fp32, with uint8 ones 4 times; its ARM kernels take both. On x86 processors without VNNI both it
    and OpenVINO add products in 16 bits, which 8-bit weights overflow: ONNX Runtime then takes exact and slower
    kernels, with 7-bit weights the fast ones (benchmarks/NOTES.md).
    """
    if target == "openvino":
        return REDUCED
    if target != "tensorrt":
        return REDUCED if weight_bits == 7 else UNSIGNED
    return TENSORRT_8 if version and version < (10,) else TENSORRT


def export_int8(
    fp32: Path,
    path: Path,
    calibration: Pixels,
    *,
    scheme: Scheme,
    method: str = "minmax",
    percentile: float = PERCENTILE,
    keep: Sequence[str] = (),
) -> None:
    """Writes the INT8 graph, calibrated on pixels of generated images (N, C, H, W): per-channel int8 weights.

    method: of ranges.METHODS; percentile: for that one. keep: layers that stay fp32, of "first" and "last"; none by
    default. Never call it with noise: a ResNet-18 calibrated so falls from 70 to 8 % on ImageNet.
    """
    model = onnx.load(fp32)
    found = ranges(histograms(model, calibration), method, symmetric=scheme.symmetric, percent=percentile)
    save(quantised(model, found, scheme=scheme, keep=keep), path)


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Writes a graph, whole or not at all."""
    with written(path) as temporary:
        onnx.save_model(graph, temporary)


def quantised(fp32: onnx.ModelProto, found: Ranges, *, scheme: Scheme, keep: Sequence[str] = ()) -> onnx.ModelProto:
    """The INT8 graph of an fp32 one, which stays as it is. found: the range of every activation.

    Normalisation stays fp32, and so do the logits: in 255 steps of their whole range, near classes would be equal.
    """
    excluded = {*preprocessing(fp32), *edge_layers(fp32, keep)}
    kinds: list[str] = [*WEIGHTED, "Add"]
    extra: dict[str, Any] = {"ActivationSymmetric": scheme.symmetric, "WeightSymmetric": True}
    if scheme.whole_graph:
        kinds = sorted({*QLinearOpsRegistry, *QDQRegistry})  # all that ONNX Runtime has integer kernels for
        excluded |= {node.name for node in fp32.graph.node if node.op_type == "BatchNormalization"}  # it has none
    else:
        excluded |= set(not_residual(fp32))
        extra |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": kinds}
        extra["AddQDQPairToWeight"] = not scheme.stored_weights
    limits = {name: tuple(np.array(v, np.float32) for v in pair) for name, pair in found.items()}
    with quiet(), redirect_stdout(io.StringIO()):  # it prints, and stdout is the document's
        quantizer = QDQQuantizer(
            save_and_reload_model_with_shape_infer(fp32),
            per_channel=True,
            reduce_range=scheme.reduced,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if scheme.symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(excluded),
            op_types_to_quantize=kinds,
            extra_options=extra,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # it puts its nodes at the end
        graph: onnx.ModelProto = quantizer.model.model
    if scheme.whole_graph:
        free_output(graph)
    else:
        free_conv_branch(graph)
    tidy(graph)
    describe_like(graph, fp32, "int8")
    return graph
