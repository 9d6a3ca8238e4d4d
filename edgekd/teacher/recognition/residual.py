"""Residual networks read from names and shapes: ResNets, ResNeXts, Wide and pre-activation ResNets of any size.

The field writes them in dozens of ways (akamaster's layer1.0.conv1 and linear, torchvision's downsample.0 and fc,
kuangliu's shortcut.0, xternalz's block1.layer.0.convShortcut, weiaicunzai's conv2_x.0.residual_function.0): stages of
numbered blocks, in each a path of convolutions and BatchNorms, and a shortcut. Widths, depths, groups and the order
of BatchNorm come from the shapes; what they leave open is in Choices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from edgekd.teacher.recognition.layers import Conv, Layer, Network, Unfit, is_shortcut, same

BLOCK = re.compile(
    r"(?P<stage>(?:layers?|stages?|blocks?|groups?|res_?layers?|res|features|body)\.\d+|[A-Za-z]\w*?\d+(?:_x)?|)\.?"
    r"(?:(?:layers?|blocks?|residual_layers?|residuals?)\.)?"
    r"(?:block_?|layer_?|unit_?|res_?block_?)?(?P<block>\d+)\.(?P<rest>[^\d].*)"
)
FLAT = re.compile(
    r"(?P<stage>layers?|blocks?|stages?|features|body|res_?blocks?|residuals?|trunk)\.(?P<block>\d+)\.(?P<rest>[^\d].*)"
)


@dataclass(frozen=True)
class Choices:
    """What shapes cannot tell. The defaults are the field's conventions."""

    stem: int = 1  # stride of the first convolution
    pool: bool = False  # a 3x3 max pool of stride 2 after the stem
    strides: tuple[int, ...] = ()  # of the stages; empty: 1, then 2 for every further one
    pad: str = "both"  # where a shortcut without parameters puts its zero channels: "both" sides or the "end"
    tap: str = "activated"  # what the shortcut of a pre-activation block reads: its "activated" or "raw" input
    bend: bool = True  # ReLU behind the last BatchNorm
    early: bool = False  # a bottleneck steps in its first convolution, not in its 3x3 one


@dataclass(frozen=True)
class Block:
    """One residual block: its path and its shortcut."""

    path: tuple[Layer, ...]
    shortcut: tuple[Layer, ...]

    @property
    def convs(self) -> list[Layer]:
        return [layer for layer in self.path if layer.kind == "conv"]

    @property
    def norms(self) -> list[Layer]:
        return [layer for layer in self.path if layer.kind == "norm"]

    @property
    def into(self) -> int:
        return self.convs[0].into


@dataclass(frozen=True)
class Parts:
    """The layers of a residual network by their place."""

    stem: tuple[Layer, ...]
    stages: tuple[tuple[Block, ...], ...]
    norm: Layer | None  # after the last block
    head: Layer
    before: bool  # BatchNorm and ReLU before each convolution


def parts(given: Sequence[Layer]) -> Parts:
    """Sorts the layers into stem, blocks and head. Raises Unfit where they are no residual network."""
    stages: dict[str, dict[str, list[Layer]]] = {}
    outside: list[tuple[bool, Layer]] = []
    for layer in given:
        if match := (FLAT.fullmatch(layer.name) or BLOCK.fullmatch(layer.name)):
            stages.setdefault(match["stage"], {}).setdefault(match["block"], []).append(layer)
        else:
            outside.append((bool(stages), layer))
    blocks = tuple(tuple(_block(group) for group in stage.values()) for stage in stages.values())
    if not blocks or sum(len(block.convs) for stage in blocks for block in stage) < 2:
        raise Unfit("no numbered blocks of convolutions")
    if any(conv.into == 1 < conv.out for stage in blocks for block in stage for conv in block.convs):
        raise Unfit("depthwise convolutions, which residual networks have not")
    blocks = _by_width(blocks) if len(blocks) == 1 else blocks
    linear = [layer for _, layer in outside if layer.kind == "linear"]
    if len(linear) != 1:
        raise Unfit(f"{len(linear)} linear layers outside the blocks; a residual network ends with one")
    convs = [layer for _, layer in outside if layer.kind == "conv"]
    norms = [(late, layer) for late, layer in outside if layer.kind == "norm"]
    before, last = _before(blocks), blocks[-1][-1].convs[-1].out
    final = [layer for late, layer in norms if before and layer.out == last and (late or len(norms) > len(convs))]
    final = final or [layer for _, layer in norms if before and layer.out == last and layer.out != convs[-1].out]
    stem_norms = [layer for _, layer in norms if layer not in final[-1:]]
    if not convs or len(final[:1]) + len(stem_norms) != len(norms) or len(stem_norms) not in (0, len(convs)):
        raise Unfit(f"{len(convs)} convolutions and {len(norms)} BatchNorms outside the blocks")
    if linear[0].into != last:
        raise Unfit(f"the last block gives {last} channels and {linear[0].name} takes {linear[0].into}")
    stem = [layer for pair in zip(convs, stem_norms, strict=False) for layer in pair] if stem_norms else convs
    return Parts(tuple(stem), blocks, final[-1] if final else None, linear[0], before)


def _block(group: Sequence[Layer]) -> Block:
    side = [layer for layer in group if is_shortcut(layer.name)]
    path = [layer for layer in group if layer not in side]
    block = Block(tuple(path), tuple(side))
    if not block.convs or any(layer.kind == "linear" for layer in group):
        raise Unfit(f"{group[0].name} is in no block of convolutions")
    if [layer.kind for layer in side] not in ([], ["conv"], ["conv", "norm"], ["norm", "conv"]):
        raise Unfit(f"the shortcut of {group[0].name} is {len(side)} layers")
    if len(block.norms) not in (0, len(block.convs)):
        raise Unfit(f"{len(block.convs)} convolutions and {len(block.norms)} BatchNorms in the block of {path[0].name}")
    return block


def _by_width(blocks: tuple[tuple[Block, ...], ...]) -> tuple[tuple[Block, ...], ...]:
    """Blocks in one row, cut into stages where their width changes."""
    stages: list[list[Block]] = []
    for block in blocks[0]:
        if not stages or block.convs[-1].out != stages[-1][-1].convs[-1].out:
            stages.append([])
        stages[-1].append(block)
    return tuple(tuple(stage) for stage in stages)


def _before(blocks: Sequence[Sequence[Block]]) -> bool:
    """Whether BatchNorm comes before its convolution: by the shapes where they tell, else by the order."""
    every = [block for stage in blocks for block in stage if block.norms]
    pairs = [(norm, conv) for block in every for norm, conv in zip(block.norms, block.convs, strict=True)]
    after = all(norm.out == conv.out for norm, conv in pairs)
    ahead = all(norm.out in (conv.into, block.into) for block in every for norm, conv in _zipped(block))
    if after and ahead:
        return bool(every) and every[0].path[0].kind == "norm"
    if not after and not ahead:
        raise Unfit("BatchNorms that fit neither before nor after their convolutions")
    return ahead


def _zipped(block: Block) -> list[tuple[Layer, Layer]]:
    return list(zip(block.norms, block.convs, strict=True))


class Residual(Network):
    """A residual network with the names of its file."""

    def __init__(self, given: Sequence[Layer], found: Parts, choices: Choices) -> None:
        strides = choices.strides or (1, *(2,) * (len(found.stages) - 1))
        if len(strides) != len(found.stages):
            raise Unfit(f"{len(found.stages)} stages and {len(strides)} strides")
        convs: dict[str, Conv] = {}
        width = channels = found.stem[0].into
        for index, layer in enumerate(layer for layer in found.stem if layer.kind == "conv"):
            convs[layer.name] = _conv(layer, channels, choices.stem if index == 0 else 1)
            width = channels = layer.out
        for stage, stride in zip(found.stages, strides, strict=True):
            for index, block in enumerate(stage):
                width = _settle(block, width, stride if index == 0 else 1, convs, early=choices.early)
        super().__init__(given, convs)
        self.found, self.choices, self.strides = found, choices, strides

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.found.stem:
            x = self.run(layer.name, x)
            if layer.kind == "norm" or not any(other.kind == "norm" for other in self.found.stem):
                x = x if self.found.before and self._bare_stem() else F.relu(x)
        if self.choices.pool:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage, stride in zip(self.found.stages, self.strides, strict=True):
            for index, block in enumerate(stage):
                x = self._through(block, x, stride if index == 0 else 1)
        if self.found.norm is not None:
            x = self.run(self.found.norm.name, x)
            x = F.relu(x) if self.choices.bend else x
        return self.run(self.found.head.name, F.adaptive_avg_pool2d(x, 1).flatten(1))

    def _bare_stem(self) -> bool:
        """Before a block that begins with BatchNorm and ReLU, a convolution alone has none of its own."""
        return all(layer.kind == "conv" for layer in self.found.stem)

    def _through(self, block: Block, x: Tensor, stride: int) -> Tensor:
        shortcut = x
        y = x
        if self.found.before:
            for index, (norm, conv) in enumerate(_zipped(block)):
                y = F.relu(self.run(norm.name, y))
                if index == 0 and block.shortcut and self.choices.tap == "activated":
                    shortcut = y
                y = self.run(conv.name, y)
        else:
            norms: Sequence[Layer | None] = block.norms or [None] * len(block.convs)
            for index, (conv, after) in enumerate(zip(block.convs, norms, strict=True)):
                y = self.run(after.name if after else None, self.run(conv.name, y))
                y = F.relu(y) if index + 1 < len(block.convs) else y
        for layer in block.shortcut:
            shortcut = self.run(layer.name, shortcut)
        if not block.shortcut:
            shortcut = self._widened(shortcut, y.shape[1], stride)
        return shortcut + y if self.found.before else F.relu(shortcut + y)

    def _widened(self, x: Tensor, channels: int, stride: int) -> Tensor:
        """A shortcut without parameters: every stride-th pixel, zeros for the channels that are missing."""
        missing = channels - x.shape[1]
        x = x[:, :, ::stride, ::stride] if stride > 1 else x
        if not missing:
            return x
        first = missing // 2 if self.choices.pad == "both" else 0
        return F.pad(x, (0, 0, 0, 0, first, missing - first))


def _conv(layer: Layer, channels: int, stride: int) -> Conv:
    if channels % layer.into:
        raise Unfit(f"{layer.name} takes {layer.into} channels and gets {channels}")
    return Conv(stride, same(layer), channels // layer.into)


def _settle(block: Block, width: int, stride: int, convs: dict[str, Conv], *, early: bool) -> int:
    """Strides, paddings and groups of a block's convolutions. Gives the channels that come out."""
    wide = block.convs[0] if early else next((c for c in block.convs if c.kernel != (1, 1)), block.convs[0])
    channels = width
    for conv in block.convs:
        convs[conv.name] = _conv(conv, channels, stride if conv is wide else 1)
        channels = conv.out
    for layer in block.shortcut:
        if layer.kind == "conv":
            convs[layer.name] = _conv(layer, width, stride)
    out = next((layer.out for layer in reversed(block.shortcut)), None)
    if out is not None and out != channels:
        raise Unfit(f"{block.shortcut[-1].name} gives {out} channels, its block {channels}")
    if out is None and channels < width:
        raise Unfit(f"{block.convs[-1].name} gives fewer channels than its block takes, and there is no shortcut")
    return channels


def read(given: Sequence[Layer], choices: Choices | None = None) -> list[tuple[Choices, Residual]]:
    """The network, by convention first, then what else it may be. With `choices`: exactly that."""
    found = parts(given)
    if choices is not None:
        return [(choices, Residual(given, found, choices))]
    large = max(found.stem[0].kernel) >= 7
    names = " ".join(layer.name for layer in given)
    usual = Choices(stem=2 if large else 1, pool=large, tap="raw" if _raw(found, names) else "activated")
    if re.search(r"stage_\d|conv_[ab]\b", names):
        usual = replace(usual, pad="end")
    if "init_conv" in names:
        usual = replace(usual, bend=False)
    if found.before and re.search(r"\.residual\.\d", names):
        usual = replace(usual, early=True)
    others = [replace(usual, pool=not usual.pool), replace(usual, stem=3 - usual.stem)]
    if found.before:
        others.append(replace(usual, tap="raw" if usual.tap == "activated" else "activated"))
    elif any(not block.shortcut for stage in found.stages[1:] for block in stage[:1]):
        others.append(replace(usual, pad="end" if usual.pad == "both" else "both"))
    if len(found.stages) > 2:
        others.append(replace(usual, strides=(2,) * len(found.stages)))
    return [(choice, Residual(given, found, choice)) for choice in (usual, *others)]


def _raw(found: Parts, names: str) -> bool:
    """By custom, pre-activation blocks with biases (meliketoy) or named downsample (bearpaw) tap the raw input."""
    first = found.stages[0][0].convs[0]
    return (
        "bias" in first.tensors
        or "downsample" in names
        or "residual_function" in names
        or bool(re.search(r"shortcut\.\d", names) and found.norm is not None)
    )
