"""What is expected of a student before it is trained: a score, not an accuracy."""

from __future__ import annotations

from math import exp, log2

from edgekd.types import Cost

LOSS = 0.16  # of the score per halving, in natural logarithms
KNOWS = 0.5  # of that loss where the student is the pruned teacher: it starts from what its teacher knows
BASIS = "capacity"


def capacity(of: Cost, teacher: Cost, family: str) -> float:
    """A score in (0, 1] that falls with each halving of the teacher's MACs and parameters (geometric mean of the two).

    1 is the teacher itself.
    """
    halvings = (log2(teacher.macs / of.macs) + log2(teacher.parameters / of.parameters)) / 2
    loss = LOSS * (KNOWS if family == "pruned" else 1.0)
    return exp(-max(0.0, halvings * loss))
