"""Measuring: warm-up, timing, percentiles, accuracy against samples, and the circumstances of it all."""

import os
import platform
import time
from typing import Any, Callable, Dict, List, Optional

import numpy as np

Infer = Callable[[Any], Any]  # pixels (N, C, H, W) float32 -> logits (N, K)

FULL = {"warmup_s": 2.0, "seconds": 10.0, "rounds": 1000, "most_s": 300.0}
QUICK = {"warmup_s": 0.5, "seconds": 2.0, "rounds": 200, "most_s": 20.0}
WINDOW = 50  # runs between two looks at whether the warm-up is flat, and between two graphs
WINDOW_MS = 250.0  # a slow graph's window has fewer runs
BINS = 60  # of the histogram
FLAT = 0.02  # the last five windows' medians lie within this share of each other
BUSY = 0.25  # cores that other processes may use before a latency is called not valid

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


def measure(infers: Dict[str, Infer], x: Any, protocol: Dict[str, float], say: Callable[[str], None]) -> Dict[str, Any]:
    """Latency of several graphs in one run, in turns, so that a change of the machine's speed hits all alike."""
    flat: Dict[str, bool] = {}
    times: Dict[str, List[float]] = {}
    runs: Dict[str, int] = {}
    for name, infer in infers.items():
        say("warming up %s" % name)
        flat[name] = warm_up(infer, x, protocol)
        times[name], runs[name] = [], window(infer, x)
    say("measuring %s" % ", ".join(infers))
    before, start = _cpu_seconds(), time.perf_counter()
    open_ = list(infers)
    while open_:
        for name in open_:
            times[name] += timed(infers[name], x, runs[name])
        open_ = [name for name in open_ if not _enough(times[name], protocol)]
    wall = time.perf_counter() - start
    after = _cpu_seconds()
    foreign = None if before is None or after is None else max(0.0, (after - before) / wall)
    reasons = ["%s was not steady after the warm-up" % name for name, ok in flat.items() if not ok]
    reasons += [
        "%s is slow: %d runs instead of %d" % (name, len(t), protocol["rounds"])
        for name, t in times.items()
        if len(t) < protocol["rounds"]
    ]
    if foreign is not None and foreign > BUSY:
        reasons.append("other processes used %.2f cores while measuring" % foreign)
    return {
        "latency_ms": {name: percentiles(t) for name, t in times.items()},
        "foreign_cores": foreign,
        "valid": not reasons,
        "reasons": reasons,
    }


def _enough(times_ms: List[float], protocol: Dict[str, float]) -> bool:
    spent_s = sum(times_ms) / 1e3
    return spent_s >= protocol["most_s"] or (spent_s >= protocol["seconds"] and len(times_ms) >= protocol["rounds"])


def percentiles(times_ms: List[float]) -> Dict[str, Any]:
    """p50 p90 p95 p99, mean, standard deviation, extremes, the number of runs and their histogram."""
    t = np.asarray(times_ms)
    found: Dict[str, Any] = {"p%d" % q: float(np.percentile(t, q)) for q in (50, 90, 95, 99)}
    found.update(mean=float(t.mean()), std=float(t.std()), min=float(t.min()), max=float(t.max()), rounds=len(t))
    found["histogram"] = histogram(times_ms)
    return found


def histogram(times_ms: List[float]) -> Dict[str, Any]:
    """Runs in 60 equal bins: 61 "edges_ms", 60 "counts", and how many were "above" the last edge.

    From the fastest to a little over p99, three times the median at most: late runs would leave one full bin.
    """
    t = np.asarray(times_ms)
    low, high = float(t.min()), 1.02 * float(min(np.percentile(t, 99), 3 * np.median(t)))
    counts, edges = np.histogram(t, bins=BINS, range=(low, max(high, low + 1e-6)))
    above = len(t) - int(counts.sum())
    return {"edges_ms": [round(float(e), 6) for e in edges], "counts": [int(c) for c in counts], "above": above}


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


def device() -> Dict[str, Any]:
    """What the machine says of itself. A latency without power mode and clocks is not a figure."""
    return {
        "name": _read("/proc/device-tree/model") or _cpu_name() or platform.machine(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": _mhz(),
        "temperature_c": _celsius(),
        "power_mode": _read("/var/lib/nvpmodel/status"),
    }


def peak_memory_mb() -> Optional[float]:
    """Largest resident memory of this process so far, 10**6 bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _read(path: str) -> Optional[str]:
    try:
        with open(path, "r", encoding="utf-8", errors="replace") as handle:
            return handle.read().strip("\0\n ") or None
    except OSError:  # this system has no such file
        return None


def _cpu_name() -> Optional[str]:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return None


def _mhz() -> Optional[float]:
    khz = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return float(khz) / 1e3 if khz and khz.isdigit() else None


def _celsius() -> Optional[float]:
    milli = _read("/sys/class/thermal/thermal_zone0/temp")
    return float(milli) / 1e3 if milli and milli.lstrip("-").isdigit() else None


def _cpu_seconds() -> Optional[float]:
    """Seconds that all processors were busy, less this process's own; None where /proc is missing."""
    line = (_read("/proc/stat") or "").split("\n", 1)[0].split()
    if not line or line[0] != "cpu":
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(v) for v in line[1:9])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return float(busy - own.user - own.system)
