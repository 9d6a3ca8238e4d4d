"""What a teacher is fed: named normalisations, and whether the first BatchNorm's statistics believe an assumed one."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.bank import normalised
from edgekd.errors import UsageError
from edgekd.files import nearest
from edgekd.observe import Observed
from edgekd.prior import coloured_noise, strokes
from edgekd.types import Images

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of pixel / 255
NORMALISATIONS: dict[str, Normalisation] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5,), (0.5,)),  # pixels from -1 to 1
    "unit": ((0.0,), (1.0,)),  # pixels from 0 to 1
    "raw": ((0.0,), (1 / 255,)),  # pixels from 0 to 255
}
ANY = ("half", "unit", "raw")  # of gray and colour alike; the other ones are of data sets
MEANS, CONTRASTS = (0.03, 0.85), (0.1, 0.5)  # mean and standard deviation that pixel / 255 of a data set can have
PROBES, LINEAR, EXPLAINED = (
    2**16,
    1e-3,
    0.5,
)  # pixels; relative deviation; share of the means that one gray must explain


def normalisation(name: str) -> Normalisation:
    """The named mean and std, one number each for all channels or one for each. Raises UsageError for another name."""
    if name not in NORMALISATIONS:
        raise UsageError(
            f"no normalisation {name!r}.{nearest(name, NORMALISATIONS)}",
            code="E0206",
            fix=f"one of {', '.join(NORMALISATIONS)}, or numbers with --mean and --std",
        )
    return NORMALISATIONS[name]


@dataclass(frozen=True)
class Data:
    """What the pixels of the training data looked like, by the first BatchNorm and an assumed normalisation."""

    mean: float  # of pixel / 255
    std: float  # of pixel / 255

    @property
    def plausible(self) -> bool:
        return MEANS[0] <= self.mean <= MEANS[1] and CONTRASTS[0] <= self.std <= CONTRASTS[1]


def trained_on(model: nn.Module, images: Images) -> Data | None:
    """The gray level and contrast of the pixels that the network was trained on, if it was fed as `images` says.

    The running mean of the first BatchNorm is what the layers before it make of the mean image; where these are linear
    (a convolution) it can be solved for that image's gray level. Its running variance, over that of the same layers'
    answer to images with the spectrum of natural ones, gives the contrast. None where there is no BatchNorm, where
    something before it is not linear, or where no gray level explains the means.
    """
    x = torch.zeros(3, images.channels, images.height, images.width)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (images.mean, images.std))
    x[1], x[2] = 1 / std, -mean / std  # what gray adds per unit of pixel / 255, and a black image
    seen = _first_batch_norm(model, torch.cat([x, x[1:2] + x[2:3]]))
    if seen is None:
        return None
    zero, gray, black, both = (part.flatten(1).mean(dim=1) for part in seen[0])
    slope = gray - zero
    if (black + slope - both).abs().max() > LINEAR * slope.abs().max().clamp_min(1e-12):
        return None
    weights = (seen[2].float() + 1e-5).rsqrt()
    a, b = slope * weights, (seen[1].float() - black) * weights
    level = (a @ b) / (a @ a).clamp_min(1e-12)
    if (b - level * a).square().sum() > (1 - EXPLAINED) * b.square().sum() and b.square().mean() > 0.1:
        return None
    pens = torch.Generator().manual_seed(0)
    drawn = (strokes if images.channels == 1 else _noise)(
        max(4, PROBES // (images.height * images.width)), images, pens
    )
    answer = _first_batch_norm(model, normalised(drawn, images))
    assert answer is not None
    var = answer[0].float().transpose(0, 1).flatten(1).var(dim=1)
    ratio = (seen[2].float() / var.clamp_min(1e-12))[var > 1e-3 * var.max()].median().sqrt()
    return Data(mean=level.item(), std=(ratio * drawn.float().std() / 255).item())


def misfit(model: nn.Module, images: Images) -> str:
    """Why the first BatchNorm's statistics speak against being fed as `images` says; empty if they do not."""
    found = trained_on(model, images)
    if found is None or found.plausible:
        return ""
    believed = []
    for name, values in NORMALISATIONS.items():
        if len(values[0]) == images.channels or name in ANY:
            mean, std = (v * (images.channels // len(v)) for v in values)
            other = trained_on(model, dataclasses.replace(images, mean=mean, std=std))
            believed += [name] if other is not None and other.plausible else []
    hint = f"; plausible would be: {', '.join(believed)}" if believed else ""
    return (
        "the first BatchNorm's statistics do not fit this normalisation: the training pixels would have had the mean "
        f"{found.mean:.2f} and the spread {found.std:.2f} on a scale of 0 to 1{hint}"
    )


def _noise(n: int, images: Images, rng: torch.Generator) -> Tensor:
    return (255 * coloured_noise(n, images, rng)).round().to(torch.uint8)


class _Seen(Exception):
    """The first BatchNorm has run: what comes after it is not needed."""


class _First(Observed):
    """Observes until the first BatchNorm, and ends the run there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.batch_norms:
            raise _Seen
        return result


@torch.no_grad()
def _first_batch_norm(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Input (N, C, ...), running mean and variance (C,) of the first BatchNorm for images x; None without one."""
    observed = _First()
    with contextlib.suppress(_Seen), observed:
        model(x)
    return observed.batch_norms[0] if observed.batch_norms else None
