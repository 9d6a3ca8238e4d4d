"""How long a training takes on this machine, and the number of steps that fits a user's minutes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgekd.compute import choose_device, keep_freed_memory, to_device
from edgekd.methods import distill, scaled
from edgekd.methods.rdskd_plus import CHUNK, CHUNK_NUMBERS
from edgekd.room import numbers
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
FEW, LEAST = 4, 8  # steps of a probe with a time of its own, and images in each at least
PASSES = 6  # of a batch through the teacher that one step costs at most: forward, gradient of the images, the student
RESERVE_S = 30.0  # for the graphs, their check and the measurement
SHARES = 0.005, 20.0  # of the longest budget: what can be planned


def seconds_per_step(
    method: str, config: Any, teacher: Teacher, spec: StudentSpec, seed: int, *, within_s: float | None = None
) -> dict[str, float]:
    """Seconds per step of each phase, from a dozen steps of a fresh student on the real teacher. Leaves no files.

    within_s: about how long this may take, 2 s or more. Fewer steps then, of fewer images, and the seconds are scaled
    up by the images left out.
    """
    device, stamps = choose_device(), dict[str, list[tuple[float, int]]]()
    keep_freed_memory()
    steps = PROBE if within_s is None else FEW
    short = {name: steps for name in vars(config) if name.endswith("_steps")}
    short |= {name: few for name, few in (("rounds", 1), ("prior_images", 2_000)) if hasattr(config, name)}
    teacher_there = dataclasses.replace(teacher, model=to_device(teacher.model, device))
    share = 1.0
    if within_s is not None:
        share = _share(teacher_there, config, device, within_s)
        short |= {n: max(LEAST, 2 * round(share * b / 2)) for n, b in _batches(config).items()}
        share = short["batch"] / config.batch
        if "prior_images" in short:  # a chunk, and a part of one whose time counts
            chunk = max(1, min(CHUNK, CHUNK_NUMBERS // numbers(teacher.images)))
            short["prior_images"] = chunk + max(1, chunk // 4)

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        stamps.setdefault(phase, []).append((time.perf_counter(), step))

    student = to_device(first_student(spec, teacher, seed=seed)[0], device)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(device, seed, Path(folder), log)
        distill(method, teacher_there, student, dataclasses.replace(config, **short), run)
    teacher.model.cpu()
    return {
        phase: (seen[-1][0] - seen[0][0]) / (seen[-1][1] - seen[0][1]) / (1 if phase == "prior" else share)
        for phase, seen in stamps.items()
        if seen[-1][1] > seen[0][1]
    }


def _batches(config: Any) -> dict[str, int]:
    """Images per step, of each field that says so."""
    return {name: value for name, value in vars(config).items() if name.endswith("batch")}


def _share(teacher: Teacher, config: Any, device: torch.device, within_s: float) -> float:
    """The share of each batch with which the probe keeps its time: one pass of the teacher is timed and multiplied."""
    facts = teacher.images
    x = torch.randn(LEAST, facts.channels, facts.height, facts.width, device=device)
    times = []
    for _ in range(2):  # the first prepares
        start = time.perf_counter()
        with torch.no_grad():
            teacher.model(x).sum().item()
        times.append(time.perf_counter() - start)
    images = sum(_batches(config).values()) * FEW
    return min(1.0, within_s / (PASSES * images * times[-1] / LEAST))


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
