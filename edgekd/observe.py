"""What can be seen inside a network while it runs: BatchNorm's inputs, feature maps, what its classifier is fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgekd.types import Images, Teacher

aten = torch.ops.aten


@dataclass(frozen=True)
class Linear:
    """The classifier: the last linear layer that ran."""

    features: Tensor  # (N, D), what it was fed
    weight: Tensor  # (K, D)


class Observed(TorchFunctionMode):
    """While active, collects BatchNorm's inputs, the last feature map of each resolution, and the last linear layer.

    Works for modules and for captured programs alike, as both end in the same calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batch_norms: list[tuple[Tensor, Tensor, Tensor]] = []  # (N, C, ...), (C,), (C,) in the order of the layers
        self.maps: dict[tuple[int, ...], Tensor] = {}  # (N, C, H, W) by (H, W): what a stage of the network ends with
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
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.ndim == 4:
            self.maps[tuple(result.shape[2:])] = result
        return result


def joined(parts: list[Observed], whole: Observed) -> None:
    """Puts what the parts of a batch have shown, one after the other, into `whole` as if it had run at once."""
    layers = [part.batch_norms for part in parts]
    while layers[0]:  # layer by layer, each given up as it is joined: there is no memory for two of all
        mine = [layer.pop(0) for layer in layers]
        whole.batch_norms.append((torch.cat([inputs for inputs, _, _ in mine]), *mine[0][1:]))
    for size in parts[0].maps:
        whole.maps[size] = torch.cat([part.maps[size] for part in parts])
    if last := [part.classifier for part in parts if part.classifier]:
        whole.classifier = Linear(torch.cat([one.features for one in last]), last[0].weight)


def look(teacher: Teacher, model: nn.Module | None = None) -> Observed:
    """What a forward pass of two blank images shows: whether there is BatchNorm, the classifier's weights, the maps.

    model: another network for the teacher's images, in eval mode; the teacher's own if None.
    """
    model, observed = model or teacher.model, Observed()
    images = blank(teacher.images, like=next(iter(model.state_dict().values()), None))
    with torch.no_grad(), observed:
        model(images)
    return observed


def share_maps(teacher: Teacher, student: nn.Module) -> bool:
    """Whether the student's last feature maps have the shape of the teacher's: then its stages stand for the same.

    One map alike by chance, of networks of other kinds, says nothing.
    """
    was = student.training
    theirs = look(teacher).maps
    size, last = list(look(teacher, student.eval()).maps.items())[-1] if theirs else ((), None)
    student.train(was)
    return last is not None and size in theirs and theirs[size].shape == last.shape


def blank(images: Images, *, like: Tensor | None = None, count: int = 2) -> Tensor:
    """(count, C, H, W) zeros, on the device of `like`."""
    device = None if like is None else like.device
    return torch.zeros(count, images.channels, images.height, images.width, device=device)
