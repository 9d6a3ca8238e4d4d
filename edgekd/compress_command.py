"""edgekd compress: the whole path from a teacher to a measured bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd import arguments, console, documents
from edgekd.options import (
    Arch,
    AsJson,
    BoardPython,
    Budget,
    CalibrationData,
    Classes,
    Data,
    Debug,
    Input,
    Latency,
    LikeTeacher,
    MaxMb,
    MaxMemory,
    MaxParams,
    MaxRam,
    Mean,
    MethodName,
    Minutes,
    NoProgress,
    OutOrUrl,
    Precision,
    Prior,
    ProfileName,
    Quiet,
    Seed,
    Setting,
    Sign,
    SshConfig,
    Std,
    Student,
    TeacherFile,
    TeacherLicence,
    Verbose,
)  # fmt: skip

if TYPE_CHECKING:
    from edgekd.pipeline import Runner


def compress(
    ctx: typer.Context,
    teacher: TeacherFile,
    profile: ProfileName = "cpu",
    plan: Annotated[
        Path | None, typer.Option(help="plan.toml of edgekd plan, in place of the options that it holds.")
    ] = None,
    out: OutOrUrl = None,
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
    eval_data: Data = None,
    calibration_data: CalibrationData = None,
    max_ram: MaxRam = None,
    on: Annotated[
        str | None, typer.Option(help="A board, ssh://user@host: it measures candidates before training, and the end.")
    ] = None,
    python: BoardPython = "python3",
    ssh_config: SshConfig = None,
    arch: Arch = None,
    input_: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    seed: Seed = 0,
    teacher_licence: TeacherLicence = "",
    sign: Sign = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Distil TEACHER into a student for a device, export it, pack it and measure it. Needs no data."""
    with console.errors(debug=debug, as_json=as_json), console.Display(quiet, verbose, no_progress, as_json) as display:
        if plan:
            arguments.nothing_beside_a_plan(ctx)
        display.say(f"reading {teacher}")
        arguments.there(teacher)
        from edgekd import elsewhere, pipeline
        from edgekd import plan as planning
        from edgekd.evaluation import load_eval_data, load_real_images
        from edgekd.methods import configure

        read = arguments.teacher(teacher, arch, input_, mean, std, classes)
        display.about(read)
        asked = planning.matching(planning.read_plan(plan), read, plan) if plan else planning.Plan(
            schema=planning.SCHEMA, teacher=read.sha256, profile=profile, student=student, method=method,
            budget=budget, seed=seed, precision=precision, minutes=minutes,
            limits=arguments.limits(latency, max_params, max_mb, max_memory),
            settings=arguments.settings(setting) | ({} if prior is None else {"prior": prior}),
        )  # fmt: skip
        device = planning.device_of(asked)
        configure(asked.method, asked.budget, asked.settings, read)  # says now what is wrong with them
        data = None if eval_data is None else load_eval_data(eval_data, read.images, read.classes)
        real = None if calibration_data is None else load_real_images(calibration_data, read.images)
        otherwise = plan.parent if plan else arguments.folder(teacher, profile)
        with elsewhere.folder_of(out, otherwise, display.say, display.warn) as folder:
            display.training(folder)
            result = pipeline.compress(
                read, device, folder, method=asked.method, budget=asked.budget, minutes=asked.minutes,
                settings=asked.settings, family=asked.student, like_teacher=like_teacher, seed=asked.seed,
                eval_data=data, calibration_data=real, teacher_licence=teacher_licence, sign=sign, log=display.log,
                say=display.say, warn=display.warn, board=_board(on, python, ssh_config, display.say),
                max_ram_mb=arguments.megabytes(max_ram, "--max-ram"),
            )  # fmt: skip
        if not as_json:
            display.progress.stop()
            documents.without_data(result.bundle.manifest.fidelity)
        display.result(result)
    raise typer.Exit(1 if result.broken else 0)


def _board(on: str | None, python: str, ssh_config: Path | None, say: Callable[[str], None]) -> Runner | None:
    if on is None:
        return None
    from edgekd.device import board_of, runner_of

    return runner_of(board_of(on), python=python, ssh_config=ssh_config, say=say)
