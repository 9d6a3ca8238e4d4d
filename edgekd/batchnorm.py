"""The statistics that a teacher's BatchNorm layers see, beside those that they learnt from the customer's images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BatchNormInputs(TorchFunctionMode):
    """While active, collects every BatchNorm's input with its running mean and variance, in the order of the layers.

    Works for modules and for captured programs alike, as both end in a batch_norm call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []  # (N, C, ...), (C,), (C,)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.batch_norm:
            names = dict(zip(("input", "running_mean", "running_var"), args, strict=False)) | kwargs
            self.seen.append((names["input"], names["running_mean"], names["running_var"]))
        elif func is torch.ops.aten.batch_norm.default:
            self.seen.append((args[0], args[3], args[4]))
        return func(*args, **kwargs)
