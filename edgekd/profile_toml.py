"""Profiles as TOML that people edit: figures on one line each, keys explained, coefficients last."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgekd.files import plain
from edgekd.profile_schema import fields, item_of, meanings, unit_of
from edgekd.types import Figure, Hardware, Latency, Profile

SCHEMA_LINE = "#:schema ./profile.schema.json"
FITTED = "# Fitted coefficients: benchmarks/latency_fit.py writes what follows."


def profile_toml(profile: Profile, *, explained: bool, comments: Mapping[str, str] | None = None) -> str:
    """The file of a profile. explained: with the meaning of every key, those that are not set among them.

    comments: table -> a line above it.
    """
    above = comments or {}
    parts = ["\n".join(_keys(Profile, vars(profile), explained))]
    for name in ("limits", "runtime", "hardware", "pays", "slower", "options"):
        value = getattr(profile, name)
        if not value:
            continue
        lines = [f"# {above[name]}"] if name in above else [f"# {meanings(Profile)[name]}"] if explained else []
        lines.append(f"[{name}]")
        if isinstance(value, Mapping):
            lines += [f"{key} = {_inline(text)}" for key, text in value.items()]
        else:
            lines += _keys(type(value), vars(value), explained)
        parts.append("\n".join(lines))
        if name == "hardware":
            parts += _peaks(profile, explained)
    for mode in profile.power_modes:
        parts.append("\n".join(["[[power_modes]]", *_keys(type(mode), vars(mode), explained)]))
    parts.append(latency_toml(profile.latency))
    return "\n\n".join(part for part in parts if part) + "\n"


def latency_toml(ways: tuple[Latency, ...]) -> str:
    """The last part of the file, behind the line that says who writes it."""
    tables = ["\n".join(["[[latency]]", *_keys(Latency, vars(way), False)]) for way in ways]
    return "\n\n".join([FITTED, *tables])


def draft(base: Profile, name: str, *, known: bool) -> Profile:
    """A profile to start from. known: the device is like `base`, whose figures then stay with their sources.

    Otherwise the figures stay only as examples: without sources, so that a check asks for each.
    """
    ways = tuple(
        dataclasses.replace(
            way, basis="derived", source=f"copied from {base.name}: {way.source}", error=max(way.error, 0.5)
        )
        for way in base.latency
    )
    draft = dataclasses.replace(base, name=name, latency=ways)
    if known:
        return draft
    hardware = base.hardware
    hardware = dataclasses.replace(
        hardware,
        peak_gflops={key: _example(figure) for key, figure in hardware.peak_gflops.items()},
        cpu_peak_gflops={key: _example(figure) for key, figure in hardware.cpu_peak_gflops.items()},
        bandwidth_gb_per_s=_example(hardware.bandwidth_gb_per_s),
        memory_gb=_example(hardware.memory_gb),
        flash_mb=None,
    )
    return dataclasses.replace(draft, summary="what the device is", note="", hardware=hardware, pays={}, slower={})


def _example(figure: Figure) -> Figure:
    return Figure(figure.value, "derived", "")


def _peaks(profile: Profile, explained: bool) -> Iterator[str]:
    for name in ("peak_gflops", "cpu_peak_gflops"):
        peaks = getattr(profile.hardware, name)
        if peaks:
            lines = [f"# {meanings(Hardware)[name]}"] if explained else []
            lines.append(f"[hardware.{name}]")
            yield "\n".join([*lines, *(f"{key} = {_inline(plain(figure))}" for key, figure in peaks.items())])


def _keys(kind: type, values: Mapping[str, Any], explained: bool) -> Iterator[str]:
    """Lines of the keys that are no tables of their own. What equals its default is left out or, explained, shown."""
    defaults = {spec.name: spec.default for spec in dataclasses.fields(kind)}
    for name, hint, _ in fields(kind):
        value = plain(values[name])
        form, inner = item_of(hint)
        if (dataclasses.is_dataclass(inner) and inner is not Figure) or (form == "table" and kind is not Latency):
            continue  # a table of its own
        unset = value is None or value == plain(defaults[name])
        if explained:
            unit = unit_of(name)
            yield f"# {meanings(kind)[name]}" + f" [{unit}]" * bool(unit and unit not in meanings(kind)[name])
            yield (
                f"# {name} = {_inline(value)}"
                if unset and value is not None
                else (f"# {name} =" if unset else f"{name} = {_inline(value)}")
            )
        elif not unset:
            yield f"{name} = {_inline(value)}"


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(inner) for inner in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
