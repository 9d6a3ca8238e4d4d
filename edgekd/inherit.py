"""Students that start from their teacher: layers of the same name and shape are copied, or channels pruned away."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch_pruning
from torch import Tensor, nn

from edgekd.errors import UsageError
from edgekd.latency import cost
from edgekd.program import Program
from edgekd.types import Teacher

LEAST, STEP = 0.1, 0.025  # share of a layer's channels that stays; step of the search


def inherit(student: nn.Module, teacher: nn.Module) -> int:
    """Copies every tensor of the teacher that has a namesake of the same shape in the student.

    A ResNet with fewer blocks per stage so gets the first ones of its teacher's, the stem and, at the same width, the
    classifier. Gives how many of the student's parameters are the teacher's; 0, and nothing is copied, where that would
    be less than half of them: single layers of another network say nothing.
    """
    given, own = _tensors(teacher), student.state_dict()
    fitting = [name for name, tensor in own.items() if name in given and given[name].shape == tensor.shape]
    count = sum(p.numel() for name, p in student.named_parameters() if name in fitting)
    if 2 * count < sum(p.numel() for p in student.parameters()):
        return 0
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(given[name])
    return count


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """The tensors by the names of the network they were trained in, also of a captured program."""
    state = model.state_dict()
    return {name: state[key] for name, key in model.keys.items()} if isinstance(model, Program) else state


def pruned(teacher: Teacher, *, share: float) -> nn.Module:
    """A copy of the teacher with the weakest channels removed so that at most `share` of its MACs are left.

    Structured pruning by Torch-Pruning (Fang et al., DepGraph, CVPR 2023), channels ranked by the norm of all weights
    that go with them. Only channels within a block or chain go, never those that a shortcut adds to: they lose the
    least, and shortcuts without parameters have no layer to prune. Raises UsageError where the teacher came as a graph
    (its layers are no modules) or the share cannot be reached.
    """
    if isinstance(teacher.model, Program):
        raise UsageError(
            "a teacher that came as a graph cannot be pruned",
            code="E0213",
            why="pruning needs its layers as modules",
            fix="give its state_dict with --arch, or another --student",
        )
    whole, least = cost(teacher.model, teacher.images).macs, 1.0
    ratio = (1 - share) / 2  # enough where two neighbouring layers lose channels; MACs do not fall evenly from here on
    while ratio <= 1 - LEAST:
        student = _without(teacher, ratio)
        least = min(least, cost(student, teacher.images).macs / whole)
        if least <= share:
            return student
        ratio += STEP
    raise UsageError(
        f"pruning leaves {least:.0%} of this teacher's MACs at least, not {share:.0%}",
        code="E0213",
        why="only channels that no shortcut adds to are removed",
        fix=f"--student pruned:{least + 0.01:.2f}, or another --student",
    )


def _without(teacher: Teacher, ratio: float) -> nn.Module:
    """A copy in training mode without a share `ratio` of the channels of each layer whose channels are its own."""
    model, images = copy.deepcopy(teacher.model).cpu(), teacher.images
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the dependencies are read off the gradient's graph
    example = torch.zeros(2, images.channels, images.height, images.width)
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    ignored = [layer for layer in layers if not _own_channels(graph, layer)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=ignored,
    )
    pruner.step()
    return model.eval()


def _own_channels(graph: torch_pruning.DependencyGraph, layer: nn.Module) -> bool:
    """Whether the layer's output channels are added to no other layer's, and are not the classes."""
    prune = graph.get_pruner_of_module(layer).prune_out_channels
    group = graph.get_pruning_group(layer, prune, idxs=[0])
    touched = {item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)}
    coupled = [m for m in touched if isinstance(m, nn.Conv2d | nn.Linear) and getattr(m, "groups", 1) == 1]
    followed = any(graph.is_in_channel_pruning_fn(item.dep.handler) for item in group)
    return len(coupled) == 1 and followed
