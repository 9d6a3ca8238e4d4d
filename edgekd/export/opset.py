"""Graphs of opset 18 for runtimes that read an older one, and without what no runtime reads."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

DYNAMO_OPSET = 18  # the lowest that torch.onnx.export(dynamo=True) writes itself
SAME = ("Add", "Sub", "Mul", "Div", "Relu", "Identity")  # newer versions only take more types


def lower(graph: onnx.ModelProto, opset: int) -> None:
    """Rewrites a graph of opset 18 for an older one in place. onnx's own converter has no way down for these operators.

    Raises ValueError for an operator whose meaning changed in between and that is not known here.
    """
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes = [older for node in graph.graph.node for older in _older(node, opset, constants)]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    del graph.opset_import[:]
    graph.opset_import.append(helper.make_opsetid("", opset))


def tidy(graph: onnx.ModelProto) -> None:
    """Takes out, in place, what speaks of the exporter alone, constants that nothing reads, and too new an IR version.

    The exporter notes source files and lines at every node; IR versions before 10 have no place for that.
    """
    used = {name for node in graph.graph.node for name in node.input} | {o.name for o in graph.graph.output}
    for place in reversed(range(len(graph.graph.initializer))):  # extending a list anew would copy every weight
        if graph.graph.initializer[place].name not in used:
            del graph.graph.initializer[place]
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del graph.graph.metadata_props[:]
    graph.graph.doc_string = graph.doc_string = ""
    graph.ir_version = helper.find_min_ir_version_for(graph.opset_import)


def _older(node: NodeProto, opset: int, constants: Mapping[str, TensorProto]) -> list[NodeProto]:
    """The node as opset `opset` writes it."""
    now = onnx.defs.get_schema(node.op_type, DYNAMO_OPSET).since_version
    if node.op_type == "HardSwish" and opset < 14:  # came with 14: x * max(0, min(1, x / 6 + 0.5))
        gate = f"{node.output[0]}_gate"
        return [
            helper.make_node("HardSigmoid", [node.input[0]], [gate], f"{node.name}_gate", alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [node.input[0], gate], [node.output[0]], node.name),
        ]
    if onnx.defs.get_schema(node.op_type, opset).since_version == now or node.op_type in SAME:
        return [node]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in ("ReduceMean", "ReduceMax") and node.input[1] in constants:  # axes were an attribute before 18
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        kept = [a for a in node.attribute if a.name == "keepdims"]
        del node.input[1:], node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("axes", axes)])
    elif node.op_type == "Reshape" and (
        not attributes.get("allowzero")
        or (node.input[1] in constants and numpy_helper.to_array(constants[node.input[1]]).all())
    ):  # allowzero came with 14; without a zero in the shape it says nothing
        del node.attribute[:]
    elif node.op_type == "BatchNormalization" and not attributes.get("training_mode"):  # came with 14
        kept = [a for a in node.attribute if a.name != "training_mode"]
        del node.attribute[:]
        node.attribute.extend(kept)
    elif not (node.op_type == "Pad" and len(node.input) < 4):  # axes came with 18
        raise ValueError(f"{node.op_type} of opset {DYNAMO_OPSET} has no known form in opset {opset}")
    return [node]
