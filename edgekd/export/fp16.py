"""fp16 graphs: what fp16 cannot hold stays fp32, found by running the fp32 graph on images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgekd.export.fp32 import quiet
from edgekd.export.metadata import describe_like
from edgekd.export.network import Pixels
from edgekd.export.opset import tidy
from edgekd.export.running import at_once, float_tensors, runner
from edgekd.files import written

LARGEST = 65504.0  # finite number of fp16
HEADROOM = 2.0  # other images may go further than those it was measured on
ROUNDING = 1e-3  # relative; normal numbers of fp16 give about 2e-4, more means that many lie below 6e-5
SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool")  # may add in fp16 before they divide


@dataclass(frozen=True)
class Range:
    """What fp16 would make of a tensor."""

    largest: float  # absolute value
    rounding: float  # root of the squared errors over that of the squared values; 0: nothing is lost
    elements: int  # of one image, or of a constant


def export_fp16(fp32: Path, path: Path, pixels: Pixels) -> tuple[str, ...]:
    """Writes the fp16 graph; its input and logits stay as they are. Gives the nodes that stay fp32.

    pixels: images (N, C, H, W) like those that it will see; they decide which nodes stay. A node stays fp32 where a
    tensor at it comes within HEADROOM of what fp16 holds or loses more than ROUNDING.
    """
    model = onnx.load(fp32)
    kept = islands(model, measure_ranges(model, pixels))
    with quiet():
        graph = convert_float_to_float16(model, keep_io_types=True, node_block_list=list(kept))
    source = onnx.load(fp32)  # the converter works in place
    _keep_islands_whole(graph, source)
    ONNXModel(graph).topological_sort()  # the casts were put at the end
    del graph.graph.value_info[:]  # wrong for what stays fp32
    graph = onnx.shape_inference.infer_shapes(graph)
    tidy(graph)
    onnx.checker.check_model(graph, full_check=True)
    describe_like(graph, source, "fp16")
    with written(path) as temporary:
        onnx.save_model(graph, temporary)
    return kept


def islands(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> tuple[str, ...]:
    """Names of the nodes that fp16 cannot compute: those with a tensor that it cannot hold, in the graph's order."""
    found = []
    for node in model.graph.node:
        at_it = [ranges[name] for name in (*node.input, *node.output) if name in ranges]
        bad = any(r.largest * HEADROOM > LARGEST or r.rounding > ROUNDING for r in at_it)
        if node.op_type in SUMS and node.input[0] in ranges and node.output[0] in ranges:
            before, after = ranges[node.input[0]], ranges[node.output[0]]
            bad = bad or after.largest * before.elements / max(1, after.elements) * HEADROOM > LARGEST
        if bad:
            found.append(node.name)
    return tuple(found)


def _keep_islands_whole(graph: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Takes out, in place, the fp16 that the converter leaves inside islands.

    It casts what one fp32 node hands to another to fp16 and back, and rounds their constants: what they were kept for.
    """
    maker = {name: node for node in graph.graph.node for name in node.output}
    exact = {t.name: t for t in source.graph.initializer if t.data_type == TensorProto.FLOAT}
    outputs = {output.name for output in graph.graph.output}
    instead: dict[str, str] = {}
    for node in graph.graph.node:
        if node.op_type != "Cast" or node.attribute[0].i != TensorProto.FLOAT:
            continue
        (name,), before = node.input, maker.get(node.input[0])
        if name in exact:
            instead[node.output[0]] = f"{name} exact"
            if f"{name} exact" not in {t.name for t in graph.graph.initializer}:
                graph.graph.initializer.append(exact[name])
                graph.graph.initializer[-1].name = f"{name} exact"
        elif before is not None and before.op_type == "Cast" and before.attribute[0].i == TensorProto.FLOAT16:
            instead[node.output[0]] = before.input[0]
    for node in graph.graph.node:
        if node.output[0] in instead and node.output[0] in outputs:
            node.CopyFrom(onnx.helper.make_node("Identity", [instead[node.output[0]]], list(node.output), node.name))
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
    used = {name for node in graph.graph.node for name in node.input} | outputs
    while unread := [n for n in graph.graph.node if n.op_type == "Cast" and n.output[0] not in used]:
        for node in unread:
            graph.graph.node.remove(node)
        used = {name for node in graph.graph.node for name in node.input} | outputs


def measure_ranges(model: onnx.ModelProto, pixels: Pixels) -> dict[str, Range]:
    """Range of every float tensor of an fp32 graph on images (N, C, H, W), constants among them."""
    names = float_tensors(model)
    run = runner(model, names)
    first = run(pixels[:1])
    step = at_once(first)
    largest = dict.fromkeys(names, 0.0)
    lost, power = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for at in range(0, len(pixels), step):
        for name, array in run(pixels[at : at + step]).items():
            error, squared = _lost(array)
            largest[name] = max(largest[name], float(np.abs(array).max(initial=0.0)))
            lost[name], power[name] = lost[name] + error, power[name] + squared
    found = {n: Range(largest[n], _relative(lost[n], power[n]), first[n].size) for n in names}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            found[tensor.name] = Range(float(np.abs(array).max(initial=0.0)), _relative(*_lost(array)), array.size)
    return found


def _lost(array: NDArray[np.float32]) -> tuple[float, float]:
    """Squared error of rounding to fp16, what overflows left out, and the squares themselves."""
    values = array.astype(np.float64).ravel()
    with np.errstate(over="ignore"):
        gap = array.astype(np.float16).astype(np.float64).ravel() - values
    gap = gap[np.isfinite(gap)]
    return float(gap @ gap), float(values @ values)


def _relative(lost: float, power: float) -> float:
    return (lost / power) ** 0.5 if power else 0.0
