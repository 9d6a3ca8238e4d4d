"""The generator of RDSKD: latent vectors to normalised images of any size."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.types import Images


class Generator(nn.Module):
    """(N, latent) -> (N, C, H, W), each channel with mean 0 and variance 1 over the batch.

    The network of RDSKD's released code (taken from DAFL): a linear layer, then steps of nearest upsampling by two and
    a 3x3 convolution, tanh, BatchNorm without weights. Images up to 32 pixels are made in two such steps from a quarter
    of their size, as published; larger ones in as many as it takes to start from 8 pixels or fewer. The BatchNorm eps
    of 0.8 is that of the last two steps only: in more of them the signal dies away.
    """

    def __init__(self, images: Images, *, latent: int, width: int = 128) -> None:
        super().__init__()
        ups = max(2, math.ceil(math.log2(max(images.height, images.width) / 8)))
        self.sizes = [(-(-images.height // 2**k), -(-images.width // 2**k)) for k in range(ups, -1, -1)]
        self.width = width
        self.project = nn.Linear(latent, width * self.sizes[0][0] * self.sizes[0][1])
        self.norm = nn.BatchNorm2d(width)
        outs = [width] * (ups - 1) + [width // 2]
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, out, 3, padding=1),
                nn.BatchNorm2d(out, eps=0.8 if index >= ups - 2 else 1e-5),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for index, out in enumerate(outs)
        )
        self.to_image = nn.Sequential(
            nn.Conv2d(outs[-1], images.channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(images.channels, affine=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        x = self.norm(self.project(z).view(-1, self.width, *self.sizes[0]))
        for size, conv in zip(self.sizes[1:], self.convs, strict=True):
            x = conv(F.interpolate(x, size=size))
        image: Tensor = self.to_image(x)
        return image
