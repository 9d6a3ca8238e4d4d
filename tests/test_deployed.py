"""The graph to deploy: fewest limits broken, then fastest, with the figures by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

from report_folders import sizing

from edgekd import load_profile
from edgekd.deployed import choose, told
from edgekd.types import Limits, Profile, Sizing

SIZING: Sizing = sizing(("cat", "dog", "owl"))


def profile(latency_ms: float | None = None, model_mb: float | None = None) -> Profile:
    return dataclasses.replace(load_profile("cpu"), limits=Limits(latency_ms=latency_ms, model_mb=model_mb))


def report(**graphs: tuple[float, float]) -> dict[str, Any]:
    """precision=(p50 in ms, MB); p90 is twice as much."""
    found = {name: {"latency_ms": {"p50": p50, "p90": 2 * p50}, "mb": mb} for name, (p50, mb) in graphs.items()}
    return {"graphs": {**found, "teacher": {"latency_ms": {"p50": 9.0, "p90": 9.0}, "mb": 9.0}}}


def test_fastest_of_those_that_keep_the_limits() -> None:
    found = choose(report(fp32=(2.0, 4.0), int8=(1.0, 1.0)), profile(latency_ms=3.0), SIZING)
    assert (found.precision, found.basis, found.broken, found.slower) == ("int8", "measured", (), ())
    assert found.latency_ms == {"fp32": 2.0, "int8": 1.0}


def test_one_slow_tenth_makes_no_graph_the_slower_one() -> None:
    disturbed = report(fp32=(2.0, 4.0), int8=(1.0, 1.0))
    disturbed["graphs"]["int8"]["latency_ms"]["p90"] = 5.0
    assert choose(disturbed, profile(), SIZING).precision == "int8"
    found = choose(disturbed, profile(latency_ms=4.5), SIZING)  # the limit is for that tenth, too
    assert (found.precision, found.slower) == ("fp32", ())


def test_integers_that_are_slower_are_said_to_be() -> None:
    found = choose(report(fp32=(1.0, 4.0), int8=(2.0, 1.0)), profile(), SIZING)
    assert (found.precision, found.slower) == ("fp32", ("int8",))
    assert told(found) == "fp32, 1 ms measured (int8 2); int8 is slower than fp32"


def test_a_slower_graph_that_fits_comes_before_a_faster_one_that_does_not() -> None:
    found = choose(report(fp32=(1.0, 4.0), int8=(2.0, 1.0)), profile(model_mb=2.0), SIZING)
    assert found.precision == "int8" and not found.broken


def test_limits_that_every_graph_breaks() -> None:
    found = choose(report(fp32=(5.5, 30.0), int8=(6.0, 30.0)), profile(10.0, 25.0), SIZING)
    assert found.broken == ("fp32 latency 11 ms over 10 ms", "fp32 graph 30 MB over 25 MB")


def test_elsewhere_the_prediction_counts_until_the_board_has_measured() -> None:
    board = dataclasses.replace(profile(), name="a board")
    here = report(fp32=(1.0, 4.0), int8=(2.0, 1.0))
    found = choose(here, board, SIZING)
    assert found.basis == "predicted"
    assert found.latency_ms == {p: SIZING.predicted[p].latency_ms for p in board.precisions}
    assert choose(here, board, SIZING, measured=True).latency_ms["int8"] == 2.0
