"""The command line: arguments in, tables and exit codes out. torch is imported only in the commands that need it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd import (
    arguments,
    bench_command,
    console,
    doctor_command,
    documents,
    explain_command,
    group,
    plan_command,
    profile_commands,
    report_command,
    schema_command,
    try_command,
    verify_command,
)
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

app = typer.Typer(
    cls=group.Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Compress a trained image classifier for an edge device, without the data it was trained on.",
    epilog="Exit codes: 0 done - 1 done, a limit missed - 2 usage - 3 input refused - 4 environment lacking - "
    "5 measurement failed - 6 export failed - 7 integrity failed - 8 training diverged - "
    "130, 143 interrupted, run again to resume.",
)
app.add_typer(profile_commands.app, name="profiles")


def _version(wanted: bool) -> None:
    if wanted:
        from edgekd import __version__

        print(f"edgekd {__version__}")
        raise typer.Exit()


@app.callback()
def edgekd(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
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
        config = configure(asked.method, asked.budget, asked.settings, read)
        data = None if eval_data is None else load_eval_data(eval_data, read.images, read.classes)
        real = None if calibration_data is None else load_real_images(calibration_data, read.images)
        otherwise = plan.parent if plan else arguments.folder(teacher, profile)
        with elsewhere.folder_of(out, otherwise, display.say, display.warn) as folder:
            shown = ", ".join(f"{k} {v}" for k, v in vars(config).items())
            display.training(config, folder)
            display.say(f"settings of {asked.method}, budget {asked.budget}: {shown}")
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


app.command("plan")(plan_command.plan)


@app.command("eval")
def evaluate(
    file: Annotated[
        Path, typer.Argument(help="A teacher checkpoint, student.pt, or a graph that edgekd wrote (.onnx).")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", "--eval-data", help="Labelled images: npz, a folder per class, or cifar10:ROOT and the like."
        ),
    ],
    arch: Arch = None,
    input_: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Top-1 accuracy of FILE on labelled images."""
    with console.errors(debug=debug, as_json=as_json):
        if file.suffix != ".onnx":
            arguments.there(file)
        from edgekd import evaluation, export

        if file.suffix == ".onnx":
            facts = export.graph_facts(file)
            found = evaluation.load_eval_data(data, facts.images, facts.classes)
            logits = export.onnx_logits(file, found.pixels)
        else:
            teacher = arguments.teacher(file, arch, input_, mean, std, classes)
            console.warn(teacher.warnings)
            found = evaluation.load_eval_data(data, teacher.images, teacher.classes)
            logits = export.torch_logits(teacher.model, teacher.images, found.pixels)
        top1 = evaluation.top1(logits, found)
        document = {"file": str(file), "data": str(data), "images": len(found.labels), "top1": top1}
        documents.show(document, f"{file}: top-1 {top1:.2%} on {len(found.labels)} images of {data}", as_json)
        if not as_json:
            console.then(documents.following(file))


app.command()(bench_command.bench)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A teacher checkpoint, a graph that edgekd wrote, or a bundle folder.")],
    arch: Arch = None,
    input_: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What FILE holds, without running any code of its author. A bundle is verified."""
    with console.errors(debug=debug, as_json=as_json):
        if file.suffix != ".onnx" and not file.is_dir():
            arguments.there(file)
        from edgekd.files import plain
        from edgekd.latency import cost, layers
        from edgekd.observe import look

        document: dict[str, Any]
        if file.is_dir():
            from edgekd.bundle import read_bundle

            document = {"kind": "bundle, every file verified", **plain(read_bundle(file).manifest)}
        elif file.suffix == ".onnx":
            from edgekd.export import graph_facts

            document = {"kind": "ONNX graph of edgekd", **plain(graph_facts(file))}
        else:
            teacher = arguments.teacher(file, arch, input_, mean, std, classes)
            about = {name: plain(value) for name, value in vars(teacher).items() if name != "model"}
            document = {"kind": "teacher", **about, "batch_norms": len(look(teacher).batch_norms)}
            document["cost"] = plain(cost(teacher.model, teacher.images))
            document["layers"] = plain(layers(teacher.model, teacher.images))
            documents.teacher(document, as_json)
        if document["kind"] != "teacher":
            documents.show(document, document, as_json)
        if not as_json:
            console.then(documents.following(file))


@app.command()
def methods(as_json: AsJson = False, debug: Debug = False) -> None:
    """The distillation methods with their budgets."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.methods import METHODS

        found = {
            name: f"{(method.__doc__ or '').splitlines()[0]}  Budgets: {', '.join(method.BUDGETS)}."
            for name, method in METHODS.items()
        }
        documents.show(found, found, as_json)
        if not as_json:
            console.then("edgekd compress TEACHER --method NAME --budget NAME")


app.command()(doctor_command.doctor)
app.command()(report_command.report)
app.command()(report_command.runs)
app.command()(verify_command.verify)
app.command()(verify_command.sign)
app.command("try")(try_command.try_picture)
app.command()(explain_command.explain)
app.command()(schema_command.schema)


if __name__ == "__main__":
    sys.exit(app())
