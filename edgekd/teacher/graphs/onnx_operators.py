"""ONNX's elementwise functions, reductions and shape operators by aten's operators; see onnx_layers.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from edgekd.teacher.graphs import onnx_file
from edgekd.teacher.graphs.onnx_builder import Builder, Operation, Value
from edgekd.teacher.graphs.onnx_layers import Translation, text

REFUSED = {
    "ArgMax": "it gives the class and not the logits, and has no gradient: export the network without it",
    "TopK": "it picks among the logits: export the network without it",
    "NonMaxSuppression": "it belongs to detectors; edgekd compresses classifiers",
    "RandomNormalLike": "it draws random numbers: export the network in eval mode",
}


def _unary(target: str) -> Translation:
    return lambda b, op: b.call(target, op.input(0))


def _binary(target: str) -> Translation:
    return lambda b, op: b.call(target, op.input(0), op.input(1))


def _many(target: str) -> Translation:
    def fold(b: Builder, op: Operation) -> Any:
        result = op.input(0)
        for index in range(1, len(op.inputs)):
            result = b.call(target, result, op.input(index))
        return result

    return fold


def _number(b: Builder, value: float) -> Value:
    return b.constant(torch.tensor(value))


def _add(b: Builder, op: Operation) -> Any:
    """A constant row added to a linear layer's result is its bias."""
    for x, c in ((op.input(0), op.input(1)), (op.input(1), op.input(0))):
        made = b.made.get(x.name)
        row = c.constant and c.shape[-1:] == x.shape[-1:] and math.prod(c.shape) == x.shape[-1]
        if made and row and made[0] == "aten.linear.default" and len(made[1]) == 2 and b.uses.get(x.name) == 1:
            return b.call("aten.linear.default", *made[1], b.call("aten.reshape.default", c, [-1]))
    return b.call("aten.add.Tensor", op.input(0), op.input(1))


def _div(b: Builder, op: Operation) -> Any:
    x, y = op.input(0), op.input(1)
    if x.tensor.is_floating_point() or y.tensor.is_floating_point():
        return b.call("aten.div.Tensor", x, y)
    return b.call("aten.div.Tensor_mode", x, y, rounding_mode="trunc")


def _mod(b: Builder, op: Operation) -> Any:
    return b.call(f"aten.{'fmod' if op.get('fmod', 0) else 'remainder'}.Tensor", op.input(0), op.input(1))


def _pow(b: Builder, op: Operation) -> Any:
    x, y = op.input(0), op.input(1)
    if y.constant and y.tensor.numel() == 1 and len(y.shape) <= len(x.shape):
        return b.call("aten.pow.Tensor_Scalar", x, y.tensor.item())
    return b.call("aten.pow.Tensor_Tensor", x, y)


def _prelu(b: Builder, op: Operation) -> Any:
    """max(x, 0) - slope * max(-x, 0): the slope broadcasts as ONNX wants it."""
    x, slope = op.input(0), op.input(1)
    below = b.call("aten.relu.default", b.call("aten.neg.default", x))
    return b.call("aten.sub.Tensor", b.call("aten.relu.default", x), b.call("aten.mul.Tensor", below, slope))


def _clip(b: Builder, op: Operation) -> Any:
    limits = []
    for index, name in ((1, "min"), (2, "max")):
        limit = op.optional(index)
        limits.append(limit.tensor.item() if limit is not None and limit.constant else op.get(name))
        if limit is not None and not limit.constant:
            raise ValueError("limits that depend on the image are not known")
    return b.call("aten.clamp.default", op.input(0), *limits) if limits != [None, None] else op.input(0)


def _hard_sigmoid(b: Builder, op: Operation) -> Any:
    scaled = b.call("aten.mul.Tensor", op.input(0), _number(b, op.get("alpha", 0.2)))
    return b.call("aten.clamp.default", b.call("aten.add.Tensor", scaled, _number(b, op.get("beta", 0.5))), 0, 1)


def _selu(b: Builder, op: Operation) -> Any:
    alpha, gamma = op.get("alpha", 1.67326319217681884765625), op.get("gamma", 1.05070102214813232421875)
    return b.call("aten.elu.default", op.input(0), alpha, gamma)


def _softmax(target: str) -> Translation:
    def softmax(b: Builder, op: Operation) -> Any:
        """Before version 13 over all dimensions from `axis` on."""
        x = op.input(0)
        axis = op.get("axis", -1 if op.opset >= 13 else 1) % len(x.shape)
        if op.opset >= 13 or math.prod(x.shape[axis + 1 :]) == 1:
            return b.call(target, x, axis)
        flat = b.call("aten.flatten.using_ints", x, axis, -1)
        return b.call("aten.reshape.default", b.call(target, flat, -1), x.shape)

    return softmax


def _reduce(target: str) -> Translation:
    def reduce(b: Builder, op: Operation) -> Any:
        x, given = op.input(0), op.optional(1)
        axes = given.ints() if given is not None else list(op.get("axes", []))
        if not axes:
            if op.get("noop_with_empty_axes", 0):
                return x
            axes = list(range(len(x.shape)))
        return b.call(target, x, axes, bool(op.get("keepdims", 1)))

    return reduce


def _norm(order: int) -> Translation:
    def norm(b: Builder, op: Operation) -> Any:
        given = op.optional(1)
        axes = given.ints() if given is not None else list(op.get("axes", []))
        return b.call("aten.linalg_vector_norm.default", op.input(0), order, axes or None, bool(op.get("keepdims", 1)))

    return norm


def _reduce_prod(b: Builder, op: Operation) -> Any:
    """Of sizes only."""
    given = op.optional(1)
    axes, result = given.ints() if given is not None else list(op.get("axes", [0])), op.input(0)
    if not result.constant or len(axes) != 1:
        raise ValueError("a product is known of sizes only")
    return b.constant(result.tensor.prod(axes[0], keepdim=bool(op.get("keepdims", 1))))


def _cast(b: Builder, op: Operation) -> Any:
    """Between floats nothing is to do: all are computed in single precision."""
    x, kind = op.input(0), onnx_file.KINDS.get(op.get("to"))
    if kind is None:
        raise ValueError("the type is not known")
    wanted = getattr(torch, kind)
    wanted = torch.float32 if wanted.is_floating_point else wanted
    return x if x.tensor.dtype == wanted else b.call("aten._to_copy.default", x, dtype=wanted)


def _cast_like(b: Builder, op: Operation) -> Any:
    x, kind = op.input(0), op.input(1).tensor.dtype
    return x if x.tensor.dtype == kind else b.call("aten._to_copy.default", x, dtype=kind)


OPERATORS: Mapping[str, Translation] = {
    **{name: _unary(f"aten.{name.lower()}.default")
       for name in ("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal", "Erf", "Floor", "Ceil",
                    "Round", "Sign", "Sin", "Cos", "Softplus", "Mish", "HardSwish", "IsNaN")},
    "Not": _unary("aten.logical_not.default"), "Identity": lambda b, op: op.input(0),
    "Dropout": lambda b, op: op.input(0), "Add": _add, "Div": _div, "Mod": _mod, "Pow": _pow,
    "Sub": _binary("aten.sub.Tensor"), "Mul": _binary("aten.mul.Tensor"),
    "And": _binary("aten.logical_and.default"), "Or": _binary("aten.logical_or.default"),
    "Equal": _binary("aten.eq.Tensor"), "Greater": _binary("aten.gt.Tensor"), "Less": _binary("aten.lt.Tensor"),
    "GreaterOrEqual": _binary("aten.ge.Tensor"), "LessOrEqual": _binary("aten.le.Tensor"),
    "Max": _many("aten.maximum.default"), "Min": _many("aten.minimum.default"), "Sum": _many("aten.add.Tensor"),
    "Mean": lambda b, op: b.call("aten.div.Tensor", _many("aten.add.Tensor")(b, op), _number(b, float(len(op.inputs)))),
    "Where": lambda b, op: b.call("aten.where.self", op.input(0), op.input(1), op.input(2)),
    "LeakyRelu": lambda b, op: b.call("aten.leaky_relu.default", op.input(0), op.get("alpha", 0.01)),
    "Elu": lambda b, op: b.call("aten.elu.default", op.input(0), op.get("alpha", 1.0)),
    "Celu": lambda b, op: b.call("aten.celu.default", op.input(0), op.get("alpha", 1.0)),
    "Gelu": lambda b, op: b.call(
        "aten.gelu.default", op.input(0), approximate=text(op.get("approximate"), "none")),
    "Swish": lambda b, op: b.call("aten.mul.Tensor", op.input(0), b.call(
        "aten.sigmoid.default", b.call("aten.mul.Tensor", op.input(0), _number(b, op.get("alpha", 1.0))))),
    "Softsign": lambda b, op: b.call("aten.div.Tensor", op.input(0), b.call(
        "aten.add.Tensor", b.call("aten.abs.default", op.input(0)), _number(b, 1.0))),
    "PRelu": _prelu, "Clip": _clip, "HardSigmoid": _hard_sigmoid, "Selu": _selu,
    "Softmax": _softmax("aten.softmax.int"), "LogSoftmax": _softmax("aten.log_softmax.int"),
    "ReduceMean": _reduce("aten.mean.dim"), "ReduceSum": _reduce("aten.sum.dim_IntList"),
    "ReduceMax": _reduce("aten.amax.default"), "ReduceMin": _reduce("aten.amin.default"), "ReduceL2": _norm(2),
    "ReduceL1": _norm(1), "ReduceProd": _reduce_prod, "Cast": _cast, "CastLike": _cast_like,
}  # fmt: skip
