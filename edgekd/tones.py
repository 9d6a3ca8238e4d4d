"""Images that pixels can show, as bright and as contrasty as the teacher's normalisation says of those it knows."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from edgekd.types import Images

LARGEST = 0.95  # of the variance of pixels that are either black or white; a normalisation near that is no statistic
QUANTILES = 2_000  # of the normal distribution
STEEPEST = 30.0
HALVINGS = 50


class Tones(nn.Module):
    """(N, C, H, W) with mean 0 and variance 1 in each channel -> normalised images, every one of which pixels can show.

    p = sigmoid(a x + b), with a and b such that p has the mean and the variance of the normalisation if x is normally
    distributed. Of MNIST that is an eighth of the image lit, nearly black on white: most of what a generator may
    otherwise try looks like no image of the teacher's.
    """

    a: Tensor
    b: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, images: Images) -> None:
        super().__init__()
        slopes, offsets = zip(*map(_curve, images.mean, images.std), strict=True)
        for name, of in {"a": slopes, "b": offsets, "mean": images.mean, "std": images.std}.items():
            self.register_buffer(name, torch.tensor(of, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        pixels: Tensor = torch.sigmoid(self.a * x.float() + self.b)
        return (pixels - self.mean) / self.std


def are_known(images: Images) -> bool:
    """Whether the normalisation can be the moments of pixels in [0, 1], and not the customary 0.5, 0.5 or 0, 1."""
    return all(0 < m < 1 and 0 < s**2 <= LARGEST * m * (1 - m) for m, s in zip(images.mean, images.std, strict=True))


@cache
def _curve(mean: float, std: float) -> tuple[float, float]:
    """(a, b) of a channel by halving: the mean rises with b, and at that mean the standard deviation with a."""
    x = torch.special.ndtri((torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES)

    def offset(a: float) -> float:
        low, high = -10 * a - 60, 10 * a + 60
        for _ in range(HALVINGS):
            b = (low + high) / 2
            low, high = (b, high) if torch.sigmoid(a * x + b).mean() < mean else (low, b)
        return b

    low, high = 1e-3, STEEPEST
    for _ in range(HALVINGS):
        a = (low + high) / 2
        low, high = (a, high) if torch.sigmoid(a * x + offset(a)).std() < std else (low, a)
    return a, offset(a)
