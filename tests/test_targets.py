"""The mathematics of the device's harness. The files are loaded by path: edgekd never imports them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from trt_api import runner


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    return runner("harness")


def test_percentiles_by_hand(harness: ModuleType) -> None:
    found = harness.percentiles([float(v) for v in range(1, 102)])  # 1 ... 101
    assert (found["p50"], found["p90"], found["p99"], found["min"], found["max"]) == (51, 91, 100, 1, 101)
    assert found["mean"] == 51 and found["rounds"] == 101


def test_timed_counts_the_call_and_nothing_else(harness: ModuleType) -> None:
    calls: list[Any] = []

    def infer(x: Any) -> None:
        calls.append(x)
        time.sleep(0.002)

    times = harness.timed(infer, 7, 20)
    assert calls == [7] * 20 and len(times) == 20 and min(times) >= 2.0


def test_measure_runs_graphs_in_turns_until_both_have_enough(harness: ModuleType) -> None:
    order: list[str] = []

    def graph(name: str) -> Callable[[Any], None]:
        def infer(x: Any) -> None:
            order.append(name)
            time.sleep(0.005)

        return infer

    protocol = {"warmup_s": 0.01, "seconds": 0.0, "rounds": 120, "most_s": 10.0}
    found = harness.measure({name: graph(name) for name in ("a", "b")}, None, protocol, lambda line: None)
    assert all(found["latency_ms"][name]["rounds"] >= 120 for name in ("a", "b"))
    turns = "".join(name for name, _ in itertools.groupby(order))
    assert turns.endswith("ababab")
    assert found["valid"] == (not found["reasons"])


def test_threads_that_the_graph_before_left_behind_are_not_measured(harness: ModuleType) -> None:
    """A runtime's threads go on spinning after a run and slow the next graph down: ten times here, for 50 ms."""
    owner, until = "", 0.0

    def graph(name: str) -> Callable[[Any], None]:
        def infer(x: Any) -> None:
            nonlocal owner, until
            if name != owner and time.perf_counter() < until:
                time.sleep(0.03)
            else:
                time.sleep(0.003)
                owner, until = name, time.perf_counter() + 0.05

        return infer

    protocol = {"warmup_s": 0.01, "seconds": 0.0, "rounds": 200, "most_s": 10.0}
    found = harness.measure({name: graph(name) for name in ("a", "b")}, None, protocol, lambda line: None)
    assert all(sum(t > 25 for t in times) <= 1 for times in found["times_ms"].values())


def test_slow_graph_stops_in_time_and_is_not_valid(harness: ModuleType) -> None:
    protocol = {"warmup_s": 0.01, "seconds": 0.05, "rounds": 1000, "most_s": 0.1}
    found = harness.measure({"slow": lambda x: time.sleep(0.02)}, None, protocol, lambda line: None)
    assert found["latency_ms"]["slow"]["rounds"] < 1000
    assert not found["valid"] and any("slow" in reason for reason in found["reasons"])


def test_agreement_and_accuracy_by_hand(harness: ModuleType) -> None:
    one, other = np.array([[1, 0], [0, 1], [3, 2]]), np.array([[5, 0], [2, 1], [1, 0]])
    assert harness.agreement(one, other) == pytest.approx(2 / 3)
    assert harness.accuracy(one, np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_logits_in_parts_are_those_of_the_whole(harness: ModuleType) -> None:
    pixels = np.arange(7 * 4, dtype=np.uint8).reshape(7, 1, 2, 2)
    found = harness.logits_of(lambda x: x.reshape(len(x), -1)[:, :2], pixels, 3)
    assert np.array_equal(found, pixels.reshape(7, 4)[:, :2].astype(np.float32))
