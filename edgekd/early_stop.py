"""The end of a training without data: agreement with the teacher on generated images, watched round by round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from edgekd.compute import answers_of

FLAT = 0.002  # a smaller gain in agreement is none


@torch.no_grad()
def agreement(teacher: nn.Module, student: nn.Module, batches: Iterable[Tensor]) -> float:
    """How often both choose the same class of images (N, C, H, W), in [0, 1]; the student in eval mode."""
    student.eval()
    same = torch.cat([answers_of(student, x).argmax(dim=1) == answers_of(teacher, x).argmax(dim=1) for x in batches])
    student.train()
    return same.float().mean().item()


def rounds_left(patience: int, agreements: Sequence[float], planned: int, now: int, *, since: int = 0) -> int:
    """How many rounds there are: once `patience` of them gave no more than as many before, a fifth of the plan follows.

    By the mean, as one lucky round is no gain. Rounds before `since` had easier images and do not count. The last ones
    are always learnt, at a falling rate: stopping at a high rate would waste what was learnt.
    """
    alike = agreements[since:]
    last, before = alike[-patience:], alike[-2 * patience : -patience]
    flat = patience and len(before) == patience and fmean(last) < fmean(before) + FLAT
    return min(now, len(agreements) + planned // 5) if flat else now
