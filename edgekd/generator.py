"""Where images come from: RDSKD's generator, which makes them of latent vectors at any size, or pixels themselves."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.compute import autocast, compiled, to_device
from edgekd.ranks import split
from edgekd.tones import Tones, are_known
from edgekd.types import Images, Sampler


class Generator(nn.Module):
    """(N, latent) -> (N, C, H, W), each channel with mean 0 and variance 1 over the batch.

    The network of RDSKD's released code (taken from DAFL): a linear layer, then steps of nearest upsampling by two and
    a 3x3 convolution, tanh, BatchNorm without weights. Images up to 32 pixels are made in two such steps from a quarter
    of their size, as published; larger ones in as many as it takes to start from 8 pixels or fewer. The BatchNorm eps
    of 0.8 is that of the last two steps only: in more of them the signal dies away.

    tones: in place of tanh and that BatchNorm, images that pixels can show (edgekd/tones.py), where those are known.
    """

    def __init__(self, images: Images, *, latent: int, width: int = 128, tones: bool = False) -> None:
        super().__init__()
        ups = max(2, math.ceil(math.log2(max(images.height, images.width) / 8)))
        self.sizes = [(-(-images.height // 2**k), -(-images.width // 2**k)) for k in range(ups, -1, -1)]
        self.width = width
        self.project = nn.Linear(latent, width * self.sizes[0][0] * self.sizes[0][1])
        self.norm = nn.BatchNorm2d(width)
        outs = [width] * (ups - 1) + [width // 2]
        self.convs = nn.ModuleList(nn.Conv2d(width, out, 3, padding=1) for out in outs)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(out, eps=0.8 if index >= ups - 2 else 1e-5) for index, out in enumerate(outs)
        )
        norm = nn.BatchNorm2d(images.channels, affine=False)
        self.to_image = nn.Sequential(
            nn.Conv2d(outs[-1], images.channels, 3, padding=1),
            *([norm, Tones(images)] if tones and are_known(images) else [nn.Tanh(), norm]),
        )

    def forward(self, z: Tensor) -> Tensor:
        x = self.norm(self.project(z).view(-1, self.width, *self.sizes[0]))
        for size, conv, norm in zip(self.sizes[1:], self.convs, self.norms, strict=True):
            assert isinstance(conv, nn.Conv2d)
            x = F.leaky_relu(norm(upsampled_conv(conv, x, size)), 0.2)
        image: Tensor = self.to_image(x)
        return image


class Pixels(nn.Module):
    """Images that are their own parameters: refined instead of generated. start: normalised (N, C, H, W)."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(start.contiguous(memory_format=torch.channels_last))

    def forward(self, z: Tensor) -> Tensor:
        """The images, whatever z is: it has the place of a generator."""
        return self.images


def new_generator(
    images: Images, *, latent: int, width: int, seed: int, device: torch.device, tones: bool = False
) -> Generator:
    """A generator with the first weights that `seed` gives, on `device`; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state only
        torch.manual_seed(seed)
        generator = Generator(images, latent=latent, width=width, tones=tones)
    return to_device(generator, device)


def images_from(generator: nn.Module, z: Tensor) -> Tensor:
    """The generator's images (N, C, H, W) in fp32 for latent vectors z (N, latent)."""
    with autocast(z.device):
        images = generator(z) if isinstance(generator, Pixels) else split(compiled(generator, z), z)
    return images.float()


def sampler_of(generator: nn.Module, *, latent: int, batch: int, rng: torch.Generator) -> Sampler:
    """Draws from a generator in training mode: at least `batch` at once, as its BatchNorm takes their statistics."""

    def sample(n: int) -> Tensor:
        with torch.no_grad():
            return images_from(generator, torch.randn(max(n, batch), latent, generator=rng, device=rng.device))[:n]

    return sample


PHASES = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # rows of a 3-kernel that see the same pixel


def upsampled_conv(conv: nn.Conv2d, x: Tensor, size: tuple[int, int]) -> Tensor:
    """conv(nearest upsampling of x to `size`), for a 3x3 convolution with padding 1. x: (N, I, H, W) -> (N, O, *size).

    At twice the size, a 3x3 window sees 2x2 different pixels only, in one of four phases: four 2x2 convolutions of the
    small image give the same numbers for 4/9 of the arithmetic (what it gains: benchmarks/NOTES.md).
    """
    n, _, h, w = x.shape
    if size != (2 * h, 2 * w) or conv.bias is None:
        upsampled: Tensor = conv(F.interpolate(x, size=size))
        return upsampled
    phases, o = PHASES.to(conv.weight.device), conv.out_channels
    kernel = torch.einsum("apu,bqv,oiuv->aboipq", phases, phases, conv.weight).reshape(4 * o, -1, 2, 2)
    parts = F.conv2d(x, kernel, conv.bias.repeat(4), padding=1)  # (N, 4 O, H + 1, W + 1)
    out = torch.empty((n, o, *size), dtype=parts.dtype, device=x.device, memory_format=torch.channels_last)
    for phase in range(4):
        down, right = divmod(phase, 2)
        part = parts[:, phase * o : (phase + 1) * o, down : down + h, right : right + w]
        out[:, :, down::2, right::2] = part
    return out
