"""ResNet-9, the quick network of tutorials: conv1, conv2, res1, conv3, conv4, res2 and a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch.nn.functional as F
from torch import Tensor

from edgekd.teacher.recognition.layers import Conv, Layer, Network, Unfit, same


@dataclass(frozen=True)
class Choices:
    """What shapes cannot tell."""

    window: int = 2  # of the max pools behind conv2, conv3 and conv4
    end: str = "max"  # the last pool: "max" or "mean" of what is left of the map


class Nine(Network):
    """A chain of convolutions of which some pairs are bridged, with the names of its file."""

    def __init__(self, given: Sequence[Layer], choices: Choices) -> None:
        *body, head = given
        groups = [(name, tuple(part)) for name, part in groupby(body, key=lambda layer: layer.name.partition(".")[0])]
        bridged = [name for name, _ in groups if name.startswith("res")]
        if not bridged or head.kind != "linear" or any(layer.kind == "linear" for layer in body):
            raise Unfit("no ResNet-9: no parts called res1, or other linear layers than the last")
        channels = 0
        for name, part in groups:
            convs = [layer for layer in part if layer.kind == "conv"]
            if not convs or (channels and convs[0].into != channels) or (name in bridged and convs[-1].out != channels):
                raise Unfit(f"no ResNet-9: {name} does not follow {channels} channels")
            channels = convs[-1].out
        if head.into != channels:
            raise Unfit(f"{head.name} takes {head.into} features and gets {channels}")
        super().__init__(given, {layer.name: Conv(1, same(layer)) for layer in body if layer.kind == "conv"})
        self.groups, self.bridged, self.head, self.choices = groups, bridged, head, choices

    def forward(self, x: Tensor) -> Tensor:
        for index, (name, part) in enumerate(self.groups):
            y = x
            normed = any(layer.kind == "norm" for layer in part)
            for layer in part:
                y = self.run(layer.name, y)
                y = F.relu(y) if layer.kind == "norm" or not normed else y
            pooled = F.max_pool2d(y, self.choices.window) if index and name not in self.bridged else y
            x = x + y if name in self.bridged else pooled
        x = F.adaptive_max_pool2d(x, 1) if self.choices.end == "max" else F.adaptive_avg_pool2d(x, 1)
        return self.run(self.head.name, x.flatten(1))


def read(given: Sequence[Layer], choices: Choices | None = None) -> list[tuple[Choices, Network]]:
    """The network by convention. With `choices`: exactly that."""
    chosen = Choices() if choices is None else choices
    return [(chosen, Nine(given, chosen))]
