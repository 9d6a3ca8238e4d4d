"""The stages of compress. Each leaves its result under its final name only when it is whole.

So the same call on the same folder goes on behind the last stage that was finished.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd import ranks
from edgekd.bank import to_pixels
from edgekd.bom import BOM, bom_text
from edgekd.bundle import SCHEMA, read_bundle, write_bundle
from edgekd.checkpoint import NAME, discard, mend, stoppable
from edgekd.compute import choose_device, give_back_memory, keep_freed_memory, to_device
from edgekd.device import run_bundle
from edgekd.errors import ExportError, InputError, UsageError
from edgekd.evaluation import EvalData, RealImages, write_eval_data
from edgekd.export import Pixels, Source, export, export_fp32, graph_path, passing, torch_logits
from edgekd.export.recovery import TEMPERATURE
from edgekd.fidelity import fidelity, unseen
from edgekd.files import parsed, plain, sweep, write_json, written
from edgekd.grid import write_grid
from edgekd.integers import Integers, parted
from edgekd.lock import unwritable
from edgekd.methods import distill
from edgekd.prior import data_statement
from edgekd.provenance import made_with, provenance
from edgekd.report.reading import read_report
from edgekd.room import PASS, numbers, parts, per_pass
from edgekd.student import first_student, name_of
from edgekd.teacher import load_teacher, save_teacher
from edgekd.training_log import TrainingLog
from edgekd.types import Bundle, Images, Log, Manifest, Profile, Recipe, Run, Sizing, Teacher

SPARE, SAMPLES = 512, 2_000  # generated images for INT8 at least, and for agreement; fewer where images are large
LARGEST_SAMPLES = 32_000_000  # bytes of all samples together
SHOWN = 6  # settings that differ, in the message about them


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder and writes down what runs in it. Raises UsageError where something else already does."""
    path = folder / "settings.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        if not path.exists():
            write_json(path, settings)
    except OSError as error:
        raise unwritable(folder, error) from error
    changed = differences(read_settings(path), plain(settings))
    if changed:
        raise UsageError(
            f"{folder} holds a run with other settings",
            code="E0222",
            why="; ".join(changed[:SHOWN]) + (f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""),
            fix="name another folder with -o DIR, or delete this one",
        )


def read_settings(path: Path) -> dict[str, Any]:
    """What a run wrote down of itself, settings.json. Raises InputError where it cannot be read or lacks a part."""
    try:
        values = parsed(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not all(
            isinstance(values.get(part), dict) for part in ("student", "recipe")
        ):
            raise ValueError("it has no student or no recipe")
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read",
            code="E0354",
            why=str(error),
            fix="name another folder with -o DIR, or delete this one",
        ) from error
    return values


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two JSON values, as 'name.of.it: was 1, is 2'; nothing where they are equal."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*now, *(key for key in before if key not in now)]
        inner = [(before.get(key), now.get(key), f"{name}.{key}" if name else str(key)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        inner = [(*pair, f"{name}[{index}]") for index, pair in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [f"{name}: was {_short(before)}, is {_short(now)}"]
    return [text for was, is_, of in inner for text in differences(was, is_, of)]


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def distilled(
    teacher: Teacher,
    sizing: Sizing,
    recipe: Recipe,
    folder: Path,
    log: Log,
    say: Callable[[str], None],
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, Pixels]:
    """The trained student and generated images that it has not seen, from disk where this stage is finished.

    warn: told where a damaged checkpoint is passed over.
    Processes that torchrun started beside the first end here, by SystemExit.
    """
    images, student_file, images_file = sizing.spec.images, folder / "student.pt", folder / "images.npz"
    if student_file.exists():  # written last
        say("student distilled already")
        ranks.leave_to_the_first()
        discard(folder)
        with np.load(images_file, allow_pickle=False) as stored:
            return load_teacher(student_file).model, stored["pixels"]
    shown = ", ".join(f"{name} {value}" for name, value in vars(recipe.config).items())
    say(f"settings of {recipe.method}, budget {recipe.budget}: {shown}")
    say(f"distilling with {recipe.method} on {choose_device()}")
    device = choose_device()
    keep_freed_memory()
    inherits = getattr(recipe.config, "inherit", True)  # a setting of some methods
    student, count = first_student(sizing.spec, teacher, seed=recipe.seed, inherits=inherits)
    if count:
        total = sum(p.numel() for p in student.parameters())
        say(f"{count:,} of the student's {total:,} first weights are the teacher's")
    student = to_device(student, device)
    teacher_there = dataclasses.replace(teacher, model=to_device(teacher.model, device))
    with ranks.one_after_the_first():
        if ranks.first():
            mend(folder / NAME, warn)
    write = TrainingLog(folder)

    def logged(phase: str, step: int, steps: int, **figures: float) -> None:
        if ranks.first():
            write(phase, step, steps, **figures)
            log(phase, step, steps, **figures)

    with stoppable():
        run = Run(device, recipe.seed, folder, logged)
        sampler = distill(recipe.method, teacher_there, student, recipe.config, run, say)
    once = per_pass(numbers(images))
    pixels = np.concatenate([to_pixels(sampler(n), images).cpu().numpy() for n in parts(images_kept(images), once)])
    ranks.leave_to_the_first()
    with written(images_file) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, pixels=pixels)
    teacher.model.cpu()
    if not (folder / "images.png").exists():  # a method that makes its images in rounds shows them as it goes
        labels = torch_logits(teacher.model, images, pixels[:PASS]).argmax(1)
        write_grid(pixels[:PASS], labels, folder / "images.png")
    arch = None if sizing.spec.family == "pruned" else f"edgekd:{name_of(sizing.spec)}"  # a pruned one as its graph
    save_teacher(student.cpu(), student_file, images=images, classes=teacher.classes, arch=arch)
    discard(folder)
    give_back_memory()
    return student, pixels


def samples_kept(images: Images) -> int:
    """How many generated images come with a bundle."""
    return max(64, min(SAMPLES, LARGEST_SAMPLES // (images.channels * images.height * images.width)))


def images_kept(images: Images) -> int:
    """How many generated images a run keeps: the samples, and beside them what INT8 is calibrated and chosen with."""
    return SPARE + 5 * samples_kept(images) // 2


def bundled(
    teacher: Teacher,
    student: nn.Module,
    pixels: Pixels,
    sizing: Sizing,
    profile: Profile,
    recipe: Recipe,
    folder: Path,
    say: Callable[[str], None],
    warn: Callable[[str], None] = lambda line: None,
    teacher_licence: str = "",
    real: RealImages | None = None,
) -> Bundle:
    """Graphs, each held against torch, and the bundle around them; read back where that is finished.

    An fp16 or INT8 graph that is not the student stays out of the bundle, and `warn` is told; the manifest's parity
    keeps the reason. real: images for the ranges of INT8. Raises ParityError where nothing would be left.
    """
    if (folder / "bundle").exists():
        say("bundle packed already")
        return read_bundle(folder / "bundle")
    say(f"exporting {' and '.join(profile.precisions)}")
    images, generated = teacher.images, parted(pixels, samples_kept(teacher.images))
    held_out = generated.samples
    heat = getattr(recipe.config, "temperature", TEMPERATURE)
    integers = Integers(teacher, student, generated, real, temperature=heat, seed=recipe.seed, say=say)
    graphs = export(
        student, images, teacher.classes, profile, generated.pool, folder,
        teacher_sha256=teacher.sha256, write_int8=integers,
    )  # fmt: skip
    wanted, logits = (torch_logits(model, images, held_out) for model in (teacher.model, student))
    if doubt := unseen(wanted):
        warn(doubt)
    if profile.target == "litert":
        say("writing LiteRT's form as well, which takes up to a few minutes")
    source = Source(student, images, profile.batch, generated.pool)
    passed = passing(graphs, graph_path(folder, "fp32"), held_out, logits, profile.target, warn, source)
    prior = getattr(recipe.config, "prior", None) or "none"
    say("comparing teacher and student without data")
    found = fidelity(
        teacher=teacher.model, student=student, images=images, held_out=held_out, prior=prior, seed=recipe.seed,
        known=(wanted, logits),
    )  # fmt: skip
    manifest = Manifest(
        schema=SCHEMA,
        target=profile.target,
        batch=profile.batch,
        threads=profile.threads,
        images=images,
        classes=teacher.classes,
        graphs={},
        files={},
        parity={p: gate | (integers.told if p == "int8" else {}) for p, gate in passed.parity.items()},
        student=plain(sizing.spec) | plain(sizing.student),
        teacher={"sha256": teacher.sha256, "architecture": teacher.architecture} | plain(sizing.teacher),
        method={"name": recipe.method, **{n: v for n, v in plain(recipe).items() if n != "method"}},
        profile=plain(profile),
        data="; ".join(filter(None, (data_statement(prior), integers.data))),
        made_with=made_with(str(choose_device())),
        provenance=plain(provenance(sys.argv, teacher_licence=teacher_licence, gpu=_gpu())),
        fidelity=plain(found),
    )
    samples: dict[str, NDArray[Any]] = {"pixels": held_out, "teacher_logits": wanted}
    samples |= {f"{precision}_logits": array for precision, array in passed.logits.items()}
    samples |= {f"{precision}_{profile.target}_logits": array for precision, array in passed.own.items()}
    texts = {BOM: bom_text(manifest, passed.graphs)}
    return write_bundle(folder / "bundle", manifest, passed.graphs, samples, texts, passed.files)


def _gpu() -> str:
    return torch.cuda.get_device_name() if choose_device().type == "cuda" else ""


def unpacked(bundle: Bundle) -> list[str]:
    """The graphs that the profile asks for and that are not the student, each with the reason as a short sentence."""
    found = ((precision, parity.get("refused")) for precision, parity in bundle.manifest.parity.items())
    return [f"no {precision} graph: {problem}" for precision, problem in found if problem]


def referenced(teacher: Teacher, profile: Profile, folder: Path, say: Callable[[str], None]) -> Path | None:
    """The teacher's graph, for measuring only, outside the bundle. None, and said, where it has no ONNX form."""
    path = folder / "teacher.onnx"
    if not path.exists():
        give_back_memory()
        try:
            export_fp32(teacher.model, teacher.images, teacher.classes, path, opset=max(18, profile.opset))
        except ExportError as error:
            say(f"the teacher is not measured: {error.what} ({error.why})")
            return None
    return path


def measured(
    bundle: Bundle, reference: Path | None, eval_data: EvalData | None, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """The bundle's report on this machine; made again where the one that is there has other evaluation data."""
    path, wanted = bundle.folder / "report.json", None if eval_data is None else eval_data.sha256
    if path.exists():
        report = read_report(path)
        if (report.get("evaluation") or {}).get("sha256") == wanted:
            say("measured already")
            return report
    say("measuring on this machine")
    give_back_memory()  # the runner's comes on top of it
    evaluation = None
    if eval_data is not None:
        evaluation = folder / "evaluation.npz"
        write_eval_data(eval_data, evaluation)
    report = run_bundle(bundle, quick=True, reference=reference, eval_data=evaluation, say=say)
    if eval_data is not None:
        report["evaluation"] = {"name": eval_data.name, "sha256": eval_data.sha256}
    write_json(path, report)
    return report
