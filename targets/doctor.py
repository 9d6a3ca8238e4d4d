"""python3 -m runner.doctor: what this device has and lacks, as JSON lines. The standard library alone, Python 3.6.

Also sent to a board as text and run there, so it must stay one file. Nothing is installed or changed.
"""

import ctypes
import ctypes.util
import json
import os
import platform
import shutil
import subprocess
import sys
from typing import Dict, List, Optional

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack has it; not on PATH there
LITTLE_DISK_MB, LITTLE_MEMORY_MB = 500.0, 300.0
HOT_C = 80.0
OK, WARNING, LACKING, ABSENT = "ok", "warning", "lacking", "absent"  # absent: not there and not needed


def finding(name: str, state: str, found: str, fix: str = "") -> Dict[str, str]:
    """One line of the report. fix: what to type, or empty; we never run it."""
    return {"name": name, "state": state, "found": found, "fix": fix}


def examine(target: str) -> List[Dict[str, str]]:
    """Everything, in the order in which a person would look. target: the profile's, e.g. "tensorrt"."""
    found = [
        python(),
        module("numpy", "numpy", True),
        runtime(True),
        gpu(),
    ]  # the runner measures with it, whatever runs later
    found += [tensorrt(target == "tensorrt"), trtexec(target == "tensorrt")]
    found += [openvino(target == "openvino"), litert(target == "litert")]
    found += [disk(), memory(), load(), governor(), power_mode(), temperature()]
    return found


def python() -> Dict[str, str]:
    text = "%s, %s" % (platform.python_version(), sys.executable)
    if sys.version_info < (3, 6):
        return finding("Python", LACKING, text, "install Python 3.6 or later; name it with --python")
    return finding("Python", OK, text)


def module(name: str, package: str, needed: bool) -> Dict[str, str]:
    """Whether a package imports, in a process of its own: a broken one may end it."""
    code = "import %s as m; print(getattr(m, '__version__', 'no version'))" % name
    out = _output([sys.executable, "-c", code])
    if out is not None:
        return finding(name, OK, out)
    fix = "%s -m pip install %s" % (os.path.basename(sys.executable) or "python3", package)
    return finding(name, LACKING if needed else ABSENT, "does not import", fix if needed else "")


def runtime(needed: bool) -> Dict[str, str]:
    code = "import onnxruntime as o; print(o.__version__ + ', providers ' + ' '.join(o.get_available_providers()))"
    out = _output([sys.executable, "-c", code])
    if out is None:
        return module("onnxruntime", "onnxruntime", needed)
    return finding("onnxruntime", OK, out + " (as listed; a session may still fall back, the runner looks)")


def gpu() -> Dict[str, str]:
    """The CUDA driver and the first device, by the driver's own calls."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return finding("GPU", ABSENT, "no CUDA driver")
    if driver.cuInit(0):
        return finding("GPU", WARNING, "the CUDA driver does not start", "nvidia-smi says why; a reboot may help")
    version, count, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    if not count.value:
        return finding("GPU", ABSENT, "a CUDA driver, no device")
    driver.cuDeviceGetName(name, 256, 0)
    text = "%s, driver for CUDA %d.%d" % (name.value.decode(), version.value // 1000, version.value % 1000 // 10)
    return finding("GPU", OK, text)


def tensorrt(wanted: bool) -> Dict[str, str]:
    out = _output([sys.executable, "-c", "import tensorrt as t; print(t.__version__)"])
    if out is not None:
        return finding("TensorRT", OK, out)
    fix = "JetPack brings it: sudo apt install python3-libnvinfer" if wanted and trtexec_path() is None else ""
    return finding("TensorRT", WARNING if fix else ABSENT, "its Python package does not import", fix)


def trtexec(wanted: bool) -> Dict[str, str]:
    path = trtexec_path()
    if path is None:
        fix = "JetPack brings it: sudo apt install libnvinfer-bin" if wanted else ""
        return finding("trtexec", WARNING if wanted else ABSENT, "not there", fix)
    out = _output([path, "--help"]) or ""
    return finding("trtexec", OK, "%s %s" % (path, out.splitlines()[0] if out else ""))


def openvino(wanted: bool) -> Dict[str, str]:
    code = "import openvino as o; print(o.__version__ + ', devices ' + ' '.join(o.Core().available_devices))"
    out = _output([sys.executable, "-c", code])
    if out is not None:
        return finding("OpenVINO", OK, out + " (the runner uses the CPU)")
    fix = "%s -m pip install openvino" % (os.path.basename(sys.executable) or "python3") if wanted else ""
    return finding("OpenVINO", WARNING if wanted else ABSENT, "its Python package does not import", fix)


def litert(wanted: bool) -> Dict[str, str]:
    out = _output(
        [sys.executable, "-c", "import ai_edge_litert.interpreter, ai_edge_litert as l; print(l.__version__)"]
    )
    if out is not None:
        return finding("LiteRT", OK, out + " (the runner uses the CPU)")
    fix = "%s -m pip install ai-edge-litert" % (os.path.basename(sys.executable) or "python3") if wanted else ""
    return finding("LiteRT", WARNING if wanted else ABSENT, "its Python package does not import", fix)


def trtexec_path() -> Optional[str]:
    return TRTEXEC if os.access(TRTEXEC, os.X_OK) else shutil.which("trtexec")


def disk() -> Dict[str, str]:
    free_mb = shutil.disk_usage(os.getcwd()).free / 1e6
    state = WARNING if free_mb < LITTLE_DISK_MB else OK
    return finding(
        "disk", state, "%.0f MB free in %s" % (free_mb, os.getcwd()), "free some" if state == WARNING else ""
    )


def memory() -> Dict[str, str]:
    found = {}
    for line in (_read("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            found[name] = int(rest.split()[0]) * 1024 / 1e6
    if len(found) < 2:
        return finding("memory", ABSENT, "this system does not tell")
    little = found["MemAvailable"] < LITTLE_MEMORY_MB
    text = "%.0f MB available of %.0f" % (found["MemAvailable"], found["MemTotal"])
    return finding("memory", WARNING if little else OK, text, "stop what else runs there" if little else "")


def load() -> Dict[str, str]:
    if not hasattr(os, "getloadavg"):
        return finding("load", ABSENT, "this system does not tell")
    one, cores = os.getloadavg()[0], os.cpu_count() or 1
    text = "%.2f of %d cores in the last minute" % (one, cores)
    busy = one > 0.25
    return finding("load", WARNING if busy else OK, text, "latencies beside other work are not valid" if busy else "")


def governor() -> Dict[str, str]:
    found = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if found is None:
        return finding("clocks", ABSENT, "the system does not show them")
    now, most = (_read("/sys/devices/system/cpu/cpu0/cpufreq/" + f) for f in ("scaling_cur_freq", "cpuinfo_max_freq"))
    text = "governor %s, %s of %s kHz" % (found, now or "?", most or "?")
    if found == "performance":
        return finding("clocks", OK, text)
    fix = "for steady figures: sudo jetson_clocks" if shutil.which("jetson_clocks") else ""
    fix = fix or "for steady figures: sudo cpupower frequency-set -g performance"
    return finding("clocks", WARNING, text, fix)


def power_mode() -> Dict[str, str]:
    if shutil.which("nvpmodel") is None:
        return finding("power mode", ABSENT, "no nvpmodel: not a Jetson")
    out = _output(["nvpmodel", "-q"])
    if out is None:
        return finding("power mode", WARNING, "nvpmodel -q does not answer", "sudo nvpmodel -q")
    return finding("power mode", OK, " ".join(out.split()))


def temperature() -> Dict[str, str]:
    zones, hottest = "/sys/class/thermal", None  # type: str, Optional[float]
    for zone in sorted(os.listdir(zones)) if os.path.isdir(zones) else []:
        milli = _read(os.path.join(zones, zone, "temp"))
        if milli and milli.lstrip("-").isdigit():
            hottest = max(-273.0 if hottest is None else hottest, int(milli) / 1e3)
    if hottest is None:
        return finding("temperature", ABSENT, "the system does not show it")
    hot = hottest > HOT_C
    return finding("temperature", WARNING if hot else OK, "%.0f C at most" % hottest, "let it cool" if hot else "")


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().strip("\0\n ") or None
    except OSError:  # this system has no such file
        return None


def _output(command: List[str]) -> Optional[str]:
    """What a command prints; None where it is not there or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace").strip() if done.returncode == 0 else None


if __name__ == "__main__":
    for line in examine(sys.argv[1] if len(sys.argv) > 1 else "onnxrt"):
        print(json.dumps(line))
