"""The best candidates of a search, measured on the device untrained, before one is chosen."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError
from edgekd.families import name_of
from edgekd.measure import probe_bundle, undisturbed
from edgekd.student import first_student
from edgekd.types import Bundle, Candidate, Prediction, Profile, Search, Teacher

TOP = 4  # candidates that are measured together
Run = Callable[[Bundle], dict[str, Any]]  # takes a bundle to the device and gives the runner's report


def measured_first(
    found: Search, teacher: Teacher, profile: Profile, run: Run, *, say: Callable[[str], None] = lambda line: None
) -> Search:
    """Measures the best expected candidates on the device, four at a time, until one of them keeps every limit.

    A latency does not depend on weights, so they are untrained. Those that break no limit but, by prediction, the one
    on latency are measured too: the interval of a prediction is wide. Their predictions become p50 (low, middle) and
    p90 (high), which the limit is held against. Raises UsageError when none keeps it, MeasurementError where other
    work disturbed the device.
    """
    possible = [c for c in found.candidates if _may_fit(c, profile.limits.latency_ms)]
    waiting = sorted(possible, key=lambda c: (-c.expected, c.predicted[c.precision].latency_ms))
    measured: dict[str, Candidate] = {}
    while waiting:
        now, waiting = waiting[:TOP], waiting[TOP:]
        say("measuring " + ", ".join(name_of(c.spec) for c in now) + " before training")
        measured |= {name_of(c.spec): c for c in _measured(now, teacher, profile, run)}
        fitting = [c for c in measured.values() if not c.broken]
        if fitting:
            chosen = max(fitting, key=lambda c: c.expected)
            better = [c for c in measured.values() if c.expected > chosen.expected]
            larger = min(better, key=lambda c: c.expected, default=None)
            bound = found.bound_by if larger is None else f"{name_of(larger.spec)}: {'; '.join(larger.broken)}"
            return dataclasses.replace(
                found,
                candidates=tuple(measured.get(name_of(c.spec), c) for c in found.candidates),
                front=tuple(measured.get(name_of(c.spec), c) for c in found.front),
                chosen=chosen,
                bound_by=bound,
                basis=f"{found.basis}; {len(measured)} were measured on the device, untrained",
            )
    fastest_one = min(measured.values(), key=lambda c: c.predicted[c.precision].high_ms, default=None)
    raise UsageError(
        f"no student keeps the limits of {profile.name} when measured",
        code="E0210",
        why="none may fit" if fastest_one is None else f"{name_of(fastest_one.spec)}: {'; '.join(fastest_one.broken)}",
        fix="allow more (--latency 5ms), or choose another --profile",
    )


def _measured(chosen: Iterable[Candidate], teacher: Teacher, profile: Profile, run: Run) -> list[Candidate]:
    networks = {name_of(c.spec): first_student(c.spec, teacher, seed=0)[0] for c in chosen}
    with tempfile.TemporaryDirectory() as temporary:
        report = run(probe_bundle(networks, teacher.images, teacher.classes, profile, Path(temporary)))
    undisturbed(report)
    return [_with(c, report, profile) for c in chosen]


def _with(candidate: Candidate, report: dict[str, Any], profile: Profile) -> Candidate:
    """The candidate with what was measured in place of what was predicted."""
    predicted = dict(candidate.predicted)
    for precision in predicted:
        graph = report["graphs"].get(f"{name_of(candidate.spec)} {precision}")
        if graph is not None:
            t = graph["latency_ms"]
            predicted[precision] = Prediction(t["p50"], low_ms=t["p50"], high_ms=t["p90"])
    p90, most = predicted[candidate.precision].high_ms, profile.limits.latency_ms
    broken = tuple(b for b in candidate.broken if not _is_latency(b))
    if most is not None and p90 > most:
        broken += (f"measured latency {p90:.3g} over {most:.3g} ms",)
    return dataclasses.replace(candidate, predicted=predicted, broken=broken)


def _may_fit(candidate: Candidate, most_ms: float | None) -> bool:
    """Whether a measurement may find that it keeps every limit: the prediction's lower end does."""
    soonest_ms = candidate.predicted[candidate.precision].low_ms
    return all(map(_is_latency, candidate.broken)) and (most_ms is None or soonest_ms <= most_ms)


def _is_latency(sentence: str) -> bool:
    return sentence.startswith("latency ") and "share of the teacher" not in sentence
