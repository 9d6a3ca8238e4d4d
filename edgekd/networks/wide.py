"""Wide ResNets for small images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.networks.residual import Shortcut
from edgekd.types import Images


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
