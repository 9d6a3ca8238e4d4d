"""Networks of inverted residuals: MobileNetV2, MobileNetV3 and tiny ones for microcontrollers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.types import Images

LAST_PIXELS = 5  # images are halved until their longer side is about this
MULTIPLE = 8  # channels; what vector units work on at once


@dataclass(frozen=True)
class Stage:
    """Inverted residuals in a row; the first of them may halve the image."""

    expand: float  # channels inside per channel that comes in
    channels: int
    blocks: int
    kernel: int = 3
    squeeze: bool = False  # channels are weighted by what the whole image says of them
    smooth: bool = False  # h-swish instead of ReLU6
    halves: bool = False


V2 = (
    Stage(1, 16, 1),
    Stage(6, 24, 2, halves=True),
    Stage(6, 32, 3, halves=True),
    Stage(6, 64, 4, halves=True),
    Stage(6, 96, 3),
    Stage(6, 160, 3, halves=True),
    Stage(6, 320, 1),
)
V3 = (
    Stage(1, 16, 1, squeeze=True, halves=True),
    Stage(4, 24, 2, halves=True),
    Stage(5, 40, 3, kernel=5, squeeze=True, smooth=True, halves=True),
    Stage(3, 48, 2, kernel=5, squeeze=True, smooth=True),
    Stage(6, 96, 3, kernel=5, squeeze=True, smooth=True, halves=True),
)


class HardSwish(nn.Module):
    """x * hardsigmoid(x), written so: ONNX has HardSwish itself only from opset 14 on."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(x)


class SqueezeExcite(nn.Module):
    """Weights each channel by a number in [0, 1] that two 1x1 convolutions make of the channels' means (Hu, 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = multiple_of(channels / 4)
        self.reduce, self.expand = nn.Conv2d(channels, middle, 1), nn.Conv2d(middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gates)


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise, 1x1 to few ones; a shortcut where shapes allow (Sandler et al., CVPR 2018)."""

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inside = channels if stage.expand == 1 else multiple_of(stage.expand * channels)
        layers: list[nn.Module] = []
        if inside != channels:
            layers += [*normalised(nn.Conv2d(channels, inside, 1, bias=False)), activation(stage.smooth)]
        depthwise = nn.Conv2d(
            inside, inside, stage.kernel, stride=stride, padding=stage.kernel // 2, groups=inside, bias=False
        )
        layers += [*normalised(depthwise), activation(stage.smooth)]
        if stage.squeeze:
            layers.append(SqueezeExcite(inside))
        layers += normalised(nn.Conv2d(inside, stage.channels, 1, bias=False))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class MobileNet(nn.Module):
    """A strided 3x3 convolution, stages of inverted residuals, a wide 1x1 convolution (head), and linear layers.

    stem: channels of the first convolution; stem_stride: 1, 2 or 4; head: channels of the 1x1 convolution, 0 for none;
    hidden: width of a linear layer before the last one, 0 for none; smooth: h-swish in stem, head and hidden layer.
    """

    def __init__(
        self,
        images: Images,
        classes: int,
        *,
        stem: int,
        stem_stride: int,
        stages: Sequence[Stage],
        head: int,
        hidden: int = 0,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        kernel = 7 if stem_stride == 4 else 3  # each pixel is seen
        conv = nn.Conv2d(images.channels, stem, kernel, stride=stem_stride, padding=kernel // 2, bias=False)
        self.stem = nn.Sequential(*normalised(conv), activation(smooth))
        blocks, channels = list[nn.Module](), stem
        for stage in stages:
            for index in range(stage.blocks):
                blocks.append(InvertedResidual(channels, stage, 2 if stage.halves and index == 0 else 1))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential()
        if head:
            self.head.extend([*normalised(nn.Conv2d(channels, head, 1, bias=False)), activation(smooth)])
            channels = head
        self.classifier = nn.Sequential()
        if hidden:
            self.classifier.extend([nn.Linear(channels, hidden), activation(smooth)])
            channels = hidden
        self.classifier.append(nn.Linear(channels, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def mobilenet_v2(images: Images, classes: int, *, width: float, depth: float = 1.0) -> MobileNet:
    """MobileNetV2 (Sandler et al., CVPR 2018). width: share of all channels; depth: share of each stage's blocks."""
    stages, stride = fitted(V2, images, width=width, depth=depth)
    return MobileNet(
        images, classes, stem=multiple_of(32 * width), stem_stride=stride, stages=stages, head=multiple_of(1280 * width)
    )


def mobilenet_v3(images: Images, classes: int, *, width: float, depth: float = 1.0) -> MobileNet:
    """After MobileNetV3-Small (Howard et al., ICCV 2019): one expansion per stage. width, depth: as of V2."""
    stages, stride = fitted(V3, images, width=width, depth=depth)
    return MobileNet(
        images,
        classes,
        stem=multiple_of(16 * width),
        stem_stride=stride,
        stages=stages,
        head=multiple_of(576 * width),
        hidden=multiple_of(1024 * width),
        smooth=True,
    )


def tiny(images: Images, classes: int, *, width: int, depth: int) -> MobileNet:
    """Inverted residuals for microcontrollers, after MCUNet (Lin et al., NeurIPS 2020).

    width: channels of the stem, then 1, 2, 3 and 6 times as many; depth: blocks of each stage but the first. No head:
    there most of the weights would be. Large images are quartered at once: the memory is needed where they are largest.
    """
    count = halvings(images)
    stages = [Stage(1, width, 1)]
    for place, times in enumerate((2, 3, 6)):
        stages.append(Stage(4, times * width, depth, halves=count >= 3 - place))
    return MobileNet(
        images, classes, stem=width, stem_stride=2 ** min(2, max(0, count - 3)), stages=stages, head=0, smooth=False
    )


def fitted(stages: Sequence[Stage], images: Images, *, width: float, depth: float) -> tuple[list[Stage], int]:
    """(the stages scaled, with as many halvings as the images need, the last ones first; stride of the stem)."""
    places, count = [index for index, stage in enumerate(stages) if stage.halves], halvings(images)
    halving = places[max(0, len(places) - count) :]
    scaled = [
        Stage(
            expand=stage.expand,
            channels=multiple_of(stage.channels * width),
            blocks=max(1, round(stage.blocks * depth)),
            kernel=stage.kernel,
            squeeze=stage.squeeze,
            smooth=stage.smooth,
            halves=index in halving,
        )
        for index, stage in enumerate(stages)
    ]
    return scaled, 2 if count > len(places) else 1


def halvings(images: Images) -> int:
    """How often images are halved: 5 times at 224 pixels, 3 times at 32, once at 8."""
    return max(0, round(math.log2(max(images.height, images.width) / LAST_PIXELS)))


def multiple_of(channels: float, multiple: int = MULTIPLE) -> int:
    """The nearest multiple, no less than 90 % of what was asked, as MobileNets are published."""
    found = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return found + multiple if found < 0.9 * channels else found


def normalised(conv: nn.Conv2d) -> list[nn.Module]:
    """A convolution and its BatchNorm."""
    return [conv, nn.BatchNorm2d(conv.out_channels)]


def activation(smooth: bool) -> nn.Module:
    """Made anew for each place."""
    return HardSwish() if smooth else nn.ReLU6()
