"""The nodes of edgekd.program under construction, while an ONNX graph is translated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgekd.program import operator_named, plain_value
from edgekd.teacher.graphs.batch import LARGEST


@dataclass(eq=False)
class Value:
    """A tensor of the graph: real where it is constant, else of its shape on the meta device."""

    tensor: Tensor
    name: str
    constant: bool

    @property
    def shape(self) -> list[int]:
        return list(self.tensor.shape)

    def ints(self) -> list[int]:
        """The numbers of a constant: sizes, axes. Raises ValueError for what depends on the image."""
        if not self.constant:
            raise ValueError(f"{self.name} depends on the image; sizes must not")
        return [int(v) for v in self.tensor.flatten().tolist()]


class Builder:
    """Collects the nodes while operators are called."""

    def __init__(self, images: int) -> None:
        self.images = images  # of the batch that the graph is followed with
        self.nodes: list[Any] = []
        self.tensors: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.made: dict[str, tuple[str, tuple[Any, ...]]] = {}  # operator and arguments of each value
        self.uses: dict[str, int] = {}  # how many nodes of the ONNX graph take a value
        self.names: set[str] = set()
        self.wanted = ""  # the name of the ONNX value that is being made

    def constant(self, tensor: Tensor, name: str | None = None) -> Value:
        return Value(tensor, name or self._fresh(), True)

    def call(self, target: str, *args: Any, **kwargs: Any) -> Any:
        """The operator's result, a Value or a list of them. Computed at once where no argument depends on the image."""
        given = [v for a in (*args, *kwargs.values()) for v in _values(a)]
        operator, constant = operator_named(target), all(v.constant for v in given)
        shape = operator(*(_meta(a) for a in args), **{k: _meta(v) for k, v in kwargs.items()})
        many = isinstance(shape, list | tuple)
        largest = max(t.numel() for t in (shape if many else [shape]))
        if largest > (LARGEST if constant else LARGEST * self.images):
            raise ValueError(f"a value of {largest} elements")
        if constant:
            real = operator(*(_real(a) for a in args), **{k: _real(v) for k, v in kwargs.items()})
            return [self.constant(t) for t in real] if many else self.constant(real)
        name = self._fresh()
        self.made[name] = target, args
        self.nodes.append(["call", name, target, [self._plain(a) for a in args], self._plain(kwargs)])
        if not many:
            return Value(shape, name, False)
        items = []
        for index, tensor in enumerate(shape):
            items.append(Value(tensor, self._fresh(), False))
            self.nodes.append(["call", items[-1].name, "operator.getitem", [{"node": name}, index], {}])
        return items

    def _fresh(self) -> str:
        name, number = self.wanted, 1
        while name in self.names:
            name, number = f"{self.wanted}.{number}", number + 1
        self.names.add(name)
        return name

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Value):
            if value.constant and value.name not in self.tensors:
                self.tensors[value.name] = value.tensor.contiguous()
                self.nodes.append(["tensor", value.name, value.name])
            return {"node": value.name}
        if isinstance(value, dict):
            return {k: self._plain(v) for k, v in value.items()}
        return [self._plain(v) for v in value] if isinstance(value, list | tuple) else plain_value(value)


class Eager(Builder):
    """Computes every operator at once on real tensors, so that gradients flow, and collects nothing."""

    def call(self, target: str, *args: Any, **kwargs: Any) -> Any:
        constant = all(v.constant for a in (*args, *kwargs.values()) for v in _values(a))
        result = operator_named(target)(*(_real(a) for a in args), **{k: _real(v) for k, v in kwargs.items()})
        if isinstance(result, list | tuple):
            return [Value(tensor, self.wanted, constant) for tensor in result]
        return Value(result, self.wanted, constant)


def _values(value: Any) -> list[Value]:
    if isinstance(value, list | tuple):
        return [v for item in value for v in _values(item)]
    return [value] if isinstance(value, Value) else []


def _meta(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_meta(v) for v in value]
    return value.tensor.to("meta") if isinstance(value, Value) else value


def _real(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_real(v) for v in value]
    return value.tensor if isinstance(value, Value) else value


@dataclass(frozen=True)
class Operation:
    """One node of the ONNX graph: what it is given and how."""

    inputs: Sequence[Value | None]
    attributes: dict[str, Any]
    outputs: int
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def input(self, index: int) -> Value:
        """A required input."""
        value = self.optional(index)
        if value is None:
            raise ValueError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None
