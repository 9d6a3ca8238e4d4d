"""Candidates measured before training: a device that is slower or faster than was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from edgekd import shortlist
from edgekd.errors import MeasurementError, UsageError
from edgekd.families import name_of
from edgekd.limits import fastest
from edgekd.profile import adjusted, load_profile
from edgekd.shortlist import TOP, measured_first
from edgekd.sizing import search
from edgekd.types import Bundle, Candidate, Profile, Search, Teacher


class Device:
    """A device that takes the predicted time times a factor; keeps what it was given."""

    def __init__(self, found: Search, factor: float, foreign: float = 0.0) -> None:
        self.ms = {
            name_of(c.spec): {p: t.latency_ms * factor for p, t in c.predicted.items()} for c in found.candidates
        }
        self.foreign, self.seen = foreign, list[str]()

    def __call__(self, bundle: Bundle) -> dict[str, Any]:
        graphs = {}
        for key in bundle.manifest.graphs:
            name, precision = key.rsplit(" ", 1)
            self.seen.append(key)
            graphs[key] = {"latency_ms": {"p50": self.ms[name][precision], "p90": 1.1 * self.ms[name][precision]}}
        return {"graphs": graphs, "foreign_cores": self.foreign, "reasons": []}


@pytest.fixture(autouse=True)
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles without graphs: this device takes its times from the names. tests/test_ssh.py writes them."""

    def named_only(networks: Mapping[str, nn.Module], *given: Any) -> SimpleNamespace:
        profile: Profile = given[2]
        graphs = {f"{name} {precision}": "" for name in networks for precision in profile.precisions}
        return SimpleNamespace(manifest=SimpleNamespace(graphs=graphs))

    monkeypatch.setattr(shortlist, "probe_bundle", named_only)


@pytest.fixture
def profile(teacher: Teacher) -> Profile:
    """One whose limit the third fastest student just keeps, by the upper end of its prediction."""
    fp32 = adjusted(load_profile("cpu"), precision="fp32")
    third = search(teacher, fp32).candidates[2]
    return adjusted(fp32, latency_ms=1.001 * third.predicted[fastest(dict(third.predicted))].high_ms)


@pytest.fixture
def found(teacher: Teacher, profile: Profile) -> Search:
    return search(teacher, profile)


def middle_ms(candidate: Candidate) -> float:
    return candidate.predicted[fastest(dict(candidate.predicted))].latency_ms


def test_faster_device_gets_a_larger_student(found: Search, teacher: Teacher, profile: Profile) -> None:
    device = Device(found, factor=0.2)
    chosen = measured_first(found, teacher, profile, device)
    assert chosen.chosen.expected > found.chosen.expected and not chosen.chosen.broken
    precision = fastest(dict(chosen.chosen.predicted))
    p = chosen.chosen.predicted[precision]
    assert p.low_ms == p.latency_ms and p.high_ms == pytest.approx(1.1 * p.latency_ms)
    assert p.latency_ms == pytest.approx(device.ms[name_of(chosen.chosen.spec)][precision])
    assert "measured" in chosen.basis and len(device.seen) <= TOP * len(profile.precisions)


def test_slower_device_gets_a_smaller_one(found: Search, teacher: Teacher, profile: Profile) -> None:
    assert profile.limits.latency_ms
    factor = 0.99 * profile.limits.latency_ms / (1.1 * middle_ms(found.candidates[0]))  # the fastest alone keeps it
    chosen = measured_first(found, teacher, profile, Device(found, factor))
    assert chosen.chosen.spec == found.candidates[0].spec
    assert chosen.chosen.predicted[fastest(dict(chosen.chosen.predicted))].high_ms <= profile.limits.latency_ms
    assert "measured latency" in chosen.bound_by


def test_nothing_fits_a_far_slower_device(found: Search, teacher: Teacher, profile: Profile) -> None:
    with pytest.raises(UsageError, match="when measured") as refused:
        measured_first(found, teacher, profile, Device(found, factor=1e6))
    assert "measured latency" in refused.value.why


def test_disturbed_measurement_is_refused(found: Search, teacher: Teacher, profile: Profile) -> None:
    with pytest.raises(MeasurementError, match=r"0\.80 cores"):
        measured_first(found, teacher, profile, Device(found, 1.0, foreign=0.8))
