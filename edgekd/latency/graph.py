"""The fused layers of an ONNX graph, fp32 or with explicit QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from edgekd.errors import InputError
from edgekd.latency.fusion import Fusion, Shape
from edgekd.types import Layer

VIEWS = {
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "Expand", "QuantizeLinear",
    "DequantizeLinear", "Gather",
}  # fmt: skip
COPIES = {"Transpose", "Split", "Slice", "Pad"}
POOLS = {
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum",
}  # fmt: skip
ELEMENTWISE = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish",
    "Tanh", "Clip", "Softplus", "Softsign", "Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sqrt", "Exp", "Log",
    "Erf", "Neg", "Abs", "Reciprocal", "BatchNormalization",
}  # fmt: skip


def read_graph(path: Path) -> tuple[list[Layer], int]:
    """(fused layers of one image in the order of the graph, numbers in its constants of floating point or int8).

    Raises InputError for a file that is no ONNX graph, or one whose shapes cannot be inferred.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        for value in model.graph.input:
            _one_image(value)
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # protobuf and onnx raise their own kinds
        raise InputError(f"{path} is not a whole ONNX graph", code="E0351", why=str(error).strip()) from error
    return _read(model.graph, path)


def _read(graph: Any, path: Path) -> tuple[list[Layer], int]:
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    weights = set(constants) - {n for node in graph.node for n in node.input[1:] if node.op_type in VIEWS}
    shapes: dict[str, Shape] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else 1 for d in tensor.shape.dim)
    fusion = Fusion()
    for value in graph.input:
        if value.name not in constants:
            fusion.begin(value.name, shapes[value.name])
    for node in graph.node:
        sources = [name for name in node.input if fusion.knows(name)]
        if not sources:
            if node.op_type in ("DequantizeLinear", "Identity", "Cast", "Constant") and node.input:
                constants[node.output[0]] = constants.get(node.input[0], ())
            continue
        if node.op_type in ("Shape", "Size"):
            continue  # numbers about shapes
        if any(name not in shapes for name in node.output if name):
            raise InputError(
                f"{path}: the shape of {node.output[0]!r} ({node.op_type}) is not known",
                code="E0353",
                why="ONNX shape inference gives none",
                fix="export the network with fixed sizes, only the batch may vary",
            )
        _take(fusion, node, sources, shapes, constants)
    floats = {1, 10, 11, 16, 3}  # FLOAT, FLOAT16, DOUBLE, BFLOAT16, INT8 of onnx.TensorProto
    numbers = sum(prod(t.dims) for t in graph.initializer if t.data_type in floats and t.name in weights)
    return fusion.layers, numbers


def _take(fusion: Fusion, node: Any, sources: list[str], shapes: dict[str, Shape], constants: dict[str, Shape]) -> None:
    made = [(name, shapes[name]) for name in node.output if name]
    key, shape = made[0]
    attributes = {a.name: a for a in node.attribute}
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose"):
        groups = attributes["group"].i if "group" in attributes else 1
        weight = constants[node.input[1]]
        name = node.input[1].removesuffix(".weight")
        fusion.weighted(sources[0], key, shape, weight, name=name, groups=groups, bias=len(node.input) > 2)
    elif kind in ("Gemm", "MatMul") and node.input[1] in constants and len(constants[node.input[1]]) == 2:
        first, second = constants[node.input[1]]
        weight = (second, first) if "transB" in attributes and attributes["transB"].i else (first, second)
        name = node.input[1].removesuffix(".weight")
        fusion.weighted(sources[0], key, shape, weight, name=name, groups=1, bias=len(node.input) > 2)
    elif kind == "MatMul":
        known = [fusion.sizes[name] for name in sources]
        inner = shapes[node.input[0]][-1] if node.input[0] in shapes else known[0]
        fusion.product(sources, key, shape, prod(shape[1:]) * inner)
    elif kind in VIEWS:
        fusion.view(sources[0], key, shape)
    elif kind in ELEMENTWISE:
        fusion.elementwise(sources, key, shape)
    else:
        operator = "copy" if kind in COPIES else "pool" if kind in POOLS else "concat" if kind == "Concat" else "other"
        fusion.launch(operator, sources, made if kind in COPIES else made[:1])


def _one_image(value: Any) -> None:
    dimensions = value.type.tensor_type.shape.dim
    if dimensions and not (dimensions[0].HasField("dim_value") and dimensions[0].dim_value > 0):
        dimensions[0].Clear()
        dimensions[0].dim_value = 1
