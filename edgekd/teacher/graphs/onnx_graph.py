"""ONNX classifiers as nodes of edgekd.program: differentiable, with BatchNorm and the classifier where they were.

Each ONNX operator is translated to aten's (onnx_layers.py, onnx_operators.py). While that is done every value is
followed on the meta device for one batch, so that shapes are known; what depends on constants alone is computed.
Sizes that so became numbers are opened again for any batch (batch.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch
from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.teacher.content import Content
from edgekd.teacher.graphs import batch, onnx_file
from edgekd.teacher.graphs.decomposed import needed
from edgekd.teacher.graphs.onnx_builder import Builder, Operation, Value
from edgekd.teacher.graphs.onnx_layers import LAYERS
from edgekd.teacher.graphs.onnx_operators import OPERATORS, REFUSED
from edgekd.teacher.graphs.onnx_shapes import SHAPES
from edgekd.types import Images

KNOWN = {**OPERATORS, **LAYERS, **SHAPES}
EXAMPLES = (3, 1)  # batches that a graph with an open one is followed with; 1 where it was traced with one image
OPEN_SIDE = 224  # pixels, where the graph does not say how large its images are


@dataclass(frozen=True)
class Entry:
    """The graph's input: its name, the batch it was made for (None: open), its size, and whether channels are last."""

    name: str
    batch: int | None
    size: tuple[int, int, int]  # channels, height, width
    channels_last: bool
    notes: list[str] = field(default_factory=list)


def read(path: Path) -> Content:
    """Reads an ONNX classifier. Raises TeacherError: those of onnx_file.parse, E0322 for an operator that is not known,
    E0327 for a graph that is no classifier of images."""
    try:
        return _read(path)
    except TeacherError:
        raise
    except Exception as error:  # onnx's own helpers raise many kinds on fields that contradict each other
        raise onnx_file.damaged(str(path), error) from error


def _read(path: Path) -> Content:
    model = onnx_file.parse(path)
    stored = {tensor.name: onnx_file.to_torch(tensor) for tensor in model.graph.initializer}
    entry = _entry(model.graph, stored)
    facts = {p.key: p.value for p in model.metadata_props}
    own = onnx_file.own_images(facts, path)
    examples = EXAMPLES if entry.batch is None else (entry.batch,)
    for number, count in enumerate(examples):
        last = number == len(examples) - 1
        try:
            builder, logits = _translated(model, stored, entry, count)
            images = _without_normalisation(builder, own) if own is not None else None
            nodes = needed([*builder.nodes, ["output", logits.name]])
            nodes, opened = batch.free(nodes, builder.tensors, entry.size, count)
        except TeacherError:
            if last:
                raise
            continue
        if nodes[0][0] != "part":
            break
    notes = [*entry.notes, *builder.notes]
    if opened and (entry.batch is not None or nodes[0][0] == "part"):
        notes.append(opened)
    classes, more = onnx_file.class_names(facts, path=path, classes=logits.shape[-1])
    used = {node[2] for node in nodes if node[0] == "tensor"}
    tensors = {name: tensor for name, tensor in builder.tensors.items() if name in used}
    return Content(
        format="onnx", tensors=tensors, nodes=nodes, size=entry.size, images=images, classes=classes,
        notes=(*notes, *more),
    )  # fmt: skip


def _entry(graph: onnx.GraphProto, stored: dict[str, Tensor]) -> Entry:
    """What the graph is fed. Files before IR 4 list their weights as inputs too."""
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise no_classifier(f"it takes {len(inputs)} inputs: {', '.join(v.name for v in inputs)[:200]}")
    kind = inputs[0].type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
    if len(dims) != 4 or onnx_file.KINDS.get(kind.elem_type) not in ("float32", "float16", "float64", "bfloat16"):
        raise no_classifier(f"its input {inputs[0].name!r} has the shape {dims}; images are floats of (N, C, H, W)")
    last = dims[1] not in (1, 3, 4) and dims[3] in (1, 3, 4)
    count, channels, height, width = (dims[0], dims[3], dims[1], dims[2]) if last else dims
    notes = []
    if None in (height, width):
        notes.append(f"the graph does not say the size of its images; {OPEN_SIDE}x{OPEN_SIDE} was assumed")
    if channels is None:
        channels = _channels(graph, stored, inputs[0].name)
    return Entry(inputs[0].name, count, (channels, height or OPEN_SIDE, width or OPEN_SIDE), last, notes)


def _channels(graph: onnx.GraphProto, stored: dict[str, Tensor], name: str) -> int:
    """Channels as the first convolution has them."""
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] == name and node.input[1] in stored:
            return stored[node.input[1]].shape[1]
    return 3


def no_classifier(why: str) -> TeacherError:
    return TeacherError("the ONNX graph is no classifier of images", code="E0327", why=why, fix=onnx_file.FLOAT)


def _translated(model: onnx.ModelProto, stored: dict[str, Tensor], entry: Entry, count: int) -> tuple[Builder, Value]:
    """The graph by aten's operators, for `count` images, and its logits."""
    graph, builder = model.graph, Builder(count)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    builder.names |= {n for node in graph.node for n in node.output} | stored.keys() | {entry.name}
    values: dict[str, Value] = {name: builder.constant(tensor, name) for name, tensor in stored.items()}
    values[entry.name] = Value(torch.empty(count, *entry.size, device="meta"), entry.name, False)
    builder.nodes.append(["input", entry.name])
    for name in [n for node in graph.node for n in node.input] + [o.name for o in graph.output]:
        builder.uses[name] = builder.uses.get(name, 0) + 1
    if entry.channels_last:
        builder.wanted = f"{entry.name} channels last"
        values[entry.name] = builder.call("aten.permute.default", values[entry.name], [0, 2, 3, 1])
    for node in graph.node:
        if node.op_type not in KNOWN or node.domain not in ("", "ai.onnx"):
            raise TeacherError(
                f"the graph uses the operator {node.op_type!r} at {node.name or node.output[0]!r}",
                code="E0322",
                why=REFUSED.get(node.op_type, "edgekd runs the operators of image classifiers, and not this one"),
                fix="hand in the checkpoint with --arch, or save the teacher with edgekd.save_teacher",
            )
        builder.wanted = next(name for name in node.output if name)
        builder.names.discard(builder.wanted)  # its first value may have its name
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        try:
            operation = Operation([values[n] if n else None for n in node.input], attributes, len(node.output), opset)
            results = KNOWN[node.op_type](builder, operation)
        except TeacherError:
            raise
        except Exception as error:  # whatever operators raise on arguments that do not fit
            line = (str(error).strip().splitlines() or [""])[0]
            why = f"{type(error).__name__}: {line}"[:300]
            raise no_classifier(f"{node.op_type} {node.name or node.output[0]!r}: {why}") from error
        for name, value in zip(node.output, results if isinstance(results, list) else [results], strict=False):
            values[name] = value
    return builder, _logits(graph, values, builder, count)


def _logits(graph: onnx.GraphProto, values: dict[str, Value], builder: Builder, count: int) -> Value:
    """The first output of shape (N, K), or one of (N, K, 1, 1) made so."""
    outputs = [values[o.name] for o in graph.output if o.name in values and not values[o.name].constant]
    flat = [v for v in outputs if len(v.shape) == 2] or [v for v in outputs if math.prod(v.shape[2:]) == 1]
    if not flat or len(flat[0].shape) < 2 or flat[0].shape[0] != count:
        raise no_classifier(f"its outputs have the shapes {[v.shape for v in outputs]}; logits are (N, K)")
    if len(graph.output) > 1:
        builder.notes.append(f"the graph has {len(graph.output)} outputs; {flat[0].name!r} is taken for the logits")
    builder.wanted = f"{flat[0].name} flat"
    logits = flat[0] if len(flat[0].shape) == 2 else builder.call("aten.flatten.using_ints", flat[0], 1, -1)
    assert isinstance(logits, Value)
    return logits


def _without_normalisation(builder: Builder, images: Images) -> Images:
    """Takes the normalisation that edgekd.export put in front out of the nodes, so that `images` is what is fed.

    Where it is not found in its usual place, it stays, and the images are said to be pixels 0..255.
    """
    calls = [node for node in builder.nodes if node[0] == "call"][:2]
    (entry,) = (node[1] for node in builder.nodes if node[0] == "input")
    wanted = [1 / (255 * torch.tensor(images.std)), -torch.tensor(images.mean) / torch.tensor(images.std)]
    before = entry
    for node, target, numbers in zip(calls, ("aten.mul.Tensor", "aten.add.Tensor"), wanted, strict=False):
        held = [builder.tensors.get(a["node"]) for a in node[3] if isinstance(a, dict)]
        found = next((t for t in held if t is not None), None)
        if node[2] != target or {"node": before} not in node[3] or found is None or found.numel() != numbers.numel():
            break
        if not torch.allclose(found.flatten(), numbers, rtol=1e-5, atol=1e-7):
            break
        before = node[1]
    else:
        if len(calls) == 2:
            builder.nodes = [node for node in builder.nodes if node not in calls]
            at = builder.nodes.index(["input", entry])
            builder.nodes[at] = ["input", before]
            return images
    return Images(images.channels, images.height, images.width, (0.0,) * images.channels, (1 / 255,) * images.channels)
