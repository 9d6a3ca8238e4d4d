"""A long run at full load: whether the device holds its speed when it gets warm."""

import time
from typing import Any, Callable, Dict, List

import numpy as np

from . import harness
from .sensors import Sensors

WINDOW_S = 10.0
ENDS = 3  # windows at either end that are compared
DRIFT = 0.05  # of the p50, above which the device is said to have slowed down


def soak(
    infer: Callable[[Any], Any],
    x: Any,
    minutes: float,
    sensors: Sensors,
    say: Callable[[str], None],
    window_s: float = WINDOW_S,
) -> Dict[str, Any]:
    """Runs so long without a pause; "windows" with p50, clock and temperature each, and "drift" over the whole.

    drift: p50 of the last windows over that of the first, less 1; the first window is left out where there are enough.
    """
    windows: List[Dict[str, Any]] = []
    window_s = min(window_s, 60.0 * minutes)
    watch, start = harness.Watch(sensors, every_s=min(harness.LOOK_S, window_s)), time.perf_counter()
    told = start
    while time.perf_counter() - start < 60.0 * minutes or not windows:
        times_ms: List[float] = []
        at = time.perf_counter()
        while time.perf_counter() - at < window_s:
            times_ms += harness.timed(infer, x, 1)
            watch.look()
        temperatures = sensors.temperatures_c()
        windows.append({
            "at_s": round(at - start, 3),
            "p50": float(np.median(times_ms)),
            "runs": len(times_ms),
            "clock_mhz": sensors.clocks_mhz().get("cpu_fastest"),
            "hottest_c": max(temperatures.values(), default=None),
        })  # fmt: skip
        if time.perf_counter() - told >= 60:
            told = time.perf_counter()
            say("soaking, %.0f of %g minutes: p50 %.3f ms" % ((told - start) / 60, minutes, windows[-1]["p50"]))
    watch.look(now=True)
    found = dict(verdict([w["p50"] for w in windows]), minutes=minutes, window_s=window_s, windows=windows)
    found["foreign_cores"], found["reasons"] = watch.mean("others"), watch.reasons()
    return found


def verdict(p50s: List[float]) -> Dict[str, Any]:
    """ "drift" of windows' p50 in order, "steady" (None: too few windows to tell) and "said" in words."""
    if len(p50s) < 2:
        return {"drift": None, "steady": None, "said": "too short to tell: one window"}
    ends = max(1, min(ENDS, len(p50s) // 2))
    begun = 1 if len(p50s) >= 4 and ends < len(p50s) // 2 else 0  # the clock may rise at first
    first, last = float(np.median(p50s[begun : begun + ends])), float(np.median(p50s[-ends:]))
    drift = last / first - 1
    if drift > DRIFT:
        said = "slower by %.1f %% at the end than at the start" % (100 * drift)
    elif drift < -DRIFT:
        said = "faster by %.1f %% at the end than at the start" % (-100 * drift)
    else:
        said = "steady: %+.1f %% from start to end" % (100 * drift)
    return {"drift": drift, "steady": abs(drift) <= DRIFT, "said": said}
