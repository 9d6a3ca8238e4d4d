"""Joules per inference, where the machine has a meter: a Jetson's INA3221, a processor's RAPL counter, tegrastats.

Measured in runs of their own, after those that count for the latency: reading a meter would disturb them.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from typing import Any, Callable, Dict, Optional, Tuple

from .sensors import Sensors

INPUTS = ("VDD_IN", "POM_5V_IN")  # rails that feed a whole Jetson, as its boards call them; an AGX has none
EVERY_S = 0.1  # between two readings of a power
CONVERSION_S = 0.5  # until a meter that averages has forgotten what was before


class Counter:
    """RAPL: microjoules that only grow, of each processor package."""

    def __init__(self, sensors: Sensors) -> None:
        self.sensors = sensors
        zones = [os.path.dirname(p) for p in sensors.found("sys/class/powercap/intel-rapl:*/energy_uj")]
        named = [(zone, sensors.read(zone + "/name") or "") for zone in zones if zone.count(":") == 1]
        self.zones = [
            zone for zone, name in named if name.startswith("package") and self._microjoules(zone) is not None
        ]
        self.source = "RAPL, %d processor package(s), without board and screen" % len(self.zones)
        self.total_j = 0.0
        self.before = {zone: self._microjoules(zone) or 0.0 for zone in self.zones}

    def _microjoules(self, zone: str) -> Optional[float]:
        return self.sensors.number(zone + "/energy_uj")

    def tick(self) -> None:
        """Adds what was used since the last call; to be called more often than the counter runs over, a minute."""
        for zone in self.zones:
            now = self._microjoules(zone)
            if now is not None:
                more = now - self.before[zone]
                more += (self.sensors.number(zone + "/max_energy_range_uj") or 0.0) if more < 0 else 0.0
                self.total_j += more / 1e6
                self.before[zone] = now

    def joules(self) -> float:
        self.tick()
        return self.total_j

    def close(self) -> None:
        """Nothing to end."""


class Power:
    """Watts that are read now and then, and added up over the time. watts: None while there is no reading yet."""

    def __init__(self, source: str, watts: Callable[[], Optional[float]], end: Callable[[], None]) -> None:
        self.source, self.watts, self.close = source, watts, end
        self.total_j, self.last = 0.0, time.perf_counter()

    def tick(self) -> None:
        """Takes the power as it is now for the time since the last call."""
        now, found = time.perf_counter(), self.watts()
        if found is not None:
            self.total_j += found * (now - self.last)
        self.last = now

    def joules(self) -> float:
        self.tick()
        return self.total_j


def meter(sensors: Sensors) -> Any:
    """The meter of this machine that sees most of it; None where there is none, or none that may be read."""
    rails = ina3221(sensors)
    if rails:
        names = [name for name in INPUTS if name in rails] or sorted(rails)
        chosen = [rails[name] for name in names]

        def watts() -> Optional[float]:
            read = [(sensors.number(volts), sensors.number(amperes)) for volts, amperes in chosen]
            known = [v * a / 1e6 for v, a in read if v is not None and a is not None]  # mV and mA
            return sum(known) if len(known) == len(read) else None

        if watts() is not None:
            return Power("INA3221, %s" % " + ".join(names), watts, lambda: None)
    counter = Counter(sensors)
    if counter.zones:
        return counter
    tool = shutil.which("tegrastats") if sensors.jetson() else None
    return None if tool is None else tegrastats(tool)


def ina3221(sensors: Sensors) -> Dict[str, Tuple[str, str]]:
    """Rails of the INA3221 chips: name -> files of millivolts and milliamperes (Linux, hwmon/ina3221.rst)."""
    rails = {}
    for path in sensors.found("sys/class/hwmon/hwmon*/in[123]_label"):
        folder, number = os.path.dirname(path), os.path.basename(path)[2]
        if (sensors.read(folder + "/name") or "").startswith("ina3221"):
            label = sensors.read(path) or "rail %s" % number
            rails[label] = "%s/in%s_input" % (folder, number), "%s/curr%s_input" % (folder, number)
    return {label: files for label, files in rails.items() if "sum of shunt" not in label.lower() and label != "NC"}


def tegrastats(tool: str) -> Power:
    """The power of the board's input rail as tegrastats writes it, every 100 ms, until it is closed."""
    out = tempfile.TemporaryFile()
    process = subprocess.Popen(
        [tool, "--interval", "100"], stdin=subprocess.DEVNULL, stdout=out.fileno(), stderr=subprocess.DEVNULL
    )

    def watts() -> Optional[float]:
        size = os.fstat(out.fileno()).st_size
        text = os.pread(out.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace")
        return watts_in(text)

    def end() -> None:
        process.terminate()
        process.wait()
        out.close()

    return Power("tegrastats, the board's input or all its rails", watts, end)


def watts_in(text: str) -> Optional[float]:
    """Of the last whole line of tegrastats: the input rail's watts, else those of all rails; None where it has none."""
    lines = [line for line in text.split("\n")[:-1] if line.strip()]
    rails = dict(re.findall(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)", lines[-1])) if lines else {}
    # RAM and SWAP are written as 2000/3956MB, which the pattern does not take
    for name in INPUTS:
        if name in rails:
            return int(rails[name]) / 1e3
    return sum(map(int, rails.values())) / 1e3 if rails else None


def measured(
    gauge: Any, infers: Dict[str, Callable[[Any], Any]], x: Any, seconds: float, idle_s: float
) -> Tuple[Optional[Dict[str, Any]], Dict[str, Any]]:
    """({"source", "idle_w", "seconds"}, {graph: {"watts", "joules", "joules_above_idle", "runs"}}); closes the gauge.

    A joule is of one batch. (None, {}) where the meter gives no figures.
    """
    try:
        time.sleep(min(CONVERSION_S, idle_s))
        idle_j, spent, _ = _over(gauge, None, x, idle_s)
        idle_w = idle_j / spent
        found: Dict[str, Any] = {}
        for name, infer in infers.items():
            _over(gauge, infer, x, min(CONVERSION_S, seconds))
            joules, spent, runs = _over(gauge, infer, x, seconds)
            watts = joules / spent
            found[name] = {"watts": watts, "joules": joules / runs, "runs": runs}
            found[name]["joules_above_idle"] = (watts - idle_w) * spent / runs
    finally:
        gauge.close()
    if not any(graph["joules"] > 0 for graph in found.values()):
        return None, {}
    return {"source": gauge.source, "idle_w": idle_w, "seconds": seconds}, found


def _over(gauge: Any, infer: Optional[Callable[[Any], Any]], x: Any, seconds: float) -> Tuple[float, float, int]:
    """(joules, seconds, runs) of a while of running, or of sleeping where there is nothing to run."""
    before, start, runs = gauge.joules(), time.perf_counter(), 0
    looked = start
    while time.perf_counter() - start < seconds or not runs:
        if infer is None:
            time.sleep(min(EVERY_S, seconds))
        else:
            infer(x)
        runs += 1
        if time.perf_counter() - looked >= EVERY_S:
            gauge.tick()
            looked = time.perf_counter()
    return gauge.joules() - before, time.perf_counter() - start, runs
