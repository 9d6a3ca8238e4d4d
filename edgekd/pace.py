"""How long a training takes on this machine, and the number of steps that fits a user's minutes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.compute import choose_device, keep_freed_memory, to_device
from edgekd.methods import distill, scaled
from edgekd.student import first_student
from edgekd.types import Run, StudentSpec, Teacher

PHASES = {  # which phase of the log the steps of a field are
    "generator_steps": "generator",
    "image_steps": "images",
    "synthesis_steps": "images",
    "joint_steps": "joint",
    "student_steps": "student",
}
PROBE = 12  # steps of each phase that are timed, the first one left out
RESERVE_S = 30.0  # for the graphs, their check and the measurement
SHARES = 0.005, 20.0  # of the longest budget: what can be planned


def seconds_per_step(method: str, config: Any, teacher: Teacher, spec: StudentSpec, seed: int) -> dict[str, float]:
    """Seconds per step of each phase, from a dozen steps of a fresh student on the real teacher. Leaves no files."""
    device, stamps = choose_device(), dict[str, list[tuple[float, int]]]()
    keep_freed_memory()
    short = {name: PROBE for name in vars(config) if name.endswith("_steps")}
    short |= {name: few for name, few in (("rounds", 1), ("prior_images", 2_000)) if hasattr(config, name)}

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        stamps.setdefault(phase, []).append((time.perf_counter(), step))

    student = to_device(first_student(spec, teacher, seed=seed)[0], device)
    teacher = dataclasses.replace(teacher, model=to_device(teacher.model, device))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(device, seed, Path(folder), log)
        distill(method, teacher, student, dataclasses.replace(config, **short), run)
    teacher.model.cpu()
    return {
        phase: (seen[-1][0] - seen[0][0]) / (seen[-1][1] - seen[0][1])
        for phase, seen in stamps.items()
        if seen[-1][1] > seen[0][1]
    }


def expected_seconds(config: Any, speed: Mapping[str, float]) -> tuple[float, float]:
    """(seconds that do not depend on the steps, seconds of all steps) of a training with these settings."""
    fixed = RESERVE_S + getattr(config, "prior_images", 0) * speed.get("prior", 0.0)
    joint = speed.get("joint", 0.0)  # methods with one loop log all of it as this
    steps = {name: value for name, value in vars(config).items() if name in PHASES}
    return fixed, sum(value * speed.get(PHASES[name], joint) for name, value in steps.items())


def planned(method: str, config: Any, minutes: float, speed: Mapping[str, float], keep: Mapping[str, Any]) -> Any:
    """The same settings with every number of steps scaled so that the whole takes `minutes`; those in `keep` stay.

    Too few minutes give the fewest steps that can be planned, 0.5 % of the given ones.
    """
    fixed, variable = expected_seconds(config, speed)
    share = min(max((60 * minutes - fixed) / max(variable, 1e-9), SHARES[0]), SHARES[1])
    chosen = dataclasses.replace(config, **{n: v for n, v in scaled(config, share).items() if n not in keep})
    rounds = getattr(chosen, "rounds", None)
    if rounds and getattr(chosen, "image_steps", 0):  # every round has at least ten image steps
        return dataclasses.replace(chosen, rounds=max(1, min(rounds, chosen.image_steps // 10)))
    return chosen
