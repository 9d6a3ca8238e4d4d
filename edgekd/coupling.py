"""Which channels of a network go together, as Torch-Pruning finds it (Fang et al., DepGraph, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import nn

from edgekd.saliency import Reader

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Own:
    """A layer whose output channels are added to no other layer's."""

    name: str
    layer: Layer
    channels: int  # at first
    groups: int  # of a grouped convolution behind it, each of which must lose as many; else 1


def group_of(graph: torch_pruning.DependencyGraph, layer: nn.Module, channels: Sequence[int]) -> torch_pruning.Group:
    """All that loses channels together with the layer's."""
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, idxs=list(channels))


def is_own(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group) -> bool:
    """Whether the layer's output channels are added to no other layer's, and are not the classes."""
    touched = {item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)}
    coupled = [m for m in touched if isinstance(m, nn.Conv2d | nn.Linear) and getattr(m, "groups", 1) == 1]
    readers = [item.dep.target.module for item in group if graph.is_in_channel_pruning_fn(item.dep.handler)]
    followed = any(isinstance(m, nn.Conv2d | nn.Linear) for m in readers)  # BatchNorm alone may be behind the classes
    return len(coupled) == 1 and followed


def own_of(name: str, layer: nn.Conv2d | nn.Linear, group: torch_pruning.Group) -> Own:
    """What is known of a layer that is_own. group: all that loses channels together with the layer's."""
    modules = [item.dep.target.module for item in group]
    groups = [m.groups for m in modules if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]
    return Own(name, layer, layer.weight.shape[0], max(groups, default=1))


def readers_of(graph: torch_pruning.DependencyGraph, own: Own, group: torch_pruning.Group) -> list[Reader]:
    """Those that are fed the layer's channels; one that gets them in another form than whole is left out."""
    found = []
    for item in group:
        layer, whole = item.dep.target.module, len(item.idxs) % own.channels == 0
        if whole and graph.is_in_channel_pruning_fn(item.dep.handler) and isinstance(layer, nn.Conv2d | nn.Linear):
            found.append(Reader(layer, torch.tensor(item.idxs).view(own.channels, -1)))
    return found


def macs_of(group: torch_pruning.Group, graph: torch_pruning.DependencyGraph, places: Mapping[Layer, int]) -> float:
    """Of all in a group, while all other channels are there. places: MACs per weight."""
    total = 0.0
    for item in group:
        layer, reads = item.dep.target.module, graph.is_in_channel_pruning_fn(item.dep.handler)
        if layer in places:
            ends = (layer.in_channels, layer.out_channels) if isinstance(layer, nn.Conv2d) else layer.weight.shape[::-1]
            total += places[layer] * layer.weight.numel() * len(item.idxs) / ends[0 if reads else 1]
    return total
