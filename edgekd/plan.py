"""What compress is going to do, before it does it: the student and why, the time and the disk; and plan.toml."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch

import edgekd
from edgekd.errors import InputError
from edgekd.families import name_of
from edgekd.files import from_dict, nearest, plain, written
from edgekd.footprint import afterwards_mb, training_mb
from edgekd.generator import new_generator
from edgekd.latency import BYTES, cost, predict
from edgekd.methods import configure, gentle, prior_of
from edgekd.methods.rdskd_plus import Config as RdskdPlus
from edgekd.pace import expected_seconds, seconds_per_step, within
from edgekd.profile import adjusted, load_profile
from edgekd.room import capacities, numbers
from edgekd.sizing import search
from edgekd.stages import images_kept, samples_kept
from edgekd.types import Cost, Images, Limits, Prediction, Profile, Search, Teacher

SCHEMA = 1
PROBE_S, MEMORY_S = 3.0, 6.0  # seconds that timing a few steps may take, and measuring their memory


@dataclass(frozen=True)
class Plan:
    """plan.toml: everything that compress --plan takes. Edit it; each name is that of an option."""

    schema: int
    teacher: str  # sha256 of the checkpoint that it was made for
    profile: str  # a name, or the path of a TOML file
    student: str
    method: str
    budget: str
    seed: int
    precision: str = "auto"
    minutes: float | None = None  # instead of the budget
    limits: Mapping[str, float] = field(default_factory=dict)  # other than the profile's; names of Limits
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the method, other than the budget's


@dataclass(frozen=True)
class Forecast:
    """What a plan rests on."""

    search: Search
    teacher: Cost
    teacher_predicted: Mapping[str, Prediction]
    config: Any  # of the method
    minutes: float  # of the whole compress on this machine
    step_ms: Mapping[str, float]  # phase of the training -> milliseconds per step on this machine
    disk_mb: Mapping[str, float]  # 10**6 bytes "while it runs" at most, and "at the end"
    memory_mb: Mapping[str, float]  # 10**6 bytes of own memory "training" and "afterwards"; empty: not known here


def forecast(
    teacher: Teacher,
    profile: Profile,
    plan: Plan,
    *,
    like_teacher: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Forecast:
    """Chooses a student as compress would and times a few steps of its training here.

    profile: device_of(plan). Takes some ten seconds. Raises UsageError as search and configure do.
    """
    method, settings = plan.method, plan.settings
    config = configure(method, plan.budget, settings, teacher)
    say("sizing students")
    found = search(teacher, profile, family=plan.student, like_teacher=like_teacher, prior=prior_of(config))
    spec = found.chosen.spec
    config = gentle(config, spec, settings)
    say("timing a few steps")
    if plan.minutes is None:
        speed = seconds_per_step(method, config, teacher, spec, plan.seed, within_s=PROBE_S)
    else:
        config, speed = within(plan.minutes, method, config, teacher, spec, plan.seed, settings)
    whole = cost(teacher.model, teacher.images)
    say("measuring the memory of a few steps")
    memory = {
        "afterwards": afterwards_mb(teacher, whole, found.chosen.cost, images_kept(teacher.images)),
        "training": training_mb(method, config, teacher, spec, plan.seed, within_s=MEMORY_S),
    }
    return Forecast(
        search=found,
        teacher=whole,
        teacher_predicted={p: predict(whole, profile, p) for p in profile.precisions},
        config=config,
        minutes=sum(expected_seconds(config, speed)) / 60,
        step_ms={phase: 1e3 * seconds for phase, seconds in speed.items()},
        disk_mb=disk_mb(config, teacher, whole, found.chosen.cost, profile),
        memory_mb={name: mb for name, mb in memory.items() if mb is not None},
    )


def disk_mb(config: Any, teacher: Teacher, of_teacher: Cost, of_student: Cost, profile: Profile) -> dict[str, float]:
    """10**6 bytes that compress writes: at most while it runs, and what it leaves.

    While it runs: the banks, whose room is reserved at the start, and three checkpoints (two are kept, and the new one
    is whole before an old one goes): the student and what makes images, with their optimisers' two states, in fp32.
    """
    facts, classes = teacher.images, len(teacher.classes)
    pixels, logits = numbers(facts), 2 * classes
    banks = bank_images(config, facts) * (pixels + logits)
    checkpoints = 3 * 4 * 3 * (of_student.parameters + learning_beside(config, facts))
    samples = samples_kept(facts)
    kept = images_kept(facts) * pixels + samples * (pixels + 4 * classes * (1 + len(profile.precisions)))
    graphs = sum(of_student.parameters * BYTES[p] for p in profile.precisions)
    end = kept + graphs + 4 * of_student.parameters + 4 * of_teacher.parameters
    return {"while it runs": (banks + checkpoints + end) / 1e6, "at the end": end / 1e6}


def learning_beside(config: Any, images: Images) -> int:
    """How many numbers learn beside the student: those of a generator, or pixels where they are refined themselves."""
    if not hasattr(config, "generator_width") or not getattr(config, "generated", True):
        return int(getattr(config, "image_batch", 0)) * numbers(images)
    generator = new_generator(
        images, latent=config.latent, width=config.generator_width, seed=0, device=torch.device("cpu")
    )
    return sum(p.numel() for p in generator.parameters())


def bank_images(config: Any, images: Images) -> int:
    """How many images a method keeps while it trains."""
    if isinstance(config, RdskdPlus):
        return sum(map(sum, capacities(config, images).values()))
    steps: int = getattr(config, "synthesis_steps", None) or 0  # images that are optimised are kept
    return steps * int(config.batch)


def write_plan(path: Path, plan: Plan, comment: str) -> None:
    """Writes plan.toml, whole or not at all. comment: lines for the person who edits it."""
    values = {name: value for name, value in plain(plan).items() if value not in (None, {})}
    text = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines()) + tomli_w.dumps(values)
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """Reads plan.toml. Raises InputError: not there, no TOML, unknown or missing names, another schema."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there", code="E0366", fix="make one:  edgekd plan TEACHER") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as TOML", code="E0367", why=str(error)) from error
    plan = from_dict(Plan, table, where=str(path))
    if plan.schema != SCHEMA:
        raise InputError(
            f"{path} is of schema {plan.schema}, not {SCHEMA}",
            code="E0362",
            why=f"this is edgekd {edgekd.__version__}",
            fix="make it again:  edgekd plan TEACHER",
        )
    return plan


def matching(plan: Plan, teacher: Teacher, path: Path) -> Plan:
    """The plan, where it was made for this teacher. Raises InputError for another one."""
    if plan.teacher != teacher.sha256:
        raise InputError(
            f"{path} was made for another teacher",
            code="E0363",
            why=f"that one's sha256 is {plan.teacher[:12]}..., this one's {teacher.sha256[:12]}...",
            fix="make a plan for this one:  edgekd plan TEACHER",
        )
    return plan


def device_of(plan: Plan) -> Profile:
    """The plan's profile with its limits and its precision. Raises ProfileError, UsageError."""
    known = {f.name for f in dataclasses.fields(Limits)}
    if unknown := sorted(plan.limits.keys() - known):
        raise InputError(
            f"the plan has no limit {unknown[0]!r}.{nearest(unknown[0], known)}",
            code="E0302",
            why=f"there are: {', '.join(sorted(known))}",
            fix="correct or remove it",
        )
    limits: dict[str, Any] = dict(plan.limits)
    if "parameters" in limits:
        limits["parameters"] = int(limits["parameters"])
    return adjusted(load_profile(plan.profile), precision=plan.precision, **limits)


def settled(plan: Plan, forecast: Forecast) -> Plan:
    """The plan with the student that was chosen."""
    return dataclasses.replace(plan, student=name_of(forecast.search.chosen.spec))
