"""A generator that shows one class only: found by the teacher's opinion of its images, and begun anew.

The spread of classes is the entropy of their histogram, as a share of the largest possible. Published methods have no
such remedy; as long as nothing collapses, nothing here changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.types import Run

FLOOR = 0.25  # spread below which a batch counts as collapsed; of ten classes, one with nine tenths of the images
LOOK_EVERY, LOOKS = 100, 3  # steps between two looks, and looks in a row at a collapsed generator
SETTLED = 50  # steps of a generator before it is judged half-way
RENEWALS = 3  # at most: then the settings, and not the generator, are the cause


def spread(logits: Tensor) -> float:
    """Entropy of the teacher's choices, over that of classes in equal numbers, in [0, 1]. logits: (N, K)."""
    share = logits.argmax(dim=1).bincount(minlength=logits.shape[1]).double() / len(logits)
    entropy = -(share * share.clamp_min(1e-300).log()).sum().item()
    return entropy / math.log(max(2, min(logits.shape)))


def half_way(step: int, steps: int, logits: Tensor, renewals: int) -> bool:
    """Whether a generator, half-way through few steps, shows hardly more than one class and is to be renewed."""
    return step + 1 == steps // 2 >= SETTLED and renewals < RENEWALS and spread(logits) < FLOOR


def renewed(
    at: dict[str, Any],
    step: int,
    logits: Tensor,
    generator: nn.Module,
    optimizer: torch.optim.Optimizer,
    fresh: Callable[[int], nn.Module],
    run: Run,
) -> bool:
    """Looks at every hundredth step; whether the generator was given the weights of fresh(1), fresh(2), ... in place.

    at: counters of the checkpoint, in which the looks in a row and the renewals are kept. Said in the log.
    """
    if (step + 1) % LOOK_EVERY:
        return False
    now = spread(logits.detach())
    at["collapsed"] = at.get("collapsed", 0) + 1 if now < FLOOR else 0
    if at["collapsed"] < LOOKS or at.get("renewals", 0) >= RENEWALS:
        return False
    at |= {"collapsed": 0, "renewals": at.get("renewals", 0) + 1}
    run.log("collapse", at["renewals"], RENEWALS, spread=now)
    generator.load_state_dict(fresh(at["renewals"]).state_dict())
    optimizer.state.clear()
    return True
