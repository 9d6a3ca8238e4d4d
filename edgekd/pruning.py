"""The teacher with fewer channels: the student that starts from all that its teacher knows.

Structured pruning by Torch-Pruning (Fang et al., DepGraph, CVPR 2023). Only channels within a block or chain go, never
those that a shortcut adds to: they lose the least, and shortcuts without parameters have no layer to prune. Those go
first that the teacher's logits miss least for the MACs that they cost, as drawn images show (edgekd/saliency.py).
Without images every layer loses the same share, the weakest by the norm of all weights that go with them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch_pruning
from torch import Tensor, nn

from edgekd.coupling import Layer, Own, group_of, is_own, macs_of, own_of, readers_of
from edgekd.errors import UsageError
from edgekd.latency import cost
from edgekd.program import Program
from edgekd.saliency import looked_at, saliency
from edgekd.types import Images, Teacher

LEAST = 0.1  # share of a layer's channels that stays
FIRST = 0.75  # share of a layer's channels that may go while others have any of theirs: none is to be a bottleneck
STEP, FINE = 0.025, 0.01  # by which the share that goes grows until enough is gone; where layers lose unlike shares
LARGE, LARGE_STEP = 25_000, 0.1  # channels, those of all that is pruned together, from which on the step is larger
TANGLED = 150_000  # channels from which on each step takes many seconds (DenseNet)
KEPT = "kept_channels"  # attribute of a layer that has lost outputs
_scores: WeakKeyDictionary[nn.Module, dict[str, dict[str, Tensor]]] = WeakKeyDictionary()  # of teachers, by the prior


@dataclass(frozen=True, order=True)
class Slice:
    """Channels that a layer loses at once, so that its width stays a multiple."""

    late: bool  # only when the other layers have none that are not
    worth: float  # score per MAC
    name: str
    channels: int
    macs: float


@dataclass
class Pruning:
    """A copy of a teacher that is narrowed step by step."""

    model: nn.Module
    images: Images  # what it is fed
    graph: torch_pruning.DependencyGraph
    layers: list[Own]
    effort: int  # channels of these layers and of all that is pruned with them
    whole: int  # MACs of the teacher
    fixed: int  # of these, what no layer of `places` costs
    places: dict[Layer, int]  # layer -> MACs per weight
    align: int  # see `pruned`
    order: list[Slice]  # to go one after the other; empty: all layers lose the same share
    scores: dict[str, Tensor]  # of each channel by the name of its layer, where there is an order
    movable: float = 0.0  # MACs of all channels together, where there is an order
    ratio: float = 0.0  # that is gone, of each layer's channels or of these MACs

    def share(self) -> float:
        """Of the teacher's MACs, that is left."""
        now = sum(module.weight.numel() * places for module, places in self.places.items())
        return (now + self.fixed) / self.whole


def pruned(teacher: Teacher, *, share: float, align: int = 1, prior: str = "") -> nn.Module:
    """A copy of the teacher with the weakest channels removed so that at most `share` of its MACs are left.

    align: the widths that change become multiples of it where there are enough channels. prior: whose images show what
    each channel is worth; empty: all layers lose the same share. The same teacher, share, align and prior give the
    same network on one machine. Raises UsageError where no layer can be pruned, the share cannot be reached, or the
    teacher's code or graph counts on the number of channels.
    """
    counted = _begin(teacher, align, prior)
    counted.model.to("meta")
    if not any(True for _ in _reached(counted, [share])):
        least = math.ceil(100 * counted.share())
        raise UsageError(
            f"pruning leaves {least} % of this teacher's MACs at least, not {share:.0%}",
            code="E0213",
            why="only channels that no shortcut adds to are removed"
            + (f", and widths stay multiples of {align}" if align > 1 else ""),
            fix=f"--student pruned:{least / 100:.2f}, or another --student" if least < 100 else "another --student",
        )
    student = _begin(teacher, align, prior)
    _narrow(student, counted.ratio)
    return student.model.eval()


def prunings(
    teacher: Teacher, shares: Sequence[float], *, align: int, prior: str = ""
) -> Iterator[tuple[float, nn.Module]]:
    """(share, the teacher pruned to it) with weights on meta: to be counted before the next one is asked for.

    shares: the largest first. What is given is the share that is left, rounded up to whole percents, so that `pruned`
    makes the same network of it; shares that cannot be reached, or give a network once more, are left out. Raises
    UsageError as `pruned` does, and where looking at several would take minutes.
    """
    pruning = _begin(teacher, align, prior)
    if pruning.effort > TANGLED:
        raise UsageError(
            "too many of the teacher's layers have to be pruned together",
            code="E0231",
            why="looking at several shares would take minutes",
            fix="name one:  --student pruned:0.5",
        )
    pruning.model.to("meta")
    for share in _reached(pruning, shares):
        yield math.ceil(100 * share) / 100, pruning.model


def shown_to(teacher: Teacher, prior: str) -> str:
    """The prior again if its images have decided which channels of the teacher go, else empty: to be asked afterwards.

    Some networks cannot be looked at; `pruned` and `prunings` then do as without images.
    """
    return prior if _scores.get(teacher.model, {}).get(prior) else ""


def _begin(teacher: Teacher, align: int, prior: str) -> Pruning:
    model, images = copy.deepcopy(teacher.model).cpu(), teacher.images
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the dependencies are read off the gradient's graph
    example = torch.zeros(1, images.channels, images.height, images.width)
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
        groups = {m: group_of(graph, m, [0]) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    except Exception as error:  # Torch-Pruning raises what its own code meets in networks that it does not understand
        raise UsageError(
            "this teacher's layers cannot be told apart for pruning",
            code="E0213",
            why=f"Torch-Pruning: {type(error).__name__}: {error}",
            fix="another --student",
        ) from error
    of = cost(model, images)
    names = {module: name for name, module in model.named_modules()}
    own = [own_of(names[layer], layer, group) for layer, group in groups.items() if is_own(graph, group)]
    modules = model.layers() if isinstance(model, Program) else dict(model.named_modules())  # as cost() names them
    places: dict[Layer, int] = {}
    for op in of.ops:
        layer = modules.get(op.name)
        if op.weights and isinstance(layer, nn.Conv2d | nn.Linear):
            places[layer] = places.get(layer, 0) + op.macs // op.weights
    fixed = of.macs - sum(layer.weight.numel() * each for layer, each in places.items())
    effort = sum(each.channels * sum(len(item.idxs) for item in groups[each.layer]) for each in own)
    pruning = Pruning(model, images, graph, own, effort, of.macs, fixed, places, align, [], {})
    if prior and effort <= TANGLED:
        _look(pruning, _scores.setdefault(teacher.model, {}), prior, images)
    return pruning


def _look(pruning: Pruning, known: dict[str, dict[str, Tensor]], prior: str, images: Images) -> None:
    """Gives the channels their scores and their order. known: the scores that the teacher was given before."""
    wholes = {own: group_of(pruning.graph, own.layer, range(own.channels)) for own in pruning.layers}
    if prior not in known:
        readers = {own.name: readers_of(pruning.graph, own, group) for own, group in wholes.items()}
        found = saliency(pruning.model, readers, looked_at(prior, images))
        known[prior] = found if len(found) == len(wholes) else {}  # what cannot be looked at cannot be compared
    if not known[prior]:
        return
    for own, group in wholes.items():
        macs = macs_of(group, pruning.graph, pruning.places) / own.channels
        pruning.movable += own.channels * macs
        scores, each = known[prior][own.name].sort().values, _multiple(own, pruning.align)
        for gone in range(each, own.channels - max(each, math.ceil(LEAST * own.channels)) + 1, each):
            worth = scores[gone - each : gone].mean().item() / macs
            pruning.order.append(Slice(gone > FIRST * own.channels, worth, own.name, each, each * macs))
    pruning.order.sort()
    pruning.scores = known[prior]


def _reached(pruning: Pruning, shares: Sequence[float]) -> Iterator[float]:
    """The share that is left after each step that reached one of `shares`."""
    step = LARGE_STEP if pruning.effort > LARGE else FINE if pruning.order else STEP
    steps = round((1 - LEAST) / step)
    for share in shares:
        if pruning.ratio and pruning.share() <= share:
            continue
        while pruning.share() > share:
            done = round(pruning.ratio / step)
            if done >= steps:
                return
            _narrow(pruning, (done + 1) * step)
        _run(pruning)
        yield pruning.share()


def _run(pruning: Pruning) -> None:
    """Raises UsageError where the narrowed network, whose weights are on meta, does not run any more."""
    images = pruning.images
    x = torch.zeros(1, images.channels, images.height, images.width, device="meta")
    try:
        with torch.no_grad():
            pruning.model(x)
    except RuntimeError as error:
        raise UsageError(
            "this teacher cannot be pruned",
            code="E0213",
            why=f"its code or graph counts on the number of channels: {str(error).splitlines()[0]}",
            fix="another --student; or x.flatten(1) for x.view(-1, 400) in the teacher's forward, and save it anew",
        ) from error


def _narrow(pruning: Pruning, ratio: float) -> None:
    """Removes channels until `ratio` is gone; without an order the first ones where there are no weights."""
    stay = _staying(pruning, ratio)
    for own in pruning.layers:
        now, wanted = own.layer.weight.shape[0], stay[own.name]
        if wanted >= now:
            continue
        there: Tensor = getattr(own.layer, KEPT, torch.arange(own.channels))
        if pruning.order:
            strength = pruning.scores[own.name][there]
        elif own.layer.weight.is_meta:
            strength = torch.arange(now).float()
        else:
            every = group_of(pruning.graph, own.layer, range(now))
            strength = torch_pruning.importance.GroupMagnitudeImportance(p=2)(every)
        order = strength.view(own.groups, -1).mean(0).argsort()  # all groups lose the same places
        least = order[: (now - wanted) // own.groups].tolist()
        places = [place + group * (now // own.groups) for group in range(own.groups) for place in least]
        group_of(pruning.graph, own.layer, places).prune()
        stays = torch.ones(now, dtype=torch.bool).index_fill(0, torch.tensor(places), False)
        setattr(own.layer, KEPT, there[stays])
    pruning.ratio = ratio


def _staying(pruning: Pruning, ratio: float) -> dict[str, int]:
    """Channels of each layer that are to stay, by its name."""
    if not pruning.order:
        return {own.name: _kept(own, (1 - ratio) * own.channels, pruning.align) for own in pruning.layers}
    stay, left = {own.name: own.channels for own in pruning.layers}, ratio * pruning.movable
    for slice_ in pruning.order:
        if left < slice_.macs / 2:
            break
        stay[slice_.name] -= slice_.channels
        left -= slice_.macs
    return stay


def _kept(own: Own, stay: float, align: int) -> int:
    """Channels of a layer that stay, a multiple of align and of the groups."""
    multiple = _multiple(own, align)
    return min(own.channels, max(1, math.floor(stay / multiple + 0.5)) * multiple)


def _multiple(own: Own, align: int) -> int:
    """Of what a layer's width is to be a multiple: of align, and of the groups.

    A layer with less than twice `align` channels may keep any number: there is no other multiple for it.
    """
    return math.lcm(align if own.channels >= 2 * align else 1, own.groups)
