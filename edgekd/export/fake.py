"""INT8 graphs in torch: fp32 numbers rounded where the graph rounds, so that weights can be learned through it.

The straight-through estimator (Bengio et al. 2013): rounding has the gradient 1, clipping 0. Operators are those of
the teachers' ONNX reader. BatchNorm is folded into the convolutions, or stays as it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from onnx import NodeProto, numpy_helper
from torch import Tensor, nn

from edgekd.export.placement import WEIGHTED
from edgekd.teacher.graphs.onnx_builder import Eager, Operation, Value
from edgekd.teacher.graphs.onnx_graph import KNOWN

STORED = "_quantized"  # what onnxruntime puts behind the name of a constant that it turns into integers
LIMITS = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int32: (-(2**31), 2**31 - 1)}


def fake_quantised(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """x as its integers stand for it: (clip(round(x / scale) + zero) - zero) * scale. scale, zero: to broadcast."""
    least, most = LIMITS[zero.dtype]
    offset = zero.float()
    inside = torch.minimum(torch.maximum(x, (least - offset) * scale), (most - offset) * scale)
    integers = torch.clamp(torch.round(x / scale) + offset, least, most)
    return inside + ((integers - offset) * scale - inside).detach()


class FakeQuantised(nn.Module):
    """An INT8 graph with the weights of the fp32 one that it was made of: pixels (N, C, H, W) float -> logits (N, K).

    Its parameters are the fp32 weights and biases of operators with weights. Scales of weights follow them; those of
    activations and biases stay as they are in the graph. Raises ValueError for an operator that is not known.
    """

    def __init__(self, fp32: onnx.ModelProto, int8: onnx.ModelProto) -> None:
        super().__init__()
        for node in int8.graph.node:
            if node.op_type not in KNOWN and not _is_pair(node):
                raise ValueError(f"the operator {node.op_type} of {node.name or node.output[0]!r} is not known")
        self.nodes = list(int8.graph.node)
        self.opset = int8.opset_import[0].version
        self.entry, self.output = int8.graph.input[0].name, int8.graph.output[0].name
        self.constants = {t.name: _tensor(t) for t in int8.graph.initializer}
        exact = {t.name: _tensor(t) for t in fp32.graph.initializer}
        learned = [n for node in fp32.graph.node if node.op_type in WEIGHTED for n in node.input[1:] if n in exact]
        self.names = {name: f"t{index}" for index, name in enumerate(dict.fromkeys(learned))}
        for name, key in self.names.items():
            self.register_parameter(key, nn.Parameter(exact[name].clone()))
        self.exact = exact
        self.last = {name: at for at, node in enumerate(self.nodes) for name in node.input}

    def forward(self, pixels: Tensor, change: Callable[[NodeProto, Tensor], Tensor] | None = None) -> Tensor:
        """change: gives what takes the place of the output of each operator with weights."""
        eager = Eager(len(pixels))
        values = {name: eager.constant(tensor, name) for name, tensor in self.constants.items()}
        values |= {name: Value(getattr(self, key), name, False) for name, key in self.names.items()}
        values[self.entry] = Value(pixels, self.entry, False)
        for at, node in enumerate(self.nodes):
            results = (
                [Value(self._through(node, values), "", False)] if _is_pair(node) else self._run(eager, node, values)
            )
            if change is not None and node.op_type in WEIGHTED:
                results = [Value(change(node, results[0].tensor), "", False)]
            values |= dict(zip(node.output, results, strict=False))
            for name in node.input:  # large where there are many images
                if self.last.get(name) == at and name not in self.constants:
                    values.pop(name, None)
        return values[self.output].tensor

    def _run(self, eager: Eager, node: NodeProto, values: dict[str, Value]) -> list[Value]:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        given = [values[name] if name else None for name in node.input]
        results = KNOWN[node.op_type](eager, Operation(given, attributes, len(node.output), self.opset))
        return results if isinstance(results, list) else [results]

    def _through(self, node: NodeProto, values: dict[str, Value]) -> Tensor:
        """What a QuantizeLinear or DequantizeLinear gives, both as fp32 numbers."""
        name = node.input[0]
        source = name.removesuffix(STORED) if name in self.constants else name
        scale, zero = (values[n].tensor for n in node.input[1:3])
        if node.op_type == "DequantizeLinear" and name not in self.constants:
            return values[name].tensor  # rounded before
        if source not in self.names and source not in values:
            return fake_quantised(self.exact[source], *_along(node, scale, zero, self.exact[source].dim()))
        x = values[source].tensor
        if source in self.names and zero.dtype == torch.int8:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            others = [d for d in range(x.dim()) if d != axis % x.dim()]
            if scale.dim():  # in as many steps as the graph gave its own weights: 127, or 64 of 7 bits
                steps = (self.exact[source].abs().amax(others) / scale).max().round().clamp_min(1)
                scale = (x.detach().abs().amax(others) / steps).clamp_min(1e-12)
        return fake_quantised(x, *_along(node, scale, zero, x.dim()))

    def learned(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and values of the weights and biases, as they are in the fp32 graph."""
        for name, key in self.names.items():
            yield name, getattr(self, key).detach().numpy()


def with_constants(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of a graph with other numbers in the constants that `values` names."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return other


def _is_pair(node: NodeProto) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear")


def _along(node: NodeProto, scale: Tensor, zero: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point in the shape that they are multiplied in."""
    if not scale.dim() or scale.numel() == 1:
        return scale.reshape(()), zero.reshape(())
    shape = [1] * dims
    shape[next((a.i for a in node.attribute if a.name == "axis"), 1)] = -1
    return scale.reshape(shape), zero.reshape(shape)


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())
