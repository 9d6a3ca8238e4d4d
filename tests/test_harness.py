"""The protocol of the runner: intervals by hand, disturbance, single queries after idle, the long run, what is kept."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machines
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from trt_api import runner

from edgekd.bundle import SCHEMA, write_bundle
from edgekd.device import run_bundle
from edgekd.files import sha256
from edgekd.types import Images, Manifest

SHORT = {
    "look_s": 0.0, "warmup_s": 0.01, "seconds": 0.0, "rounds": 60, "most_s": 5.0,
    "idle_queries": 3, "idle_s": 0.01, "meter_s": 0.02, "meter_idle_s": 0.02, "soak_window_s": 0.03,
}  # fmt: skip


SHAPES: tuple[tuple[str, list[str | int]], ...] = (("x", ["batch", 1, 8, 8]), ("y", ["batch", 4]))


class Loaded(runner("sensors").Sensors):  # type: ignore[misc]
    """A machine on which other processes use so many cores, one figure a look, and whose clock is told too."""

    def __init__(self, root: Path, cores: list[float], clocks: tuple[float, ...] = ()) -> None:
        super().__init__(str(root), lambda command: None)
        self.cores, self.clocks = itertools.chain(cores, itertools.repeat(cores[-1])), iter(clocks)
        self.others, self.at = 0.0, time.perf_counter()

    def busy_seconds(self) -> dict[str, float]:
        now = time.perf_counter()
        self.others, self.at = self.others + next(self.cores) * (now - self.at), now
        return {"others": self.others, "steal": 0.0}

    def clocks_mhz(self) -> dict[str, float]:
        clock = next(self.clocks, None)
        return {} if clock is None else {"cpu_fastest": clock}


def test_ranks_of_an_interval_by_hand() -> None:
    """Of 10 runs 11/1024 lie in the binomial's tail up to 1 and 56/1024 up to 2, so ranks 2 and 9 hold the median."""
    ranks = runner("quantiles").order_statistics
    assert ranks(10, 0.5) == (2, 9) and ranks(6, 0.5) == (1, 6)
    assert ranks(5, 0.5) is None  # 1/32 on either side is more than 2.5 %
    # 0.9**29 = 4.7 % and 0.9**36 = 2.25 %: only from 36 runs on the slowest one bounds the p90
    assert ranks(35, 0.9) is None and ranks(36, 0.9) is not None and ranks(36, 0.9)[1] == 36
    low, high = ranks(100_000, 0.5)
    assert low == pytest.approx(50_000 - 1.96 * 158.1, abs=2) and high == pytest.approx(50_000 + 1.96 * 158.1, abs=2)


def test_interval_holds_the_quantile_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = runner("quantiles").interval(rng.exponential(size=200).tolist(), 0.9)
        hits += low <= -np.log(0.1) < high
    assert 0.93 <= hits / 400 <= 0.99


def test_percentiles_hold_their_intervals() -> None:
    found = runner("quantiles").percentiles([float(v) for v in range(1, 11)])
    assert found["interval95"] == {"p50": [2.0, 9.0], "p90": None}


def test_single_queries_wait_before_each() -> None:
    calls: list[float] = []
    start = time.perf_counter()
    times = runner("harness").after_idle(lambda x: calls.append(time.perf_counter()), None, 3, 0.02)
    assert len(times) == 3 and min(np.diff([start, *calls])) >= 0.02


@pytest.mark.parametrize("cores", [[0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0]])
def test_other_load_is_told_however_late_it_starts(cores: list[float], tmp_path: Path) -> None:
    harness, source = runner("harness"), Loaded(tmp_path, cores)
    watch = harness.Watch(source, every_s=0.01)
    for _ in range(len(cores)):
        time.sleep(0.011)
        watch.look()
    assert watch.reasons() and "other processes" in watch.reasons()[0]


def test_quiet_machine_gives_no_reason(tmp_path: Path) -> None:
    protocol = dict(SHORT, seconds=0.05)
    source = Loaded(tmp_path, [0.0, 0.02])
    found = runner("harness").measure({"a": lambda x: time.sleep(1e-4)}, None, protocol, lambda line: None, source)
    assert found["foreign_cores"] < 0.05 and not any("processes" in reason for reason in found["reasons"])


def test_load_that_was_started_is_detected(tmp_path: Path) -> None:
    """A real one, on whatever machine this runs: the runner sees a process that spins beside it."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        protocol = dict(SHORT, seconds=0.6)
        found = runner("harness").measure({"a": lambda x: time.sleep(1e-4)}, None, protocol, lambda line: None)
        spinning.kill()
    if found["foreign_cores"] is None:
        pytest.skip("this system has no /proc/stat")
    assert not found["valid"] and any("other processes" in reason for reason in found["reasons"])


class Fake:
    """A runtime of TensorRT's kind: it has no identity graph."""

    def describe(self) -> dict[str, str]:
        return {"name": "tensorrt", "version": "10"}


def measured(source: Any, protocol: dict[str, float] = SHORT, **more: Any) -> Any:
    graphs = {name: (lambda x, s=s: time.sleep(s)) for name, s in (("fp32", 4e-4), ("int8", 2e-4), ("teacher", 1e-4))}
    setting = runner("setting").Setting((1, 2, 2), 1, "fp32", 1, "")
    return runner("measuring").measured(Fake(), graphs, None, protocol, setting, lambda t: None, source=source, **more)


def test_whole_protocol_says_everything_or_none(tmp_path: Path) -> None:
    found = measured(Loaded(machines.pc(tmp_path), [0.0]), soak_minutes=0.001)
    assert found["overhead_us"] is None and found["throttled"] == "no" and found["foreign_cores"] == 0.0
    assert found["condition"]["before"]["battery"] == "discharging, 54 %"
    assert any("battery" in warning for warning in found["warnings"])
    graph = found["graphs"]["int8"]
    assert graph["idle_start_ms"] == {"idle_s": 0.01, "queries": 3} | {
        k: graph["idle_start_ms"][k] for k in ("p50", "max")
    }
    assert graph["energy"] is None and found["energy"] is None  # the counter stood still: no figure is made of that
    assert found["soak"]["graph"] == "int8"  # the fastest of the student's, never the teacher's
    assert found["valid"] == (not found["reasons"])


def test_throttling_makes_it_not_valid(tmp_path: Path) -> None:
    class Hot(Loaded):
        def throttle_counters(self) -> dict[str, int]:
            return {"core too hot": int(time.perf_counter() * 1e6)}  # grows

    found = measured(Hot(tmp_path, [0.0]), dict(SHORT, idle_queries=0))
    assert found["throttled"] == "yes" and not found["valid"]
    assert any("the device throttled: core too hot" in reason for reason in found["reasons"])


def test_clock_that_falls_while_measuring_is_seen(tmp_path: Path) -> None:
    watch = runner("harness").Watch(Loaded(tmp_path, [0.0], (3000.0, 2000.0)), every_s=0.0)
    watch.look()
    watch.look(now=True)
    assert watch.clocks_mhz == [3000.0, 2000.0]


def test_what_trtexec_cannot_give_is_none(tmp_path: Path) -> None:
    found = measured(Loaded(tmp_path, [0.0]), in_process=False, soak_minutes=1.0)
    assert found["soak"] is None and found["graphs"]["fp32"]["idle_start_ms"] is None and found["idle_ms"] == {}


def test_runs_are_kept_whole(tmp_path: Path) -> None:
    measuring = runner("measuring")
    path = Path(measuring.raw_path(str(tmp_path / "report.json")))
    assert path == tmp_path / "raw_latency.npz"
    assert measuring.raw_path("/a/pi.json") == "/a/pi.raw_latency.npz"
    told = measuring.kept(str(path), {"fp32": [1.0, 2.5]}, {"fp32": [9.0]})
    assert told == {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with np.load(path, allow_pickle=False) as kept:
        assert kept["fp32"].tolist() == [1.0, 2.5] and kept["fp32 after idle"].tolist() == [9.0]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("p50s", "steady", "said"),
    [
        ([1.0], None, "too short"),
        ([1.0, 1.02], True, "steady: +2.0 %"),
        ([1.0, 1.0, 1.1, 1.2, 1.25, 1.25, 1.25, 1.25, 1.25], False, "slower by 13.6 %"),  # median of 1, 1.1, 1.2
        ([2.0] + [1.0] * 8, True, "steady: +0.0 %"),  # the first window: the clock was still rising
        ([1.0, 1.0, 0.5, 0.5], False, "faster by 50.0 %"),
    ],
)
def test_drift_by_hand(p50s: list[float], steady: bool | None, said: str) -> None:
    found = runner("soak").verdict(p50s)
    assert found["steady"] is steady and found["said"].startswith(said)


def test_soak_sees_a_foundthat_slows_down(tmp_path: Path) -> None:
    start = time.perf_counter()

    def infer(x: Any) -> None:
        time.sleep(0.002 if time.perf_counter() - start < 0.3 else 0.005)

    found = runner("soak").soak(infer, None, 0.01, Loaded(tmp_path, [0.0]), lambda line: None, window_s=0.06)
    assert found["steady"] is False and found["drift"] > 0.5 and len(found["windows"]) >= 9
    assert all(w["runs"] > 0 and w["clock_mhz"] is None for w in found["windows"])


def test_overhead_through_onnxruntime() -> None:
    """The bytes are a graph that ONNX Runtime takes, and a call of it is a matter of microseconds."""
    setting = runner("setting").Setting((3, 8, 8), 2, "int8", 1, "")
    found = runner("overhead").overhead_us(runner("onnxrt").opened(), setting, lambda text: None, runs=300)
    assert 0 < found < 2000  # benchmarks/repeatability.py holds it below 50 on a quiet machine


def test_runner_with_a_long_run_keeps_what_it_measured(tmp_path: Path) -> None:
    """The runner itself, in a process of its own, on a network with one layer."""
    weight = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    fed, given = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in SHAPES)
    graph = helper.make_graph(nodes, "tiny", [fed], [given], [numpy_helper.from_array(weight, "w")])
    path = tmp_path / "student.fp32.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), path)
    facts = Images(1, 8, 8, (0.5,), (0.25,))
    manifest = Manifest(
        SCHEMA, "onnxrt", 1, 1, facts, ("a", "b", "c", "d"), {}, {}, {}, {}, {}, {}, {"summary": "a test"}, "no data",
    )  # fmt: skip
    samples: dict[str, Any] = {
        "pixels": np.zeros((4, 1, 8, 8), np.uint8),
        "teacher_logits": np.zeros((4, 4), np.float32),
    }
    bundle = write_bundle(tmp_path / "bundle", manifest, {"fp32": path}, samples)
    lines: list[str] = []
    report = run_bundle(bundle, quick=True, soak=0.01, say=lines.append)
    found = report["graphs"]["fp32"]
    assert report["soak"]["graph"] == "fp32" and len(report["soak"]["windows"]) >= 1
    assert found["idle_start_ms"]["queries"] == 5 and 0 < report["overhead_us"] < 2000
    low, high = found["latency_ms"]["interval95"]["p50"]
    assert low <= found["latency_ms"]["p50"] <= high and report["valid"] == (not report["reasons"])
    raw = bundle.folder / report["raw"]["file"]
    assert sha256(raw) == report["raw"]["sha256"]
    with np.load(raw, allow_pickle=False) as kept:
        assert len(kept["fp32"]) == found["latency_ms"]["rounds"]
        assert np.median(kept["fp32"]) == pytest.approx(found["latency_ms"]["p50"], rel=1e-4)
        assert len(kept["fp32 after idle"]) == 5
    assert any(line.startswith("other load") for line in lines) and "soaking fp32 for 0.01 minutes" in lines


def test_unknown_load_is_a_warning_not_a_guess(tmp_path: Path) -> None:
    found = measured(runner("sensors").Sensors(str(tmp_path), lambda command: None))
    assert found["foreign_cores"] is None and found["throttled"] == "unknown"
    assert any("cannot be seen" in warning for warning in found["warnings"])
