"""ONNX's layers by aten's operators: convolutions, pools, normalisations, linear layers, resizing.

The meaning of each is that of https://onnx.ai/onnx/operators, all versions since 7. A function gets the builder and the
operation and gives the result; it raises ValueError for a form that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from edgekd.teacher.graphs.onnx_builder import Builder, Operation, Value

Translation = Callable[[Builder, Operation], Any]


def text(value: Any, default: str = "") -> str:
    return value.decode() if isinstance(value, bytes) else default


def _pads(op: Operation, shape: list[int], kernel: list[int]) -> tuple[list[int], list[int]]:
    """Padding before and after, per spatial dimension."""
    dims = len(kernel)
    auto = text(op.get("auto_pad"), "NOTSET")
    if auto in ("NOTSET", "VALID"):
        pads = op.get("pads", [0] * 2 * dims) if auto == "NOTSET" else [0] * 2 * dims
        return list(pads[:dims]), list(pads[dims:])
    strides, dilations = op.get("strides", [1] * dims), op.get("dilations", [1] * dims)
    before, after = [], []
    for size, k, stride, dilation in zip(shape[-dims:], kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small = total // 2
        before.append(total - small if auto == "SAME_LOWER" else small)
        after.append(small if auto == "SAME_LOWER" else total - small)
    return before, after


def _padded(b: Builder, x: Value, before: list[int], after: list[int], value: float) -> Value:
    """x with explicit padding; torch counts from the last dimension on."""
    pads = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    padded: Value = b.call("aten.constant_pad_nd.default", x, pads, value)
    return padded


def conv(b: Builder, op: Operation) -> Value:
    x, weight, bias = op.input(0), op.input(1), op.optional(2)
    kernel = weight.shape[2:]
    dims = len(kernel)
    before, after = _pads(op, x.shape, kernel)
    if before != after:
        x, before = _padded(b, x, before, after, 0.0), [0] * dims
    strides, dilations = op.get("strides", [1] * dims), op.get("dilations", [1] * dims)
    target = f"aten.conv{dims}d.default"
    result: Value = b.call(target, x, weight, bias, list(strides), before, list(dilations), op.get("group", 1))
    return result


def conv_transpose(b: Builder, op: Operation) -> Value:
    x, weight, bias = op.input(0), op.input(1), op.optional(2)
    dims = len(weight.shape) - 2
    before, after = _pads(op, x.shape, weight.shape[2:])
    if before != after or op.get("output_shape") or text(op.get("auto_pad"), "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError("a transposed convolution with uneven padding is not known")
    strides, dilations = list(op.get("strides", [1] * dims)), list(op.get("dilations", [1] * dims))
    rest = [before, list(op.get("output_padding", [0] * dims)), op.get("group", 1), dilations]
    overload = "default" if dims == 1 else "input"
    result: Value = b.call(f"aten.conv_transpose{dims}d.{overload}", x, weight, bias, strides, *rest)
    return result


def max_pool(b: Builder, op: Operation) -> Value:
    x, kernel = op.input(0), list(op.get("kernel_shape"))
    dims = len(kernel)
    before, after = _pads(op, x.shape, kernel)
    if before != after or any(p > k // 2 for p, k in zip(before, kernel, strict=True)):
        x, before = _padded(b, x, before, after, -math.inf), [0] * dims
    strides, dilations = list(op.get("strides", [1] * dims)), list(op.get("dilations", [1] * dims))
    ceil = bool(op.get("ceil_mode", 0))
    result: Value = b.call(f"aten.max_pool{dims}d.default", x, kernel, strides, before, dilations, ceil)
    return result


def average_pool(b: Builder, op: Operation) -> Value:
    x, kernel = op.input(0), list(op.get("kernel_shape"))
    dims = len(kernel)
    if set(op.get("dilations", [1])) != {1}:
        raise ValueError("an average pool with dilation is not known")
    strides, ceil = list(op.get("strides", [1] * dims)), bool(op.get("ceil_mode", 0))
    counted, target = bool(op.get("count_include_pad", 0)), f"aten.avg_pool{dims}d.default"
    before, after = _pads(op, x.shape, kernel)
    if before == after and all(p <= k // 2 for p, k in zip(before, kernel, strict=True)):
        result: Value = b.call(target, x, kernel, strides, before, ceil, counted)
        return result
    none = [0] * dims
    ones = b.constant(torch.ones(1, 1, *x.shape[2:]))
    pooled: Value = b.call(target, _padded(b, x, before, after, 0.0), kernel, strides, none, ceil, True)
    if counted:
        return pooled
    share = b.call(target, _padded(b, ones, before, after, 0.0), kernel, strides, none, ceil, True)
    result = b.call("aten.div.Tensor", pooled, share)
    return result


def global_pool(target: str) -> Translation:
    def pool(b: Builder, op: Operation) -> Any:
        return b.call(target, op.input(0), list(range(2, len(op.input(0).shape))), True)

    return pool


def batch_norm(b: Builder, op: Operation) -> Any:
    """In eval mode whatever the file says: batches of made images must not decide how each is seen."""
    if op.get("training_mode", 0):
        b.notes.append("the graph was exported in training mode; it runs in eval mode")
    if op.get("spatial", 1) != 1:
        raise ValueError("BatchNormalization with spatial=0 is not known")
    parts = [op.input(i) for i in range(5)]
    return b.call("aten.batch_norm.default", *parts, False, 0.1, op.get("epsilon", 1e-5), False)


def instance_norm(b: Builder, op: Operation) -> Any:
    scale, shift, epsilon = op.input(1), op.input(2), op.get("epsilon", 1e-5)
    return b.call("aten.instance_norm.default", op.input(0), scale, shift, None, None, True, 0.0, epsilon, False)


def group_norm(b: Builder, op: Operation) -> Any:
    """Until 20 scale and shift had one number per group, since 21 one per channel."""
    x, groups = op.input(0), int(op.get("num_groups"))
    scale, shift = op.input(1), op.input(2)
    if scale.shape[0] != x.shape[1]:
        each = x.shape[1] // groups
        scale, shift = (b.call("aten.repeat_interleave.self_int", v, each) for v in (scale, shift))
    return b.call("aten.group_norm.default", x, groups, scale, shift, op.get("epsilon", 1e-5), False)


def layer_norm(b: Builder, op: Operation) -> Any:
    x, scale, shift = op.input(0), op.input(1), op.optional(2)
    sizes = x.shape[op.get("axis", -1) :]
    scale = b.call("aten.expand.default", scale, sizes)
    shift = b.call("aten.expand.default", shift, sizes) if shift else None
    return b.call("aten.layer_norm.default", x, sizes, scale, shift, op.get("epsilon", 1e-5), False)


def local_response_norm(b: Builder, op: Operation) -> Any:
    """x / (bias + alpha / size * sum of x^2 over neighbouring channels) ** beta; the sum is a 1x1 convolution."""
    x, size = op.input(0), int(op.get("size"))
    channels = x.shape[1]
    distance = torch.arange(channels)[None] - torch.arange(channels)[:, None]
    band = ((distance >= -((size - 1) // 2)) & (distance <= size // 2)).float() * op.get("alpha", 1e-4) / size
    square = b.call("aten.mul.Tensor", x, x)
    bias = b.constant(torch.full((channels,), float(op.get("bias", 1.0))))
    total = b.call("aten.conv2d.default", square, b.constant(band[:, :, None, None]), bias)
    return b.call("aten.div.Tensor", x, b.call("aten.pow.Tensor_Scalar", total, op.get("beta", 0.75)))


def gemm(b: Builder, op: Operation) -> Any:
    """alpha * A' B' + beta * C: a linear layer where B is a weight and C a bias."""
    x, y, c = op.input(0), op.input(1), op.optional(2)
    if op.get("transA", 0):
        x = b.call("aten.t.default", x)
    weight = y if op.get("transB", 0) else b.call("aten.t.default", y)
    if op.get("alpha", 1.0) != 1.0:
        weight = b.call("aten.mul.Tensor", weight, b.constant(torch.tensor(float(op.get("alpha")))))
    if c is not None and op.get("beta", 1.0) != 1.0:
        c = b.call("aten.mul.Tensor", c, b.constant(torch.tensor(float(op.get("beta")))))
    if c is not None and c.constant and math.prod(c.shape[:-1]) == 1:
        bias = b.call("aten.expand.default", b.call("aten.reshape.default", c, [-1]), [weight.shape[0]])
        return b.call("aten.linear.default", x, weight, bias)
    product = b.call("aten.linear.default", x, weight)
    return product if c is None else b.call("aten.add.Tensor", product, c)


def matmul(b: Builder, op: Operation) -> Any:
    x, y = op.input(0), op.input(1)
    if y.constant and len(y.shape) == 2 and not x.constant:
        return b.call("aten.linear.default", x, b.call("aten.t.default", y))
    return b.call("aten.matmul.default", x, y)


def resize(b: Builder, op: Operation) -> Any:
    """Resize and Upsample of the height and width of (N, C, H, W), in the forms that torch has too."""
    x, mode = op.input(0), text(op.get("mode"), "nearest")
    scales, sizes = op.optional(2 if op.opset >= 11 else 1), op.optional(3)
    if sizes is not None and sizes.tensor.numel():
        target = sizes.ints()
    else:
        factors = op.get("scales") or (scales.tensor.tolist() if scales is not None else [])
        target = [math.floor(s * f) for s, f in zip(x.shape, factors, strict=True)]
    if len(x.shape) != 4 or target[:2] != x.shape[:2]:
        raise ValueError("only height and width of (N, C, H, W) can be resized")
    old = "asymmetric" if op.opset < 11 else "half_pixel"
    way = text(op.get("coordinate_transformation_mode"), old)
    whole = all(t % s == 0 for t, s in zip(target[2:], x.shape[2:], strict=True))
    if mode == "nearest":
        if not whole and (way != "asymmetric" or text(op.get("nearest_mode"), "floor") != "floor"):
            raise ValueError(f"nearest with {way} is not known for sizes that are no multiples")
        return b.call("aten.upsample_nearest2d.default", x, target[2:])
    if way not in ("half_pixel", "pytorch_half_pixel", "align_corners") or op.get("antialias", 0):
        raise ValueError(f"{mode} with {way} is not known")
    if mode == "cubic" and abs(op.get("cubic_coeff_a", -0.75) + 0.75) > 1e-6:
        raise ValueError("cubic with another coefficient than -0.75 is not known")
    name = {"linear": "upsample_bilinear2d", "cubic": "upsample_bicubic2d"}[mode]
    return b.call(f"aten.{name}.default", x, target[2:], way == "align_corners")


LAYERS: Mapping[str, Translation] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": global_pool("aten.mean.dim"), "GlobalMaxPool": global_pool("aten.amax.default"),
    "BatchNormalization": batch_norm, "InstanceNormalization": instance_norm, "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm, "LRN": local_response_norm, "Gemm": gemm, "MatMul": matmul,
    "Resize": resize, "Upsample": resize,
}  # fmt: skip
