"""How networks are run and trained: which device, in which precision and memory layout, and a step of it."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgekd.ranks import ranks, split, sum_gradients
from edgekd.types import Run

M = TypeVar("M", bound=nn.Module)
RATES = {"adam": 4e-3, "sgd": 0.1}  # the student's highest learning rate by optimizer
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


@cache
def bf16_pays(kind: str) -> bool:
    """Whether the device type ("cpu" or "cuda") multiplies bf16 in hardware."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bf16 for the layers that gain by it where the device has it, else fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16_pays(device.type))


def to_device(module: M, device: torch.device) -> M:
    """Moves a network there, in channels_last: convolutions on CPUs and tensor cores want it."""
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """A classifier's logits (N, K) of images x (N, C, H, W), in the precision of the device."""
    with autocast(x.device):
        return split(model, x)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """One step of `optimizer` down the gradient of `loss`; gives the loss as a value without it."""
    optimizer.zero_grad()
    loss.backward()
    sum_gradients(optimizer)
    optimizer.step()
    return loss.detach()


def student_optimizer(student: nn.Module, name: str | None, lr: float | None, *, colour: bool) -> torch.optim.Optimizer:
    """The optimizer `name` of RATES at the rate `lr`, by default its own.

    By default SGD for students with BatchNorm of colour images, which then learn more from the same images, else Adam
    (benchmarks/NOTES.md).
    """
    norms = any(isinstance(module, nn.BatchNorm2d) for module in student.modules())
    name = name or ("sgd" if norms and colour else "adam")
    lr = RATES[name] if lr is None else lr
    if name == "adam":
        return torch.optim.Adam(student.parameters(), lr)
    return torch.optim.SGD(student.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


def log_student(run: Run, step: int, steps: int, *, loss: Tensor, guess: Tensor, target: Tensor) -> None:
    """Logs every twentieth step and the last: the loss, and how often student and teacher choose the same class.

    guess, target: their logits (N, K). Reading the figures is what waits for the device.
    """
    if step % 20 == 0 or step == steps - 1:
        agreement = (guess.argmax(dim=1) == target.argmax(dim=1)).float().mean()
        run.log("student", step + 1, steps, loss=loss.item(), agreement=agreement.item())


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next step instead of giving it back to the system.

    A training step frees and takes the same large blocks again; without their page faults a wide
    generator on a CPU is faster, a narrow one hardly or not (benchmarks/NOTES.md). Elsewhere than on Linux with
    glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def choose_device() -> torch.device:
    """A GPU when there is one that runs a kernel, else the CPU; under torchrun the GPU of this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if ranks() > 1 else torch.device("cuda")
    return torch.device("cpu")
