"""A batch that the device's memory cannot hold: networks see it in parts, losses and optimizers still see the whole.

Whenever memory runs out, the images that a network gets at once are halved, and the training goes on from its last
checkpoint. The settings stay, and what is learnt is the same:

- A network that treats each image by itself (the teacher, a generator or student in eval mode) gets one part at a time
  and keeps nothing of it; the backward pass computes the part again. Same numbers but for rounding, a third more work.
- BatchNorm that trains takes its statistics from the whole batch, which parts would change. Such a network gets the
  whole, and a GPU keeps its activations in the host's memory until the backward pass. Same numbers to the bit, slower.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from edgekd.errors import EnvironmentLacking
from edgekd.observe import Observed, joined

T = TypeVar("T")
WORDS = (  # of torch, cuBLAS and cuDNN, C++ and ONNX Runtime
    "out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED", "bad_alloc", "bad allocation",
    "Failed to allocate memory",
)  # fmt: skip


@dataclass
class _Batch:
    """What this process knows of its memory; all networks share it."""

    most: int | None = None  # images that a network gets at once; None: memory has sufficed so far
    last: int = 0  # images of the last call
    bound: bool = False  # whether that call's network had to have them all, though fewer were asked for


_batch = _Batch()


def in_parts(model: nn.Module, x: Tensor, observed: Observed | None = None) -> Tensor:
    """model(x), (N, ...), of x (N, ...) in parts of as many as memory holds.

    observed: gets what the network shows of its inside, of the whole batch.
    """
    _batch.last = len(x)
    fits = fits_memory(x)
    _batch.bound = not fits and _statistics(model)
    if fits or _batch.bound:
        with observed or nullcontext(), nullcontext() if fits or not x.is_cuda else save_on_cpu(pin_memory=True):
            whole: Tensor = model(x)
            return whole
    results, seen, now = [], [], _as_now(model)
    for part in x.split(_batch.most or 1):
        with Observed(observed.at) if observed else nullcontext() as inside:
            results.append(checkpoint(now, part, use_reentrant=False))
        seen.append(inside)
    if observed:
        joined([inside for inside in seen if inside], observed)
    return torch.cat(results)


def fits_memory(x: Tensor) -> bool:
    """Whether networks get a batch x (N, ...) at once, as far as is known."""
    return _batch.most is None or len(x) <= _batch.most


def _statistics(model: nn.Module) -> bool:
    """Whether the network takes statistics of its batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules())


def _as_now(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network in its present mode, train or eval: the backward pass may come when the mode is another."""
    modes = [(module, module.training) for module in model.modules()]

    def run(x: Tensor) -> Tensor:
        later = [(module, module.training) for module, _ in modes]
        for module, training in modes:
            module.training = training
        try:
            y: Tensor = model(x)
            return y
        finally:
            for module, training in later:
                module.training = training

    return run


def within_memory(train: Callable[[], T], again: Callable[[int], None]) -> T:
    """train(), begun again with half as many images at once whenever memory runs out; again(images) is called before.

    Raises EnvironmentLacking where it cannot hold one image, or the whole batch of a network that must have it, and in
    one of several processes that train together: the others would not halve theirs. Every other error passes through.
    """
    _batch.most, _batch.last, _batch.bound = None, 0, False
    while True:
        try:
            return train()
        except (MemoryError, RuntimeError) as error:
            if not short_of_memory(error):
                raise
            half = (_batch.last if _batch.most is None else min(_batch.most, _batch.last)) // 2
            together = dist.is_available() and dist.is_initialized()
            if half == 0 or _batch.bound or together:
                tried = (
                    "a student with BatchNorm needs its whole batch at once" if _batch.bound else "even with one image"
                )
                raise EnvironmentLacking(
                    "the device's memory does not suffice for this training",
                    code="E0406",
                    why=f"{'in one of several processes' if together else tried}: {str(error).strip().splitlines()[0]}",
                    fix="a smaller batch, e.g.  --set batch=64, or free the memory that other programs hold",
                ) from error
        _batch.most = half  # not in the handler: the error holds the frames, and these the tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        again(half)


def short_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on a GPU or in the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)
