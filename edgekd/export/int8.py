"""INT8 graphs: explicit Q/DQ pairs as each runtime wants them, calibrated on generated images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edgekd.export.calibration import Range, histograms, ranges
from edgekd.export.fp32 import quiet
from edgekd.export.metadata import describe_like
from edgekd.export.network import Pixels
from edgekd.export.opset import tidy
from edgekd.export.placement import edge_layers, free_conv_branch, not_residual, preprocessing
from edgekd.files import written

WEIGHTED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


@dataclass(frozen=True)
class Scheme:
    """How a runtime wants its integers."""

    activations: str  # "uint8" with zero points, or "int8" around zero
    stored_weights: bool = True  # as int8 behind a DequantizeLinear; else as fp32 behind a Q/DQ pair
    whole_graph: bool = True  # every operator with an int8 kernel; else inputs of weighted ones and residual sums only


UNSIGNED = Scheme("uint8")
TENSORRT = Scheme("int8", whole_graph=False)
TENSORRT_8 = Scheme("int8", stored_weights=False, whole_graph=False)


def scheme(target: str, version: tuple[int, ...] = ()) -> Scheme:
    """What the graphs of a target want. version: of TensorRT; empty: not known, taken for the newest.

    TensorRT quantises around zero, and only where the graph says so: pairs at the inputs of weighted operators, none
    at their outputs, and one at the residual input of a sum, so that it fuses with the convolution. A pair behind a
    concatenation stands for all its inputs, which so share a scale. Before 10 it wants fp32 constants. Sources are in
    tensorrt_rules.py. ONNX Runtime on x86 wants uint8 activations and int8 weights: with int8 ones a ResNet-18 was 1.4
    times as fast as fp32, with uint8 ones 4 times; its ARM kernels take both.
    """
    if target != "tensorrt":
        return UNSIGNED
    return TENSORRT_8 if version and version < (10,) else TENSORRT


def export_int8(
    fp32: Path,
    path: Path,
    calibration: Pixels,
    *,
    scheme: Scheme,
    method: str = "minmax",
    keep: Sequence[str] = (),
) -> None:
    """Writes the INT8 graph, calibrated on pixels of generated images (N, C, H, W): per-channel int8 weights.

    method: of calibration.METHODS. keep: layers that stay fp32, of "first" and "last"; none by default.
    Never call it with noise: a ResNet-18 calibrated so falls from 70 to 8 % on ImageNet.
    """
    quantise(fp32, path, ranges(histograms(fp32, calibration), method), scheme=scheme, keep=keep)


def quantise(
    fp32: Path, path: Path, activations: Mapping[str, Range], *, scheme: Scheme, keep: Sequence[str] = ()
) -> None:
    """Writes the INT8 graph whose tensors have these ranges, by names in the fp32 graph; normalisation stays fp32."""
    model = onnx.shape_inference.infer_shapes(onnx.load(fp32))
    excluded = {*preprocessing(model), *edge_layers(model, keep)}
    extra: dict[str, Any] = {"ActivationSymmetric": scheme.activations == "int8", "WeightSymmetric": True}
    if scheme.whole_graph:
        kinds = sorted(QLinearOpsRegistry.keys() | QDQRegistry.keys())  # all that ONNX Runtime has integer kernels for
        excluded |= {node.name for node in model.graph.node if node.op_type == "BatchNormalization"}  # it has none
    else:
        kinds = [*WEIGHTED, "Add"]
        excluded |= set(not_residual(model))
        extra |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": kinds}
        extra["AddQDQPairToWeight"] = not scheme.stored_weights
    found = {name: tuple(map(np.float32, ends)) for name, ends in activations.items()}
    with quiet(), redirect_stdout(io.StringIO()), written(path) as temporary:  # it prints, and stdout is the document's
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if scheme.activations == "int8" else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, found),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(excluded),
            op_types_to_quantize=kinds,
            extra_options=extra,
        )
        quantizer.quantize_model()
        graph = quantizer.model.model
        if not scheme.whole_graph:
            free_conv_branch(graph)
        tidy(graph)
        describe_like(graph, onnx.load(fp32, load_external_data=False), "int8")
        onnx.save_model(graph, temporary)
