"""Scores of a network before it has learnt anything. No command of its own: benchmarks/proxies.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {"relu", "hardtanh", "hardsigmoid"}  # those of edgekd's networks; ReLU6 is a hardtanh


class Signs(TorchFunctionMode):
    """Keeps where the inputs of all activations are above zero: (N, units of all layers), 0 or 1."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ACTIVATIONS:
            self.codes.append((args[0] > 0).flatten(1).float())
        return func(*args, **(kwargs or {}))


def naswot(model: nn.Module, images: Tensor) -> float:
    """log |det K|, K the number of units in which two images agree (Mellor et al., ICML 2021). images: (N, C, H, W)."""
    signs = Signs()
    model.train()
    with torch.no_grad(), signs:
        model(images)
    kernel = sum((c @ c.T + (1 - c) @ (1 - c).T for c in signs.codes), torch.zeros(len(images), len(images)))
    return float(torch.linalg.slogdet(kernel.double()).logabsdet)


def synflow(model: nn.Module, images: Tensor) -> float:
    """log of the sum over parameters of |p dR/dp|, R the outputs for ones and |weights| (Tanaka et al., 2020)."""
    model = model.double().eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    model.zero_grad()
    model(torch.ones_like(images[:1]).double()).sum().backward()
    score = sum(float((p.detach() * p.grad).abs().sum()) for p in model.parameters() if p.grad is not None)
    model.load_state_dict(state)
    model.zero_grad()
    model.float()
    return float(torch.tensor(score).log())


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """log of the norm of the gradient of cross entropy. labels: (N,)."""
    model.train()
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    squares = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    return 0.5 * float(torch.tensor(squares).log())
