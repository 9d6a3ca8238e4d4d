"""Networks without shortcuts: LeNet-5 and a plain one for small images."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.types import Images


class LeNet(nn.Module):
    """LeNet-5 as data-free distillation uses it (DAFL, RDSKD): convolutions of 5x5 and two linear layers, ReLU.

    width: channels of the first convolution. 6 gives LeNet5 (6, 16, 120, 84), 3 gives LeNet5Half (3, 8, 60, 42).
    The third convolution covers what is left of the image, so that any input of 16 pixels or more will do; at the
    published 32x32 it is 5x5.
    """

    def __init__(self, images: Images, classes: int, *, width: int = 6) -> None:
        super().__init__()
        wide = [max(1, round(c * width / 6)) for c in (16, 120, 84)]
        rest = tuple(((side - 4) // 2 - 4) // 2 for side in (images.height, images.width))
        if min(rest) < 1:
            raise ValueError(f"LeNet needs images of 16x16 or more, not {images.height}x{images.width}")
        self.conv1 = nn.Conv2d(images.channels, width, 5)
        self.conv2 = nn.Conv2d(width, wide[0], 5)
        self.conv3 = nn.Conv2d(wide[0], wide[1], (rest[0], rest[1]))
        self.fc1 = nn.Linear(wide[1], wide[2])
        self.fc2 = nn.Linear(wide[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x)).flatten(1)
        logits: Tensor = self.fc2(F.relu(self.fc1(x)))
        return logits


class PlainNet(nn.Module):
    """3x3 convolutions with BatchNorm and ReLU in a row, halving the image down to about 4x4, and one linear layer.

    width: channels of the first convolution; the k-th has k times as many. The head keeps a 2x2 map instead of one
    average: on images of a few pixels, where something is says what it is.
    """

    def __init__(self, images: Images, classes: int, *, width: int) -> None:
        super().__init__()
        side = max(images.height, images.width)
        strides = [2 if side > 64 else 1] + [2] * max(1, math.ceil(math.log2(side / (8 if side > 64 else 4)))) + [1]
        channels = [images.channels, *(width * (k + 1) for k in range(len(strides)))]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=False)
            for a, b, stride in zip(channels, channels[1:], strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels[1:])
        self.linear = nn.Linear(4 * channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return logits
