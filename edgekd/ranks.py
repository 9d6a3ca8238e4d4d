"""One training on several processes: each runs the networks on its part of every batch, all do the rest alike.

All draw the same numbers from the same seed and hold the same weights. What a network makes of a part is gathered, so
that losses see the whole batch, as RDSKD's balance and diversity and BatchNorm's statistics must; gradients are summed.
The result is that of one process, to rounding. Started by torchrun; a single process passes through unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgekd.errors import EnvironmentLacking, UsageError
from edgekd.memory import in_parts
from edgekd.observe import Observed

LINES = ("gloo", "Gloo", "NCCL")  # what connects the processes, in the words of torch


def meet() -> None:
    """Joins the processes that torchrun has started for this command; alone, nothing happens."""
    of = os.environ
    count, backend = int(of.get("WORLD_SIZE", "1")), "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if count == 1 or ranks() > 1:
        return
    restart = of.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restart == "0" or of.get("LOCAL_WORLD_SIZE") != of["WORLD_SIZE"]:
        dist.init_process_group(backend)
        return
    # torchrun keeps one store over its restarts: the addresses of the processes that are gone are still in it
    store = dist.TCPStore(of["MASTER_ADDR"], int(of["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]
    begun = dist.PrefixStore(f"edgekd restart {restart}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=begun, rank=int(of["RANK"]), world_size=count)


@contextmanager
def others_there() -> Iterator[None]:
    """Raises EnvironmentLacking for what torch says when another of the processes is gone."""
    try:
        yield
    except RuntimeError as error:
        if ranks() == 1 or not any(words in str(error) for words in LINES):
            raise
        raise EnvironmentLacking(
            "another process of this training is gone",
            code="E0415",
            why=str(error).strip().splitlines()[0],
            fix="run the same command again: it goes on from the last save; torchrun --max-restarts does so by itself",
        ) from error


def leave_to_the_first() -> None:
    """Ends what `meet` began: the first process goes on alone, the others end by SystemExit."""
    if ranks() > 1:
        others = not first()
        dist.barrier()
        dist.destroy_process_group()
        if others:
            raise SystemExit(0)


def first() -> bool:
    """Whether this process is the one that writes files and goes on after the training."""
    return ranks() == 1 or dist.get_rank() == 0


@contextmanager
def one_after_the_first() -> Iterator[None]:
    """The others enter when the first process is through."""
    if not first():
        dist.barrier()
    yield
    if ranks() > 1 and first():
        dist.barrier()


def any_of(here: bool) -> bool:
    """Whether it is so in any of the processes."""
    if ranks() == 1:
        return here
    flag = torch.tensor(float(here))
    dist.all_reduce(flag)
    return bool(flag > 0)


def ranks() -> int:
    """How many processes train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def split(model: nn.Module, x: Tensor, observed: Observed | None = None) -> Tensor:
    """model(x), (N, ...), where each process computes N / ranks() of the rows and gets all.

    BatchNorm that trains takes its statistics from the whole batch. observed: gets what the network shows of its
    inside, of this process's rows. Raises UsageError where N cannot be divided.
    """
    count = ranks()
    if count == 1:
        return in_parts(model, x, observed)
    if len(x) % count and not torch.is_grad_enabled():
        return in_parts(model, x, observed)  # the same work everywhere
    if len(x) % count:
        raise UsageError(
            f"{count} processes cannot share a batch of {len(x)} images alike", code="E0226", fix="set another batch"
        )
    part = x.chunk(count)[dist.get_rank()]
    with _Synchronised(), observed or nullcontext():  # so that what BatchNorm does inside is not seen as maps
        return whole(model(part))


def whole(part: Tensor) -> Tensor:
    """The rows (N, ...) of all processes, of which each gives N / ranks() of its own."""
    return part if ranks() == 1 else _Whole.apply(part)  # type: ignore[no-untyped-call]


def average(x: Tensor) -> Tensor:
    """The mean of x over the processes, for a loss that all compute alike."""
    return x if ranks() == 1 else _Average.apply(x)  # type: ignore[no-untyped-call]


def sum_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Adds up what each process's rows contribute to the gradients of the optimizer's parameters."""
    if ranks() == 1:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


class _Whole(torch.autograd.Function):
    """Gathers; back goes each process's own part only, as all compute the same loss of the whole."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].chunk(dist.get_world_size())[dist.get_rank()].contiguous()


class _Average(torch.autograd.Function):
    """The mean over processes; back goes a process's own share, as all compute the same loss of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / dist.get_world_size()


class _Shared(torch.autograd.Function):
    """The mean over processes inside a network: back goes what the outputs of all of them make of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _Average.forward(ctx, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Average.forward(ctx, grads[0])


class _Synchronised(TorchFunctionMode):
    """While active, BatchNorm that trains has the statistics of all processes; torch's SyncBatchNorm needs CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            if given.get("training"):
                return _batch_norm(**given)
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.batch_norm in training, of the parts (N, C, ...) of all processes, in fp32."""
    x, over = input.float(), [0, *range(2, input.dim())]
    shape = (1, -1, *[1] * (input.dim() - 2))
    mean = _Shared.apply(x.mean(over))  # type: ignore[no-untyped-call]
    centred = x - mean.view(shape)
    var = _Shared.apply(centred.square().mean(over))  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        count = x.numel() / x.shape[1] * ranks()
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * count / (count - 1), momentum)
    y: Tensor = centred * (var + eps).rsqrt().view(shape)
    y = y if weight is None else y * weight.view(shape)
    y = y if bias is None else y + bias.view(shape)
    return y.to(input.dtype)
