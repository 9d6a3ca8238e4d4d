"""How long a training takes on this machine, and the number of steps that fits a user's minutes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from edgekd.compute import choose_device, keep_freed_memory, to_device
from edgekd.methods import METHODS, distill, scaled
from edgekd.observe import common_maps
from edgekd.room import WATCHED, numbers, per_drawing, per_pass
from edgekd.student import first_student
from edgekd.types import Log, Run, StudentSpec, Teacher

PHASES = {  # which phase of the log the steps of a field are
    "generator_steps": "generator",
    "image_steps": "images",
    "synthesis_steps": "images",
    "joint_steps": "joint",
    "lesson_steps": "lessons",
    "student_steps": "student",
}
MAPS = "feature maps"  # no phase: what a step of the student that is held to them takes more than another
PROBE = 12  # steps of each phase that are timed, the first one left out
FEW, LEAST = 4, 8  # steps of a probe with a time of its own, and images in each at least
TIMED_BATCHES = 2  # of images of many iterations each
PASSES = 6  # of a batch through the teacher that one step costs at most: forward, gradient of the images, the student
ENOUGH_S = 0.1  # of that pass; shorter ones are timed with more images
RESERVE_S = 24.0  # for what is before and behind the training: reading, sizing, graphs, their check, the measurement
SHARES = 0.005, 20.0  # of the longest budget: what can be planned
PROBE_S, PROBE_SHARE = 5.0, 0.02  # of a probe before a training of so many minutes, at least, and of their time
PRIOR_SHARE = 0.2  # of the user's minutes at most for drawing and labelling a prior
LONG_S, WAITED_FOR_S = 300.0, 3_600.0  # of a budget: from when on a user is told how long it takes, and warned


def timed(
    minutes: float,
    method: str,
    config: Any,
    teacher: Teacher,
    spec: StudentSpec,
    seed: int,
    keep: Mapping[str, Any],
    say: Callable[[str], None],
) -> Any:
    """The same settings with as many steps as fit the minutes, and a line about them. keep: see planned."""
    say("timing a few steps")
    chosen, speed = within(minutes, method, config, teacher, spec, seed, keep)
    say(_plan(chosen, speed))
    return chosen


def foretell(
    method: str,
    config: Any,
    teacher: Teacher,
    spec: StudentSpec,
    seed: int,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Says how long the settings of a budget take here, where that may be long: at 224 pixels it may be a day."""
    if rough_seconds(teacher, config) < LONG_S:
        return
    say("timing a few steps")
    speed = seconds_per_step(method, config, teacher, spec, seed, within_s=PROBE_S)
    say(_plan(config, speed))
    if (seconds := sum(expected_seconds(config, speed))) > WAITED_FOR_S:
        warn(f"this takes about {seconds / 3600:.1f} hours here: --minutes 30 plans what fits half an hour")


def _plan(config: Any, speed: Mapping[str, float]) -> str:
    """A training in a line: its steps, how long they take here, and how long one of each."""
    steps = ", ".join(f"{n} {v:,}" for n, v in vars(config).items() if n.endswith("_steps"))
    per_step = ", ".join(f"{phase} {1e3 * s:.3g} ms" for phase, s in speed.items())
    return f"plan: {steps}; {sum(expected_seconds(config, speed)) / 60:.1f} minutes here ({per_step} a step)"


def seconds_per_step(
    method: str, config: Any, teacher: Teacher, spec: StudentSpec, seed: int, *, within_s: float | None = None
) -> dict[str, float]:
    """Seconds per step of each phase, from a dozen steps of a fresh student on the real teacher. Leaves no files.

    within_s: about how long this may take, 2 s or more. Where a dozen steps take longer, fewer of them, of fewer
    images, and the seconds are scaled up by the images left out.
    """
    share, both = 1.0, bool(getattr(config, "hints", None)) and _has_maps(teacher, spec, seed)
    if within_s is None:
        short = _short(config, PROBE)
    else:
        within_s /= 1 + both
        steps = PROBE if share_within(teacher, config, within_s, PROBE) == 1 else FEW
        short, share = at_share(config, teacher, share_within(teacher, config, within_s, steps), steps)
    speed = _timed(method, short, share, teacher, spec, seed)
    if "images" in speed:
        speed["images"] *= getattr(config, "iterations", 1)
    if not both:
        return speed
    # images and prior have been timed
    few = {"image_steps": min(1, short.image_steps), "prior_images": short.batch, "prior_drawn": short.batch}
    plain = _timed(method, dataclasses.replace(short, hints=0, **few), share, teacher, spec, seed)
    saved = plain.get("lessons", 0.0) * config.lesson_steps / config.student_steps  # by a step that needs none
    return speed | plain | {MAPS: speed["student"] - plain["student"] - saved}


def _has_maps(teacher: Teacher, spec: StudentSpec, seed: int) -> bool:
    return common_maps(teacher, first_student(spec, teacher, seed=seed)[0]) is not None


def _timed(method: str, short: Any, share: float, teacher: Teacher, spec: StudentSpec, seed: int) -> dict[str, float]:
    """Seconds per step of each phase, of a training by `short` settings, whose batches are a share of the real ones."""
    stamps = dict[str, list[tuple[float, int]]]()
    logged = dict[str, int]()  # steps that a phase has in all by its log

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        stamps.setdefault(phase, []).append((time.perf_counter(), step))
        logged[phase] = steps

    distilled_briefly(method, short, teacher, spec, seed, log)
    speed = {
        phase: (seen[-1][0] - seen[0][0]) / (seen[-1][1] - seen[0][1]) / (1 if phase == "prior" else share)
        for phase, seen in stamps.items()
        if seen[-1][1] > seen[0][1]
    }
    if "images" in speed and hasattr(short, "iterations"):  # some methods log those of a batch one by one
        speed["images"] *= logged["images"] / short.synthesis_steps / short.iterations
    return speed


def distilled_briefly(method: str, config: Any, teacher: Teacher, spec: StudentSpec, seed: int, log: Log) -> None:
    """Trains a fresh student as compress does, by settings of few steps, in a folder that is then gone."""
    device = choose_device()
    keep_freed_memory()
    teacher_there = dataclasses.replace(teacher, model=to_device(teacher.model, device))
    student = to_device(first_student(spec, teacher, seed=seed)[0], device)
    with tempfile.TemporaryDirectory() as folder:
        distill(method, teacher_there, student, config, Run(device, seed, Path(folder), log))
    teacher.model.cpu()


def _short(config: Any, steps: int) -> Any:
    """The settings with so many steps of each phase, in one round; a step is what it is in the whole training."""
    short: dict[str, Any] = {name: steps for name, of in vars(config).items() if name.endswith("_steps") and of != 0}
    few = {"rounds": 1, "prior_images": 2_000, "prior_drawn": 2_000}
    if getattr(config, "iterations", 0) > steps:  # hundreds for every batch
        few |= {"iterations": steps, "synthesis_steps": TIMED_BATCHES}
    if getattr(config, "hints", None):
        few["hints"] = steps
    short |= {name: value for name, value in few.items() if hasattr(config, name)}
    return dataclasses.replace(config, **short)


def at_share(config: Any, teacher: Teacher, share: float, steps: int = FEW) -> tuple[Any, float]:
    """Settings for few steps of a share of each batch's images, two at least, and the share that came of it."""
    batches = {name: max(2, 2 * round(share * images / 2)) for name, images in _batches(config).items()}
    short = dataclasses.replace(_short(config, steps), **batches)
    if hasattr(short, "prior_images"):  # a chunk, and a part of one whose time counts
        once = numbers(teacher.images)
        chunk = per_drawing(once)
        held_out = min(short.held_out or WATCHED, per_pass(once))  # as many as memory has at a time
        drawn = chunk + max(1, chunk // 4)
        short = dataclasses.replace(short, prior_images=drawn, prior_drawn=drawn, held_out=held_out)
    return short, batches["batch"] / config.batch


def _batches(config: Any) -> dict[str, int]:
    """Images per step, of each field that says so."""
    return {name: value for name, value in vars(config).items() if name.endswith("batch")}


def share_within(teacher: Teacher, config: Any, within_s: float, steps: int = FEW) -> float:
    """The share of each batch with which a probe keeps its time, LEAST images of each at the least."""
    batches = _batches(config).values()
    in_time = within_s / (PASSES * sum(batches) * steps * _seconds_per_image(teacher, max(batches)))
    return min(1.0, max(in_time, LEAST / min(batches)))


def rough_seconds(teacher: Teacher, config: Any) -> float:
    """About how long all steps take here at most, by the time of one pass of the teacher."""
    each = {name: getattr(config, "iterations", 1) if name == "synthesis_steps" else 1 for name in PHASES}
    steps = sum(times * (getattr(config, name, 0) or 0) for name, times in each.items())
    largest = max(_batches(config).values())
    return PASSES * largest * float(steps) * _seconds_per_image(teacher, largest)


def _seconds_per_image(teacher: Teacher, most: int) -> float:
    """Of a pass of the teacher, timed with up to `most` images at once."""
    facts, device = teacher.images, choose_device()
    model, shape = to_device(teacher.model, device), (facts.channels, facts.height, facts.width)
    images, seconds = 0, 0.0
    with torch.no_grad():
        model(torch.randn(2, *shape, device=device))  # the first prepares
        while seconds < ENOUGH_S and images < most:  # a few images cost more each than those of a batch
            images = min(2 * images or LEAST, most)
            x = torch.randn(images, *shape, device=device)
            start = time.perf_counter()
            model(x).sum().item()
            seconds = time.perf_counter() - start
    return seconds / images


def probe_seconds(minutes: float) -> float:
    """About how long timing a few steps may take before a training of so many minutes."""
    return max(PROBE_S, PROBE_SHARE * 60 * minutes)


def expected_seconds(config: Any, speed: Mapping[str, float]) -> tuple[float, float]:
    """(seconds that do not depend on the steps, seconds of all steps) of a training with these settings."""
    fixed = RESERVE_S + (config.drawings() if hasattr(config, "drawings") else 0) * speed.get("prior", 0.0)
    return fixed, _seconds(config, speed, PHASES) + _led(config) * speed.get(MAPS, 0.0)


def _led(config: Any) -> int:
    """Steps of the student that feature maps lead and others do not; 0 where they lead all."""
    hints: int = getattr(config, "hints", None) or 0
    return min(hints, config.student_steps) if hints else 0


def _seconds(config: Any, speed: Mapping[str, float], fields: Iterable[str]) -> float:
    """Of the steps in these fields."""
    joint = speed.get("joint", 0.0)  # methods with one loop log all of it as this
    return sum((getattr(config, name, 0) or 0) * speed.get(PHASES[name], joint) for name in fields)


def within(
    minutes: float, method: str, config: Any, teacher: Teacher, spec: StudentSpec, seed: int, keep: Mapping[str, Any]
) -> tuple[Any, dict[str, float]]:
    """The same settings with as many steps as fit the minutes, and seconds_per_step of each phase. keep: see planned.

    Timed again where the plan has changed what a step does.
    """
    timed = config
    for _ in range(2):
        speed = seconds_per_step(method, timed, teacher, spec, seed, within_s=probe_seconds(minutes))
        chosen = METHODS[method].derived(planned(method, config, minutes, speed, keep), teacher)
        if _short(chosen, FEW) == _short(timed, FEW):
            break
        timed = chosen
    return chosen, speed


def planned(method: str, config: Any, minutes: float, speed: Mapping[str, float], keep: Mapping[str, Any]) -> Any:
    """The same settings with every number of steps scaled so that the whole takes `minutes`; those in `keep` stay.

    Too few minutes give the fewest steps that can be planned, 0.5 % of the given ones. A prior whose images would take
    more than PRIOR_SHARE of the minutes gets fewer; what is drawn to choose from grows with the steps.
    """
    per_image, most_s = speed.get("prior", 0.0), PRIOR_SHARE * 60 * minutes
    affordable = int(most_s / per_image) if per_image else None
    if affordable is not None and "prior_images" not in keep:
        config = dataclasses.replace(config, prior_images=max(1, min(config.prior_images or 0, affordable)))
    bounds: Mapping[str, int] = config.enough() if hasattr(config, "enough") else {}
    enough = {name: most for name, most in bounds.items() if name not in keep}
    if enough:
        config = dataclasses.replace(config.unbounded(), **{n: getattr(config, n) for n in bounds if n in keep})
    chosen, growing = config, PHASES.keys() - keep.keys()
    for _ in range(FEW):  # the more steps, the more is drawn before them, and the more fields have enough
        if per_image and "prior_drawn" not in keep:
            drawn = dataclasses.replace(chosen, prior_drawn=None).drawings()
            chosen = dataclasses.replace(chosen, prior_drawn=max(chosen.prior_images or 0, min(drawn, affordable or 0)))
        fixed = expected_seconds(chosen, speed)[0] + _seconds(chosen, speed, PHASES.keys() - growing)
        scalable = _seconds(config, speed, growing)
        led = _led(chosen)
        if led and led == chosen.student_steps and "student_steps" in growing:  # all of them: these grow with it
            scalable += config.student_steps * speed.get(MAPS, 0.0)
        else:
            fixed += led * speed.get(MAPS, 0.0)
        share = (60 * minutes - fixed) / max(scalable, 1e-9)
        steps = scaled(config, min(max(share, SHARES[0]), SHARES[1]))
        chosen = dataclasses.replace(chosen, **{n: v for n, v in steps.items() if n not in keep})
        growing = {name for name in growing if getattr(chosen, name, 0) != enough.get(name)}
    rounds = getattr(chosen, "rounds", None)
    if rounds and getattr(chosen, "image_steps", 0):  # every round has at least ten image steps
        return dataclasses.replace(chosen, rounds=max(1, min(rounds, chosen.image_steps // 10)))
    return chosen
