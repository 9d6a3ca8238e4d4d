"""Students that start from their teacher: its layers are copied where name and shape fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgekd.program import Program


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
