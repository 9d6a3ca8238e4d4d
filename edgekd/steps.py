"""The steps of compress one by one, for programs: a student without a bundle, graphs without a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.export import Pixels, export, gates, torch_logits
from edgekd.export.recovery import TEMPERATURE
from edgekd.integers import Integers, parted
from edgekd.lock import locked
from edgekd.methods import configure, gentle, prior_of
from edgekd.pipeline import no_log, settings_of
from edgekd.sizing import size_student
from edgekd.stages import claim, distilled, samples_kept
from edgekd.types import Log, Profile, Recipe, Sizing, Teacher


@dataclass(frozen=True)
class Distilled:
    """A trained student with what it came from."""

    teacher: Teacher
    student: nn.Module  # normalised images (N, C, H, W) -> logits (N, K); eval mode, on the CPU, no gradients to it
    pixels: Pixels  # uint8 (N, C, H, W): generated images that it has not seen
    sizing: Sizing
    recipe: Recipe


def distill(
    teacher: Teacher,
    profile: Profile,
    folder: str | Path,
    *,
    method: str = "rdskd_plus",
    budget: str = "fast",
    settings: Mapping[str, Any] | None = None,
    family: str = "auto",
    like_teacher: float | None = None,
    seed: int = 0,
    log: Log = no_log,
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Distilled:
    """Sizes a student for `profile` and distils it from `teacher` without data: the first half of compress.

    folder: checkpoints, the log and student.pt; an earlier run of the same settings in it is gone on with, and compress
    with the same arguments goes on behind it. family: as --student. method, budget, settings, seed, log, say, warn: as
    of edgekd.compress. Raises EdgekdError children; Interrupted (after saving) on SIGINT or SIGTERM.
    """
    folder = Path(folder)
    config = configure(method, budget, settings or {}, teacher)
    prior = prior_of(config)
    sizing = size_student(teacher, profile, family=family, like_teacher=like_teacher, prior=prior)
    recipe = Recipe(method, budget, gentle(config, sizing.spec, settings or {}), seed)
    with locked(folder):
        claim(folder, settings_of(teacher, profile, sizing, recipe))
        student, pixels = distilled(teacher, sizing, recipe, folder, log, say, warn)
    return Distilled(teacher, student.eval().requires_grad_(False), pixels, sizing, recipe)


def export_student(
    found: Distilled,
    profile: Profile,
    folder: str | Path,
    *,
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda line: None,
) -> dict[str, Path]:
    """Writes the graphs of `profile` into `folder`, made when missing: precision -> path of an ONNX file.

    A graph takes float32 pixels 0..255 (N, C, H, W) and gives logits (N, K); normalisation is inside. Each is held
    against torch on generated images. An fp16 or INT8 graph that is not the student is deleted again and `warn` is
    told why. Raises ExportError where the network has no such form, ParityError where no graph would be left.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    teacher, generated = found.teacher, parted(found.pixels, samples_kept(found.teacher.images))
    heat = getattr(found.recipe.config, "temperature", TEMPERATURE)
    integers = Integers(teacher, found.student, generated, temperature=heat, seed=found.recipe.seed, say=say)
    graphs = export(
        found.student, teacher.images, teacher.classes, profile, generated.pool, folder,
        teacher_sha256=teacher.sha256, write_int8=integers,
    )  # fmt: skip
    held_out = generated.samples
    logits = torch_logits(found.student, teacher.images, held_out)
    passed, _ = gates(graphs, folder / "student.fp32.onnx", held_out, logits)
    for precision, gate in passed.items():
        if gate.refused is not None:
            warn(f"no {precision} graph: {gate.refused.why}")
            graphs.pop(precision).unlink()
    return graphs
