"""The state of a machine, its judgement and its meters, on folders that look like a Jetson, a Pi and a PC."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import machines
import pytest
from trt_api import runner

CALM: dict[str, Any] = {"throttle_counters": {}, "limiters": {}, "pi_flags": None}


def sensors(root: Path, **told: str) -> Any:
    return runner("sensors").Sensors(str(root), machines.answers({k.replace("_", " "): v for k, v in told.items()}))


def named(findings: list[dict[str, str]]) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["state"], one["found"]) for one in findings}


def test_jetson(tmp_path: Path) -> None:
    told = {"nvpmodel -q": "NV Fan Mode:quiet\nNV Power Mode: 15W\n0\n"}
    source = runner("sensors").Sensors(str(machines.jetson(tmp_path)), machines.answers(told))
    state = source.state()
    assert state["power_mode"] == "15W (0)" and state["governor"] == "schedutil" and state["gpu_load"] == 0.25
    assert state["clocks_mhz"] == {"cpu_fastest": 1510.4, "cpu_slowest": 729.6, "17000000.gpu": 624.75}
    assert state["clock_limit_mhz"] == 1510.4
    assert state["temperatures_c"] == {"cpu-thermal": 45.5} and state["hottest_c"] == 45.5  # -256: no sensor
    assert state["throttle_counters"] == {"over-current oc1": 0, "over-current oc3": 2}
    assert state["limiters"] == {"cpufreq-cpu0 0": 0}  # a fan slows nothing
    assert state["pi_flags"] is None and state["battery"] is None
    found = named(runner("condition").findings(state, 0.1, source.jetson()))
    assert found["GPU load"][0] == "warning" and found["governor"][0] == "warning"
    assert found["other load"] == ("ok", "0.10 cores; load of the last minute 0.10")
    silent = sensors(tmp_path)
    assert silent.state()["power_mode"] is None
    assert named(runner("condition").findings(silent.state(), None, True))["power mode"][0] == "warning"


def test_raspberry_pi_by_command_and_by_file(tmp_path: Path) -> None:
    root = machines.pi(tmp_path)
    source = runner("sensors").Sensors(str(root), machines.answers({"vcgencmd get_throttled": "throttled=0x50005\n"}))
    assert source.pi_flags() == 0x50005
    machines.machine(root, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50000"})
    state = source.state()
    assert state["pi_flags"] == 0x50000  # the kernel's file, hexadecimal without 0x, is asked first
    found = named(runner("condition").findings(state, 0.0, False))
    assert found["power supply"] == (
        "warning",
        "under-voltage since it was switched on, throttled since it was switched on",
    )
    assert found["temperature"] == ("warning", "84 C at most")


def test_pc(tmp_path: Path) -> None:
    source = sensors(machines.pc(tmp_path))
    state = source.state()
    assert state["battery"] == "discharging, 54 %" and state["power_mode"] == "balanced"
    assert state["throttle_counters"] == {"core too hot": 7, "package too hot": 1}
    assert state["temperatures_c"] == {"coretemp Package id 0": 41.0}
    assert source.peak_memory_mb() == pytest.approx(2000 * 1024 / 1e6)
    assert source.device()["name"] == "Some CPU @ 3 GHz" and source.device()["clock_mhz"] == 3000
    ticks, own = os.sysconf("SC_CLK_TCK"), os.times()
    busy = source.busy_seconds()
    assert busy["steal"] == 700 / ticks and busy["others"] == pytest.approx(1500 / ticks - own.user - own.system, abs=1)
    found = named(runner("condition").findings(state, 0.9, False))
    assert found["battery"][0] == "warning" and found["governor"][0] == "ok" and found["other load"][0] == "warning"


def test_machine_that_tells_nothing(tmp_path: Path) -> None:
    state, findings = runner("condition").preflight(sensors(tmp_path), 0.0)
    assert all(value in (None, {}) for value in state.values())
    assert {one["state"] for one in findings} == {"unknown"}
    assert sensors(tmp_path).busy_seconds() is None and sensors(tmp_path).peak_memory_mb() > 1
    assert runner("condition").throttled(state, state, []) == ("unknown", [])
    assert runner("energy").meter(sensors(tmp_path)) is None


def test_this_machine_answers(tmp_path: Path) -> None:
    here = runner("sensors").HERE
    assert here.device()["cores"] >= 1 and here.device()["name"] and here.peak_memory_mb() > 1
    assert runner("sensors").printed(["/nonexistent/tool"]) is None
    assert runner("sensors").printed(["sh", "-c", "echo so"]) == "so\n"
    assert runner("sensors").printed(["sh", "-c", "echo so; exit 3"]) is None


@pytest.mark.parametrize(
    ("before", "after", "clocks", "verdict", "why"),
    [
        (CALM, CALM, [1500.0, 1500.0, 1490.0], "no", "the clock"),
        (CALM, CALM, [1500.0, 1400.0, 1200.0], "yes", "the clock fell from 1500 to 1200 MHz"),
        (CALM, CALM, [1500.0], "unknown", ""),
        (
            CALM | {"throttle_counters": {"core too hot": 3}},
            CALM | {"throttle_counters": {"core too hot": 5}},
            [],
            "yes",
            "core too hot: 2 times",
        ),
        (CALM | {"throttle_counters": {"a": 3}}, CALM | {"throttle_counters": {"a": 3}}, [], "no", "the counters"),
        (CALM, CALM | {"limiters": {"cpufreq-cpu0 0": 2}}, [], "yes", "cpufreq-cpu0 0 holds the processor back"),
        (CALM | {"pi_flags": 0x50000}, CALM | {"pi_flags": 0x50000}, [], "no", "the firmware's flags"),
        (CALM | {"pi_flags": 0x50000}, CALM | {"pi_flags": 0xD0000}, [], "yes", "soft temperature limit since"),
        (CALM | {"pi_flags": 0x50000}, CALM | {"pi_flags": 0x50001}, [], "yes", "under-voltage now"),
    ],
)
def test_throttled(before: Any, after: Any, clocks: list[float], verdict: str, why: str) -> None:
    found, told = runner("condition").throttled(before, after, clocks)
    assert found == verdict and why in "; ".join(told)


def test_disturbed_on_the_whole_or_for_a_while() -> None:
    judge = runner("condition").undisturbed
    assert judge([]) == [] and judge([0.1] * 10) == []
    assert judge([0.0] * 9 + [1.0]) == []  # one second in ten: a twentieth of the runs may be late
    assert "2 of 10 seconds" in judge([0.0] * 8 + [1.0, 1.0])[0]  # mean 0.2: the mean alone would let it pass
    assert "used 1.00 cores" in judge([1.0])[0]


def test_rapl_counts_packages_and_runs_over(tmp_path: Path) -> None:
    root = machines.pc(tmp_path)
    gauge = runner("energy").meter(sensors(root))
    assert gauge.source.startswith("RAPL, 1 processor package")
    zone = root / "sys/class/powercap/intel-rapl:0"
    (zone / "energy_uj").write_text("3500000")
    assert gauge.joules() == pytest.approx(2.5)
    (zone / "energy_uj").write_text("1000000")  # ran over at 262143.32885 J
    assert gauge.joules() == pytest.approx(2.5 + 262143.32885 - 2.5)


def test_ina3221_energy_above_idle(tmp_path: Path) -> None:
    root = machines.jetson(tmp_path)
    gauge = runner("energy").meter(sensors(root))
    assert gauge.source == "INA3221, VDD_IN" and gauge.watts() == pytest.approx(6.0)
    amperes = root / "sys/class/hwmon/hwmon1/curr1_input"

    def infer(x: Any) -> None:
        amperes.write_text("1600")  # 8 W
        time.sleep(0.01)

    facts, graphs = runner("energy").measured(gauge, {"fp32": infer}, None, 0.25, 0.15)
    assert facts["idle_w"] == pytest.approx(6.0, rel=0.05)
    one = graphs["fp32"]
    assert one["watts"] == pytest.approx(8.0, rel=0.05)
    assert one["joules_above_idle"] == pytest.approx(one["joules"] / 4, rel=0.25)  # 2 of 8 W


def test_meter_that_root_alone_may_read_is_none(tmp_path: Path) -> None:
    root = machines.pc(tmp_path)
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("")  # as unreadable: nothing comes
    assert runner("energy").meter(sensors(root)) is None


def test_tegrastats_lines() -> None:
    watts = runner("energy").watts_in
    nano = "RAM 2100/3956MB (lfb 1x4MB) CPU [10%@1479] GPU@45C POM_5V_IN 2052/2052 POM_5V_GPU 0/0 POM_5V_CPU 328/328\n"
    orin = "RAM 2448/7621MB SWAP 0/3810MB GR3D_FREQ 0% cpu@47.5C VDD_IN 4980mW/4960mW VDD_CPU_GPU_CV 680mW/680mW\n"
    agx = "RAM 1/62781MB VDD_GPU_SOC 3208mW/3208mW VDD_CPU_CV 802mW/802mW VIN_SYS_5V0 3432mW/3432mW\n"
    assert watts(nano) == 2.052 and watts(orin) == 4.98 and watts(agx) == pytest.approx(7.442)
    assert watts(nano + orin + "RAM 1/2MB VDD_IN 9") == 4.98  # the last line is not whole yet
    assert watts("") is None and watts("RAM 2448/7621MB CPU [1%@729]\n") is None


def test_tegrastats_is_started_and_ended(tmp_path: Path) -> None:
    tool = tmp_path / "tegrastats"
    tool.write_text("#!/bin/sh\nwhile :; do echo 'VDD_IN 3000mW/3000mW'; sleep 0.02; done\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    gauge = runner("energy").tegrastats(str(tool))
    time.sleep(0.2)
    facts, graphs = runner("energy").measured(gauge, {"a": lambda x: time.sleep(0.01)}, None, 0.1, 0.1)
    assert facts["idle_w"] == pytest.approx(3.0, rel=0.1) and graphs["a"]["watts"] == pytest.approx(3.0, rel=0.1)
