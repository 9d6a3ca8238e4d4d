"""The teacher with fewer channels: the student that starts from all that its teacher knows.

Structured pruning by Torch-Pruning (Fang et al., DepGraph, CVPR 2023). Only channels within a block or chain go, never
those that a shortcut adds to: they lose the least, and shortcuts without parameters have no layer to prune. Every
layer loses the same share of its channels, the weakest by the norm of all weights that go with them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

from edgekd.errors import UsageError
from edgekd.latency import cost
from edgekd.program import Program
from edgekd.types import Teacher

LEAST = 0.1  # share of a layer's channels that stays
STEP = 0.025  # by which the share that goes grows until enough is gone
LARGE, LARGE_STEP = 25_000, 0.1  # channels, those of all that is pruned together, from which on the step is larger
TANGLED = 150_000  # channels from which on each step takes many seconds (DenseNet)
Layer = nn.Conv2d | nn.Linear
KEPT = "kept_channels"  # attribute of a layer that has lost outputs


@dataclass(frozen=True)
class Own:
    """A layer whose output channels are added to no other layer's."""

    layer: Layer
    channels: int  # at first
    groups: int  # of a grouped convolution behind it, each of which must lose as many; else 1


@dataclass
class Pruning:
    """A copy of a teacher that is narrowed step by step."""

    model: nn.Module
    graph: torch_pruning.DependencyGraph
    layers: list[Own]
    effort: int  # channels of these layers and of all that is pruned with them
    whole: int  # MACs of the teacher
    places: dict[Layer, int]  # layer -> MACs per weight
    ratio: float = 0.0  # of each layer's channels, that is gone

    def share(self) -> float:
        """Of the teacher's MACs, that is left."""
        now = sum(module.weight.numel() * places for module, places in self.places.items())
        return now / self.whole


def pruned(teacher: Teacher, *, share: float, align: int = 1) -> nn.Module:
    """A copy of the teacher with the weakest channels removed so that at most `share` of its MACs are left.

    align: the widths that change become multiples of it where there are enough channels. Raises UsageError where the
    teacher came as a graph (its layers are no modules), where no layer can be pruned, or the share cannot be reached.
    """
    counted = _begin(teacher)
    counted.model.to("meta")
    if not any(True for _ in _reached(counted, [share], align)):
        least = math.ceil(100 * counted.share())
        raise UsageError(
            f"pruning leaves {least} % of this teacher's MACs at least, not {share:.0%}",
            code="E0213",
            why="only channels that no shortcut adds to are removed"
            + (f", and widths stay multiples of {align}" if align > 1 else ""),
            fix=f"--student pruned:{least / 100:.2f}, or another --student" if least < 100 else "another --student",
        )
    student = _begin(teacher)
    _narrow(student, counted.ratio, align)
    return student.model.eval()


def prunings(teacher: Teacher, shares: Sequence[float], *, align: int) -> Iterator[tuple[float, nn.Module]]:
    """(share, the teacher pruned to it) with weights on meta: to be counted before the next one is asked for.

    shares: the largest first. What is given is the share that is left, rounded up to whole percents, so that `pruned`
    makes the same network of it; shares that cannot be reached, or give a network once more, are left out. Raises
    UsageError as `pruned` does, and where looking at several would take minutes.
    """
    pruning = _begin(teacher)
    if pruning.effort > TANGLED:
        raise UsageError(
            "too many of the teacher's layers have to be pruned together",
            code="E0231",
            why="looking at several shares would take minutes",
            fix="name one:  --student pruned:0.5",
        )
    pruning.model.to("meta")
    for share in _reached(pruning, shares, align):
        yield math.ceil(100 * share) / 100, pruning.model


def kept_channels(student: nn.Module) -> dict[str, Tensor]:
    """Of each layer that lost outputs, by its name: which of the teacher's it has. Empty where nothing was pruned.

    Known of what pruned() made, in the process that made it; not of a network that was read from a file.
    """
    return {name: getattr(layer, KEPT) for name, layer in student.named_modules() if hasattr(layer, KEPT)}


def _begin(teacher: Teacher) -> Pruning:
    if isinstance(teacher.model, Program):
        raise UsageError(
            "a teacher that came as a graph cannot be pruned",
            code="E0213",
            why="pruning needs its layers as modules",
            fix="give its state_dict with --arch, or another --student",
        )
    model, images = copy.deepcopy(teacher.model).cpu(), teacher.images
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the dependencies are read off the gradient's graph
    example = torch.zeros(1, images.channels, images.height, images.width)
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
        groups = {m: _group(graph, m) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    except Exception as error:  # Torch-Pruning raises what its own code meets in networks that it does not understand
        raise UsageError(
            "this teacher's layers cannot be told apart for pruning",
            code="E0213",
            why=f"Torch-Pruning: {type(error).__name__}: {error}",
            fix="another --student",
        ) from error
    own = [_own(layer, group) for layer, group in groups.items() if _is_own(graph, group)]
    of = cost(model, images)
    names = dict(model.named_modules())
    places: dict[Layer, int] = {}
    for op in of.ops:
        layer = names.get(op.name)
        if op.weights and isinstance(layer, nn.Conv2d | nn.Linear):
            places[layer] = places.get(layer, 0) + op.macs // op.weights
    effort = sum(each.channels * sum(len(item.idxs) for item in groups[each.layer]) for each in own)
    return Pruning(model, graph, own, effort, of.macs, places)


def _group(graph: torch_pruning.DependencyGraph, layer: nn.Module) -> torch_pruning.Group:
    """All that loses channels together with the layer."""
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, idxs=[0])


def _is_own(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group) -> bool:
    """Whether the layer's output channels are added to no other layer's, and are not the classes."""
    touched = {item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)}
    coupled = [m for m in touched if isinstance(m, nn.Conv2d | nn.Linear) and getattr(m, "groups", 1) == 1]
    readers = [item.dep.target.module for item in group if graph.is_in_channel_pruning_fn(item.dep.handler)]
    followed = any(isinstance(m, nn.Conv2d | nn.Linear) for m in readers)  # BatchNorm alone may be behind the classes
    return len(coupled) == 1 and followed


def _own(layer: nn.Conv2d | nn.Linear, group: torch_pruning.Group) -> Own:
    modules = [item.dep.target.module for item in group]
    groups = [m.groups for m in modules if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]
    return Own(layer, layer.weight.shape[0], max(groups, default=1))


def _reached(pruning: Pruning, shares: Sequence[float], align: int) -> Iterator[float]:
    """The share that is left after each step that reached one of `shares`."""
    step = LARGE_STEP if pruning.effort > LARGE else STEP
    steps = round((1 - LEAST) / step)
    for share in shares:
        if pruning.ratio and pruning.share() <= share:
            continue
        while pruning.share() > share:
            done = round(pruning.ratio / step)
            if done >= steps:
                return
            _narrow(pruning, (done + 1) * step, align)
        yield pruning.share()


def _narrow(pruning: Pruning, ratio: float, align: int) -> None:
    """Removes channels until `ratio` of each layer's first ones is gone; the first ones where there are no weights."""
    for own in pruning.layers:
        now, wanted = own.layer.weight.shape[0], _kept(own, ratio, align)
        if wanted >= now:
            continue
        prune = pruning.graph.get_pruner_of_module(own.layer).prune_out_channels
        if own.layer.weight.is_meta:
            order = torch.arange(now // own.groups)
        else:
            every = pruning.graph.get_pruning_group(own.layer, prune, idxs=list(range(now)))
            strength = torch_pruning.importance.GroupMagnitudeImportance(p=2)(every)
            order = strength.view(own.groups, -1).mean(0).argsort()  # all groups lose the same places
        least = order[: (now - wanted) // own.groups].tolist()
        places = [place + group * (now // own.groups) for group in range(own.groups) for place in least]
        pruning.graph.get_pruning_group(own.layer, prune, idxs=places).prune()
        there: Tensor = getattr(own.layer, KEPT, torch.arange(now))
        stay = torch.ones(now, dtype=torch.bool).index_fill(0, torch.tensor(places), False)
        setattr(own.layer, KEPT, there[stay])
    pruning.ratio = ratio


def _kept(own: Own, ratio: float, align: int) -> int:
    """Channels of a layer that stay, a multiple of align and of the groups.

    A layer with less than twice `align` of them may keep any number: there is no other multiple for it.
    """
    multiple = math.lcm(align if own.channels >= 2 * align else 1, own.groups)
    return min(own.channels, max(1, math.floor((1 - ratio) * own.channels / multiple + 0.5)) * multiple)
