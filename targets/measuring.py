"""The protocol as a whole: the machine's condition, latency, single queries after idle, energy, a long run, verdict."""

import hashlib
import os
from typing import Any, Dict, List, Optional

import numpy as np

from . import condition, energy, harness, overhead, soak
from .sensors import HERE, Sensors
from .setting import Say, Setting

# seconds unless the name says otherwise; of each graph but for look_s and meter_idle_s
FULL = {
    "look_s": 1.0, "warmup_s": 2.0, "seconds": 10.0, "rounds": 1000, "most_s": 300.0,
    "idle_queries": 20, "idle_s": 1.0, "meter_s": 5.0, "meter_idle_s": 3.0, "soak_window_s": soak.WINDOW_S,
}  # fmt: skip
QUICK = {
    "look_s": 0.25, "warmup_s": 0.5, "seconds": 2.0, "rounds": 200, "most_s": 20.0,
    "idle_queries": 5, "idle_s": 0.1, "meter_s": 1.0, "meter_idle_s": 1.0, "soak_window_s": soak.WINDOW_S,
}  # fmt: skip
REFERENCE = "teacher"  # measured beside the student's graphs; never the one that is soaked


def measured(
    runtime: Any,
    infers: Dict[str, Any],
    x: Any,
    protocol: Dict[str, float],
    setting: Setting,
    say: Say,
    in_process: bool = True,
    soak_minutes: Optional[float] = None,
    source: Sensors = HERE,
) -> Dict[str, Any]:
    """What the report says of measuring: keys of the report, and "graphs" with those of each graph.

    in_process: a call of infer is one inference; with trtexec it is a process, whose single calls say nothing.
    "times_ms" and "idle_ms" hold every run of each graph, for the file beside the report.
    """
    before, findings = condition.preflight(source, protocol["look_s"])
    for one in findings:
        say("%-12s %s%s" % (one["name"], one["found"], "" if one["state"] != "warning" else "  (warning)"))
    own = getattr(runtime, "measure", None)
    found: Dict[str, Any] = own(infers, x, protocol, say) if own else harness.measure(infers, x, protocol, say, source)
    after = source.state()
    slow, why = condition.throttled(before, after, found.get("clocks_mhz", []))
    reasons, warnings = found["reasons"] + _throttled(slow, why), _warnings(findings, found)
    graphs: Dict[str, Dict[str, Any]] = {
        name: {"latency_ms": t, "parts_ms": found.get("parts_ms", {}).get(name)}
        for name, t in found["latency_ms"].items()
    }
    idle = _idle_starts(infers, x, protocol, say) if in_process else {}
    meter, used = _energy(infers, x, protocol, say, source) if in_process else (None, {})
    for name, graph in graphs.items():
        graph["idle_start_ms"] = _idle_start(idle.get(name), protocol)
        graph["energy"] = used.get(name)
    soaked = None
    if soak_minutes and in_process:
        soaked = _soaked(infers, graphs, x, soak_minutes, protocol["soak_window_s"], source, say)
        warnings += (
            [] if soaked["steady"] is not False else ["in the long run %s is %s" % (soaked["graph"], soaked["said"])]
        )
    return {
        "valid": not reasons,
        "reasons": reasons,
        "warnings": warnings,
        "foreign_cores": found["foreign_cores"],
        "foreign_cores_most": found.get("foreign_cores_most"),
        "steal_cores": found.get("steal_cores"),
        "throttled": slow,
        "condition": {"preflight": findings, "before": before, "after": after, "throttled_by": why},
        "overhead_us": overhead.overhead_us(runtime, setting, say)
        if runtime.describe()["name"] == "onnxruntime"
        else None,
        "energy": meter,
        "soak": soaked,
        "peak_memory_mb": source.peak_memory_mb(),
        "graphs": graphs,
        "times_ms": found.get("times_ms", {}),
        "idle_ms": idle,
    }


def _throttled(slow: str, why: List[str]) -> List[str]:
    return ["the device throttled: %s" % "; ".join(why)] if slow == "yes" else []


def _warnings(findings: List[Dict[str, str]], found: Dict[str, Any]) -> List[str]:
    """What speaks against a latency though it counts."""
    told = ["%s: %s" % (one["name"], one["found"]) for one in findings if one["state"] == "warning"]
    if (found.get("steal_cores") or 0.0) > condition.STOLEN:
        taken = found["steal_cores"]
        told.append("this is a virtual machine, and its host took %.2f cores away while measuring" % taken)
    if found["foreign_cores"] is None:
        told.append("whether other processes ran cannot be seen here")
    return told


def _idle_starts(infers: Dict[str, Any], x: Any, protocol: Dict[str, float], say: Say) -> Dict[str, List[float]]:
    queries, idle_s = int(protocol["idle_queries"]), protocol["idle_s"]
    if not queries:
        return {}
    say("%d single queries of each graph, each after %g s of idling" % (queries, idle_s))
    return {name: harness.after_idle(infer, x, queries, idle_s) for name, infer in infers.items()}


def _idle_start(times_ms: Optional[List[float]], protocol: Dict[str, float]) -> Optional[Dict[str, Any]]:
    if not times_ms:
        return None
    middle = float(np.median(times_ms))
    return {"idle_s": protocol["idle_s"], "queries": len(times_ms), "p50": middle, "max": max(times_ms)}


def _energy(infers: Dict[str, Any], x: Any, protocol: Dict[str, float], say: Say, source: Sensors) -> Any:
    gauge = energy.meter(source)
    if gauge is None:
        return None, {}
    say("measuring energy by %s" % gauge.source)
    return energy.measured(gauge, infers, x, protocol["meter_s"], protocol["meter_idle_s"])


def _soaked(
    infers: Dict[str, Any], graphs: Dict[str, Any], x: Any, minutes: float, window_s: float, source: Sensors, say: Say
) -> Dict[str, Any]:
    """The long run of the student's graph with the shortest p50."""
    own = [name for name in infers if name != REFERENCE] or list(infers)
    name = min(own, key=lambda one: graphs[one]["latency_ms"]["p50"])
    say("soaking %s for %g minutes" % (name, minutes))
    before = source.state()
    found = soak.soak(infers[name], x, minutes, source, say, window_s)
    clocks = [w["clock_mhz"] for w in found["windows"] if w["clock_mhz"] is not None]
    slow, why = condition.throttled(before, source.state(), clocks)
    if found["reasons"]:
        found.update(steady=None, said="%s, beside other work: it does not count" % found["said"])
    return dict(found, graph=name, throttled=slow, throttled_by=why)


def kept(path: str, times_ms: Dict[str, List[float]], idle_ms: Dict[str, List[float]]) -> Dict[str, Any]:
    """Writes every run as an npz, whole or not at all; {"file", "sha256"}. Arrays: float32 ms, in order.

    Named after the graph; those after idle "GRAPH after idle".
    """
    arrays: Dict[str, Any] = {name: np.asarray(times, dtype=np.float32) for name, times in times_ms.items()}
    arrays.update(("%s after idle" % name, np.asarray(times, dtype=np.float32)) for name, times in idle_ms.items())
    temporary = "%s.%d.tmp" % (path, os.getpid())
    with open(temporary, "wb") as handle:
        np.savez_compressed(handle, **arrays)
        handle.flush()
        os.fsync(handle.fileno())
    with open(temporary, "rb") as handle:
        digest = hashlib.sha256(handle.read()).hexdigest()
    os.replace(temporary, path)
    return {"file": os.path.basename(path), "sha256": digest}


def raw_path(report: str) -> str:
    """Where the runs of a report lie: raw_latency.npz beside report.json, else named after the report."""
    folder, name = os.path.split(report)
    stem = os.path.splitext(name)[0]
    return os.path.join(folder, "raw_latency.npz" if stem == "report" else "%s.raw_latency.npz" % stem)
