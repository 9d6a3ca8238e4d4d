"""ONNX's operators on shapes: what moves, cuts and joins values, and the constants that sizes are computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from edgekd.teacher.graphs import onnx_file
from edgekd.teacher.graphs.onnx_builder import Builder, Operation, Value
from edgekd.teacher.graphs.onnx_layers import Translation, text


def _flatten(b: Builder, op: Operation) -> Any:
    x = op.input(0)
    axis = op.get("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    if axis == 1 and len(x.shape) >= 2:
        return x if len(x.shape) == 2 else b.call("aten.flatten.using_ints", x, 1, -1)
    return b.call("aten.reshape.default", x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def _reshape(b: Builder, op: Operation) -> Any:
    x, given = op.input(0), op.optional(1)
    sizes = given.ints() if given is not None else list(op.get("shape"))
    if not op.get("allowzero", 0):
        sizes = [x.shape[k] if size == 0 else size for k, size in enumerate(sizes)]
    return x if sizes == x.shape else b.call("aten.reshape.default", x, sizes)


def _axes(op: Operation, index: int = 1) -> list[int]:
    given = op.optional(index)
    return given.ints() if given is not None else list(op.get("axes", []))


def _squeeze(b: Builder, op: Operation) -> Any:
    x = op.input(0)
    first = 0 if x.constant else 1  # the batch is no size to be dropped
    axes = _axes(op) or [k for k, size in enumerate(x.shape) if size == 1 and k >= first]
    return b.call("aten.squeeze.dims", x, axes) if axes else x


def _unsqueeze(b: Builder, op: Operation) -> Any:
    x, axes = op.input(0), _axes(op)
    rank = len(x.shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = b.call("aten.unsqueeze.default", x, axis)
    return x


def _transpose(b: Builder, op: Operation) -> Any:
    order = op.get("perm", list(range(len(op.input(0).shape)))[::-1])
    return b.call("aten.permute.default", op.input(0), list(order))


def _concat(b: Builder, op: Operation) -> Any:
    parts = [op.input(k) for k in range(len(op.inputs))]
    return b.call("aten.cat.default", parts, op.get("axis", 1))


def _split(b: Builder, op: Operation) -> Any:
    x, given, axis = op.input(0), op.optional(1), op.get("axis", 0)
    sizes = given.ints() if given is not None else list(op.get("split", []))
    if not sizes:
        each = math.ceil(x.shape[axis] / op.outputs)
        sizes = [min(each, x.shape[axis] - k * each) for k in range(op.outputs)]
    return b.call("aten.split_with_sizes.default", x, sizes, axis)


def _slice(b: Builder, op: Operation) -> Any:
    x = op.input(0)
    if op.opset < 10:
        starts, ends, axes, steps = list(op.get("starts")), list(op.get("ends")), op.get("axes"), None
    else:
        starts, ends = op.input(1).ints(), op.input(2).ints()
        axes, steps = (v.ints() if v is not None else None for v in (op.optional(3), op.optional(4)))
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[k] if axes else k) % len(x.shape), steps[k] if steps else 1
        taken = range(*slice(start, end, step).indices(x.shape[axis]))
        if len(taken) == x.shape[axis] and step == 1:
            continue
        if step > 0:
            x = b.call("aten.slice.Tensor", x, axis, taken.start, max(taken.stop, taken.start), step)
        else:
            x = b.call("aten.index_select.default", x, axis, b.constant(torch.tensor(list(taken), dtype=torch.int64)))
    return x


def _pad(b: Builder, op: Operation) -> Any:
    x, given, mode = op.input(0), op.optional(1), text(op.get("mode"), "constant")
    pads = given.ints() if given is not None else list(op.get("pads", op.get("paddings", [])))
    axes, rank = _axes(op, 3) or list(range(len(pads) // 2)), len(x.shape)
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = pads[k], pads[k + len(axes)]
    flat = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    while flat and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if not flat:
        return x
    if mode == "constant":
        filled = op.optional(2)
        value = filled.tensor.item() if filled is not None and filled.tensor.numel() else op.get("value", 0.0)
        return b.call("aten.constant_pad_nd.default", x, flat, value)
    name = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode]
    return b.call("aten.pad.default", x, [*flat, *[0] * (2 * (rank - 2) - len(flat))], name)


def _gather(b: Builder, op: Operation) -> Any:
    x, index, axis = op.input(0), op.input(1), op.get("axis", 0)
    if not index.constant:
        raise ValueError("an index that depends on the image is not known")
    axis, size = axis % len(x.shape), x.shape[axis]
    where = [i + size if i < 0 else i for i in index.ints()]
    if not index.shape:
        return b.call("aten.select.int", x, axis, where[0])
    flat = b.call("aten.index_select.default", x, axis, b.constant(torch.tensor(where, dtype=torch.int64)))
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
    return flat if len(index.shape) == 1 else b.call("aten.reshape.default", flat, shape)


def _gather_nd(b: Builder, op: Operation) -> Any:
    x, where = op.input(0), op.input(1)
    if not where.constant or op.get("batch_dims", 0):
        raise ValueError("GatherND is known with constant indices and without batch_dims only")
    return b.call("aten.index.Tensor", x, [b.constant(part) for part in where.tensor.unbind(-1)])


def _expand(b: Builder, op: Operation) -> Any:
    x, sizes = op.input(0), op.input(1).ints()
    wanted = list(torch.broadcast_shapes(torch.Size(x.shape), torch.Size(sizes)))
    return x if wanted == x.shape else b.call("aten.expand.default", x, wanted)


def _shape(b: Builder, op: Operation) -> Any:
    return b.constant(torch.tensor(op.input(0).shape[op.get("start", 0) : op.get("end")], dtype=torch.int64))


def _constant(b: Builder, op: Operation) -> Any:
    (name, value), *_ = op.attributes.items()
    if name == "value":
        return b.constant(onnx_file.to_torch(value))
    kinds = {"value_float": torch.float32, "value_floats": torch.float32, "value_int": torch.int64,
             "value_ints": torch.int64}  # fmt: skip
    return b.constant(torch.tensor(value, dtype=kinds[name]))


def _constant_of_shape(b: Builder, op: Operation) -> Any:
    value = op.get("value")
    filled = torch.zeros(1) if value is None else onnx_file.to_torch(value)
    return b.call("aten.expand.default", b.constant(filled.reshape(())), op.input(0).ints())


def _range(b: Builder, op: Operation) -> Any:
    ends = [op.input(k) for k in range(3)]
    if not all(v.constant for v in ends):
        raise ValueError("a range that depends on the image is not known")
    start, stop, step = (v.tensor.item() for v in ends)
    if (stop - start) / step > 1 << 20:
        raise ValueError("a range of more than a million numbers")
    return b.constant(torch.arange(start, stop, step, dtype=ends[0].tensor.dtype))


def _tile(b: Builder, op: Operation) -> Any:
    return b.call("aten.repeat.default", op.input(0), op.input(1).ints())


def _blocks(b: Builder, op: Operation) -> Any:
    """DepthToSpace: CRD is torch's pixel shuffle, DCR has the block's place in front of the channel."""
    x, block = op.input(0), int(op.get("blocksize"))
    if text(op.get("mode"), "DCR") == "CRD":
        return b.call("aten.pixel_shuffle.default", x, block)
    count, channels, height, width = x.shape
    sizes = [count, block, block, channels // block**2, height, width]
    moved = b.call("aten.permute.default", b.call("aten.reshape.default", x, sizes), [0, 3, 4, 1, 5, 2])
    return b.call("aten.reshape.default", moved, [count, channels // block**2, height * block, width * block])


def _unblocks(b: Builder, op: Operation) -> Any:
    x, block = op.input(0), int(op.get("blocksize"))
    count, channels, height, width = x.shape
    sizes = [count, channels, height // block, block, width // block, block]
    moved = b.call("aten.permute.default", b.call("aten.reshape.default", x, sizes), [0, 3, 5, 1, 2, 4])
    return b.call("aten.reshape.default", moved, [count, channels * block**2, height // block, width // block])


def _scatter(b: Builder, op: Operation) -> Any:
    """ScatterND into constants: masks that are drawn, as Swin's are."""
    data, where, values = op.input(0), op.input(1), op.input(2)
    if not (data.constant and where.constant and values.constant) or text(op.get("reduction"), "none") != "none":
        raise ValueError("ScatterND is known of constants only")
    drawn = data.tensor.clone()
    drawn[tuple(where.tensor.movedim(-1, 0))] = values.tensor
    return b.constant(drawn)


def _einsum(b: Builder, op: Operation) -> Any:
    parts: list[Value] = [op.input(k) for k in range(len(op.inputs))]
    return b.call("aten.einsum.default", text(op.get("equation")), parts)


SHAPES: Mapping[str, Translation] = {
    "Flatten": _flatten, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose,
    "Concat": _concat, "Split": _split, "Slice": _slice, "Pad": _pad, "Gather": _gather, "Expand": _expand,
    "Shape": _shape, "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Range": _range, "Tile": _tile,
    "Size": lambda b, op: b.constant(torch.tensor(math.prod(op.input(0).shape))),
    "DepthToSpace": _blocks, "SpaceToDepth": _unblocks, "Einsum": _einsum, "ScatterND": _scatter,
    "GatherND": _gather_nd,
}  # fmt: skip
