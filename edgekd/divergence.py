"""A training whose numbers are no longer finite: back to the last good checkpoint with lower learning rates.

Three times; what still fails then is told with its story. With rates that nobody lowered nothing here changes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from edgekd.errors import TrainingError

T = TypeVar("T")
TRIES = 3
LOWER = 0.3  # times the learning rates, at each try
LOOK_EVERY = 20  # losses on a GPU between two looks: each waits for the device


class Diverged(TrainingError):
    """A loss or a weight is not finite."""

    def __init__(self, what: str) -> None:
        super().__init__(what, code="E0801", fix="lower the learning rates with --set, e.g.  --set student_lr=1e-3")


@dataclass
class _Training:
    """What this process knows of its training; all optimizers share it."""

    pace: float = 1.0  # times every learning rate
    losses: Tensor | None = None  # their sum since the last look
    seen: int = 0


_training = _Training()


def pace() -> float:
    """What every learning rate is multiplied by; 1 as long as nothing went wrong."""
    return _training.pace


def slowed_to(pace: float) -> None:
    """Goes on no faster than an earlier process did."""
    _training.pace = min(_training.pace, pace)


@contextmanager
def paced(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While inside, the optimizer's rates are lower by what this training needs."""
    if _training.pace == 1.0:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * _training.pace
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def watched(loss: Tensor) -> Tensor:
    """The loss, a number without gradient. Raises Diverged where it is not finite: on a GPU up to 20 losses later."""
    _training.losses = loss if _training.losses is None else _training.losses + loss
    _training.seen += 1
    if loss.device.type == "cpu" or _training.seen >= LOOK_EVERY:
        found, _training.losses, _training.seen = _training.losses, None, 0
        if not found.isfinite():
            raise Diverged(f"a loss is {found.item()}")
    return loss


def stable(train: Callable[[], T], *, where: Callable[[], str], again: Callable[[int, float], None]) -> T:
    """train(), and up to three times more with lower rates where it diverges.

    where: says how far it had come; again(attempt from 1, pace): is called before each further try. Raises
    TrainingError with the story after the last one; of several processes that train together at once, as they could not
    agree on a step to go back to.
    """
    _training.pace, _training.losses, _training.seen = 1.0, None, 0
    story = []
    for attempt in range(1, TRIES + 2):
        try:
            return train()
        except Diverged as error:
            story.append(f"{error.what} at {where()}, learning rates times {_training.pace:.2g}")
            if attempt > TRIES or (dist.is_available() and dist.is_initialized()):
                raise TrainingError(
                    f"the training diverged {'once' if len(story) == 1 else f'{len(story)} times'}",
                    code="E0801",
                    why="; ".join(story),
                    fix="lower the learning rates with --set, e.g.  --set student_lr=1e-3, in another folder; the last "
                    "good checkpoint stays here",
                ) from error
        _training.pace *= LOWER
        _training.losses, _training.seen = None, 0
        again(attempt, _training.pace)
    raise AssertionError("unreachable")
