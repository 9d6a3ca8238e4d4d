"""Folders that look like the /proc and /sys of boards, for the tests of sensors. The figures are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

CPU = "sys/devices/system/cpu/cpufreq/policy0"
STAT = "cpu  1000 0 500 90000 0 0 0 {steal} 0 0\n"


def machine(root: Path, files: Mapping[str, object]) -> Path:
    """Writes files below a root; gives it."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n", encoding="utf-8")
    return root


def answers(told: Mapping[str, str]) -> object:
    """A run() that knows some command lines."""

    def run(command: Sequence[str]) -> str | None:
        return told.get(" ".join(command))

    return run


def jetson(root: Path) -> Path:
    """An Orin Nano: INA3221 with VDD_IN at 5 V and 1.2 A, over-current counters, a GPU clock, an absent sensor."""
    hwmon, zones = "sys/class/hwmon/hwmon1", "sys/class/thermal"
    return machine(root, {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/loadavg": "0.10 0.20 0.30 1/200 1234",
        "proc/stat": STAT.format(steal=0),
        f"{CPU}/scaling_governor": "schedutil", f"{CPU}/scaling_cur_freq": 729600, f"{CPU}/scaling_max_freq": 1510400,
        "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": 1510400,
        "sys/class/devfreq/17000000.gpu/cur_freq": 624750000,
        "sys/devices/platform/gpu.0/load": 250,
        f"{zones}/thermal_zone0/type": "cpu-thermal", f"{zones}/thermal_zone0/temp": 45500,
        f"{zones}/thermal_zone1/type": "cv0-thermal", f"{zones}/thermal_zone1/temp": -256000,
        f"{zones}/cooling_device0/type": "cpufreq-cpu0", f"{zones}/cooling_device0/cur_state": 0,
        f"{zones}/cooling_device1/type": "pwm-fan", f"{zones}/cooling_device1/cur_state": 2,
        f"{hwmon}/name": "ina3221", f"{hwmon}/in1_label": "VDD_IN", f"{hwmon}/in1_input": 5000,
        f"{hwmon}/curr1_input": 1200, f"{hwmon}/in2_label": "VDD_CPU_GPU_CV", f"{hwmon}/in2_input": 5000,
        f"{hwmon}/curr2_input": 400, f"{hwmon}/in7_label": "sum of shunt voltages", f"{hwmon}/in7_input": 9,
        "sys/class/hwmon/hwmon2/oc1_event_cnt": 0, "sys/class/hwmon/hwmon2/oc3_event_cnt": 2,
    })  # fmt: skip


def pi(root: Path) -> Path:
    """A Raspberry Pi 4 that saw under-voltage since it was switched on."""
    return machine(root, {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/stat": STAT.format(steal=0),
        f"{CPU}/scaling_governor": "ondemand", f"{CPU}/scaling_cur_freq": 1500000, f"{CPU}/scaling_max_freq": 1500000,
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal", "sys/class/thermal/thermal_zone0/temp": 84300,
    })  # fmt: skip


def pc(root: Path) -> Path:
    """A laptop on battery with RAPL, two zones of the package of which one lies inside the other."""
    rapl = "sys/class/powercap/intel-rapl"
    return machine(root, {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n",
        "proc/stat": STAT.format(steal=700),
        "proc/self/status": "Name:\tpython\nVmHWM:\t  2000 kB\n",
        f"{CPU}/scaling_governor": "performance", f"{CPU}/scaling_cur_freq": 3000000,
        "sys/firmware/acpi/platform_profile": "balanced",
        "sys/class/power_supply/BAT0/type": "Battery", "sys/class/power_supply/BAT0/status": "Discharging",
        "sys/class/power_supply/BAT0/capacity": 54, "sys/class/power_supply/mouse/type": "Battery",
        "sys/class/power_supply/mouse/scope": "Device",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 3,
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 4,
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 1,
        "sys/class/hwmon/hwmon0/name": "coretemp", "sys/class/hwmon/hwmon0/temp1_label": "Package id 0",
        "sys/class/hwmon/hwmon0/temp1_input": 41000,
        f"{rapl}:0/name": "package-0", f"{rapl}:0/energy_uj": 1000000, f"{rapl}:0/max_energy_range_uj": 262143328850,
        f"{rapl}:0:0/name": "core", f"{rapl}:0:0/energy_uj": 500000, f"{rapl}:1/name": "psys",
        f"{rapl}:1/energy_uj": 77,
    })  # fmt: skip
