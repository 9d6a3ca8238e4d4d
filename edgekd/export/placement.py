"""Where Q/DQ pairs belong in a graph, and where not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
from onnx import NodeProto

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def preprocessing(model: onnx.ModelProto) -> Iterator[str]:
    """Names of the nodes in front of the first operator with weights: what makes pixels into images."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Cast", "Mul", "Add", "Sub", "Div"):
            return
        if not any(name in constants for name in node.input) and node.op_type != "Cast":
            return
        yield node.name


def edge_layers(model: onnx.ModelProto, which: Iterable[str]) -> list[str]:
    """Names of the "first" and the "last" operator with weights, as far as `which` names them."""
    weighted = [node.name for node in model.graph.node if node.op_type in WEIGHTED]
    chosen = {"first": weighted[:1], "last": weighted[-1:]}
    return [name for each in which for name in chosen[each]]


def not_residual(model: onnx.ModelProto) -> Iterator[str]:
    """Names of the sums that add a constant: a bias, not a skip connection."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Add" and any(name in constants for name in node.input):
            yield node.name


def free_conv_branch(graph: onnx.ModelProto) -> None:
    """Takes the Q/DQ pair off one input of every residual sum, in place: the one that a convolution gives it.

    TensorRT fuses a convolution with the sum behind it where the sum's other input is int8 and nothing stands between
    the two. Sums without a convolution right in front keep both pairs.
    """
    maker = {name: node for node in graph.graph.node for name in node.output}
    for node in graph.graph.node:
        if node.op_type != "Add":
            continue
        dequantised = [maker.get(name) for name in node.input]
        if any(d is None or d.op_type != "DequantizeLinear" for d in dequantised):
            continue
        for place, pair in enumerate(dequantised):
            assert pair is not None
            source = maker[pair.input[0]].input[0] if pair.input[0] in maker else ""
            if source in maker and maker[source].op_type in WEIGHTED:
                node.input[place] = source
                break
    _drop_unread(graph)


def free_output(graph: onnx.ModelProto) -> None:
    """Takes the Q/DQ pair off the outputs of the graph, in place, where a weighted operator or a sum gives them."""
    maker = {name: node for node in graph.graph.node for name in node.output}
    for output in graph.graph.output:
        dequantised = maker[output.name]
        quantised = maker.get(dequantised.input[0])
        if dequantised.op_type != "DequantizeLinear" or quantised is None or quantised.op_type != "QuantizeLinear":
            continue
        source = maker[quantised.input[0]]
        read = sum(quantised.input[0] in node.input for node in graph.graph.node)
        if source.op_type not in (*WEIGHTED, "Add") or read > 1:
            continue
        source.output[0] = output.name
        graph.graph.node.remove(dequantised)
        graph.graph.node.remove(quantised)


def _drop_unread(graph: onnx.ModelProto) -> None:
    """Removes Q and DQ nodes that nothing reads any more."""
    outputs = [output.name for output in graph.graph.output]
    while True:
        readers: Counter[str] = Counter([name for node in graph.graph.node for name in node.input] + outputs)
        unread = [n for n in graph.graph.node if _is_pair(n) and not any(readers[name] for name in n.output)]
        if not unread:
            return
        for node in unread:
            graph.graph.node.remove(node)


def _is_pair(node: NodeProto) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear")
