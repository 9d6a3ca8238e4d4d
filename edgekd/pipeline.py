"""The pipeline: teacher and profile in, bundle and report out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgekd
from edgekd import candidates
from edgekd.bundle import read_bundle
from edgekd.deployed import Choice, choose
from edgekd.device import RUNTIMES, Board, Outcome, run_bundle, run_fleet
from edgekd.errors import InputError, UsageError
from edgekd.evaluation import EvalData, RealImages, load_eval_data, write_eval_data
from edgekd.families import name_of
from edgekd.files import from_dict, nearest, plain, write_json
from edgekd.footprint import held_to
from edgekd.lock import locked
from edgekd.methods import configure, gentle, prior_of
from edgekd.observe import look
from edgekd.pace import foretell, timed
from edgekd.ranks import first, meet, one_after_the_first, others_there, ranks
from edgekd.report.result import refresh_fleet, refresh_page, write_result
from edgekd.shortlist import measured_first
from edgekd.signing import private_key, sign_bundle
from edgekd.sizing import search, sized
from edgekd.stages import bundled, claim, distilled, measured, read_settings, referenced, unpacked
from edgekd.student import LARGE
from edgekd.types import Bundle, Log, Profile, Recipe, Sizing, StudentSpec, Teacher

MANY = 100  # classes
Runner = Callable[..., dict[str, Any]]  # (bundle, quick=False) -> the runner's report


@dataclass(frozen=True)
class Result:
    """What compress leaves: the bundle, its report and the way there."""

    folder: Path
    bundle: Bundle
    report: Mapping[str, Any]  # report.json
    sizing: Sizing
    profile: Profile
    recipe: Recipe
    deployed: Choice  # the graph to deploy
    broken: list[str]  # limits that the result breaks; empty: deployable
    seconds: float  # of this call


def no_log(phase: str, step: int, steps: int, **figures: float) -> None:
    """A Log that keeps nothing."""


def compress(
    teacher: Teacher,
    profile: Profile,
    folder: str | Path,
    *,
    method: str = "rdskd_plus",
    budget: str = "fast",
    minutes: float | None = None,
    settings: Mapping[str, Any] | None = None,
    family: str = "auto",
    like_teacher: float | None = None,
    seed: int = 0,
    eval_data: EvalData | None = None,
    calibration_data: RealImages | None = None,
    board: Runner | None = None,
    teacher_licence: str = "",
    sign: Path | None = None,
    max_ram_mb: float | None = None,
    log: Log = no_log,
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Result:
    """Sizes a student for `profile`, distils it from `teacher` without data, exports, packs, and measures it here.

    folder: output, made when missing; an earlier run of the same settings in it is gone on with. budget: a name of the
    method's BUDGETS or a fraction of the longest one's steps; settings: single fields of the method's Config on top.
    minutes: how long the whole may take here, instead of a budget; the steps follow from a short probe.
    board: takes bundles to the device (edgekd.device.runner_of): the best candidates are measured there before one is
    chosen, and the bundle at the end. eval_data only ever reaches the report; calibration_data the ranges of an INT8
    graph, where they prove better than those of generated images. log: figures of the training; say: one line per
    stage. teacher_licence: named in the bundle; sign: a private key (PEM) that signs the bundle.
    max_ram_mb: 10**6 bytes that this process and each that it starts may take of their own (Linux); a training that
    needs more halves the images at once, and what then still does not fit raises EnvironmentLacking.
    warn: what speaks against a good student, before the work begins, and graphs that are not packed.
    Raises EdgekdError children; Interrupted (after saving) on SIGINT or SIGTERM. Under torchrun the processes train
    together; all but the first end after that, by SystemExit.
    """
    start, folder = time.monotonic(), Path(folder)
    if sign is not None:
        private_key(sign)  # a key that does not fit is better found before the training
    meet()
    if minutes is not None and ranks() > 1:
        raise UsageError(
            "--minutes is for one process",
            code="E0227",
            why="each would time its own steps and plan another training",
            fix="name a --budget",
        )
    config = configure(method, budget, settings or {}, teacher)
    before = folder / "settings.json"
    if board and before.is_file():  # what was measured then is not measured again
        family = name_of(from_dict(StudentSpec, read_settings(before)["student"], where=str(before)))
    prior = prior_of(config)
    found = search(teacher, profile, family=family, like_teacher=like_teacher, must_fit=board is None, prior=prior)
    if board and not before.is_file():
        found = measured_first(found, teacher, profile, lambda bundle: board(bundle, quick=True), say=say)
    sizing = sized(found, teacher, profile)
    config = gentle(config, sizing.spec, settings or {})
    if minutes is not None:
        budget = f"{minutes:g} minutes"
        config = _stored(folder, method, budget, config) or timed(
            minutes, method, config, teacher, sizing.spec, seed, settings or {}, say
        )
    elif ranks() == 1 and not before.is_file():
        with held_to(max_ram_mb):
            foretell(method, config, teacher, sizing.spec, seed, say, warn)
    for doubt in doubts(teacher, config):
        warn(doubt)
    recipe = Recipe(method, budget, config, seed)
    with held_to(max_ram_mb), locked(folder) if first() else nullcontext():
        with one_after_the_first():
            hashed = {} if calibration_data is None else {"calibration_data": calibration_data.sha256}
            claim(folder, settings_of(teacher, profile, sizing, recipe, teacher_licence) | hashed)
            if not (folder / "plan.json").exists():
                write_json(folder / "plan.json", candidates.document(found))
        with others_there():
            student, pixels = distilled(teacher, sizing, recipe, folder, log, say, warn)
        bundle = bundled(
            teacher, student, pixels, sizing, profile, recipe, folder, say, warn, teacher_licence, calibration_data
        )
        if sign is not None:
            say(f"signed: {sign_bundle(bundle, sign)}")
        reference = referenced(teacher, profile, folder, say)
        report = measured(bundle, reference, eval_data, folder, say)
        there = None
        if board:
            say("measuring on the board")
            there = board(bundle)
        graph = choose(there or report, profile, sizing, measured=there is not None)
        broken = [*graph.broken, *unpacked(bundle)]
        result = Result(folder, bundle, report, sizing, profile, recipe, graph, broken, time.monotonic() - start)
        write_result(result)
        return result


def settings_of(
    teacher: Teacher, profile: Profile, sizing: Sizing, recipe: Recipe, teacher_licence: str = ""
) -> dict[str, Any]:
    """What must be the same for a run to be gone on with: settings.json."""
    asked = {"teacher": teacher.sha256, "profile": profile, "student": sizing.spec, "recipe": recipe}
    found: dict[str, Any] = plain({**asked, "teacher_licence": teacher_licence or None, "edgekd": edgekd.__version__})
    return found


def doubts(teacher: Teacher, config: Any) -> list[str]:
    """Where data-free distillation is known to be weak and this teacher is such a case, a sentence each.

    Figures on CIFAR-10 and at 224x224 are gathered by Fast-DFKD (AAAI 2022) and CMI (2021): all with BatchNorm.
    """
    found, side, none = [], max(teacher.images.height, teacher.images.width), prior_of(config) == "none"
    if not look(teacher).batch_norms:
        made = "are made from its answers alone" if none else "of the prior stay as drawn, with no statistics to go by"
        found.append(
            f"the teacher has no BatchNorm: images {made}; its students are further off, --eval-data shows how far"
        )
    if side > LARGE and none:
        found.append(f"generators alone fail at {side} pixels: use --prior photo, procedural or a picture")
    if len(teacher.classes) >= MANY:
        found.append(
            f"{len(teacher.classes)} classes: short budgets leave a student far from its teacher; --budget best"
        )
    return found


def _stored(folder: Path, method: str, budget: str, config: Any) -> Any:
    """The settings that an earlier run in the folder was planned with, so that it can be gone on with; else None."""
    path = folder / "settings.json"
    if path.is_file():
        before = read_settings(path)["recipe"]
        if (before.get("method"), before.get("budget")) == (method, budget):
            return from_dict(type(config), before.get("config"), where=str(path))
    return None


def bench(
    folder: str | Path,
    *,
    quick: bool = False,
    threads: int | None = None,
    eval_data: Path | None = None,
    reference: Path | None = None,
    soak: float | None = None,
    runtime: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Verifies the bundle in `folder` and measures it on this machine; gives its report, which report.json is.

    quick: 2 s and 200 runs of each graph instead of 10 s and 1,000. threads: of the CPU; None: the profile's, 0: all.
    eval_data: npz with images and labels, for accuracy. reference: another graph (.onnx), measured in turns. soak:
    minutes at full load afterwards. runtime: "onnxrt", "trt", "trtexec", "openvino" or "litert"; None: the one
    for its graphs. say: one line per phase. "valid" tells whether the latencies count. Raises UsageError for another
    runtime, IntegrityError for a changed bundle, MeasurementError where the runner fails.
    """
    folder = Path(folder)
    with _measurable(folder, eval_data, reference, runtime) as (bundle, evaluation):
        report = run_bundle(
            bundle, quick=quick, threads=threads, eval_data=evaluation, reference=reference, soak=soak,
            runtime=runtime, say=say,
        )  # fmt: skip
    say(f"page      {refresh_page(folder)}")
    return report


def bench_on(
    folder: str | Path,
    boards: Sequence[Board],
    *,
    jobs: int = 4,
    quick: bool = False,
    threads: int | None = None,
    eval_data: Path | None = None,
    reference: Path | None = None,
    soak: float | None = None,
    runtime: str | None = None,
    keep: bool = False,
    python: str = "python3",
    ssh_config: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    done: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Verifies the bundle in `folder` and measures it on boards over ssh; what became of each. See run_fleet."""
    folder = Path(folder)
    with _measurable(folder, eval_data, reference, runtime) as (bundle, evaluation):
        outcomes = run_fleet(
            bundle, boards, jobs=jobs, quick=quick, threads=threads, eval_data=evaluation, reference=reference,
            soak=soak, runtime=runtime, keep=keep, python=python, ssh_config=ssh_config, say=say, done=done,
        )  # fmt: skip
    if len(outcomes) > 1:
        say(f"fleet     {refresh_fleet(outcomes, bundle.folder)}")
    if (folder / "report.json").is_file():  # a page is about a bundle that was measured here too
        say(f"page      {refresh_page(folder)}")
    return outcomes


@contextmanager
def _measurable(
    folder: Path, eval_data: Path | None, reference: Path | None, runtime: str | None
) -> Iterator[tuple[Bundle, Path | None]]:
    """The verified bundle, and the evaluation data in the runner's form while inside."""
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(
            f"the runner has no runtime {runtime!r}.{nearest(runtime, RUNTIMES)}",
            code="E0246",
            fix=f"write one of: {', '.join(RUNTIMES)}; or leave --runtime out",
        )
    bundle = read_bundle(folder)
    if reference is not None and not reference.is_file():
        raise InputError(f"{reference} is not there", code="E0350")
    with tempfile.TemporaryDirectory() as temporary:
        evaluation = None
        if eval_data is not None:
            evaluation = Path(temporary) / "evaluation.npz"
            write_eval_data(load_eval_data(eval_data, bundle.manifest.images, bundle.manifest.classes), evaluation)
        yield bundle, evaluation
