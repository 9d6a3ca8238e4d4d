"""What the machine says of its state: files of the kernel below a root folder, and two commands that only ask.

What a system does not show is None or left out, never guessed. Nothing is set, and nothing asks for root.
"""

import glob
import os
import platform
import re
import subprocess
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

Run = Callable[[Sequence[str]], Optional[str]]  # what a command prints; None where it is not there or fails

CPUFREQ = "sys/devices/system/cpu/cpufreq/policy*/"
GPU_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load", "sys/devices/platform/*gpu*/load")
LIMITERS = re.compile(r"cpufreq|devfreq|throttl|Processor", re.IGNORECASE)  # cooling devices that slow a processor
MOST = 64  # processors or sensors of a kind that are read: a look must stay short


class Sensors:
    """The state of a machine. root: the folder that its /proc and /sys lie in; run: starts a command."""

    def __init__(self, root: str = "/", run: Optional[Run] = None) -> None:
        self.root, self.run = root, printed if run is None else run

    def read(self, path: str) -> Optional[str]:
        """A small file's text without its end; None where it is not there, empty or not to be read."""
        try:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as handle:
                return handle.read().strip("\0\n ") or None
        except OSError:  # this system has no such file, or keeps it to root
            return None

    def number(self, path: str) -> Optional[float]:
        text = self.read(path)
        return float(text) if text and re.match(r"-?\d+(\.\d+)?$", text) else None

    def found(self, pattern: str) -> List[str]:
        """Paths below the root that fit, in the order in which a person counts, at most MOST."""
        paths = glob.glob(os.path.join(glob.escape(self.root), pattern))
        parts = [(re.split(r"(\d+)", path), path) for path in paths]
        ordered = sorted(parts, key=lambda pair: [int(p) if p.isdigit() else p for p in pair[0]])
        return [os.path.relpath(path, self.root) for _, path in ordered[:MOST]]

    def state(self) -> Dict[str, Any]:
        """All that may change a latency, as it is now. Keys name their units; see docs/report.md of edgekd."""
        temperatures, load = self.temperatures_c(), self.read("proc/loadavg")
        limit = [self.number(path) for path in self.found(CPUFREQ + "scaling_max_freq")]
        return {
            "governor": self.governor(),
            "clocks_mhz": self.clocks_mhz(),
            "clock_limit_mhz": max((khz / 1e3 for khz in limit if khz), default=None),
            "temperatures_c": temperatures,
            "hottest_c": max(temperatures.values(), default=None),
            "power_mode": self.power_mode(),
            "battery": self.battery(),
            "load_1min": float(load.split()[0]) if load else None,
            "gpu_load": self.gpu_load(),
            "throttle_counters": self.throttle_counters(),
            "limiters": self.limiters(),
            "pi_flags": self.pi_flags(),
        }

    def governor(self) -> Optional[str]:
        """Of the processors' clocks; several where they differ."""
        named = [self.read(path) for path in self.found(CPUFREQ + "scaling_governor")]
        named = named or [self.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")]
        return ", ".join(sorted({name for name in named if name})) or None

    def clocks_mhz(self) -> Dict[str, float]:
        """ "cpu_fastest" and "cpu_slowest", and each clock of devfreq (a GPU, a memory) by its device's name."""
        khz = [self.number(path) for path in self.found(CPUFREQ + "scaling_cur_freq")]
        khz = khz or [self.number("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")]
        known = [value / 1e3 for value in khz if value]
        clocks = {"cpu_fastest": max(known), "cpu_slowest": min(known)} if known else {}
        for path in self.found("sys/class/devfreq/*/cur_freq"):
            hertz = self.number(path)
            if hertz is not None:
                clocks[path.split(os.sep)[-2]] = hertz / 1e6
        return clocks

    def temperatures_c(self) -> Dict[str, float]:
        """Thermal zones by their type, and sensors of hwmon by chip and label. Values no silicon has are left out."""
        milli = []
        for path in self.found("sys/class/thermal/thermal_zone*/temp"):
            folder = os.path.dirname(path)
            milli.append((self.read(folder + "/type") or os.path.basename(folder), self.number(path)))
        for path in self.found("sys/class/hwmon/hwmon*/temp*_input"):
            chip = self.read(os.path.dirname(path) + "/name") or "hwmon"
            label = self.read(path.replace("_input", "_label")) or os.path.basename(path).split("_")[0]
            milli.append(("%s %s" % (chip, label), self.number(path)))
        celsius: Dict[str, float] = {}
        for name, value in milli:
            if value is not None and -60e3 < value < 150e3:  # an absent sensor of a Jetson says -256
                celsius[name if name not in celsius else "%s %d" % (name, len(celsius))] = value / 1e3
        return celsius

    def power_mode(self) -> Optional[str]:
        """nvpmodel's on a Jetson, the firmware's profile on a PC. Asking needs no root, and none is asked for."""
        if self.jetson():
            said = self.run(["nvpmodel", "-q"]) or ""
            match = re.search(r"NV Power Mode:\s*(\S+)(?:\s+(\d+)\s*$)?", said, re.MULTILINE)
            if match:
                return match.group(1) + (" (%s)" % match.group(2) if match.group(2) else "")
            return self.read("var/lib/nvpmodel/status")
        return self.read("sys/firmware/acpi/platform_profile")

    def jetson(self) -> bool:
        return self.read("etc/nv_tegra_release") is not None or "Jetson" in (self.model() or "")

    def model(self) -> Optional[str]:
        return self.read("proc/device-tree/model")

    def battery(self) -> Optional[str]:
        """ "discharging, 54 %"; None without a battery."""
        for path in self.found("sys/class/power_supply/*/type"):
            folder = os.path.dirname(path)
            if self.read(path) == "Battery" and self.read(folder + "/scope") != "Device":  # a mouse has one too
                status, percent = self.read(folder + "/status") or "unknown", self.number(folder + "/capacity")
                return status.lower() + ("" if percent is None else ", %.0f %%" % percent)
        return None

    def gpu_load(self) -> Optional[float]:
        """Share of the time that a Jetson's GPU is busy, 0 to 1."""
        for pattern in GPU_LOADS:
            for path in self.found(pattern):
                mille = self.number(path)
                if mille is not None:
                    return mille / 1e3
        return None

    def throttle_counters(self) -> Dict[str, int]:
        """Counters that only grow: a core or package of an Intel processor too hot, a Jetson's over-current."""
        counters = {}
        for name in ("core", "package"):
            paths = self.found("sys/devices/system/cpu/cpu*/thermal_throttle/%s_throttle_count" % name)
            numbers = [self.number(path) for path in paths]
            if any(number is not None for number in numbers):
                counters["%s too hot" % name] = int(sum(number or 0 for number in numbers))
        for path in self.found("sys/class/hwmon/hwmon*/oc*_event_cnt"):
            events = self.number(path)
            if events is not None:
                counters["over-current %s" % os.path.basename(path).split("_")[0]] = int(events)
        return counters

    def limiters(self) -> Dict[str, int]:
        """Cooling devices that slow a processor down, and how far each does now; 0: not at all."""
        states = {}
        for path in self.found("sys/class/thermal/cooling_device*/type"):
            kind, state = self.read(path) or "", self.number(os.path.dirname(path) + "/cur_state")
            if LIMITERS.search(kind) and state is not None:
                states["%s %s" % (kind, path.split("cooling_device")[1].split(os.sep)[0])] = int(state)
        return states

    def pi_flags(self) -> Optional[int]:
        """A Raspberry Pi's word of under-voltage and throttling: bits 0-3 now, 16-19 since it was switched on."""
        if "Raspberry Pi" not in (self.model() or ""):
            return None
        text = self.read("sys/devices/platform/soc/soc:firmware/get_throttled")
        said = text or (self.run(["vcgencmd", "get_throttled"]) or "").strip().split("=")[-1]
        return int(said, 16) if re.match(r"(0x)?[0-9a-fA-F]+$", said) else None

    def busy_seconds(self) -> Optional[Dict[str, float]]:
        """Seconds since the start of the machine: "others", when processors worked for other processes than this one,
        and "steal", when a virtual machine's host gave them to somebody else. None where /proc does not tell."""
        line = (self.read("proc/stat") or "").split("\n", 1)[0].split()
        if len(line) < 9 or line[0] != "cpu":
            return None
        user, nice, system, _, _, irq, softirq, steal = (int(v) for v in line[1:9])
        ticks, own = float(os.sysconf("SC_CLK_TCK")), os.times()
        return {
            "others": (user + nice + system + irq + softirq) / ticks - own.user - own.system,
            "steal": steal / ticks,
        }

    def device(self) -> Dict[str, Any]:
        """Name, system and versions, and of its state what every table shows."""
        clocks, temperatures = self.clocks_mhz(), self.temperatures_c()
        return {
            "name": self.model() or self._cpu_name() or platform.machine(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "governor": self.governor(),
            "clock_mhz": clocks.get("cpu_fastest"),
            "temperature_c": max(temperatures.values(), default=None),
            "power_mode": self.power_mode(),
        }

    def _cpu_name(self) -> Optional[str]:
        for line in (self.read("proc/cpuinfo") or "").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return None

    def peak_memory_mb(self) -> Optional[float]:
        """Largest resident memory of this process so far, 10**6 bytes; None where the system does not tell."""
        match = re.search(r"^VmHWM:\s*(\d+) kB", self.read("proc/self/status") or "", re.MULTILINE)
        if match:
            return int(match.group(1)) * 1024 / 1e6
        try:
            import resource
        except ImportError:  # Windows
            return None
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def printed(command: Sequence[str]) -> Optional[str]:
    """What a command prints; None where it is not there, fails or takes longer than 10 s."""
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):  # most machines are no Jetson and no Pi
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


HERE = Sensors()
