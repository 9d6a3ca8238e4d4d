"""What makes a profile wrong (problems) and what makes it doubtful (doubts), each with the key and the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from edgekd.files import nearest
from edgekd.types import Figure, Profile, RunnerOptions

TARGETS = ("onnxrt", "tensorrt", "openvino", "litert", "onnx")
PRECISIONS = ("fp32", "fp16", "int8")  # of graphs
PEAKS = (*PRECISIONS, "bf16", "fp8", "fp4", "int16", "int4")  # of units; a sparse figure is none of these
UNITS = ("cpu", "gpu", "npu")
BASES = ("measured", "vendor", "derived")
CLASSES = ("jetson", "sbc", "x86", "mobile", "npu", "mcu", "server", "other")
ALIGNMENTS = (1, 2, 4, 8, 16, 32, 64)
PROVIDERS = ("cpu", "cuda", "tensorrt")  # of ONNX Runtime
OPSETS = range(13, 24)
# The IR version of the ONNX release that brought an opset (onnx/docs/Versioning.md).
IR_OF_OPSET = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
# Bandwidth in 10**9 bytes/s in the middle of each class: ten times as much is a slip of a unit or of the point.
MIDDLE_GB_PER_S = {"jetson": 100, "sbc": 12, "x86": 60, "mobile": 70, "npu": 20, "mcu": 1, "server": 1000}


@dataclass(frozen=True)
class Finding:
    """One thing in a profile that is wrong or doubtful."""

    key: str  # as in the file, e.g. "hardware.peak_gflops.fp32"
    what: str
    fix: str
    code: str = "E0332"


def problems(profile: Profile) -> list[Finding]:
    """Everything for which a profile is refused; empty when it may be used."""
    return list(chain(_graphs(profile), _figures(profile), _limits(profile), _latency(profile), _board(profile)))


def figures(profile: Profile) -> dict[str, Figure]:
    """Key -> figure, of all figures of the hardware."""
    hardware = profile.hardware
    found = {f"hardware.peak_gflops.{name}": figure for name, figure in hardware.peak_gflops.items()}
    found |= {f"hardware.cpu_peak_gflops.{name}": figure for name, figure in hardware.cpu_peak_gflops.items()}
    found["hardware.bandwidth_gb_per_s"] = hardware.bandwidth_gb_per_s
    found["hardware.memory_gb"] = hardware.memory_gb
    if hardware.flash_mb is not None:
        found["hardware.flash_mb"] = hardware.flash_mb
    return found


def _one_of(key: str, value: str, known: tuple[str, ...]) -> Iterator[Finding]:
    if value not in known:
        yield Finding(key, f"{value!r} is not known.{nearest(value, known)}", f"write one of: {', '.join(known)}")


def _options(options: RunnerOptions) -> Iterator[Finding]:
    yield from _one_of("options.provider", options.provider, PROVIDERS)
    if options.workspace_mb is not None and options.workspace_mb < 1:
        yield Finding("options.workspace_mb", f"{options.workspace_mb} is no memory", "1 or more, or leave it out")
    if options.dla_core is not None and options.dla_core < 0:
        yield Finding("options.dla_core", f"{options.dla_core} is no core", "0 or 1, or leave it out")


def _graphs(profile: Profile) -> Iterator[Finding]:
    yield from _one_of("target", profile.target, TARGETS)
    if not profile.precisions:
        yield Finding("precisions", "none is named", f"name some of: {', '.join(PRECISIONS)}")
    for precision in profile.precisions:
        yield from _one_of("precisions", precision, PRECISIONS)
    if len(set(profile.precisions)) < len(profile.precisions):
        yield Finding("precisions", "one is named twice", "name each once")
    if profile.target == "onnx" and not profile.converter:
        yield Finding("converter", "missing, though the target is onnx", "say what turns the ONNX into what runs there")
    if profile.target == "litert" and "fp16" in profile.precisions:
        yield Finding("precisions", "LiteRT's own form is written in fp32 and INT8, not in fp16", "leave fp16 out")
    if profile.options is not None:
        yield from _options(profile.options)
    if profile.opset not in OPSETS:
        yield Finding("opset", f"{profile.opset} cannot be written", f"{OPSETS.start} to {OPSETS.stop - 1}")
    runtime = profile.runtime
    if runtime is not None:
        if runtime.opset_max is not None and profile.opset > runtime.opset_max:
            yield Finding(
                "opset",
                f"{profile.opset} is above runtime.opset_max {runtime.opset_max}",
                f"{runtime.opset_max} or less",
            )
        lowest = IR_OF_OPSET.get(profile.opset, 3)
        if runtime.ir_max is not None and lowest > runtime.ir_max:
            yield Finding(
                "opset", f"{profile.opset} needs IR {lowest}, runtime.ir_max is {runtime.ir_max}", "lower the opset"
            )
        for key, value, least in (("opset_max", runtime.opset_max, OPSETS.start), ("ir_max", runtime.ir_max, 3)):
            if value is not None and not least <= value <= 99:
                yield Finding(f"runtime.{key}", f"{value} is no version", f"{least} or more, or leave it out")
        if runtime.int8_weight_bits not in (7, 8):
            yield Finding("runtime.int8_weight_bits", f"{runtime.int8_weight_bits} bits cannot be written", "7 or 8")
    for key, reasons in (("pays", profile.pays), ("slower", profile.slower)):
        for precision in reasons:
            yield from _one_of(key, precision, PEAKS)
    for precision in sorted(set(profile.pays) & set(profile.slower)):
        yield Finding(f"pays.{precision}", "stands under slower as well", "keep one of the two")


def _figures(profile: Profile) -> Iterator[Finding]:
    hardware = profile.hardware
    yield from _one_of("hardware.unit", hardware.unit, UNITS)
    for name in ("peak_gflops", "cpu_peak_gflops"):
        for precision in getattr(hardware, name):
            yield from _one_of(f"hardware.{name}", precision, PEAKS)
    if not hardware.peak_gflops:
        yield Finding("hardware.peak_gflops", "it is empty", "give the peak of one precision at least")
    for precision in profile.precisions:
        # A vendor's converter may quantise a graph of a precision that the unit itself has not.
        if precision not in hardware.peak_gflops and not profile.converter and hardware.peak_gflops:
            yield Finding(f"hardware.peak_gflops.{precision}", "missing, though it is one of precisions", "add it")
    for key, figure in figures(profile).items():
        if not (figure.value > 0 and math.isfinite(figure.value)):
            yield Finding(f"{key}.value", f"{figure.value:g} is not above zero", "give the figure, or remove the key")
        yield from _one_of(f"{key}.basis", figure.basis, BASES)
    if hardware.cores < 0:
        yield Finding("hardware.cores", "it is below zero", "1 or more; 0: not known")


def _limits(profile: Profile) -> Iterator[Finding]:
    for key, value in vars(profile.limits).items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            yield Finding(f"limits.{key}", f"{value:g} is not above zero", "give a limit, or remove the key: no limit")


def _latency(profile: Profile) -> Iterator[Finding]:
    if not profile.latency:
        yield Finding("latency", "there is none", "keep one [[latency]] table of a similar device at least")
    for precision in profile.precisions:
        if profile.latency and not profile.converter and precision not in {way.precision for way in profile.latency}:
            yield Finding("latency", f"none of them is for {precision}", f"add one with precision = {precision!r}")
    for index, way in enumerate(profile.latency):
        key = f"latency[{index}]"
        yield from _one_of(f"{key}.basis", way.basis, BASES)
        for name, value in (*way.coefficients.items(), ("error", way.error)):
            if not (value >= 0 and math.isfinite(value)):
                yield Finding(f"{key}.{name}", f"{value:g} is below zero", "0 or more")
        if not way.coefficients:
            yield Finding(f"{key}.coefficients", "it is empty", "compute, traffic and layer_us at least")
        if way.threads < 0:
            yield Finding(f"{key}.threads", "it is below zero", "0: all, or no CPU")


def _board(profile: Profile) -> Iterator[Finding]:
    yield from _one_of("device_class", profile.device_class, CLASSES)
    if profile.batch < 1:
        yield Finding("batch", f"{profile.batch} images are none", "1 or more")
    if profile.threads < 0:
        yield Finding("threads", "it is below zero", "1 or more; 0: all cores")
    if profile.align not in ALIGNMENTS:
        yield Finding("align", f"{profile.align} is no power of two up to 64", "8 where nothing better is known")
    if profile.python and not re.fullmatch(r"\d\.\d{1,2}", profile.python):
        yield Finding("python", f"{profile.python!r} is no version", 'as in "3.10"; leave it out where there is none')
    names = [mode.name for mode in profile.power_modes]
    for mode in profile.power_modes:
        if mode.watts is not None and not 0 < mode.watts <= 2000:
            yield Finding(f"power_modes.{mode.name}", f"{mode.watts:g} W is no budget", "watts, or leave them out")
        if not mode.name or names.count(mode.name) > 1:
            yield Finding("power_modes", f"the name {mode.name!r} is empty or used twice", "name each mode once")


def doubts(profile: Profile) -> list[Finding]:
    """What is allowed and yet likely to be a slip."""
    return list(chain(_odd_figures(profile), _unsaid(profile)))


def _odd_figures(profile: Profile) -> Iterator[Finding]:
    hardware, limits = profile.hardware, profile.limits
    for name, peaks in (("peak_gflops", hardware.peak_gflops), ("cpu_peak_gflops", hardware.cpu_peak_gflops)):
        for precision in ("fp16", "int8"):
            if precision in peaks and "fp32" in peaks and peaks[precision].value < peaks["fp32"].value:
                key = f"hardware.{name}.{precision}"
                yield Finding(key, "lower than that of fp32", "compare the two; a unit without it runs it as fp32")
    middle = MIDDLE_GB_PER_S.get(profile.device_class)
    if middle is not None and hardware.bandwidth_gb_per_s.value > 10 * middle:
        what = f"{hardware.bandwidth_gb_per_s.value:g} is more than ten times what a device of this class has"
        yield Finding("hardware.bandwidth_gb_per_s", what, "10**9 bytes/s are wanted, not bits and not MB")
    if limits.memory_mb is not None and limits.memory_mb > 1000 * hardware.memory_gb.value:
        yield Finding("limits.memory_mb", "above the device's memory", "lower it, or correct hardware.memory_gb")
    if limits.model_mb is not None and hardware.flash_mb is not None and limits.model_mb > hardware.flash_mb.value:
        yield Finding("limits.model_mb", "above the device's flash", "lower it, or correct hardware.flash_mb")
    if hardware.cores and profile.threads > hardware.cores:
        yield Finding("threads", f"{profile.threads}, though there are {hardware.cores} cores", "one thread a core")
    for precision in profile.precisions:
        if (
            precision in profile.slower and not profile.converter
        ):  # a converter starts from fp32 whatever runs in the end
            yield Finding("precisions", f"{precision} is built, though slower says no", "leave it out of one of them")


def _unsaid(profile: Profile) -> Iterator[Finding]:
    for key, figure in figures(profile).items():
        if not figure.source.strip():
            yield Finding(f"{key}.source", "no source", "say where the figure can be read, or what it follows from")
    for index, way in enumerate(profile.latency):
        if not way.source.strip():
            yield Finding(f"latency[{index}].source", "no source", "say what the coefficients were fitted to")
    if all(value is None for value in vars(profile.limits).values()):
        yield Finding("limits", "none is set: the student may be half of the teacher", "set one, e.g. latency_ms")
    runtime = profile.runtime
    unsaid: Mapping[str, bool] = {
        "runtime.source": bool(runtime and (runtime.opset_max or runtime.ir_max) and not runtime.source),
        "align_source": profile.align != 8 and not profile.align_source,
        "power_modes": any(mode.watts is not None and not mode.source for mode in profile.power_modes),
    }
    for key in (key for key, lacking in unsaid.items() if lacking):
        yield Finding(key, "no source", "say where it comes from")
