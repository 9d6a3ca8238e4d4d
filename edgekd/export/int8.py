"""INT8 graphs: explicit Q/DQ pairs as each runtime wants them, calibrated on generated images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edgekd.export.fp32 import quiet
from edgekd.export.metadata import describe_like
from edgekd.export.network import Pixels
from edgekd.export.opset import tidy
from edgekd.export.placement import edge_layers, free_conv_branch, not_residual, preprocessing
from edgekd.files import written

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
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
    percentile: float = 99.99,
    keep: Sequence[str] = (),
) -> None:
    """Writes the INT8 graph, calibrated on pixels of generated images (N, C, H, W): per-channel int8 weights.

    method: of METHODS; percentile: of absolute values, in percent, for that method. With its 128 bins onnxruntime's
    entropy finds the extremes for activations around zero, as minmax does. keep: layers that stay fp32, of "first" and
    "last"; none by default. Normalisation stays fp32.
    Never call it with noise: a ResNet-18 calibrated so falls from 70 to 8 % on ImageNet.
    """
    model = onnx.load(fp32)
    excluded = {*preprocessing(model), *edge_layers(model, keep)}
    extra: dict[str, Any] = {"ActivationSymmetric": scheme.activations == "int8", "WeightSymmetric": True}
    extra["CalibPercentile"] = percentile
    if scheme.whole_graph:
        kinds = None  # all that ONNX Runtime has integer kernels for
        excluded |= {node.name for node in model.graph.node if node.op_type == "BatchNormalization"}  # it has none
    else:
        kinds = [*WEIGHTED, "Add"]
        excluded |= set(not_residual(model))
        extra |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": kinds}
        extra["AddQDQPairToWeight"] = not scheme.stored_weights
    with quiet(), redirect_stdout(io.StringIO()), written(path) as temporary:  # it prints, and stdout is the document's
        quantize_static(
            model,
            temporary,
            _Reader(calibration, model),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            nodes_to_exclude=sorted(excluded),
            per_channel=True,
            activation_type=QuantType.QInt8 if scheme.activations == "int8" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options=extra,
        )
        graph = onnx.load(temporary)
        if not scheme.whole_graph:
            free_conv_branch(graph)
        tidy(graph)
        describe_like(graph, onnx.load(fp32, load_external_data=False), "int8")
        onnx.save_model(graph, temporary)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Images in batches as the graph takes them."""

    def __init__(self, pixels: Pixels, model: onnx.ModelProto) -> None:
        entry = model.graph.input[0]
        self.name, kind = entry.name, entry.type.tensor_type
        self.kind = np.uint8 if kind.elem_type == onnx.TensorProto.UINT8 else np.float32
        fixed = kind.shape.dim[0].dim_value
        parts = np.array_split(pixels, max(1, len(pixels) // 32))
        if fixed:
            parts = [pixels[np.arange(at, at + fixed) % len(pixels)] for at in range(0, len(pixels), fixed)]
        self.batches: Iterator[Pixels] = iter(parts)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch.astype(self.kind)}
