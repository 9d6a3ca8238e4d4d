"""From tensors by name to layers, and a network whose layers keep the names that they have in the file."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

COUNTER = "num_batches_tracked"  # of BatchNorm; inference does not read it
SHORTCUT = re.compile(
    r"(down_?sample|short_?cut|conv_?short_?cut|skip|proj|identity|res_?conv|conv_?res|side|shrink)", re.I
)
PARTS = ("weight", "bias", "running_mean", "running_var", COUNTER)


class Unfit(Exception):
    """A way of reading the tensors that does not work out; the reason in words. The next way is tried."""


@dataclass(frozen=True)
class Layer:
    """A convolution, a linear layer or a BatchNorm as the file has it."""

    name: str  # "layer1.0.conv1"
    kind: str  # "conv", "linear" or "norm"
    tensors: Mapping[str, Tensor]  # "weight", "bias", "running_mean", "running_var"

    def __deepcopy__(self, memo: Any) -> Layer:
        return self  # nothing of it changes; a copied network shares what it says about the file

    @property
    def out(self) -> int:
        """Channels that come out."""
        return self.tensors["running_mean" if self.kind == "norm" else "weight"].shape[0]

    @property
    def into(self) -> int:
        """Channels that go in; of a grouped convolution those of one group."""
        return self.out if self.kind == "norm" else self.tensors["weight"].shape[1]

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of a convolution's kernel."""
        height, width = self.tensors["weight"].shape[2:]
        return height, width

    @property
    def parent(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def index(self) -> int | None:
        """The place in an nn.Sequential."""
        last = self.name.rpartition(".")[2]
        return int(last) if last.isdecimal() else None


class Conv(NamedTuple):
    """What the shape of a convolution's weight does not say."""

    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1


def layers(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """The layers in the order in which the file has them; by number where the file is sorted by name.

    Raises Unfit for tensors that belong to none of the three kinds.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part not in PARTS:
            raise Unfit(f"{name} belongs to no convolution, linear layer or BatchNorm")
        if part != COUNTER:
            parts.setdefault(module, {})[part] = tensor
    names = list(parts)
    if len(names) > 2 and list(tensors) == sorted(tensors):
        names.sort(key=natural)
    return [Layer(name, _kind(name, parts[name]), parts[name]) for name in names]


def _kind(name: str, parts: Mapping[str, Tensor]) -> str:
    if "running_mean" in parts and "running_var" in parts:
        return "norm"
    weight = parts.get("weight")
    if weight is None or "running_mean" in parts or "running_var" in parts:
        raise Unfit(f"{name} has {', '.join(parts)}, which is no layer")
    if weight.ndim not in (2, 4):
        raise Unfit(f"{name}.weight is {list(weight.shape)}: no convolution, linear layer or BatchNorm")
    return "conv" if weight.ndim == 4 else "linear"


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts layer2 before layer10, and what comes first in networks before what comes last."""
    words = [word for word in re.split(r"[._]|(\d+)", name) if word]
    place = 0 if re.match(r"(conv|stem|init|features|prep|input)", name) else 1
    if re.match(r"(fc|linear|classifier|head|output|out|last|final|logits)", name):
        place = 2
    return [(0, place), *((0, int(word)) if word.isdecimal() else (1, word) for word in words)]


class Weightless(TorchFunctionMode):
    """While active, networks are built without memory for their weights, and without drawing random ones.

    Only what torch.empty makes is without memory (the weights of all usual layers): what networks compute while they
    are built, and the constants that they keep, are real.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **{**kwargs, "device": "meta"})
        target, name = args[0] if args else kwargs.get("tensor"), getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and isinstance(target, Tensor) and target.is_meta:
            return target  # numbers that would be drawn or set
        return func(*args, **kwargs)


class Network(nn.Module):
    """Layers under the names of the file; a subclass says in `forward` how images go through them."""

    def __init__(self, given: Iterable[Layer], convs: Mapping[str, Conv], *, flat: Container[str] = ()) -> None:
        """convs: by name; flat: the BatchNorms that follow linear layers."""
        super().__init__()
        for layer in given:
            parent: nn.Module = self
            *above, last = layer.name.split(".") if layer.name else ["layer"]
            for word in above:
                if not hasattr(parent, word):
                    parent.add_module(word, nn.Module())
                parent = parent.get_submodule(word)
            if hasattr(parent, last):
                raise Unfit(f"a layer cannot be called {layer.name}")
            parent.add_module(last, _module(layer, convs.get(layer.name, Conv()), flat=layer.name in flat))
        self.eval()

    def run(self, name: str | None, x: Tensor) -> Tensor:
        """x through the layer of that name; x itself where there is none."""
        if name is None:
            return x
        y: Tensor = self.get_submodule(name)(x)
        return y


def _module(layer: Layer, conv: Conv, *, flat: bool) -> nn.Module:
    """The layer with the file's tensors in fp32."""
    tensors = {part: tensor.detach().float() for part, tensor in layer.tensors.items()}
    bias = "bias" in tensors
    module: nn.Module
    with Weightless():
        if layer.kind == "conv":
            into = layer.into * conv.groups
            module = nn.Conv2d(into, layer.out, layer.kernel, conv.stride, conv.padding, groups=conv.groups, bias=bias)
        elif layer.kind == "linear":
            module = nn.Linear(layer.into, layer.out, bias=bias)
        else:
            module = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(layer.out, affine="weight" in tensors)
    if layer.kind == "norm":
        tensors[COUNTER] = torch.tensor(0)
    module.load_state_dict(tensors, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def same(layer: Layer) -> tuple[int, int]:
    """The padding that keeps the side of the map."""
    return layer.kernel[0] // 2, layer.kernel[1] // 2


def is_shortcut(name: str) -> bool:
    """Whether a layer belongs to the way around a block."""
    return any(SHORTCUT.match(word) for word in name.split("."))
