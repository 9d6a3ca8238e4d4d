"""Whether latencies can be trusted: repeated runs, loads started on purpose, the runner's overhead, a plain loop.

    python benchmarks/repeatability.py [--runs 5] [--load 20] [--quick] [--networks resnet:1x16 mobilenetv2:0.35]
        [--out benchmarks/results/repeatability.json]

Runs: the runner, in a process of its own each time; coefficient of variation of each graph's p50. Loads: a process
that spins on one core is started before the runner or while it measures, half of the trials each; it counts as
detected where the report is not valid and says why, and proves something where the machine was quiet before.
Overhead: the identity graph, from the same reports. Plain loop: the runner's way against a bare loop over the same
session of onnxruntime, in turns of 50 runs; and what onnxruntime's own profiler says of a run, in a session of its own.
Nothing else may run meanwhile: a disturbed run is repeated, three times at most, and then says so. All takes a quarter
of an hour; --load, --quick and small numbers are for trying it out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgekd import Images, load_profile
from edgekd.device import run_bundle
from edgekd.families import named
from edgekd.files import write_json
from edgekd.measure import CLASSES, probe_bundle
from edgekd.student import build_student
from edgekd.types import Bundle

RESULTS = Path(__file__).parent / "results"
IMAGES = Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
SPIN = [sys.executable, "-c", "while True: pass"]
TRIES = 3
QUIET = 0.1  # cores that others may use before a load is started on purpose
PAUSE_S = 10.0  # before a disturbed run is repeated
GOALS = {"variation": 0.03, "overhead_us": 50.0, "against_plain": 0.02}
TURNS, SETTLING, RUNS = 40, 5, 50  # of the plain loop: runs that do not count and runs that do, of each turn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--load", type=int, default=20, help="trials with a load started on purpose")
    parser.add_argument("--quick", action="store_true", help="the runner's --quick for the runs too")
    parser.add_argument("--networks", nargs="+", default=["resnet:1x16", "mobilenetv2:0.35"], metavar="NAME")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the plain loop")
    parser.add_argument("--out", type=Path, default=RESULTS / "repeatability.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bundle = bundle_of(arguments.networks, Path(temporary))
        # first, as the shortest: the others take minutes, in which a machine gets other work
        against = {f"{count} threads": against_plain(bundle, count) for count in arguments.threads}
        reports = [run_quietly(bundle, arguments.quick) for _ in range(arguments.runs)]
        (Path(temporary) / "load").mkdir()
        small = bundle_of(arguments.networks[:1], Path(temporary) / "load", ("fp32",))
        trials = [under_load(small, number, random.Random(number)) for number in range(arguments.load)]
    document = {
        "device": reports[0]["device"],
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "quick": arguments.quick,
        "goals": GOALS,
        "repeated": repeated(reports),
        "overhead_us": {"each": [r["overhead_us"] for r in reports], "most": max(r["overhead_us"] for r in reports)},
        "load": {"trials": len(trials), "detected": sum(t["detected"] for t in trials), "each": trials},
        "against_plain": against,
        "perf_test": "onnxruntime_perf_test is not in the wheel",
    }
    document["met"] = met(document)
    write_json(arguments.out, document)
    print(json.dumps({key: document[key] for key in ("met", "overhead_us")}, indent=2))


def bundle_of(networks: list[str], folder: Path, precisions: tuple[str, ...] | None = None) -> Bundle:
    """Untrained networks for this machine on one thread: weights do not matter to a latency."""
    profile = load_profile("cpu")
    profile = dataclasses.replace(profile, batch=1, threads=1, precisions=precisions or profile.precisions)
    models = {}
    for name in networks:
        spec = named(name, IMAGES, CLASSES)
        assert spec is not None, name
        models[name] = build_student(spec, seed=0)
    return probe_bundle(models, IMAGES, CLASSES, profile, folder)


def run_quietly(bundle: Bundle, quick: bool) -> dict[str, Any]:
    """The runner's report; again where something disturbed it."""
    for attempt in range(TRIES):
        report = run_bundle(bundle, quick=quick)
        print(f"run: {'valid' if report['valid'] else '; '.join(report['reasons'])}", flush=True)
        if report["valid"] or attempt == TRIES - 1:
            return report
        time.sleep(PAUSE_S)
    raise AssertionError


def repeated(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """p50 of each graph in every run, and its coefficient of variation (sample standard deviation over mean)."""
    found: dict[str, Any] = {"runs": len(reports), "valid": sum(r["valid"] for r in reports), "graphs": {}}
    for name in reports[0]["graphs"]:
        p50s = [r["graphs"][name]["latency_ms"]["p50"] for r in reports]
        spread = statistics.stdev(p50s) / statistics.mean(p50s) if len(p50s) > 1 else None
        found["graphs"][name] = {"p50_ms": p50s, "variation": spread}
    found["reasons"] = [r["reasons"] for r in reports if not r["valid"]]
    return found


def under_load(bundle: Bundle, number: int, rng: random.Random) -> dict[str, Any]:
    """One trial: even ones with the load before the runner, odd ones up to a second after it began to measure."""
    before = others_before(bundle)
    late = bool(number % 2)
    delay_s = rng.uniform(0.0, 1.0) if late else 0.0
    with Load() as load:
        if not late:
            load.start()
        report = run_bundle(bundle, quick=True, say=load.at("measuring", delay_s) if late else lambda line: None)
    said = [reason for reason in report["reasons"] if "other processes" in reason]
    print(f"load {number + 1}: {said[0] if said else 'not detected'}", flush=True)
    return {
        "cores_before": before,  # where others worked anyway, a detection proves nothing
        "late": late,
        "delay_s": round(delay_s, 3),
        "detected": bool(said) and not report["valid"],
        "foreign_cores": report["foreign_cores"],
        "reasons": report["reasons"],
    }


def others_before(bundle: Bundle) -> float | None:
    """Cores that other processes use now; waits for a quiet machine, three times at most."""
    sys.path[:0] = [] if str(bundle.folder) in sys.path else [str(bundle.folder)]
    from runner import condition, sensors  # type: ignore[import-not-found]

    cores: float | None = None
    for _ in range(TRIES):
        cores = condition.others_now(sensors.HERE, 1.0)
        if cores is None or cores <= QUIET:
            break
        time.sleep(PAUSE_S)
    return cores


class Load:
    """A process that spins on one core until the end of the block."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.timer: threading.Timer | None = None

    def __enter__(self) -> Load:
        return self

    def start(self) -> None:
        self.process = subprocess.Popen(SPIN)

    def at(self, word: str, delay_s: float) -> Callable[[str], None]:
        """What starts it so long after the first progress line that begins with a word."""

        def hear(line: str) -> None:
            if line.startswith(word) and self.timer is None:
                self.timer = threading.Timer(delay_s, self.start)
                self.timer.start()

        return hear

    def __exit__(self, *_: object) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer.join()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def against_plain(bundle: Bundle, threads: int) -> dict[str, Any]:
    """p50 of each graph by the runner's way and by a plain loop of onnxruntime, in turns, and their ratio less 1."""
    sys.path.insert(0, str(bundle.folder))
    from runner import harness, onnxrt, setting

    images = bundle.manifest.images
    shape = (images.channels, images.height, images.width)
    x = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.float32)
    found = {}
    for name, file in bundle.manifest.graphs.items():
        path, asked = str(bundle.folder / file), setting.Setting(shape, 1, "fp32", threads, "")
        sessions = Sessions()
        infer, _ = onnxrt.OnnxRuntime(sessions).load(path, asked, lambda line: None)
        plain = sessions.opened[0]
        fed = plain.get_inputs()[0].name
        assert plain.get_inputs()[0].type == "tensor(float)", name
        ours: list[float] = []
        theirs: list[float] = []
        harness.warm_up(infer, x, {"warmup_s": 2.0})
        loop(plain, fed, x, 500)
        for turn in range(TURNS):
            for mine in (True, False) if turn % 2 else (False, True):  # neither always comes after the other
                if mine:
                    ours += harness.timed(infer, x, SETTLING + RUNS)[SETTLING:]
                else:
                    theirs += loop(plain, fed, x, SETTLING + RUNS)[SETTLING:]
        p50, plain_p50 = float(np.median(ours)), float(np.median(theirs))
        found[name] = {
            "p50_ms": p50, "plain_p50_ms": plain_p50, "ratio_less_1": p50 / plain_p50 - 1,
            "profiler_p50_ms": profiled(path, threads, x),
        }  # fmt: skip
        print(f"{name}, {threads} threads: {p50:.4f} ms, plain loop {plain_p50:.4f} ms", flush=True)
    return found


class Sessions:
    """onnxruntime for the runner that keeps what it opens: two sessions of one graph differ by more than callers do."""

    SessionOptions, __version__ = onnxruntime.SessionOptions, onnxruntime.__version__

    def __init__(self) -> None:
        self.opened: list[Any] = []

    def InferenceSession(self, *arguments: Any, **options: Any) -> Any:
        self.opened.append(onnxruntime.InferenceSession(*arguments, **options))
        return self.opened[-1]


def session(path: str, threads: int, profile: str = "") -> Any:
    """onnxruntime on the CPU as one would open it, with INT8 products that do not overflow, as the runner does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.x64quantprecision", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def loop(plain: Any, fed: str, x: Any, runs: int) -> list[float]:
    """Milliseconds of each run, with nothing of ours in it."""
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        plain.run(None, {fed: x})
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def profiled(path: str, threads: int, x: Any) -> float:
    """p50 of what the profiler calls model_run, in ms. It times every node as well, which takes time itself."""
    with tempfile.TemporaryDirectory() as folder:
        opened = session(path, threads, str(Path(folder) / "profile"))
        loop(opened, opened.get_inputs()[0].name, x, 600)
        events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    runs = [event["dur"] / 1e3 for event in events if event.get("name") == "model_run"]
    return float(statistics.median(runs[100:]))


def met(document: dict[str, Any]) -> dict[str, bool]:
    """Each goal, and whether it was reached."""
    spreads = [g["variation"] for g in document["repeated"]["graphs"].values()]
    ratios = [g["ratio_less_1"] for graphs in document["against_plain"].values() for g in graphs.values()]
    runs, trials = document["repeated"], document["load"]["each"]
    quiet = [t for t in trials if t["cores_before"] is not None and t["cores_before"] <= QUIET]
    return {
        "variation": runs["valid"] == runs["runs"] and all(s is not None and s <= GOALS["variation"] for s in spreads),
        "overhead_us": document["overhead_us"]["most"] < GOALS["overhead_us"],
        "load": bool(trials) and len(quiet) == len(trials) and all(t["detected"] for t in trials),
        "against_plain": all(abs(ratio) <= GOALS["against_plain"] for ratio in ratios),
    }


if __name__ == "__main__":
    main()
