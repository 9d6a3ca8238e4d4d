"""Milliseconds from the fused layers of a network and the coefficients of one way to run it.

t = sum over layers of MACs times a time per MAC of their kind, bytes times a time per byte, a time per launch, and a
fixed time per inference. Every term is linear in its coefficient, none is negative:

conv_us_per_mmac, pointwise_us_per_mmac, depthwise_us_per_mmac, linear_us_per_mmac   us per 10**6 multiply-adds
traffic_us_per_mb     us per 10**6 bytes of activations read and written
weights_us_per_mb     us per 10**6 bytes of weights
layer_us, other_us    us per layer with and without weights
fixed_us              us per inference
channel_multiple      channels are computed in multiples of this; 1 where it is not named
compute, traffic      multiples of MACs at the peak and of all bytes at the bandwidth of the profile's hardware, for
                      devices without measurements

A bare roofline is off by more than half for small networks: depthwise layers are far from any peak, and launches are
most of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from edgekd.errors import ProfileError, UsageError
from edgekd.files import nearest
from edgekd.types import Cost, Latency, Layer, Prediction, Profile

BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "w8a16": 1.0}  # of one weight
ACTIVATION_BYTES = BYTES | {"w8a16": 2.0}
KINDS = {
    "conv": "conv_us_per_mmac",
    "grouped": "conv_us_per_mmac",
    "pointwise": "pointwise_us_per_mmac",
    "matmul": "pointwise_us_per_mmac",
    "depthwise": "depthwise_us_per_mmac",
    "linear": "linear_us_per_mmac",
}
TERMS = (*dict.fromkeys(KINDS.values()), "traffic_us_per_mb", "weights_us_per_mb", "layer_us", "other_us", "fixed_us")
RELATIVE = ("compute", "traffic")
COEFFICIENTS = (*TERMS, *RELATIVE, "channel_multiple")
RUNTIMES = {
    "onnxrt": "onnxruntime",
    "tensorrt": "tensorrt",
    "openvino": "openvino",
    "litert": "litert",
}  # of a profile's target
FARTHER = 1.5  # the interval grows by this where another precision's coefficients stand in


def quantities(of: Cost, precision: str, batch: int = 1, channel_multiple: float = 1) -> dict[str, float]:
    """How much of each of TERMS a batch needs: 10**6 multiply-adds, 10**6 bytes, launches, and 1 for the fixed time."""
    found = dict.fromkeys(TERMS, 0.0)
    for layer in of.ops:
        if layer.operator in KINDS:
            found[KINDS[layer.operator]] += _padded(layer, channel_multiple) * batch / 1e6
            found["layer_us"] += 1
        else:
            found["other_us"] += 1
        moved = layer.read_elements + layer.written_elements
        found["traffic_us_per_mb"] += moved * batch * ACTIVATION_BYTES[precision] / 1e6
        found["weights_us_per_mb"] += layer.weights * BYTES[precision] / 1e6
    found["fixed_us"] = 1.0
    return found


def predict(
    of: Cost,
    profile: Profile,
    precision: str,
    *,
    batch: int | None = None,
    runtime: str | None = None,
    unit: str | None = None,
    threads: int | None = None,
) -> Prediction:
    """Milliseconds per batch, with the interval that the device's figure lies in nine times out of ten.

    What is not named comes from the profile. Where a precision has no coefficients of its own, those of the nearest
    stand in, their compute scaled by the ratio of the peaks, and the interval is wider. Raises UsageError where the
    profile has no such runtime, unit or threads, ProfileError for coefficients that mean nothing.
    """
    way, ratio = nearest_way(profile, precision, runtime=runtime, unit=unit, threads=threads)
    batch = profile.batch if batch is None else batch
    if unknown := way.coefficients.keys() - set(COEFFICIENTS):
        raise ProfileError(
            f"{profile.name}: latency coefficient {min(unknown)!r} means nothing.{nearest(min(unknown), COEFFICIENTS)}",
            code="E0338",
            why=f"there are: {', '.join(COEFFICIENTS)}",
            fix="correct the profile",
        )
    amounts = quantities(of, precision, batch, way.coefficients.get("channel_multiple", 1))
    us = sum(
        way.coefficients.get(name, 0.0) * amount * (ratio if name in KINDS.values() else 1)
        for name, amount in amounts.items()
    )
    us += _roofline_us(of, profile, precision, batch, way.coefficients)
    spread = 1 + way.error * (FARTHER if way.precision != precision else 1)
    return Prediction(us / 1e3, low_ms=us / 1e3 / spread, high_ms=us / 1e3 * spread)


def nearest_way(
    profile: Profile, precision: str, *, runtime: str | None = None, unit: str | None = None, threads: int | None = None
) -> tuple[Latency, float]:
    """(the coefficients to use, ratio by which compute at `precision` takes longer than at theirs; 1 for the same)."""
    ways = [
        way
        for way in profile.latency
        if runtime in (None, way.runtime) and unit in (None, way.unit) and threads in (None, 0, way.threads)
    ]
    if not ways:
        there = sorted(
            {f"{w.runtime} on {w.unit}" + f" with {w.threads} threads" * bool(w.threads) for w in profile.latency}
        )
        raise UsageError(
            f"{profile.name} has no latency figures for what was asked: {runtime or 'any runtime'}, "
            f"{unit or 'any unit'}, {threads or 'any'} threads",
            code="E0215",
            why=f"it has: {'; '.join(there)}",
            fix="ask for one of these, or measure the device",
        )
    own = profile.runtime.name if profile.runtime else RUNTIMES.get(profile.target, "")
    width = BYTES[precision]

    def distance(way: Latency) -> tuple[bool, bool, float, bool, bool]:
        """Own runtime and unit first where none is named, then the nearest precision, then the profile's threads."""
        return (
            runtime is None and way.runtime != own,
            unit is None and way.unit != profile.hardware.unit,
            abs(BYTES[way.precision] - width) + (way.precision != precision) / 2,
            way.threads != (threads if threads is not None else profile.threads),
            way.basis != "measured",
        )

    way = min(ways, key=distance)
    peaks = profile.hardware.peak_gflops
    if way.precision == precision or way.precision not in peaks or precision not in peaks:
        return way, 1.0
    return way, peaks[way.precision].value / peaks[precision].value


def model_mb(of: Cost, precision: str) -> float:
    """Size of the deployed graph's weights, 10**6 bytes."""
    return of.parameters * BYTES[precision] / 1e6


def memory_mb(of: Cost, profile: Profile) -> float:
    """Weights and the largest layer's input and output in fp32, 10**6 bytes; the runtime's own memory comes on top."""
    return (of.parameters + of.peak_elements * profile.batch) * 4 / 1e6


def _padded(layer: Layer, multiple: float) -> float:
    """Multiply-adds with the channels of each group filled up; a depthwise layer's channels are filled up as one."""
    if multiple <= 1 or not layer.inputs or layer.operator == "linear":
        return layer.macs
    if layer.operator == "depthwise":
        return layer.macs * _up(layer.outputs, multiple) / layer.outputs
    inputs, outputs = layer.inputs // layer.groups, layer.outputs // layer.groups
    return layer.macs * _up(inputs, multiple) / inputs * _up(outputs, multiple) / outputs


def _up(channels: int, multiple: float) -> float:
    return ceil(channels / multiple) * multiple


def _roofline_us(of: Cost, profile: Profile, precision: str, batch: int, coefficients: Mapping[str, float]) -> float:
    if not any(coefficients.get(name) for name in RELATIVE):
        return 0.0
    hardware = profile.hardware
    peak = hardware.peak_gflops.get(precision) or min(hardware.peak_gflops.values(), key=lambda figure: figure.value)
    compute_us = 2 * of.macs * batch / (peak.value * 1e3)
    traffic_us = of.traffic_elements * batch * BYTES[precision] / (hardware.bandwidth_gb_per_s.value * 1e3)
    return coefficients.get("compute", 0.0) * compute_us + coefficients.get("traffic", 0.0) * traffic_us
