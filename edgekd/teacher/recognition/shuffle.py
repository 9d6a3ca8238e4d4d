"""ShuffleNetV2 read from names and shapes: torchvision's names (chenyaofo's at 32x32), kuangliu's, weiaicunzai's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.teacher.recognition.layers import Conv, Layer, Network, Unfit, same
from edgekd.teacher.recognition.residual import BLOCK, FLAT

Pair = tuple[Layer, Layer]  # convolution, BatchNorm


@dataclass(frozen=True)
class Choices:
    """What shapes cannot tell."""

    stem: int = 1  # stride of the first convolution
    pool: bool = False  # a 3x3 max pool of stride 2 after the stem
    bend: bool = True  # ReLU after the stem


@dataclass(frozen=True)
class Unit:
    """One half goes through `right`; the other through `left`, or stays as it is where that is empty."""

    left: tuple[Pair, ...]
    right: tuple[Pair, ...]


def _parts(given: Sequence[Layer]) -> tuple[list[Pair], list[Unit], Layer]:
    """Pairs outside the units (the stem first), units, linear layer."""
    blocks: dict[str, list[Layer]] = {}
    outside: list[Layer] = []
    for layer in given:
        match = FLAT.fullmatch(layer.name) or BLOCK.fullmatch(layer.name)
        key = f"{match['stage']}.{match['block']}" if match else ""
        (blocks.setdefault(key, []) if match else outside).append(layer)
    if len(blocks) < 3 or not outside or outside[-1].kind != "linear":
        raise Unfit("no ShuffleNet: no numbered blocks, or no linear layer at the end")
    ends = _paired(outside[:-1])
    if len(ends) != 2:
        raise Unfit("no ShuffleNet: it has two convolutions outside its blocks")
    return ends, [_unit(_paired(block)) for block in blocks.values()], outside[-1]


def _paired(given: Sequence[Layer]) -> list[Pair]:
    if [layer.kind for layer in given] != ["conv", "norm"] * (len(given) // 2):
        raise Unfit("no ShuffleNet: a BatchNorm follows each of its convolutions")
    return list(zip(given[::2], given[1::2], strict=True))


def _unit(pairs: Sequence[Pair]) -> Unit:
    kinds = "".join("d" if conv.into == 1 and conv.kernel != (1, 1) else "p" for conv, _ in pairs)
    if kinds == "pdp":
        return Unit((), tuple(pairs))
    if kinds == "dppdp":
        return Unit(tuple(pairs[:2]), tuple(pairs[2:]))
    if kinds == "pdpdp":
        return Unit(tuple(pairs[3:]), tuple(pairs[:3]))
    raise Unfit(f"no ShuffleNet: {pairs[0][0].name} is in a block of {len(pairs)} convolutions")


class Shuffle(Network):
    """A ShuffleNetV2 with the names of its file."""

    def __init__(self, given: Sequence[Layer], choices: Choices) -> None:
        ends, units, head = _parts(given)
        convs = {layer.name: Conv(1, same(layer)) for layer in given if layer.kind == "conv"}
        convs[ends[0][0].name] = Conv(choices.stem, same(ends[0][0]))
        for unit in units:
            for conv, _ in (*unit.left, *unit.right):
                if conv.into == 1 and conv.kernel != (1, 1):
                    convs[conv.name] = Conv(2 if unit.left else 1, same(conv), conv.out)
        super().__init__(given, convs)
        self.ends, self.units, self.head, self.choices = ends, units, head, choices

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self.ends[0]
        x = self.run(norm.name, self.run(conv.name, x))
        x = F.relu(x) if self.choices.bend else x
        x = F.max_pool2d(x, 3, stride=2, padding=1) if self.choices.pool else x
        for unit in self.units:
            left, right = (x, x) if unit.left else x.chunk(2, dim=1)
            y = torch.cat([self._half(unit.left, left), self._half(unit.right, right)], dim=1)
            n, c, h, w = y.shape
            x = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = self._half(self.ends[1:], x)
        return self.run(self.head.name, F.adaptive_avg_pool2d(x, 1).flatten(1))

    def _half(self, pairs: Sequence[Pair], x: Tensor) -> Tensor:
        """ReLU follows every convolution but the depthwise ones."""
        for conv, norm in pairs:
            x = self.run(norm.name, self.run(conv.name, x))
            x = x if conv.into == 1 and conv.kernel != (1, 1) else F.relu(x)
        return x


def read(given: Sequence[Layer], choices: Choices | None = None) -> list[tuple[Choices, Network]]:
    """The network, by convention first, then what else it may be. With `choices`: exactly that."""
    if choices is not None:
        return [(choices, Shuffle(given, choices))]
    usual = Choices(bend=not given[0].name.startswith("pre."))
    others = (replace(usual, stem=2, pool=True), replace(usual, pool=True), replace(usual, stem=2))
    return [(choice, Shuffle(given, choice)) for choice in (usual, *others)]
