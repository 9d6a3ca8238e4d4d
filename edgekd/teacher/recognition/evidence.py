"""Which of several networks with the same weights is the one that was trained: BatchNorm remembers what it saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import losses
from edgekd.observe import Observed
from edgekd.prior import collages, coloured_noise, strokes
from edgekd.teacher.preprocessing import normalisation as numbers
from edgekd.types import Images

BUDGET_GMACS = 15.0  # of all comparisons of one file: about a second on a slow core
MOST, LEAST = 24, 4  # images
PIXELS = 2**15  # of all images of a size together: to draw them takes time as well
BETTER, BELIEVED = 0.75, 0.5  # how much nearer another network must come than the usual one, and how near at all
Size = tuple[int, int, int]  # channels, height, width


def images_of(size: Size, normalisation: str | None) -> Images:
    """The facts of images (channels, height, width) under a named normalisation; None: pixels / 255."""
    mean, std = numbers(normalisation or "unit")
    if len(mean) != size[0]:
        mean, std = (sum(mean) / len(mean),) * size[0], (sum(std) / len(std),) * size[0]
    return Images(*size, mean, std)


def drawn(images: Images, count: int, *, seed: int = 0) -> Tensor:
    """Images that nobody took, normalised: strokes in gray, collages of coloured noise in colour. (count, C, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    if images.channels == 1:
        pixels = strokes(count, images, rng)
    else:
        pixels = collages(count, images, rng, lambda n, rng: coloured_noise(n, images, rng))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (images.mean, images.std))
    return (pixels.float() / 255 - mean) / std


def fit(model: nn.Module, size: Size, normalisation: str | None, *, count: int = MOST) -> float:
    """How far drawn images are from what the BatchNorm layers saw in training, >= 0; infinite without BatchNorm.

    size: channels, height, width; normalisation: a name of preprocessing.NORMALISATIONS; count: images. The median
    over layers of losses.batch_norm: a few layers with dead channels would outweigh all others in a mean. Networks
    with the same weights can be compared: for trained ones the right network comes nearest.
    """
    return _distance(model, drawn(images_of(size, normalisation), count))


def _distance(model: nn.Module, images: Tensor) -> float:
    with torch.no_grad(), Observed() as observed:
        model.eval()(images)
    distances = sorted(float(losses.batch_norm([seen]).nan_to_num(math.inf)) for seen in observed.batch_norms)
    return distances[len(distances) // 2] if distances else math.inf


def measured(options: Sequence[tuple[nn.Module, Size]], normalisation: str | None) -> list[float]:
    """`fit` of each network on images of its size, on as many as BUDGET_GMACS allows.

    Empty where it would say nothing: no BatchNorm, the statistics of no training, or networks too large to be tried.
    """
    norms = [m for m in options[0][0].modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    variances = [m.running_var for m in norms if m.running_var is not None]
    if all(bool(torch.all(variance == 1)) for variance in variances):
        return []
    first = {size: model for model, size in reversed(options)}
    each = {size: _macs(model, size) for size, model in first.items()}
    macs = sum(each[size] for _, size in options)
    count = min(MOST, int(BUDGET_GMACS * 1e9 / max(macs, 1)))
    if count < LEAST:
        return []
    few = {size: max(LEAST, min(count, PIXELS // (size[1] * size[2]))) for size in first}
    images = {size: drawn(images_of(size, normalisation), few[size]) for size in first}
    return [_distance(model, images[size]) for model, size in options]


def _macs(model: nn.Module, size: Size) -> int:
    """Multiply-adds of the convolutions for one image."""
    counted: list[int] = []

    def count(module: nn.Module, _: Any, out: Tensor) -> None:
        counted.append(out.numel() * module.get_parameter("weight")[0].numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *size))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counted)


def preferred(options: Sequence[tuple[nn.Module, Size]], normalisation: str | None) -> tuple[int, str]:
    """The index of the network that BatchNorm speaks for, and what was found, in words. The first one is the usual one.

    Another than the first is taken only where it comes much nearer to the statistics. Untested: empty words.
    """
    distances = measured(options, normalisation) if len(options) > 1 else []
    if not distances:
        return 0, ""
    best = min(range(len(options)), key=lambda index: distances[index])
    if distances[best] < min(BETTER * distances[0], BELIEVED):
        return best, f"BatchNorm's statistics fit it best ({distances[best]:.2f}; the usual one {distances[0]:.2f})"
    if distances[0] < BELIEVED:
        return 0, f"BatchNorm's statistics agree ({distances[0]:.2f}; the next {min(distances[1:]):.2f})"
    return 0, ""
