"""Batched augmentation of images that the teacher labels afterwards, so that nothing here has to keep a label true."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.bank import statistics
from edgekd.types import Images


def warped(images: Tensor, rng: torch.Generator, *, strength: float, mirror: bool) -> Tensor:
    """Each image turned, scaled, sheared and shifted by its own random amounts; mirrored half of the time if asked.

    images: (N, C, H, W). strength 1: up to 0.2 radians, 15 % of scale and shear, 8 % of the half side in shift, all
    uniform. What comes in from outside is the border's reflection.
    """
    n, _, height, width = images.shape
    turn, zoom, shear, right, down = strength * (2 * torch.rand(5, n, 1, 1, generator=rng, device=images.device) - 1)
    turn, zoom = 0.2 * turn, 1 + 0.15 * zoom
    side = 1 - 2.0 * (torch.rand(n, 1, 1, generator=rng, device=images.device) < 0.5 * mirror)
    x = (2 * torch.arange(width, device=images.device) + 1) / width - 1  # pixel centres, as affine_grid has them; it
    y = ((2 * torch.arange(height, device=images.device) + 1) / height - 1)[:, None]  # multiplies matrices: slower
    columns = side * zoom * turn.cos() * x + (0.15 * shear - zoom * turn.sin()) * y + 0.08 * right
    rows = side * zoom * turn.sin() * x + zoom * turn.cos() * y + 0.08 * down
    grid = torch.stack([columns, rows], dim=-1)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def moved(images: Tensor, facts: Images, rng: torch.Generator, *, shift: int, mirror: bool) -> Tensor:
    """Normalised images (N, C, H, W), each shifted by up to `shift` pixels (into black) and mirrored or not.

    Whole pixels, so that a gradient through it sharpens and smears nothing: for images that are being made.
    """
    n, device = len(images), images.device
    if shift:
        mean, std = statistics(facts, device)
        black = -mean / std
        padded = F.pad(images - black, (shift,) * 4) + black
        down, right = torch.randint(2 * shift + 1, (2, n, 1), generator=rng, device=device)
        rows = (down + torch.arange(facts.height, device=device))[:, None, :, None]
        columns = (right + torch.arange(facts.width, device=device))[:, None, None, :]
        every, channels = torch.arange(n, device=device), torch.arange(facts.channels, device=device)
        images = padded[every[:, None, None, None], channels[:, None, None], rows, columns]
    if mirror:
        flip = torch.randint(2, (n, 1, 1, 1), generator=rng, device=device).bool()
        images = torch.where(flip, images.flip(3), images)
    return images


def mixed_up(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image blended with another of the batch, weights uniform in [0.5, 1] (mixup; Zhang et al., ICLR 2018)."""
    n = len(images)
    weight = 0.5 + 0.5 * torch.rand(n, 1, 1, 1, generator=rng, device=images.device)
    return torch.lerp(images[torch.randperm(n, generator=rng, device=images.device)], images, weight)
