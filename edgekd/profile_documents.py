"""What the commands of profiles print: the list, one profile, what a check found. As JSON, or for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from edgekd import console
from edgekd.files import plain

if TYPE_CHECKING:
    from edgekd.profile_check import Verdict
    from edgekd.types import Profile


def listed(profiles: Sequence[Profile], aliases: Mapping[str, str], own: set[str], as_json: bool) -> None:
    """Two lines per profile, by class. aliases: alias -> name; own: names of the user's profiles, marked with *."""
    if as_json:
        found = {p.name: plain(p) | {"user": p.name in own} for p in profiles}
        found |= {alias: found[name] for alias, name in aliases.items() if name in found}
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(
        Column("profile, device", overflow="fold", min_width=40), Column("runtime", overflow="fold", max_width=16),
        Column("builds", no_wrap=True), Column("limit", no_wrap=True, justify="right"), box=None, padding=(0, 1, 0, 0),
    )  # fmt: skip
    before = ""
    for p in profiles:
        if p.device_class != before:
            table.add_row(f"[bold]{p.device_class}[/]")
            before = p.device_class
        short = [alias for alias, name in aliases.items() if name == p.name]
        name = p.name + "*" * (p.name in own) + f" = {', '.join(short)}" * bool(short)
        builds = " ".join(p.precisions) + " ->" * (p.target == "onnx")
        device = f"[dim]{escape(p.summary.split(',')[0])}[/]"
        runtime = escape(_runtime(p))
        table.add_row(f"{escape(name)}\n{device}", runtime, builds, _limit(p.limits.latency_ms, "ms"))
    console.out.print(table)
    notes = [f"{len(profiles)} profiles", "= another name", "-> ONNX for the vendor's converter"]
    if own:
        notes.append("* yours, before a shipped one of its name")
    console.out.print("; ".join(notes), style="dim", highlight=False, markup=False)


def shown(profile: Profile, file: Path, aliases: Sequence[str], as_json: bool) -> None:
    """Everything that edgekd assumes of a device, each figure with its unit, basis and source."""
    if as_json:
        print(json.dumps(plain(profile) | {"file": str(file), "aliases": list(aliases)}, indent=2, ensure_ascii=False))
        return
    also = f"  [dim](= {', '.join(aliases)})[/]" if aliases else ""
    console.out.print(f"[bold]{escape(profile.name)}[/]{also}\n{escape(profile.summary)}", highlight=False)
    _facts(profile, file)
    _figures(profile)
    _power_modes(profile)
    _coefficients(profile)


def _facts(profile: Profile, file: Path) -> None:
    limits, runtime = profile.limits, profile.runtime
    wanted = f"multiples of {profile.align}" + (f" ({profile.align_source})" if profile.align_source else "")
    rows = {
        "limits": f"latency {_limit(limits.latency_ms, 'ms')}, graph {_limit(limits.model_mb, 'MB')}, "
        f"memory {_limit(limits.memory_mb, 'MB')}, parameters {_limit(limits.parameters, '')}".rstrip(),
        "class": profile.device_class,
        "system": profile.system + (f", Python {profile.python}" if profile.python else ""),
        "runtime": _runtime(profile, threads=True),
        "reads": "" if runtime is None else _ceilings(profile),
        "graphs": f"{', '.join(profile.precisions)}; ONNX opset {profile.opset}; batch {profile.batch}",
        "converter": profile.converter,
        **{f"{precision} pays": reason for precision, reason in profile.pays.items()},
        **{f"{precision} is slow": reason for precision, reason in profile.slower.items()},
        "channels": wanted,
        "note": profile.note,
        "file": str(file),
    }
    table = Table(Column(no_wrap=True, style="bold"), Column(overflow="fold"), show_header=False, box=None)
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    console.out.print(table)


def _figures(profile: Profile) -> None:
    from edgekd.profile_rules import figures
    from edgekd.profile_schema import unit_of

    table = Table(
        Column(f"hardware ({profile.hardware.unit})", no_wrap=True), Column("value", justify="right"),
        Column("unit", no_wrap=True), "basis", Column("source", overflow="fold"), box=None,
    )  # fmt: skip
    units = {"10**9 operations/s": "Gop/s", "10**9 bytes/s": "GB/s", "10**9 bytes": "GB", "10**6 bytes": "MB"}
    for key, figure in figures(profile).items():
        name, _, precision = key.removeprefix("hardware.").partition(".")
        unit = units.get(unit_of(name), unit_of(name))
        readable = name.removesuffix("_gb_per_s").removesuffix("_gflops").removesuffix("_gb").removesuffix("_mb")
        label = f"{readable.replace('_', ' ')} {precision}".strip()
        table.add_row(label, f"{figure.value:g}", unit, figure.basis, escape(figure.source))
    console.out.print()
    console.out.print(table)


def _power_modes(profile: Profile) -> None:
    if not profile.power_modes:
        return
    table = Table(Column("power mode", no_wrap=True), Column("W", justify="right"), "source", box=None)
    for mode in profile.power_modes:
        table.add_row(escape(mode.name), "-" if mode.watts is None else f"{mode.watts:g}", escape(mode.source))
    console.out.print()
    console.out.print(table)


def _coefficients(profile: Profile) -> None:
    table = Table(
        "latency by", "unit", "precision", "threads", "error", "basis", Column("source", overflow="fold"), box=None
    )
    for way in profile.latency:
        threads = str(way.threads) if way.threads else "-"
        error = f"{way.error:.0%}"
        table.add_row(
            escape(way.runtime), escape(way.unit), way.precision, threads, error, way.basis, escape(way.source)
        )
    console.out.print()
    console.out.print(table)


def checked(verdicts: Sequence[Verdict], as_json: bool) -> None:
    """What a check found, file by file: problems in red, doubts in yellow, each with its fix."""
    if as_json:
        print(json.dumps([plain(verdict) for verdict in verdicts], indent=2, ensure_ascii=False))
        return
    for verdict in verdicts:
        state = _count(len(verdict.problems), "problem") if verdict.problems else "fine"
        state += f", {_count(len(verdict.doubts), 'doubt')}" if verdict.doubts else ""
        console.out.print(f"{verdict.file}: {state}", highlight=False, markup=False, soft_wrap=True)
        for kind, style, findings in (("problem", "red", verdict.problems), ("doubt", "yellow", verdict.doubts)):
            for finding in findings:
                text = f"  {kind:<8}{finding.key}: {finding.what}\n    fix   {finding.fix}"
                console.out.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _runtime(profile: Profile, *, threads: bool = False) -> str:
    if profile.runtime is None:
        return "not known"
    version = profile.runtime.version if threads else profile.runtime.version.replace(" or later", "+").split(" (")[0]
    text = f"{profile.runtime.name} {version}".rstrip()
    return f"{text}, {profile.threads} threads" if threads and profile.threads else text


def _ceilings(profile: Profile) -> str:
    runtime = profile.runtime
    assert runtime is not None
    opset = "not known" if runtime.opset_max is None else f"{runtime.opset_max} at most"
    ir = "not known" if runtime.ir_max is None else f"{runtime.ir_max} at most"
    return f"ONNX opset {opset}, IR version {ir}" + (f" ({runtime.source})" if runtime.source else "")


def _limit(value: Any, unit: str) -> str:
    return "-" if value is None else f"{value:,g} {unit}".rstrip()
