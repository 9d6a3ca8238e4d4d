"""Batched augmentation of images that the teacher labels afterwards, so that nothing here has to keep a label true."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warped(images: Tensor, rng: torch.Generator, *, strength: float, mirror: bool) -> Tensor:
    """Each image turned, scaled, sheared and shifted by its own random amounts; mirrored half of the time if asked.

    images: (N, C, H, W). strength 1: up to 0.2 radians, 15 % of scale and shear, 8 % of the half side in shift, all
    uniform. What comes in from outside is the border's reflection.
    """
    n = len(images)
    turn, zoom, shear, right, down = strength * (2 * torch.rand(5, n, generator=rng, device=images.device) - 1)
    turn, zoom = 0.2 * turn, 1 + 0.15 * zoom
    side = 1 - 2.0 * (torch.rand(n, generator=rng, device=images.device) < 0.5 * mirror)
    theta = torch.stack(
        [
            torch.stack([side * zoom * turn.cos(), 0.15 * shear - zoom * turn.sin(), 0.08 * right], dim=1),
            torch.stack([side * zoom * turn.sin(), zoom * turn.cos(), 0.08 * down], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def mixed_up(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image blended with another of the batch, weights uniform in [0.5, 1] (mixup; Zhang et al., ICLR 2018)."""
    n = len(images)
    weight = 0.5 + 0.5 * torch.rand(n, 1, 1, 1, generator=rng, device=images.device)
    return torch.lerp(images[torch.randperm(n, generator=rng, device=images.device)], images, weight)


def cut_mixed(images: Tensor, rng: torch.Generator) -> Tensor:
    """A rectangle of each image replaced by that of another, area uniform up to all (CutMix; Yun et al., ICCV 2019)."""
    n, _, height, width = images.shape
    side, y, x = torch.rand(3, n, 1, generator=rng, device=images.device)
    side = side.sqrt() / 2  # half sides, as a share of the image
    rows = ((torch.arange(height, device=images.device) + 0.5) / height - y).abs() < side
    columns = ((torch.arange(width, device=images.device) + 0.5) / width - x).abs() < side
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, images[torch.randperm(n, generator=rng, device=images.device)], images)
