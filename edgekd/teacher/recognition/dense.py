"""DenseNets read from the order of their layers, as torchvision, kuangliu, weiaicunzai and andreasveit name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.teacher.recognition.layers import Conv, Layer, Network, Unfit, same


@dataclass(frozen=True)
class Choices:
    """What shapes cannot tell."""

    stem: int = 1  # stride of the first convolution
    pool: bool = False  # a 3x3 max pool of stride 2 after the stem
    newest: str = "last"  # where a layer's new channels go: "last" or "first"
    bend: bool = True  # ReLU in the transitions


@dataclass(frozen=True)
class Part:
    """A dense layer (BatchNorm, ReLU, convolution, once or twice) or a transition between blocks."""

    pairs: tuple[tuple[Layer, Layer], ...]  # BatchNorm, convolution
    transition: bool


def _parts(given: Sequence[Layer]) -> tuple[list[Layer], list[Part], Layer, Layer]:
    """Stem, parts, last BatchNorm and linear layer."""
    if len(given) < 8 or given[0].kind != "conv" or given[-1].kind != "linear" or given[-2].kind != "norm":
        raise Unfit("no DenseNet: it begins with a convolution, and ends with a BatchNorm and a linear layer")
    stem = [given[0]] + ([given[1]] if given[1].kind == given[2].kind == "norm" else [])
    middle = given[len(stem) : -2]
    if [layer.kind for layer in middle] != ["norm", "conv"] * (len(middle) // 2):
        raise Unfit("no DenseNet: its BatchNorms and convolutions alternate")
    pairs = list(zip(middle[::2], middle[1::2], strict=True))
    found, channels, place = [], stem[0].out, 0
    while place < len(pairs):
        norm, conv = pairs[place]
        if norm.out != channels or conv.into != channels:
            raise Unfit(f"{norm.name} has {norm.out} channels; {channels} come in")
        deep = conv.kernel == (1, 1) and place + 1 < len(pairs) and pairs[place + 1][1].kernel != (1, 1)
        part = Part(tuple(pairs[place : place + 1 + deep]), conv.kernel == (1, 1) and not deep)
        channels = part.pairs[-1][1].out + (0 if part.transition else channels)
        place += 1 + deep
        found.append(part)
    if not any(not part.transition for part in found) or given[-1].into != channels or given[-2].out != channels:
        raise Unfit(f"{given[-1].name} takes {given[-1].into} features; {channels} come in")
    return stem, found, given[-2], given[-1]


class Dense(Network):
    """A DenseNet with the names of its file."""

    def __init__(self, given: Sequence[Layer], choices: Choices) -> None:
        stem, found, norm, head = _parts(given)
        convs = {layer.name: Conv(1, same(layer)) for layer in given if layer.kind == "conv"}
        convs[stem[0].name] = Conv(choices.stem, same(stem[0]))
        super().__init__(given, convs)
        self.stem, self.found, self.norm, self.head, self.choices = stem, found, norm, head, choices

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self.stem[0].name, x)
        x = F.relu(self.run(self.stem[1].name, x)) if len(self.stem) > 1 else x
        x = F.max_pool2d(x, 3, stride=2, padding=1) if self.choices.pool else x
        for part in self.found:
            y = x
            for norm, conv in part.pairs:
                y = self.run(norm.name, y)
                y = F.relu(y) if self.choices.bend or not part.transition else y
                y = self.run(conv.name, y)
            if part.transition:
                x = F.avg_pool2d(y, 2)
            else:
                x = torch.cat([x, y] if self.choices.newest == "last" else [y, x], dim=1)
        x = F.adaptive_avg_pool2d(F.relu(self.run(self.norm.name, x)), 1)
        return self.run(self.head.name, x.flatten(1))


def read(given: Sequence[Layer], choices: Choices | None = None) -> list[tuple[Choices, Network]]:
    """The network, by convention first, then what else it may be. With `choices`: exactly that."""
    if choices is not None:
        return [(choices, Dense(given, choices))]
    names = " ".join(layer.name for layer in given)
    stem, *_ = _parts(given)
    large = max(stem[0].kernel) >= 7
    usual = Choices(
        stem=2 if large else 1,
        pool=large,
        newest="first" if "dense1.0." in names and "trans1.conv" in names else "last",
        bend="transition_layer_" not in names,
    )
    others = [
        replace(usual, newest="first" if usual.newest == "last" else "last"),
        replace(usual, pool=not usual.pool),
        replace(usual, bend=not usual.bend),
    ]
    return [(choice, Dense(given, choice)) for choice in (usual, *others)]
