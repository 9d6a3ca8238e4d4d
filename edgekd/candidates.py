"""A search for a student as a document: plan.json, and the JSON of edgekd plan."""

from __future__ import annotations

from typing import Any

from edgekd.families import name_of
from edgekd.files import plain
from edgekd.types import Candidate, Cost, Search


def document(found: Search) -> dict[str, Any]:
    """Every candidate by its name, and which of them were chosen or lie on the Pareto front."""
    return {
        "chosen": _row(found.chosen),
        "bound_by": found.bound_by,
        "expected_from": found.basis,
        "front": [_row(candidate) for candidate in found.front],
        "candidates": [_row(candidate) for candidate in found.candidates],
    }


def cost_document(of: Cost) -> dict[str, Any]:
    """What a network costs, without its layers."""
    return {name: value for name, value in plain(of).items() if name != "ops"}


def _row(candidate: Candidate) -> dict[str, Any]:
    return {
        "student": name_of(candidate.spec),
        "family": candidate.spec.family,
        "precision": candidate.precision,
        "predicted_ms": plain(candidate.predicted),
        "expected": candidate.expected,
        "memory_mb": candidate.memory_mb,
        "cost": cost_document(candidate.cost),
        "broken_limits": list(candidate.broken),
    }
