"""SGD whose steps on the weights of convolutions are orthogonal matrices: in few steps it goes further."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

SHARE = 0.5  # of the rate, for the steps that are made orthogonal
TURNS = 5  # of the iteration: singular values then lie between about 0.7 and 1.2
POLYNOMIAL = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum; convolutions take an orthogonal matrix for it, all else takes it as it is (Jordan, 2024).

    torch.optim.Muon takes matrices alone. Here a convolution's weight (O, I, ...) is one of O rows; those of one input
    channel per group (depthwise), biases, norms and linear layers are SGD's, with its weight decay.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, *, momentum: float = 0.9, weight_decay: float = 1e-4
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # none is ever given
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                matrix = p.ndim == 4 and p.shape[1] > 1
                gradient = p.grad if matrix else p.grad.add(p, alpha=group["weight_decay"])
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                momentum.mul_(group["momentum"]).add_(gradient)
                ahead = gradient.add(momentum, alpha=group["momentum"])
                if matrix:
                    p.add_(orthogonal(ahead.flatten(1)).view_as(p), alpha=-SHARE * group["lr"])
                else:
                    p.add_(ahead, alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix of orthonormal rows, or columns, to (O, I): Newton and Schulz's iteration, in fp32.

    A matrix of zeros stays one.
    """
    a, b, c = POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().T if tall else matrix.float()
    x = x / x.norm().clamp_min(1e-12)
    for _ in range(TURNS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
