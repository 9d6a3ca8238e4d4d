"""How networks are run and trained: which device, in which precision and memory layout, and a step of it."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from edgekd.divergence import paced, watched
from edgekd.memory import fits_memory
from edgekd.muon import Muon
from edgekd.observe import Observed
from edgekd.ranks import ranks, split, sum_gradients
from edgekd.room import per_pass
from edgekd.types import Run

M = TypeVar("M", bound=nn.Module)
RATES = {"adam": 4e-3, "sgd": 0.1, "muon": 0.1}  # the student's highest learning rate by optimizer
COMPILE_AFTER = 500  # calls of one kind: at 20 ms each 10 s, where compiling a ResNet takes about a minute
COMPILER = "inductor"
_calls: WeakKeyDictionary[nn.Module, Counter[tuple[Any, ...]]] = WeakKeyDictionary()
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


@cache
def compile_pays(kind: str) -> bool:
    """Whether torch.compile can be of use on the device type: on a GPU, with Triton and a C compiler beside it.

    Never on a CPU, where compiling takes minutes and resumed trainings would no longer be the same to the bit.
    TORCH_COMPILE_DISABLE=1 in the environment, torch's own switch, turns it off.
    """
    compiler = any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
    return kind == "cuda" and compiler and importlib.util.find_spec("triton") is not None


def compiled(model: nn.Module, x: Tensor) -> nn.Module:
    """The network for a call with x (N, ...), compiled where calls of this kind are many; else as it is.

    What is compiled: the student's step, the teacher's labelling without gradient and the generator, each from its
    COMPILE_AFTER-th call of one shape on, so that neither a short training nor an odd batch pays for it. What is not:
    a call in which Observed looks into the network (a compiled one would not show its layers), batches in parts, and
    several processes, whose BatchNorm is not torch's. CUDA graphs are left out: they write over the logits of their
    last call, which the methods keep.
    """
    if not compile_pays(x.device.type) or ranks() > 1 or not fits_memory(x):
        return model
    of_model = _calls.setdefault(model, Counter())
    kind = (tuple(x.shape), model.training, torch.is_grad_enabled())
    of_model[kind] += 1
    return _compiled(model) if of_model[kind] > COMPILE_AFTER else model


@lru_cache(maxsize=8)
def _compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, dynamic=False, backend=COMPILER)  # type: ignore[return-value]  # gives a Module for one


def logits_of(model: nn.Module, x: Tensor, observed: Observed | None = None) -> Tensor:
    """A classifier's logits (N, K) of images x (N, C, H, W), in the precision of the device.

    observed: gets what the network shows of its inside. Around the call instead of in it, it may see nothing.
    """
    with autocast(x.device):
        return split(model if observed else compiled(model, x), x, observed)


@torch.no_grad()
def answers_of(model: nn.Module, x: Tensor) -> Tensor:
    """A classifier's logits (N, K) of any number of images x (N, C, H, W), in passes that memory holds; no gradient."""
    return torch.cat([logits_of(model, part) for part in x.split(per_pass(x[0].numel()))])


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """One step of `optimizer` down the gradient of `loss`; gives the loss as a value without it.

    Raises Diverged where the loss is not finite.
    """
    value = watched(loss.detach())
    optimizer.zero_grad()
    loss.backward()
    sum_gradients(optimizer)
    with paced(optimizer):
        optimizer.step()
    return value


def student_optimizer(student: nn.Module, name: str | None, lr: float | None) -> torch.optim.Optimizer:
    """The optimizer `name` of RATES at the rate `lr`, by default its own.

    By default Adam, for students with BatchNorm Muon: they learn more by it from the same images (benchmarks/NOTES.md).
    """
    norms = any(isinstance(module, nn.BatchNorm2d) for module in student.modules())
    name = name or ("muon" if norms else "adam")
    lr = RATES[name] if lr is None else lr
    if name == "adam":
        return adam(student.parameters(), lr)
    if name == "muon":
        return Muon(student.parameters(), lr)
    return torch.optim.SGD(student.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)


def adam(
    parameters: Iterable[nn.Parameter | Tensor] | list[dict[str, Any]],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Adam:
    """Adam in one kernel: of networks as small as generators and students here, torch's usual one takes thrice as long.

    parameters: as torch takes them, single ones or groups.
    """
    return torch.optim.Adam(parameters, lr, betas, fused=True)


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


def give_back_memory() -> None:
    """Gives the system the freed memory that keep_freed_memory holds: another phase takes other blocks."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def choose_device() -> torch.device:
    """A GPU when there is one that runs a kernel, else the CPU; under torchrun the GPU of this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if ranks() > 1 else torch.device("cuda")
    return torch.device("cpu")


def one_cycle(done: float) -> float:
    """The learning rate's share of its highest value after a share `done` of the steps: up for a tenth, cosine down.

    Smith and Topin, Super-Convergence, 2018.
    """
    rising = 0.1
    if done < rising:
        return 0.04 + 0.96 * done / rising
    return 0.5 * (1 + math.cos(math.pi * (done - rising) / (1 - rising)))
