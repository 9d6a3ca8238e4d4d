"""edgekd plan: a dry run of compress."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from edgekd import arguments, console
from edgekd.files import plain
from edgekd.options import (
    Arch,
    AsJson,
    Budget,
    Classes,
    Debug,
    Input,
    Latency,
    LikeTeacher,
    MaxMb,
    MaxMemory,
    MaxParams,
    Mean,
    MethodName,
    Minutes,
    Out,
    Precision,
    Prior,
    ProfileName,
    Quiet,
    Seed,
    Setting,
    Std,
    Student,
    TeacherFile,
)  # fmt: skip

if TYPE_CHECKING:
    from edgekd.plan import Forecast, Plan
    from edgekd.types import Candidate, Cost, Prediction, Profile

SHOWN = 12  # candidates in the table


def plan(
    teacher: TeacherFile,
    profile: ProfileName = "cpu",
    out: Out = None,
    latency: Latency = None,
    max_params: MaxParams = None,
    max_mb: MaxMb = None,
    max_memory: MaxMemory = None,
    like_teacher: LikeTeacher = None,
    precision: Precision = "auto",
    student: Student = "auto",
    method: MethodName = "rdskd_plus",
    budget: Budget = "fast",
    minutes: Minutes = None,
    prior: Prior = None,
    setting: Setting = None,
    arch: Arch = None,
    input_: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What compress would do: the students it looked at, the one it would train, time and disk. Writes plan.toml."""
    with console.errors(debug=debug, as_json=as_json), console.Display(quiet, False, True, as_json) as display:
        folder = arguments.here(out) or arguments.folder(teacher, profile)
        display.say(f"reading {teacher}")
        arguments.there(teacher)
        from edgekd import plan as planning

        read = arguments.teacher(teacher, arch, input_, mean, std, classes)
        display.about(read)
        asked = planning.Plan(
            schema=planning.SCHEMA, teacher=read.sha256, profile=profile, student=student, method=method,
            budget=budget, seed=seed, precision=precision, minutes=minutes,
            limits=arguments.limits(latency, max_params, max_mb, max_memory),
            settings=arguments.settings(setting) | ({} if prior is None else {"prior": prior}),
        )  # fmt: skip
        device = planning.device_of(asked)
        found = planning.forecast(read, device, asked, like_teacher=like_teacher, say=display.say)
        folder.mkdir(parents=True, exist_ok=True)
        from edgekd import plots  # here: the forecast is to measure memory without it

        files = {"plan": folder / "plan.toml", "picture": folder / "plan.png"}
        settled = planning.settled(asked, found)
        planning.write_plan(files["plan"], settled, _comment(found.search.front))
        plots.pareto(found.search, device, files["picture"])
        options = {"--arch": arch, "--input": input_, "--mean": mean, "--std": std, "--classes": classes}
        line = ["edgekd", "compress", str(teacher), "--plan", str(files["plan"])]
        line += [word for name, value in options.items() if value is not None for word in (name, value)]
        if as_json:
            print(json.dumps(document(settled, found, files), indent=2, ensure_ascii=False))
        else:
            show(found, device, files, shlex.join(line))


def _comment(front: tuple[Candidate, ...]) -> str:
    from edgekd.families import name_of

    lines = ["Made by edgekd plan. edgekd compress TEACHER --plan THIS_FILE does it; edit what you like.", ""]
    lines += ["Students of which nothing as fast is expected to be better (predicted ms), for the line student:"]
    for candidate in front:
        p = candidate.predicted[candidate.precision]
        lines.append(
            f"  {name_of(candidate.spec):<24} {p.latency_ms:.3g}" + "  breaks a limit" * bool(candidate.broken)
        )
    return "\n".join(lines)


def document(plan: Plan, forecast: Forecast, files: Mapping[str, Path]) -> dict[str, Any]:
    """The JSON document of edgekd plan."""
    from edgekd import candidates

    return {
        "plan": plain(plan),
        "files": {name: str(path) for name, path in files.items()},
        "teacher": {
            "cost": candidates.cost_document(forecast.teacher),
            "predicted_ms": plain(forecast.teacher_predicted),
        },
        **candidates.document(forecast.search),
        "minutes": round(forecast.minutes, 2),
        "step_ms": {phase: round(ms, 3) for phase, ms in forecast.step_ms.items()},
        "disk_mb": {name: round(mb, 1) for name, mb in forecast.disk_mb.items()},
        "memory_mb": {name: round(mb, 1) for name, mb in forecast.memory_mb.items()},
        "config": plain(forecast.config),
    }


def show(forecast: Forecast, profile: Profile, files: Mapping[str, Path], next_line: str) -> None:
    """The plan as a table and lines for people."""
    from edgekd.families import name_of

    found = forecast.search
    precision = found.chosen.precision
    table = Table(
        Column("  student", no_wrap=True), Column("ms", justify="right"), Column("within", no_wrap=True),
        *(Column(head, justify="right") for head in ("MB", "memory", "M MACs", "layers", "expected")),
        box=None, padding=(0, 1, 0, 0), header_style="bold",
    )  # fmt: skip
    for candidate in _shown(found.front, found.chosen):
        mark = ">" if candidate == found.chosen else "x" if candidate.broken else " "
        style = "bold" if mark == ">" else "dim" if mark == "x" else ""
        of, p = candidate.cost, candidate.predicted[precision]
        table.add_row(
            f"{mark} {name_of(candidate.spec)}", *_predicted(p, of, precision), f"{candidate.memory_mb:.3g}",
            f"{of.macs / 1e6:.2f}", str(of.layers), f"{candidate.expected:.3f}", style=style,
        )  # fmt: skip
    of, p = forecast.teacher, forecast.teacher_predicted[precision]
    macs = f"{of.macs / 1e6:.2f}"
    table.add_row("  the teacher", *_predicted(p, of, precision), "", macs, str(of.layers), "", style="dim")
    console.out.print(table)
    console.out.print(
        f"> chosen, x breaks a limit. ms: a batch of {profile.batch} in {precision} on {profile.name}, predicted, with "
        "the interval that holds nine times out of ten; MB: of the graph; memory: MB while it runs",
        style="dim", highlight=False,
    )  # fmt: skip
    fitting = sum(not c.broken for c in found.candidates)
    lines = {
        "student": f"{name_of(found.chosen.spec)}, of {len(found.candidates)} looked at and {fitting} that keep every "
        f"limit; the next is out: {found.bound_by}",
        "expected": found.basis,
        "time": f"about {forecast.minutes:.0f} minutes on this machine ("
        + ", ".join(f"{phase} {ms:.3g} ms" for phase, ms in forecast.step_ms.items())
        + " a step)",
        "disk": ", ".join(f"{mb:,.0f} MB {name}" for name, mb in forecast.disk_mb.items()),
        "memory": ", ".join(f"{mb:,.0f} MB {name}" for name, mb in forecast.memory_mb.items()) or "not known here",
        **{name: str(path) for name, path in files.items()},
        "next": next_line,
    }
    for name, text in lines.items():
        console.out.print(f"{name:<9} {escape(text)}", highlight=False, soft_wrap=True)


def _shown(front: tuple[Candidate, ...], chosen: Candidate) -> list[Candidate]:
    """At most SHOWN of the front, those around the chosen one."""
    whole = list(front) if chosen in front else [*front, chosen]
    at = whole.index(chosen)
    first = max(0, min(at - SHOWN // 2, len(whole) - SHOWN))
    return whole[first : first + SHOWN]


def _predicted(p: Prediction, of: Cost, precision: str) -> list[str]:
    return [f"{p.latency_ms:.3g}", f"[dim]{p.low_ms:.3g} to {p.high_ms:.3g}[/]", _mb(of.parameters, precision)]


def _mb(parameters: int, precision: str) -> str:
    from edgekd.latency import BYTES

    return f"{parameters * BYTES[precision] / 1e6:.3f}"
