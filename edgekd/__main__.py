"""The command line: arguments in, tables and exit codes out. torch is imported only in the commands that need it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd import arguments, console, documents, profile_commands
from edgekd.options import (
    Arch,
    AsJson,
    Classes,
    Data,
    Debug,
    Input,
    Mean,
    NoProgress,
    ProfileName,
    Quiet,
    Seed,
    Std,
    TeacherFile,
    Verbose,
)

app = typer.Typer(
    cls=console.Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Compress a trained image classifier for an edge device, without the data it was trained on.",
    epilog="Exit codes: 0 done - 1 done, a limit missed - 2 usage - 3 input refused - 4 environment lacking - "
    "5 measurement failed - 6 export failed - 7 integrity failed - 130 interrupted, run again to resume.",
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
    teacher: TeacherFile,
    profile: ProfileName = "cpu",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder; the same one resumes.")] = None,
    latency: Annotated[str | None, typer.Option(help="Limit instead of the profile's, e.g. 2ms.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, int8, or auto: all that the profile names.")] = "auto",
    student: Annotated[
        str, typer.Option(help="auto, resnet, cnn, lenet, or one: resnet:1x16, resnet8, cnn:8, lenet:3.")
    ] = "auto",
    method: Annotated[str, typer.Option(help="Distillation method; edgekd methods lists them.")] = "rdskd_plus",
    budget: Annotated[
        str,
        typer.Option(help="fast, good or best; other methods: fast, paper; or a fraction of the longest, e.g. 0.1."),
    ] = "fast",
    minutes: Annotated[float | None, typer.Option(min=0.5, help="Time for the whole, instead of a budget.")] = None,
    prior: Annotated[
        str | None, typer.Option(help="Images to start from: none, procedural, photo, or a picture of your own.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, e.g. student_lr=1e-3.")
    ] = None,
    eval_data: Data = None,
    arch: Arch = None,
    input_: Input = None,
    mean: Mean = None,
    std: Std = None,
    classes: Classes = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Distil TEACHER into a student for a device, export it, pack it and measure it. Needs no data."""
    with console.errors(debug=debug, as_json=as_json), console.Display(quiet, verbose, no_progress, as_json) as display:
        display.say(f"reading {teacher}")
        from edgekd import pipeline
        from edgekd.evaluation import load_eval_data
        from edgekd.methods import configure
        from edgekd.profile import adjusted, load_profile

        device = adjusted(load_profile(profile), latency_ms=arguments.milliseconds(latency), precision=precision)
        settings = arguments.settings(setting) | ({} if prior is None else {"prior": prior})
        read = arguments.teacher(teacher, arch, input_, mean, std, classes)
        display.about(read)
        config = configure(method, budget, settings, read)
        data = None if eval_data is None else load_eval_data(eval_data, read.images, len(read.classes))
        folder = out or Path(f"{teacher.stem}-{Path(profile).stem}")
        display.say(f"settings of {method}, budget {budget}: " + ", ".join(f"{k} {v}" for k, v in vars(config).items()))
        result = pipeline.compress(
            read, device, folder, method=method, budget=budget, minutes=minutes, settings=settings, family=student,
            seed=seed, eval_data=data, log=display.log, say=display.say, warn=display.warn,
        )  # fmt: skip
        display.result(result)
    raise typer.Exit(1 if result.broken else 0)


@app.command("eval")
def evaluate(
    file: Annotated[
        Path, typer.Argument(help="A teacher checkpoint, student.pt, or a graph that edgekd wrote (.onnx).")
    ],
    data: Annotated[Path, typer.Option("--data", "--eval-data", help="Labelled images: npz with images and labels.")],
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
        from edgekd import evaluation, export

        if file.suffix == ".onnx":
            facts = export.graph_facts(file)
            found = evaluation.load_eval_data(data, facts.images, len(facts.classes))
            logits = export.onnx_logits(file, found.pixels)
        else:
            teacher = arguments.teacher(file, arch, input_, mean, std, classes)
            console.warn(teacher.warnings)
            found = evaluation.load_eval_data(data, teacher.images, len(teacher.classes))
            logits = export.torch_logits(teacher.model, teacher.images, found.pixels)
        top1 = evaluation.top1(logits, found)
        document = {"file": str(file), "data": str(data), "images": len(found.labels), "top1": top1}
        documents.show(document, f"{file}: top-1 {top1:.2%} on {len(found.labels)} images of {data}", as_json)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    quick: Annotated[bool, typer.Option(help="2 s and 200 runs a graph instead of 10 s and 1,000.")] = False,
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads; default: the profile's; 0: all.")] = None,
    eval_data: Data = None,
    reference: Annotated[Path | None, typer.Option(help="Another graph, measured in turns with the student's.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure BUNDLE on this machine: the runner in it, just as on the device. Writes report.json into it."""
    with console.errors(debug=debug, as_json=as_json), console.Display(quiet, False, True, as_json) as display:
        from edgekd.pipeline import bench as measure

        report = measure(
            bundle, quick=quick, threads=threads, eval_data=eval_data, reference=reference, say=display.say
        )
        display.report(report, bundle)
    raise typer.Exit(0 if report["valid"] else 5)


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
            return
        documents.show(document, document, as_json)


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


if __name__ == "__main__":
    sys.exit(app())
