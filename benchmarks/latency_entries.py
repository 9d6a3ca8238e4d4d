"""The [[latency]] part of each profile, from the fits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from latency_errors import stack
from latency_hardware import CORES, GPUS, MCUS, NPUS, speed
from latency_model import MULTIPLES, Fit
from latency_rows import FAMILIES, Row

from edgekd.files import written
from edgekd.latency.prediction import TERMS
from edgekd.types import Cost, Latency, Profile

MARKER = "# Fitted coefficients: benchmarks/latency_fit.py writes what follows.\n"
NOTHING = Cost(parameters=0, macs=0, layers=0, traffic_elements=0, peak_elements=0)
HEXAGON = ("litert", "qnn", "onnxruntime-qnn")
STANDS_FOR = {"onnxruntime": "ncnn", "coreml": "qnn", "litert": "edgetpu"}  # no published rows: the nearest there are


def row_profile(row: Row) -> tuple[str, str]:
    """(profile, runtime in it). The host of a USB accelerator goes into the runtime's name; x86 is the default."""
    device, _, host = row.device.partition("@")
    return device, row.runtime + (f"@{host}" if host not in ("", "x86_64") else "")


def entries(
    profile: Profile,
    rows: Sequence[Row],
    fits: Mapping[str, Fit],
    seen: Mapping[str, float],
    unseen: Mapping[str, float],
) -> list[Latency]:
    """Its ways to run networks: those with rows, then those derived. seen, unseen: stack -> half width of the interval,
    for devices with rows and without."""
    found: dict[tuple[str, str, str, int], Latency] = {}
    own = [row for row in rows if row_profile(row)[0] == profile.name]
    for row in own:
        key = (row_profile(row)[1], row.unit, row.precision, row.threads)
        if key not in found:
            count = sum(1 for r in own if (row_profile(r)[1], r.unit, r.precision, r.threads) == key)
            source = f"benchmarks/latency_fit.py: {count} published rows of this way; its family ({row.family})"
            found[key] = _entry(row, key, fits, seen[stack(row)], "measured", source)
    for row, runtime in _derived(profile, own):
        key = (runtime, row.unit, row.precision, row.threads)
        if key in found or row.family not in fits or speed(row.device, row.unit, row.precision, row.threads) is None:
            continue
        near = [r for r in own if r.runtime == row.runtime and r.unit == row.unit]
        same = runtime == row_profile(row)[1]
        if near:
            source = (
                f"benchmarks/latency_fit.py: derived from {len(near)} published rows of {row.runtime} on this device"
            )
        else:
            source = f"benchmarks/latency_fit.py: derived from other devices of its family ({row.family})"
        width = (seen if near else unseen).get(stack(row)) or max(unseen.values())
        width *= (1.25 if near else 1.0) * (1.0 if same else 1.25)
        source += "" if same else f"; rows of {row.runtime} stand in for {runtime}"
        found[key] = _entry(row, key, fits, width, "derived", source)
    return list(found.values())


def _entry(
    row: Row, key: tuple[str, str, str, int], fits: Mapping[str, Fit], width: float, basis: str, source: str
) -> Latency:
    log = fits[row.family].log_coefficients(row)
    coefficients = {name: float(f"{value:.4g}") for name, value in zip(TERMS, np.exp(log), strict=True)}
    if MULTIPLES[row.family] > 1:
        coefficients["channel_multiple"] = MULTIPLES[row.family]
    runtime, unit, precision, threads = key
    return Latency(runtime, unit, precision, coefficients, round(width, 3), basis, source, threads)


def _derived(profile: Profile, own: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """(a row that nobody measured, its runtime's name in the profile), the ones that edgekd needs first."""
    name, runtime = profile.name, profile.runtime.name if profile.runtime else "onnxruntime"
    if profile.target == "tensorrt" and name in GPUS:
        for precision in profile.hardware.peak_gflops:
            yield _row(name, "tensorrt", "gpu", precision, 0), "tensorrt"
    if runtime == "onnxruntime" and name in CORES:
        for precision in profile.precisions:
            yield _row(name, "ncnn", "cpu", precision, profile.threads), "onnxruntime"
    if name in NPUS and profile.hardware.unit == "npu":
        near = STANDS_FOR.get(runtime, runtime)
        for precision in ("fp16", "int8") if "fp16" in profile.hardware.peak_gflops else ("int8",):
            yield _row(name, near, "npu", precision, 0), runtime
    if name in MCUS:
        near = "tflm" if name.startswith("esp32") else "mlperf-tiny"
        for precision in profile.hardware.peak_gflops:
            yield _row(name, near, "cpu", precision, 1 if near == "tflm" else 0), runtime
    if any(row.runtime in HEXAGON and row.unit == "npu" for row in own):
        lacks_fp16 = "fp16" not in profile.hardware.peak_gflops
        for other in HEXAGON:
            for precision in ("int8", "w8a16") if lacks_fp16 else ("fp16", "int8", "w8a16"):
                yield _row(name, other, "npu", precision, 0), other
    for row in own:
        if row.unit == "cpu" and row.family == "cpu":
            for precision in {"int8", "w8a16"} if row.runtime in HEXAGON else {row.precision, "int8"}:
                yield _row(name, row.runtime, "cpu", precision, row.threads), row.runtime


def _row(device: str, runtime: str, unit: str, precision: str, threads: int) -> Row:
    family = next(f for f, r, u in FAMILIES.values() if r == runtime and u == unit)
    if runtime == "edgetpu" and device == "coral-usb":
        device = "coral-usb@x86_64"
    return Row(device, "", family, runtime, unit, precision, threads, 1, 1.0, NOTHING, "")


def write_entries(path: Path, ways: Sequence[Latency]) -> None:
    """Replaces the [[latency]] part of a profile."""
    text = path.read_text(encoding="utf-8")
    starts = [text.find(mark) for mark in (MARKER.strip(), "[[latency]]")]
    head = text[: min(start for start in starts if start >= 0)]
    with written(path) as temporary:
        temporary.write_text(head + MARKER + "".join(map(_table, ways)), encoding="utf-8")


def _table(way: Latency) -> str:
    inside = ", ".join(f"{name} = {value:g}" for name, value in way.coefficients.items())
    lines = [
        "", "[[latency]]", f"runtime = {json.dumps(way.runtime)}", f"unit = {json.dumps(way.unit)}",
        f"precision = {json.dumps(way.precision)}", f"coefficients = {{ {inside} }}", f"error = {float(way.error)}",
        f"basis = {json.dumps(way.basis)}", f"source = {json.dumps(way.source)}",
        *([f"threads = {way.threads}"] if way.threads else []),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
