"""Graphs run by ONNX Runtime on the CPU: logits, and any tensors on the way to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.network import Logits, Pixels
from edgekd.room import PASS, per_pass

HELD_BYTES = 200_000_000  # of all tensors that one run gives

Tensors = dict[str, NDArray[np.float32]]  # by name


def onnx_logits(graph: Path, pixels: Pixels) -> Logits:
    """Logits of a graph that edgekd wrote, by ONNX Runtime on the CPU.

    An fp16 graph is run as `rounded` makes it: ONNX Runtime's CPU computes fp16 graphs in fp32 and leaves out the
    rounding in between, so that what overflows on a GPU would not show.
    """
    return model_logits(onnx.load(graph), pixels)


def model_logits(model: onnx.ModelProto, pixels: Pixels) -> Logits:
    """As onnx_logits, of a graph in memory."""
    run = runner(model, ["logits"], optimise=True)
    part = per_pass(pixels[0].size)
    return np.concatenate([run(pixels[at : at + part])["logits"] for at in range(0, len(pixels), part)])


def runner(model: onnx.ModelProto, names: Sequence[str], *, optimise: bool = False) -> Callable[[Pixels], Tensors]:
    """Gives what takes images to the named tensors of a graph, as float32; a graph of a fixed batch takes any number.

    optimise: lets ONNX Runtime fuse, as on a device. Without, every node is computed as the graph says.
    """
    model = rounded(model) if halves(model) else _copy(model)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")  # as targets/onnxrt.py: AVX2 saturates otherwise
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    kind = np.uint8 if entry.type == "tensor(uint8)" else np.float32
    fixed = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def run(pixels: Pixels) -> Tensors:
        parts = []
        for at in range(0, len(pixels), fixed or len(pixels)):
            part = pixels[at : at + (fixed or len(pixels))]
            fed = part if fixed is None else part[np.resize(np.arange(len(part)), fixed)]  # the last may lack images
            found = session.run(list(names), {entry.name: fed.astype(kind)})
            parts.append([np.atleast_1d(array)[: len(part)].astype(np.float32) for array in found])
        return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}

    return run


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors of float32 that the nodes of a graph compute, in its order."""
    typed = onnx.shape_inference.infer_shapes(model)
    values = (*typed.graph.value_info, *typed.graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [name for node in model.graph.node for name in node.output if name in floats]


def at_once(of_one: Tensors) -> int:
    """How many images may be run together when the tensors of one image are `of_one`, 1 to PASS."""
    return max(1, min(PASS, HELD_BYTES // max(1, sum(array.nbytes for array in of_one.values()))))


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """An fp16 graph in fp32 that rounds every tensor which is fp16 in it to fp16, above 65,504 to infinity.

    Sums inside an operator stay fp32, as tensor cores add. Names of tensors stay.
    """
    model = onnx.shape_inference.infer_shapes(model)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = []
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
        if node.op_type == "Cast" and node.attribute[0].i in (TensorProto.FLOAT, TensorProto.FLOAT16):
            kinds[node.output[0]] = node.attribute[0].i
            node.attribute[0].i = TensorProto.FLOAT
        nodes.append(node)
        for place, name in enumerate(node.output):
            if kinds.get(name) == TensorProto.FLOAT16:
                exact, half = f"{name} exact", f"{name} fp16"
                node.output[place] = exact
                nodes.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model


def halves(model: onnx.ModelProto) -> bool:
    """Whether anything in the graph is fp16."""
    casts = (n for n in model.graph.node if n.op_type == "Cast" and n.attribute[0].i == TensorProto.FLOAT16)
    return any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer) or any(casts)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other
