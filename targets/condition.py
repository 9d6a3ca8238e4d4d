"""Whether a machine is fit to be measured, and whether it held its speed: judged from what sensors say."""

import statistics
import time
from typing import Any, Dict, List, Optional, Tuple

from .sensors import Sensors

BUSY = 0.25  # cores that other processes may use before a latency is called not valid
STOLEN = 0.05  # cores that a virtual machine's host may take away
HOT_C = 80.0
SLOWER = 0.9  # of the clock in the first quarter: below this it fell in the last
NOW, SINCE_BOOT = 0xF, 0xF0000  # bits of a Raspberry Pi's flags
PI = ("under-voltage", "clock capped", "throttled", "soft temperature limit")  # bits 0-3, and 16-19

Finding = Dict[str, str]  # "name", "state" ("ok", "warning" or "unknown"), "found"


def preflight(sensors: Sensors, look_s: float) -> Tuple[Dict[str, Any], List[Finding]]:
    """(state, findings) of a machine before it is measured. look_s: how long other processes are looked at."""
    others = others_now(sensors, look_s)
    state = sensors.state()
    return state, findings(state, others, sensors.jetson())


def others_now(sensors: Sensors, seconds: float) -> Optional[float]:
    """Cores that other processes use, looked at for some seconds in which this one sleeps."""
    before, start = sensors.busy_seconds(), time.perf_counter()
    time.sleep(seconds)
    after, wall = sensors.busy_seconds(), time.perf_counter() - start
    return None if before is None or after is None else max(0.0, (after["others"] - before["others"]) / wall)


def findings(state: Dict[str, Any], others: Optional[float], jetson: bool) -> List[Finding]:
    """What speaks for and against measuring in a state. others: cores that other processes use."""
    found = [_load(state, others), _governor(state)]
    hottest = state["hottest_c"]
    if hottest is None:
        found.append(_finding("temperature", "unknown", "this system does not show it"))
    else:
        hot = "warning" if hottest > HOT_C else "ok"
        found.append(_finding("temperature", hot, "%.0f C at most" % hottest))
    if state["power_mode"]:
        found.append(_finding("power mode", "ok", state["power_mode"]))
    else:
        lacking = "nvpmodel -q does not answer" if jetson else "this system has none"
        found.append(_finding("power mode", "warning" if jetson else "unknown", lacking))
    if state["battery"]:
        on_battery = "warning" if state["battery"].startswith("discharging") else "ok"
        found.append(_finding("battery", on_battery, state["battery"]))
    if state["gpu_load"] is not None:
        busy = "warning" if state["gpu_load"] > 0.05 else "ok"
        found.append(_finding("GPU load", busy, "%.0f %%" % (100 * state["gpu_load"])))
    if state["pi_flags"] is not None:
        told = flags(state["pi_flags"])
        found.append(_finding("power supply", "warning" if told else "ok", ", ".join(told) or "no trouble since start"))
    return found


def _finding(name: str, state: str, found: str) -> Finding:
    return {"name": name, "state": state, "found": found}


def _load(state: Dict[str, Any], others: Optional[float]) -> Finding:
    if others is None:
        return _finding("other load", "unknown", "this system does not show it")
    told = "" if state["load_1min"] is None else "; load of the last minute %.2f" % state["load_1min"]
    return _finding("other load", "warning" if others > BUSY else "ok", "%.2f cores%s" % (others, told))


def _governor(state: Dict[str, Any]) -> Finding:
    if state["governor"] is None:
        return _finding("governor", "unknown", "this system does not show its clocks")
    steady = state["governor"] == "performance"
    told = state["governor"] if steady else "%s: the clock follows the load" % state["governor"]
    return _finding("governor", "ok" if steady else "warning", told)


def flags(word: int) -> List[str]:
    """What a Raspberry Pi's flags say, in words."""
    now = ["%s now" % text for bit, text in enumerate(PI) if word >> bit & 1]
    return now + ["%s since it was switched on" % text for bit, text in enumerate(PI) if word >> (16 + bit) & 1]


def throttled(before: Dict[str, Any], after: Dict[str, Any], clocks_mhz: List[float]) -> Tuple[str, List[str]]:
    """("yes", why) where something slowed the machine down in between, ("no", [what says so]), or ("unknown", []).

    clocks_mhz: of the fastest core while measuring, in order.
    """
    why, calm = [], []
    for name, count in sorted(after["throttle_counters"].items()):
        more = count - before["throttle_counters"].get(name, 0)
        if more > 0:
            why.append("%s: %d times" % (name, more))
    calm += ["the counters of throttling"] if after["throttle_counters"] else []
    why += ["%s holds the processor back" % name for name, step in sorted(after["limiters"].items()) if step > 0]
    calm += ["the cooling devices"] if after["limiters"] else []
    if after["pi_flags"] is not None:
        fresh = after["pi_flags"] & (NOW | (SINCE_BOOT & ~(before["pi_flags"] or 0)))
        why += flags(fresh)
        calm.append("the firmware's flags")
    if len(clocks_mhz) >= 2:
        part = max(1, len(clocks_mhz) // 4)  # one reading alone may catch a core that is going to sleep
        first, last = statistics.median(clocks_mhz[:part]), statistics.median(clocks_mhz[-part:])
        if last < SLOWER * first:
            why.append("the clock fell from %.0f to %.0f MHz" % (first, last))
        calm.append("the clock")
    if why:
        return "yes", why
    return ("no", calm) if calm else ("unknown", [])


def undisturbed(others: List[float]) -> List[str]:
    """Why a measurement beside other work does not count; empty where it does. others: cores, a second each.

    More than a quarter of a core on the whole, or in more than a tenth of the seconds (and in two at least): the runs
    of those seconds would make the p90.
    """
    if not others:
        return []
    mean, bad = sum(others) / len(others), [cores for cores in others if cores > BUSY]
    if mean > BUSY:
        return ["other processes used %.2f cores while measuring" % mean]
    if len(bad) >= 2 and len(bad) > 0.1 * len(others):
        seconds = "%d of %d seconds" % (len(bad), len(others))
        return ["other processes used up to %.2f cores in %s of the measurement" % (max(bad), seconds)]
    return []
