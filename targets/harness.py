"""Measuring: warm-up, timing in turns, single queries after idle, and accuracy against samples."""

import time
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from . import condition, sensors
from .quantiles import percentiles

__all__ = ["accuracy", "after_idle", "agreement", "logits_of", "measure", "percentiles", "timed", "warm_up", "window"]

Infer = Callable[[Any], Any]  # pixels (N, C, H, W) float32 -> logits (N, K)

WINDOW = 50  # runs between two looks at whether the warm-up is flat
WINDOW_MS = 250.0  # a slow graph's window has fewer runs
TURN_MS = 250.0  # of one graph between two others
SETTLE_S = 0.1  # before a turn: the threads of the graph before spin for some 50 ms more, and take a core meanwhile
SETTLE_MS = 20.0  # of runs that do not count: caches and clocks come back
FLAT = 0.02  # the last five windows' medians lie within this share of each other
LOOK_S = 1.0  # between two looks at other processes and the clocks

_clock_ns = getattr(time, "perf_counter_ns", None) or (lambda: int(time.perf_counter() * 1e9))  # not in Python 3.6


def warm_up(infer: Infer, x: Any, protocol: Dict[str, float]) -> bool:
    """Runs until the time is up and five windows agree; False when ten times the time did not make them agree."""
    start = time.perf_counter()
    medians: List[float] = []
    while True:
        medians.append(float(np.median(timed(infer, x, window(infer, x)))))
        spent, last = time.perf_counter() - start, medians[-5:]
        flat = len(last) == 5 and max(last) <= (1 + FLAT) * min(last)
        if spent >= protocol["warmup_s"] and (flat or spent >= 10 * protocol["warmup_s"]):
            return flat


def timed(infer: Infer, x: Any, rounds: int) -> List[float]:
    """Milliseconds of each run: host array in, host array out, the next only after the last has returned."""
    times_ms = []
    for _ in range(rounds):
        start = _clock_ns()
        infer(x)
        times_ms.append((_clock_ns() - start) / 1e6)
    return times_ms


def window(infer: Infer, x: Any) -> int:
    """How many runs make one window of this graph, 1 to WINDOW."""
    return int(max(1, min(WINDOW, WINDOW_MS / max(1e-6, timed(infer, x, 1)[0]))))


def turn(infer: Infer, x: Any) -> List[float]:
    """Milliseconds of each run in TURN_MS, after another graph has had its turn: once its threads have let go."""
    time.sleep(SETTLE_S)
    _runs_of(infer, x, SETTLE_MS)
    return _runs_of(infer, x, TURN_MS)


def _runs_of(infer: Infer, x: Any, most_ms: float) -> List[float]:
    times_ms = timed(infer, x, 1)
    start = time.perf_counter()
    while (time.perf_counter() - start) * 1e3 < most_ms - times_ms[0]:
        times_ms += timed(infer, x, 1)
    return times_ms


class Watch:
    """Other processes and the clocks while something is measured: a look now and then, between two windows."""

    def __init__(self, source: sensors.Sensors, every_s: float = LOOK_S) -> None:
        self.source, self.every_s = source, every_s
        self.others: List[float] = []  # cores, of each look
        self.steal: List[float] = []
        self.clocks_mhz: List[float] = []  # of the fastest core
        self.first = self.busy = source.busy_seconds()
        self.began = self.last = time.perf_counter()

    def look(self, now: bool = False) -> None:
        """Looks where it is time to, or at once."""
        wall = time.perf_counter() - self.last
        if wall < self.every_s and not now:
            return
        busy, clock = self.source.busy_seconds(), self.source.clocks_mhz().get("cpu_fastest")
        if busy is not None and self.busy is not None and wall >= 0.5 * self.every_s:  # less is a matter of ticks
            self.others.append(max(0.0, (busy["others"] - self.busy["others"]) / wall))
            self.steal.append(max(0.0, (busy["steal"] - self.busy["steal"]) / wall))
        if clock is not None:
            self.clocks_mhz.append(clock)
        self.busy, self.last = busy, time.perf_counter()

    def mean(self, which: str) -> Optional[float]:
        """Cores over the whole time, "others" or "steal"; None where the system does not tell."""
        if self.first is None or self.busy is None:
            return None
        return max(0.0, (self.busy[which] - self.first[which]) / max(1e-9, self.last - self.began))

    def reasons(self) -> List[str]:
        """Why what was measured meanwhile does not count."""
        mean = self.mean("others")
        return condition.undisturbed(self.others or ([] if mean is None else [mean]))


def measure(
    infers: Dict[str, Infer],
    x: Any,
    protocol: Dict[str, float],
    say: Callable[[str], None],
    source: sensors.Sensors = sensors.HERE,
) -> Dict[str, Any]:
    """Latency of several graphs in one run, in turns, so that a change of the machine's speed hits all alike.

    "times_ms" holds every run, in order. protocol: "warmup_s", "seconds", "rounds", "most_s", of each graph.
    """
    flat: Dict[str, bool] = {}
    times: Dict[str, List[float]] = {}
    for name, infer in infers.items():
        say("warming up %s" % name)
        flat[name] = warm_up(infer, x, protocol)
        times[name] = []
    say("measuring %s" % ", ".join(infers))
    watch = Watch(source)
    open_ = list(infers)
    while open_:
        for name in open_:
            times[name] += turn(infers[name], x)
            watch.look()
        open_ = [name for name in open_ if not _enough(times[name], protocol)]
    watch.look(now=True)
    reasons = ["%s was not steady after the warm-up" % name for name, ok in flat.items() if not ok]
    reasons += [
        "%s is slow: %d runs instead of %d" % (name, len(t), protocol["rounds"])
        for name, t in times.items()
        if len(t) < protocol["rounds"]
    ]
    reasons += watch.reasons()
    return {
        "latency_ms": {name: percentiles(t) for name, t in times.items()},
        "times_ms": times,
        "foreign_cores": watch.mean("others"),
        "foreign_cores_most": max(watch.others, default=None),
        "steal_cores": watch.mean("steal"),
        "clocks_mhz": watch.clocks_mhz,
        "valid": not reasons,
        "reasons": reasons,
    }


def _enough(times_ms: List[float], protocol: Dict[str, float]) -> bool:
    spent_s = sum(times_ms) / 1e3
    return spent_s >= protocol["most_s"] or (spent_s >= protocol["seconds"] and len(times_ms) >= protocol["rounds"])


def after_idle(infer: Infer, x: Any, queries: int, idle_s: float) -> List[float]:
    """Milliseconds of single queries, the machine idle for so many seconds before each: clocks and caches go down."""
    times_ms = []
    for _ in range(queries):
        time.sleep(idle_s)
        times_ms += timed(infer, x, 1)
    return times_ms


def logits_of(infer: Infer, pixels: Any, batch: int) -> Any:
    """Logits (N, K) of uint8 pixels (N, C, H, W), in parts of `batch`."""
    parts = [infer(pixels[i : i + batch].astype(np.float32)) for i in range(0, len(pixels), batch)]
    return np.concatenate(parts)


def agreement(one: Any, other: Any) -> float:
    """Share of the images on which two sets of logits (N, K) name the same class."""
    return float((one.argmax(1) == other.argmax(1)).mean())


def accuracy(logits: Any, labels: Any) -> float:
    """Top-1 accuracy in [0, 1]."""
    return float((logits.argmax(1) == labels).mean())
