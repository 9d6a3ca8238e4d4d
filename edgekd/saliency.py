"""What a teacher's answers owe to each channel of a layer: how far its logits would move without it, to first order.

The Taylor criterion (Molchanov, Tyree, Karras, Aila, Kautz, ICLR 2017) of logits in place of a loss, for which there
are no labels. What a channel adds on average is left out: BatchNorm makes up for a constant, or a bias learns to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgekd.bank import normalised
from edgekd.prior import NAMES, open_prior
from edgekd.room import numbers, per_pass
from edgekd.types import Images

PIXELS, FEWEST, MOST = 2**19, 16, 512  # looked at: pixels in all, and images at least and at most
DIRECTIONS = 4  # of the logits, random, per image: the mean over them stands for all classes
SEED = 0  # one student per teacher, whatever the training's seed is


@dataclass(frozen=True)
class Reader:
    """A layer that is fed another's channels."""

    layer: nn.Conv2d | nn.Linear
    inputs: Tensor  # (channels, places of one channel): which of its inputs they are
    seen: list[Tensor] = field(default_factory=list)  # of the images that run


def shown_by(prior: str, images: Images) -> str:
    """The prior whose images are looked at in a training with `prior`: empty for "none", of a picture one of our own.

    A student's shape must not depend on where a file lies.
    """
    own = "photo" if images.channels > 1 else "procedural"
    return "" if prior == "none" else prior if prior in NAMES else own


def looked_at(prior: str, images: Images) -> list[Tensor]:
    """Batches (N, C, H, W), normalised, of a prior by its name, of edgekd.prior.NAMES but "none"."""
    source, rng = open_prior(prior, images), torch.Generator().manual_seed(SEED)
    if source is None:
        raise ValueError(f"{prior} shows no images")
    n = max(FEWEST, min(MOST, PIXELS // (images.height * images.width)))
    return list(normalised(source(n, rng), images).split(max(1, per_pass(numbers(images)) // 2)))  # a backward pass too


def saliency(model: nn.Module, readers: Mapping[str, Sequence[Reader]], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name of a layer -> (channels,) float64, each the mean square by which the logits move without it.

    model: a classifier in eval mode, on the CPU; readers: of each layer, all that are fed its channels. Layers whose
    readers do not run are left out.
    """
    every = [reader for several in readers.values() for reader in several]
    handles = [reader.layer.register_forward_pre_hook(lambda _, fed, r=reader: _see(r, fed)) for reader in every]
    rng, found = torch.Generator().manual_seed(SEED), dict[str, Tensor]()
    try:
        for x in batches:
            for reader in every:
                reader.seen.clear()
            with torch.enable_grad():
                logits = model(x.clone().requires_grad_())
                logits = logits - logits.mean(dim=1, keepdim=True)  # softmax does not see a common constant
            if not (inputs := [fed for reader in every for fed in reader.seen]):
                return {}
            for direction in range(DIRECTIONS):
                towards = 2.0 * torch.randint(0, 2, logits.shape, generator=rng) - 1
                slopes = torch.autograd.grad(
                    logits, inputs, towards, retain_graph=direction < DIRECTIONS - 1, materialize_grads=True
                )
                of = dict(zip(map(id, inputs), slopes, strict=True))
                for name, several in readers.items():
                    moved = sum(_moved(reader, fed, of[id(fed)]) for reader in several for fed in reader.seen)
                    if isinstance(moved, Tensor):
                        found[name] = found.get(name, 0) + moved.double().square().sum(0)
    finally:
        for handle in handles:
            handle.remove()
    images = sum(map(len, batches))
    return {name: total / (images * DIRECTIONS) for name, total in found.items()}


def _see(reader: Reader, fed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Feeds it a copy: its own gradient, and nothing behind it writes into what was seen."""
    reader.seen.append(fed[0].clone())
    return reader.seen[-1], *fed[1:]


def _moved(reader: Reader, fed: Tensor, slope: Tensor) -> Tensor:
    """(N, channels): how far each image's logits move along the slope when a channel is held at its mean."""
    if isinstance(reader.layer, nn.Linear):
        fed, slope = fed.movedim(-1, 1), slope.movedim(-1, 1)
    fed, slope = (t.detach().reshape(*t.shape[:2], -1) for t in (fed, slope))  # (N, inputs, places)
    moved = ((fed - fed.mean(dim=(0, 2), keepdim=True)) * slope).sum(2)
    return moved[:, reader.inputs].sum(2)
