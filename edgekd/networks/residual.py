"""ResNets: of basic blocks and of bottlenecks, for small images and for 224 pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.types import Images

EXPANSION = 4  # channels of a bottleneck's output per channel of its middle


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


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, the last four times as wide; the stride in the 3x3."""

    def __init__(self, channels: int, middle: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * middle
        self.conv1 = nn.Conv2d(channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1 or out != channels:
            self.downsample = nn.Sequential(Shortcut(channels, out, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet of basic blocks, or of bottlenecks.

    Three stages behind a 3x3 stem for small images, four behind the 7x7 stem at 224.

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
        bottleneck: bool = False,
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
            out, blocks = width * 2**stage, list[nn.Module]()
            for index in range(depths[stage]):
                stride = 2 if stage and index == 0 else 1
                if bottleneck:
                    blocks.append(BottleneckBlock(channels, out, stride))
                else:
                    blocks.append(BasicBlock(channels, out, stride, option))
                channels = out * (EXPANSION if bottleneck else 1)
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
