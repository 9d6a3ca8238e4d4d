"""How networks are run: which device, in which precision and memory layout."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
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
    """A GPU when there is one that runs a kernel, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")
