"""One thing in a graph that a runtime would not take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing in a graph that a runtime would not take."""

    node: str  # its name, or that of a constant; empty: the whole graph
    operator: str
    rule: str  # that it breaks
    source: str  # where the rule can be read
