"""The layers of a captured program as torch's own modules: modules are what is pruned and what learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]  # by the names of the operator's arguments
Rest = Mapping[str, Any]  # its other arguments but the input
Maker = Callable[[Weights, Rest], nn.Module | None]


@dataclass(frozen=True)
class Found:
    """A module that stands for a node."""

    module: nn.Module  # in eval mode, without gradients
    input: Any  # the argument that it is fed
    sources: Mapping[str, str]  # name of its tensor ("weight") -> that of the program's


class BatchNorm(nn.BatchNorm2d):
    """Of (N, C) and (N, C, L), too, as the operator is."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def layers_of(nodes: list[Any], tensors: Mapping[str, Tensor]) -> dict[int, Found]:
    """Of nodes as edgekd.capture gives them: a node's place -> the module that stands for it.

    Convolutions, linear layers, normalisations and PReLU have one where their tensors are nobody else's and nothing
    but the input depends on the images. The module holds the tensors themselves.
    """
    stored = {node[1]: node[2] for node in nodes if node[0] == "tensor"}
    uses = Counter(stored[name] for node in nodes if node[0] == "call" for name in _names(node[3:]) if name in stored)
    found: dict[int, Found] = {}
    for place, node in enumerate(nodes):
        if node[0] != "call" or node[2] not in MAKERS:
            continue
        (_, fed), *given = _arguments(node[2], node[3], node[4]).items()
        sources = {name: stored[of] for name, value in given for of in _names(value) if uses[stored.get(of, "")] == 1}
        rest = {name: value for name, value in given if name not in sources}
        if "weight" in sources and not any(_names(list(rest.values()))):
            weights = {name: tensors[source] for name, source in sources.items()}
            if (module := _made(MAKERS[node[2]], weights, rest)) is not None:
                found[place] = Found(module.eval(), fed, sources)
    return found


def _names(value: Any) -> Iterator[str]:
    """Of the nodes that a value refers to."""
    if isinstance(value, dict):
        yield from [value["node"]] if isinstance(value.get("node"), str) else _names(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)


def _arguments(target: str, args: list[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """By their names in the operator's schema, the input first, with its defaults."""
    _, packet, overload = target.split(".")
    schema = getattr(getattr(torch.ops.aten, packet), overload)._schema.arguments
    defaults = {a.name: a.default_value if a.has_default_value() else None for a in schema}
    return defaults | dict(zip(defaults, args, strict=False)) | dict(kwargs)


def _made(maker: Maker, weights: Weights, rest: Rest) -> nn.Module | None:
    """None for a node that does not fit together: when it runs, its operator says what is wrong."""
    try:
        with torch.device("meta"):
            return maker(weights, rest)
    except (TypeError, ValueError, RuntimeError):
        return None


def _holding(module: nn.Module, weights: Weights) -> nn.Module:
    """The module with these tensors for its own."""
    for name, tensor in weights.items():
        if name in module._parameters:
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(name, tensor)
    return module


def _convolution(weights: Weights, rest: Rest) -> nn.Module | None:
    weight, groups = weights["weight"], rest["groups"]
    if weight.ndim != 4 or not isinstance(groups, int):
        return None
    outputs, inputs, high, wide = weight.shape
    sizes = {name: rest[name] for name in ("stride", "padding", "dilation")}
    module = nn.Conv2d(groups * inputs, outputs, (high, wide), groups=groups, bias="bias" in weights, **sizes)
    return _holding(module, weights)


def _linear(weights: Weights, rest: Rest) -> nn.Module | None:
    if weights["weight"].ndim != 2:
        return None
    outputs, inputs = weights["weight"].shape
    return _holding(nn.Linear(inputs, outputs, bias="bias" in weights), weights)


def _batch_norm(weights: Weights, rest: Rest) -> nn.Module | None:
    if rest["training"] or set(weights) != {"weight", "bias", "running_mean", "running_var"}:
        return None
    module = BatchNorm(len(weights["weight"]), eps=rest["eps"], momentum=rest["momentum"])
    module.num_batches_tracked = None  # no program has that counter
    return _holding(module, weights)


def _layer_norm(weights: Weights, rest: Rest) -> nn.Module:
    return _holding(nn.LayerNorm(rest["normalized_shape"], eps=rest["eps"], bias="bias" in weights), weights)


def _prelu(weights: Weights, rest: Rest) -> nn.Module:
    return _holding(nn.PReLU(weights["weight"].numel()), weights)


MAKERS: Mapping[str, Maker] = {
    "aten.conv2d.default": _convolution,
    "aten.conv2d.padding": _convolution,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.prelu.default": _prelu,
}
