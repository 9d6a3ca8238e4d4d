"""A graph against the rules of TensorRT's ONNX parser (tensorrt_rules.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgekd.export import tensorrt_rules as rules
from edgekd.export.findings import Finding
from edgekd.export.tensorrt_rules import Version

WHOLE = (TensorProto.INT32, TensorProto.INT64)


@dataclass(frozen=True)
class Graph:
    """A graph with what the rules ask of it."""

    model: onnx.ModelProto
    constants: dict[str, TensorProto]
    kinds: dict[str, int]  # name -> element type, where it is known
    maker: dict[str, NodeProto]  # name -> node that computes it

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of a constant, a Constant node's too; None for what is computed."""
        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        node = self.maker.get(name)
        if node is None or node.op_type != "Constant" or node.attribute[0].name != "value":
            return None
        return numpy_helper.to_array(node.attribute[0].t)


def findings(model: onnx.ModelProto, version: Version) -> Iterator[Finding]:
    """Every breach of the rules of a version of OPSETS."""
    graph = _graph(model)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset > rules.OPSETS[version]:
        rule = f"opset {opset} is newer than {rules.OPSETS[version]}"
        yield Finding("", "graph", rule, rules.OPSET_SOURCE.format(rules.branch(version)))
    yield from _types(graph, version)
    operators = rules.collected(rules.OPERATORS, version)
    table = rules.TABLE.format(rules.branch(version))
    for node in model.graph.node:
        if node.op_type not in operators:
            yield Finding(node.name, node.op_type, "the parser does not have this operator", table)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield from _pair(node, graph, version)
        else:
            yield from _data(node, graph, version, table)
            yield from _attributes(node, graph, version, table)


def _graph(model: onnx.ModelProto) -> Graph:
    typed = onnx.shape_inference.infer_shapes(model)
    values = (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    maker = {name: node for node in model.graph.node for name in node.output}
    return Graph(model, {t.name: t for t in model.graph.initializer}, kinds, maker)


def _types(graph: Graph, version: Version) -> Iterator[Finding]:
    """Types of inputs and constants."""
    model = graph.model
    for value in model.graph.input:
        if graph.kinds[value.name] == TensorProto.UINT8 and version < rules.FIRST_UINT8:
            yield Finding(value.name, "input", "uint8 is no type of an input before 8.5", rules.UINT8_SOURCE)
    edges = {v.name for v in (*model.graph.input, *model.graph.output)}
    for name, node in graph.maker.items():
        if graph.kinds.get(name) == TensorProto.UINT8 and name not in edges and node.op_type != "QuantizeLinear":
            yield Finding(node.name, node.op_type, "uint8 is for inputs and outputs alone", rules.UINT8_SOURCE)
    if version >= rules.FIRST_INT64:
        return
    ends = {name for node in model.graph.node if node.op_type == "Slice" for name in node.input[1:3]}
    for name, tensor in graph.constants.items():
        if tensor.data_type == TensorProto.INT64 and name not in ends:  # a slice to the end is clamped to the end
            values = numpy_helper.to_array(tensor)
            if values.size and max(abs(int(values.min())), abs(int(values.max()))) > 2**31 - 1:
                yield Finding(name, "constant", "int64 is clamped to int32 and does not fit", rules.INT64_SOURCE)


def _data(node: NodeProto, graph: Graph, version: Version, table: str) -> Iterator[Finding]:
    if not node.input:
        return
    kind = graph.kinds.get(node.input[0])
    if kind in WHOLE and node.op_type not in rules.collected(rules.INTEGERS, version):
        yield Finding(node.name, node.op_type, "its data are integers; the parser takes floats there", table)
    to = next((a.i for a in node.attribute if a.name == "to"), None)
    if node.op_type == "Cast" and kind == TensorProto.UINT8 and to not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        yield Finding(node.name, "Cast", "uint8 is cast to floats alone", rules.UINT8_CAST)


def _attributes(node: NodeProto, graph: Graph, version: Version, table: str) -> Iterator[Finding]:
    """Attributes and inputs that the support matrix restricts."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    problem = ""
    place = rules.CONSTANT_INPUTS.get(node.op_type)
    if node.op_type in rules.CONSTANT_AXES and version >= (9, 3):  # before, opsets have axes as an attribute
        place = 1
    if place is not None and len(node.input) > place and node.input[place]:
        problem = "" if graph.constant(node.input[place]) is not None else "axes must be a constant"
    elif node.op_type == "Slice" and version < (10, 6) and len(node.input) > 3 and node.input[3]:
        problem = "" if graph.constant(node.input[3]) is not None else "axes must be a constant"
    elif node.op_type in ("MaxPool", "AveragePool", "LpPool"):
        if not 2 <= len(attributes.get("kernel_shape", (1, 1))) <= 3 and node.op_type != "LpPool":
            problem = "it pools in two or three dimensions only"
        elif version >= (10, 0) and any(d != 1 for d in attributes.get("dilations", ())):
            problem = "dilations must be ones"
        elif node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
            problem = "the output of indices is not given"
    elif node.op_type == "Resize":
        chosen = {name: attributes[name].decode() for name in rules.RESIZE if name in attributes}
        wrong = [f"{name} {value!r}" for name, value in chosen.items() if value not in rules.RESIZE[name]]
        problem = f"{wrong[0]} is not known" if wrong else ""
        problem = problem or ("antialias is not known" if attributes.get("antialias") else "")
    elif node.op_type == "LayerNormalization" and len([name for name in node.output if name]) > 1:
        problem = "only its first output is given"
    elif node.op_type == "TopK" and version < (8, 6) and graph.constant(node.input[1]) is None:
        problem = "k must be a constant"
    elif node.op_type == "Conv" and version < (8, 5) and len(attributes.get("kernel_shape", (1, 1))) not in (2, 3):
        problem = "it convolves in two or three dimensions only"
    if problem:
        yield Finding(node.name, node.op_type, problem, table)


def _pair(node: NodeProto, graph: Graph, version: Version) -> Iterator[Finding]:
    """A QuantizeLinear or DequantizeLinear: types, scale, zero point, axis, and where it stands."""
    quantises = node.op_type == "QuantizeLinear"
    zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    scale = graph.constant(node.input[1])
    kind = graph.kinds.get(node.input[2] if quantises and len(node.input) > 2 else node.input[0])
    broken: list[tuple[bool, str, str]] = [
        (
            version < rules.FIRST_WITHOUT_ZERO_POINT and len([name for name in node.input if name]) != 3,
            "it wants three inputs, the zero point too",
            rules.PAIR_INPUTS,
        ),
        (
            zero is not None and bool(np.any(np.asarray(zero) != 0)),
            "its zero point must be 0",
            rules.PAIR_ZERO.format(rules.branch(version)),
        ),
        (
            kind is not None and kind != TensorProto.INT8,
            f"it must be int8, not {_name(kind)}" + (", a bias stays in floats" if kind == TensorProto.INT32 else ""),
            rules.PAIR_INT8,
        ),
        (scale is None, "its scale must be a constant", rules.PAIR_SCALE),
        (scale is not None and not bool(np.all(scale > 0)), "its scales must be above 0", rules.PAIR_SCALE),
        (
            scale is not None and scale.dtype != np.float32 and version < rules.FIRST_SCALE_FP16,
            "its scale must be fp32",
            rules.PAIR_SCALE_FP32,
        ),
        (
            scale is not None and zero is not None and scale.size != np.asarray(zero).size,
            "scale and zero point must be of one size",
            rules.PAIR_SCALE,
        ),
        (
            quantises and version < rules.FIRST_PAIR_FP16 and graph.kinds.get(node.input[0]) == TensorProto.FLOAT16,
            "its input must be fp32",
            rules.PAIR_INPUT_FP32,
        ),
        (
            not quantises and version < rules.FIRST_STORED_INT8 and node.input[0] in graph.constants,
            "constants must be fp32 with a QuantizeLinear behind them",
            rules.STORED_INT8,
        ),
    ]
    yield from (Finding(node.name, node.op_type, rule, source) for breach, rule, source in broken if breach)
    if scale is not None and scale.size > 1:
        yield from _per_channel(node, graph, scale)


def _per_channel(node: NodeProto, graph: Graph, scale: NDArray[Any]) -> Iterator[Finding]:
    """Scales by channel are for constants, along their first dimension where a convolution reads them."""
    source = node.input[0]
    if node.op_type == "DequantizeLinear" and source in graph.maker:
        source = graph.maker[source].input[0]
    value = graph.constant(source)
    if value is None:
        yield Finding(node.name, node.op_type, "scales by channel are for weights alone", rules.PAIR_CHANNEL)
        return
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % value.ndim
    if value.shape[axis] != scale.size:
        rule = f"it has {scale.size} scales for {value.shape[axis]} channels"
        yield Finding(node.name, node.op_type, rule, rules.PAIR_SCALE)
    reads = [n for n in graph.model.graph.node if node.output[0] in n.input and n.op_type == "Conv"]
    if reads and axis != 0:
        yield Finding(node.name, node.op_type, "weights of a convolution have scales along axis 0", rules.PAIR_CHANNEL)


def _name(kind: int | None) -> str:
    return TensorProto.DataType.Name(kind).lower() if kind else "of no known type"
