"""BatchNorm's statistics over the batches made so far: what earlier ones lack, the next are to have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd import losses
from edgekd.observe import look
from edgekd.types import Teacher


def no_history(teacher: Teacher) -> nn.ParameterList:
    """Mean and variance (C,) of the inputs of BatchNorm after BatchNorm, all 0; empty where the teacher has none.

    A module, so that checkpoints and devices take it as any other; nothing in it learns by a gradient.
    """
    statistics = [t for _, mean, var in look(teacher).batch_norms for t in (mean, var)]
    return nn.ParameterList(nn.Parameter(torch.zeros_like(t), requires_grad=False) for t in statistics)


@torch.no_grad()
def remember(history: nn.ParameterList, seen: Sequence[tuple[Tensor, Tensor, Tensor]], *, momentum: float) -> None:
    """Brings the history up to date with a batch, of which only 1 - momentum is new. seen: as the losses take it."""
    now = [moment for pair in losses.so_far(seen, list(history), momentum) for moment in pair]
    for kept, moment in zip(history, now, strict=True):
        kept.copy_(moment)
