"""What can be seen inside a teacher while it runs: the inputs of its BatchNorm layers and of its last linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from edgekd.types import Images, Teacher

aten = torch.ops.aten


@dataclass(frozen=True)
class Linear:
    """The classifier: the last linear layer that ran."""

    features: Tensor  # (N, D), what it was fed
    weight: Tensor  # (K, D)


class Observed(TorchFunctionMode):
    """While active, collects every BatchNorm's input with its running mean and variance, and the last linear layer.

    Works for modules and for captured programs alike, as both end in the same calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batch_norms: list[tuple[Tensor, Tensor, Tensor]] = []  # (N, C, ...), (C,), (C,) in the order of the layers
        self.classifier: Linear | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.batch_norm:
            names = dict(zip(("input", "running_mean", "running_var"), args, strict=False)) | kwargs
            self.batch_norms.append((names["input"], names["running_mean"], names["running_var"]))
        elif func is aten.batch_norm.default:
            self.batch_norms.append((args[0], args[3], args[4]))
        elif func in (torch.nn.functional.linear, aten.linear.default):
            names = dict(zip(("input", "weight"), args, strict=False)) | kwargs
            self.classifier = Linear(names["input"], names["weight"])
        return func(*args, **kwargs)


def look(teacher: Teacher) -> Observed:
    """What a forward pass of two blank images shows: whether there is BatchNorm, and the classifier's weights."""
    observed = Observed()
    with torch.no_grad(), observed:
        teacher.model(blank(teacher.images, like=next(iter(teacher.model.state_dict().values()), None)))
    return observed


def blank(images: Images, *, like: Tensor | None = None, count: int = 2) -> Tensor:
    """(count, C, H, W) zeros, on the device of `like`."""
    device = None if like is None else like.device
    return torch.zeros(count, images.channels, images.height, images.width, device=device)
