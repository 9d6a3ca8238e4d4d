"""The end of a training without data: agreement with the teacher on generated images, watched round by round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def rounds_left(patience: int, agreements: Sequence[float], planned: int, now: int) -> int:
    """How many rounds there are: once the agreement was flat for `patience` of them, a fifth of the planned follow.

    The last ones are always learnt, at a falling rate: stopping at a high rate would waste what was learnt.
    """
    last, before = agreements[-patience:], agreements[:-patience]
    flat = patience and before and max(last) < max(before) + FLAT
    return min(now, len(agreements) + planned // 5) if flat else now
