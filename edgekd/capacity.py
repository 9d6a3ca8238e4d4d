"""What is expected of a student before it is trained: a score that orders students, not an accuracy.

It falls with each halving of the teacher's multiply-adds and parameters. What a halving costs is from a full
data-free distillation (ResNet-20 to ResNet-8 on CIFAR-10, 91.7 to 75.6 %, benchmarks/NOTES.md); what the family
changes is from short distillations (benchmarks/proxies.py). Those favour what learns fast more than long trainings do:
of the differences between families trained from nothing a tenth is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log2

from edgekd.types import Cost

LOSS = 0.11  # of the score per halving, in natural logarithms
KNOWS = 0.3  # share of that loss where the student is the pruned teacher: it starts from what its teacher knows
AHEAD: Mapping[str, float] = {"cnn": 0.7, "mcu": 0.5, "mobilenetv2": -0.1, "mobilenetv3": -0.3}  # halvings, to ResNets
BASIS = (
    "capacity, a score and no accuracy: halvings of the teacher's MACs and parameters, less of them for families that "
    "learn fast, and a third of the loss for the pruned teacher, which starts from its teacher's knowledge"
)


def capacity(of: Cost, teacher: Cost, family: str) -> float:
    """A score in (0, 1]. Halvings are the mean of those of MACs and of parameters; 1 is the teacher itself."""
    halvings = (log2(teacher.macs / of.macs) + log2(teacher.parameters / of.parameters)) / 2
    lost = KNOWS * halvings if family == "pruned" else halvings - AHEAD.get(family, 0.0)
    return exp(-LOSS * max(0.0, lost))
