"""MobileNets of the first and second kind, read from names and shapes: depthwise convolutions between 1x1 ones.

As torchvision names them (features.1.conv.0.0), kuangliu (layers.0.conv1, linear), weiaicunzai (stage2.0.residual.0),
chenyaofo (torchvision's names, steps for 32x32 images), of any width. Which stages step by 2 no shape tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from edgekd.teacher.recognition.layers import Conv, Layer, Network, Unfit, is_shortcut, same

SMALL = (1, 1, 2, 2, 1, 2, 1)  # steps of MobileNetV2's stages for 32x32 images (kuangliu, chenyaofo)
EARLY = (1, 2, 2, 2, 1, 1, 1)  # the same in weiaicunzai's
LARGE = (1, 2, 2, 2, 1, 2, 1)  # at 224x224


@dataclass(frozen=True)
class Choices:
    """What shapes cannot tell. Empty strides: by custom, where the channels change."""

    stem: int = 1  # stride of the first convolution
    strides: tuple[int, ...] = ()  # of the stages
    activation: str = "relu6"  # or "relu"
    padding: int = -1  # of the first convolution; -1: what keeps the side


@dataclass(frozen=True)
class Unit:
    """[1x1,] depthwise, 1x1, each with its BatchNorm; and a 1x1 shortcut where there is one."""

    path: tuple[tuple[Layer, Layer | None], ...]
    shortcut: tuple[tuple[Layer, Layer | None], ...] = ()

    @property
    def out(self) -> int:
        return self.path[-1][0].out


def _pairs(given: Sequence[Layer]) -> list[tuple[Layer, Layer | None]]:
    pairs: list[tuple[Layer, Layer | None]] = []
    for layer in given:
        if layer.kind == "norm":
            if not pairs or pairs[-1][1] is not None or pairs[-1][0].out != layer.out:
                raise Unfit(f"{layer.name} follows no convolution of {layer.out} channels")
            pairs[-1] = (pairs[-1][0], layer)
        else:
            pairs.append((layer, None))
    return pairs


def _depthwise(pair: tuple[Layer, Layer | None]) -> bool:
    return pair[0].kind == "conv" and pair[0].into == 1 and pair[0].kernel != (1, 1) and pair[0].out > 3


def _parts(given: Sequence[Layer]) -> tuple[list[Unit], list[tuple[Layer, Layer | None]]]:
    """The units, and what is before and behind them: the stem first."""
    pairs = _pairs(given)
    if len(pairs) < 5 or pairs[0][0].kind != "conv" or sum(map(_depthwise, pairs)) < 3:
        raise Unfit("fewer than three depthwise convolutions")
    units, rest, place = [], [pairs[0]], 1
    while place < len(pairs):
        for length in (3, 2):
            path = pairs[place : place + length]
            if len(path) == length and _depthwise(path[-2]) and all(p[0].kind == "conv" for p in path):
                break
        else:
            rest.append(pairs[place])
            place += 1
            continue
        place += length
        side = []
        while place < len(pairs) and is_shortcut(pairs[place][0].name):
            side.append(pairs[place])
            place += 1
        units.append(Unit(tuple(path), tuple(side)))
    if sum(map(_depthwise, rest)) or not rest[1:]:
        raise Unfit("a depthwise convolution that no 1x1 convolution follows")
    return units, rest


class Mobile(Network):
    """A MobileNet with the names of its file."""

    def __init__(self, given: Sequence[Layer], choices: Choices) -> None:
        units, rest = _parts(given)
        self_steps = _steps(units, choices)
        convs: dict[str, Conv] = {}
        stem = rest[0][0]
        padding = same(stem) if choices.padding < 0 else (choices.padding, choices.padding)
        convs[stem.name] = Conv(choices.stem, padding)
        channels = stem.out
        for unit, step in zip(units, self_steps, strict=True):
            width = channels
            for layer, _ in unit.path:
                stride = step if layer.into == 1 and layer.kernel != (1, 1) else 1
                convs[layer.name] = Conv(stride, same(layer), _groups(layer, channels))
                channels = layer.out
            for layer, _ in unit.shortcut:
                convs[layer.name] = Conv(1, same(layer), _groups(layer, width))
        for layer, _ in rest[1:]:
            if layer.into != channels:
                raise Unfit(f"{layer.name} takes {layer.into} channels and gets {channels}")
            channels = layer.out
        super().__init__(given, convs)
        self.units, self.rest, self.steps, self.choices = units, rest, self_steps, choices
        self.inverted = any(len(unit.path) == 3 for unit in units)

    def forward(self, x: Tensor) -> Tensor:
        activation = F.relu6 if self.choices.activation == "relu6" else F.relu
        x = activation(self._pair(self.rest[0], x))
        for unit, step in zip(self.units, self.steps, strict=True):
            y = x
            for index, pair in enumerate(unit.path):
                y = self._pair(pair, y)
                y = y if self.inverted and index + 1 == len(unit.path) else activation(y)
            for pair in unit.shortcut:
                x = self._pair(pair, x)
            joined = self.inverted and step == 1 and x.shape[1] == y.shape[1]
            x = x + y if joined else y
        for index, pair in enumerate(self.rest[1:], start=1):
            last = index + 1 == len(self.rest)
            if x.ndim > 2 and last:
                x = F.adaptive_avg_pool2d(x, 1)
                x = x.flatten(1) if pair[0].kind == "linear" else x
            x = self._pair(pair, x)
            x = x if last else activation(x)
        return x.flatten(1)

    def _pair(self, pair: tuple[Layer, Layer | None], x: Tensor) -> Tensor:
        return self.run(pair[1].name if pair[1] else None, self.run(pair[0].name, x))


def _groups(layer: Layer, channels: int) -> int:
    if channels % layer.into:
        raise Unfit(f"{layer.name} takes {layer.into} channels and gets {channels}")
    return channels // layer.into


def _steps(units: Sequence[Unit], choices: Choices) -> list[int]:
    """The stride of each unit: those of the stages, a stage beginning where the channels change."""
    starts = [index for index, unit in enumerate(units) if index == 0 or unit.out != units[index - 1].out]
    strides = choices.strides
    if not strides:
        inverted = any(len(unit.path) == 3 for unit in units)
        strides = SMALL if inverted and len(starts) == len(SMALL) else (1, *(2,) * (len(starts) - 1))
    if len(strides) != len(starts):
        raise Unfit(f"{len(starts)} stages and {len(strides)} strides")
    table = dict(zip(starts, strides, strict=True))
    return [table.get(index, 1) for index in range(len(units))]


def read(given: Sequence[Layer], choices: Choices | None = None) -> list[tuple[Choices, Network]]:
    """The network, by convention first, then what else it may be. With `choices`: exactly that."""
    if choices is not None:
        return [(choices, Mobile(given, choices))]
    units, rest = _parts(given)
    inverted = any(len(unit.path) == 3 for unit in units)
    plain = any(layer.name.startswith(("layers.", "linear")) for layer in given) or not inverted
    usual = Choices(activation="relu" if plain else "relu6")
    stages = sum(index == 0 or unit.out != units[index - 1].out for index, unit in enumerate(units))
    others = [replace(usual, activation="relu6" if plain else "relu"), replace(usual, stem=2)]
    if inverted and stages == len(SMALL):
        if rest[0][0].kernel == (1, 1):
            usual = replace(usual, strides=EARLY, padding=1)
            others = [replace(usual, strides=SMALL), replace(usual, padding=-1)]
        else:
            others += [replace(usual, stem=2, strides=LARGE), replace(usual, strides=LARGE)]
    return [(choice, Mobile(given, choice)) for choice in (usual, *others)]
