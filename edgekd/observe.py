"""What can be seen inside a network while it runs: BatchNorm's inputs, feature maps, what its classifier is fed."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
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
    """While active, collects BatchNorm's inputs, feature maps by their numbers, and the last linear layer.

    at: which of the maps that a network makes one after the other, from 0 on; see `common_maps`. Works for modules
    and for captured programs alike, as both end in the same calls.
    """

    def __init__(self, at: Iterable[int] = ()) -> None:
        super().__init__()
        self.at = frozenset(at)
        self.batch_norms: list[tuple[Tensor, Tensor, Tensor]] = []  # (N, C, ...), (C,), (C,) in the order of the layers
        self.shapes: list[tuple[int, ...]] = []  # (C, H, W) of every map
        self.maps: list[Tensor] = []  # (N, C, H, W) of those in `at`
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
        if isinstance(result, Tensor) and result.ndim == 4 and not result._is_view():  # a slice is no map of its own
            if len(self.shapes) in self.at:
                self.maps.append(result)
            self.shapes.append(tuple(result.shape[1:]))
        return result


def joined(parts: list[Observed], whole: Observed) -> None:
    """Puts what the parts of a batch have shown, one after the other, into `whole` as if it had run at once."""
    layers = [part.batch_norms for part in parts]
    while layers[0]:  # layer by layer, each given up as it is joined: there is no memory for two of all
        mine = [layer.pop(0) for layer in layers]
        whole.batch_norms.append((torch.cat([inputs for inputs, _, _ in mine]), *mine[0][1:]))
    whole.shapes += parts[0].shapes
    whole.maps += [torch.cat(maps) for maps in zip(*[part.maps for part in parts], strict=True)]
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


@dataclass(frozen=True)
class Common:
    """Feature maps that a student has in common with its teacher: their numbers in Observed, pair by pair."""

    teacher: tuple[int, ...]
    student: tuple[int, ...]


def common_maps(teacher: Teacher, student: nn.Module) -> Common | None:
    """Which of the student's feature maps stand for the teacher's; None where none do.

    Those that a resolution ends with, of a student whose last one has the teacher's shape: its stages stand for the
    same. One map alike by chance, of networks of other kinds, says nothing. Of a student that is the teacher with fewer
    channels inside its blocks, also what each of these blocks gives: a map as wide as the teacher's behind narrower
    ones and in front of others.
    """
    again, images = deepcopy(student).train(), blank(teacher.images, like=next(student.parameters(), None))
    with Observed() as learning:  # a network may make other maps when it learns
        again(images)
    theirs, ours = look(teacher).shapes, learning.shapes
    ends, our_ends = ({shape[1:]: at for at, shape in enumerate(shapes)} for shapes in (theirs, ours))
    pairs = {(ends[size], at) for size, at in our_ends.items() if size in ends and theirs[ends[size]] == ours[at]}
    blocks = set()
    if [shape[1:] for shape in theirs] == [shape[1:] for shape in ours]:
        alike = [one == other for one, other in zip(theirs, ours, strict=True)]
        blocks = {(at, at) for at in range(len(alike) - 1) if alike[at] and not alike[at + 1] and not all(alike[:at])}
    if not blocks and (not pairs or theirs[list(ends.values())[-1]] != ours[-1]):
        return None
    of_teacher, of_student = zip(*sorted(pairs | blocks), strict=True)
    return Common(of_teacher, of_student)


def blank(images: Images, *, like: Tensor | None = None, count: int = 2) -> Tensor:
    """(count, C, H, W) zeros, on the device of `like`."""
    device = None if like is None else like.device
    return torch.zeros(count, images.channels, images.height, images.width, device=device)
