"""Architectures that edgekd builds itself: LeNet-5, ResNets of basic blocks, Wide ResNets, and a plain network."""

from __future__ import annotations

import math

import torch
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


class Shortcut(nn.Conv2d):
    """A 1x1 convolution with a stride. While it learns, one without stride on the pixels that the stride leaves.

    The numbers are the same. But for fewer channels than oneDNN works on at once (8 with AVX2, 16 with AVX-512) the
    weights' gradient of the strided one is wrong or written past its buffer (uxlfoundation/oneDNN#6035, seen with
    torch 2.13): narrow students died of it.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and self.weight.requires_grad and not torch.compiler.is_exporting()
        if learns and self.in_channels < 16:
            down, right = self.stride
            return F.conv2d(x[:, :, ::down, ::right], self.weight)
        return super().forward(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., CVPR 2016).

    option: how the shortcut changes its shape: "A" drops pixels and pads channels with zeros (no parameters; what the
    CIFAR ResNets were published with), "B" is a 1x1 convolution (what devices run well).
    """

    def __init__(self, channels: int, out: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.padding = stride, out - channels
        self.downsample: nn.Module | None = None
        if option == "B" and (stride != 1 or out != channels):
            self.downsample = nn.Sequential(Shortcut(channels, out, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride != 1 or self.padding:
            before = self.padding // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.padding - before))
        return F.relu(x + y)


class ResNet(nn.Module):
    """ResNet of basic blocks. Three stages behind a 3x3 stem for small images, four behind the 7x7 stem at 224.

    depth: blocks per stage, one number for all or one for each; width: channels of the first stage, doubled at each
    further one. With the small stem, depth n and width 16 it is the CIFAR ResNet-(6n+2); depths (2, 2, 2, 2) and width
    64 give ResNet-18, behind the small stem as data-free distillation has it on CIFAR (DAFL, RDSKD).
    """

    def __init__(
        self,
        images: Images,
        classes: int,
        *,
        depth: int | tuple[int, ...],
        width: int,
        large_stem: bool,
        option: str = "B",
    ) -> None:
        super().__init__()
        depths = (depth,) * (4 if large_stem else 3) if isinstance(depth, int) else depth
        self.large_stem = large_stem
        if large_stem:
            self.conv1 = nn.Conv2d(images.channels, width, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(images.channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages, channels = len(depths), width
        for stage in range(self.stages):
            out, blocks = width * 2**stage, []
            for index in range(depths[stage]):
                blocks.append(BasicBlock(channels, out, 2 if stage and index == 0 else 1, option))
                channels = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.large_stem:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind its BatchNorm and ReLU, around a shortcut. Names as in public checkpoints."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.convShortcut = Shortcut(channels, out, stride) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return y + (x if self.convShortcut is None else self.convShortcut(activated))


class WideResNet(nn.Module):
    """WRN-DEPTH-WIDEN for 32x32 images (Zagoruyko and Komodakis, BMVC 2016): three groups of (depth - 4) / 6 blocks.

    The names are those of the public implementation that data-free distillation uses, so its checkpoints fit.
    """

    def __init__(self, images: Images, classes: int, *, depth: int, widen: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a Wide ResNet has 6n + 4 layers (10, 16, 22, 28, 34, 40), not {depth}")
        self.conv1 = nn.Conv2d(images.channels, 16, 3, padding=1, bias=False)
        channels = 16
        for group, width in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
            blocks = nn.Sequential()
            for index in range((depth - 4) // 6):
                blocks.append(WideBlock(channels, width, 2 if group > 1 and index == 0 else 1))
                channels = width
            self.add_module(f"block{group}", nn.ModuleDict({"layer": blocks}))
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for group in (1, 2, 3):
            x = self.get_submodule(f"block{group}.layer")(x)
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1).flatten(1))
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
