"""The command line: arguments in, tables and exit codes out. torch is imported only in the commands that need it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd import (
    arguments,
    bench_command,
    compress_command,
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
    Classes,
    Debug,
    Input,
    Mean,
    Std,
)  # fmt: skip

app = typer.Typer(
    cls=group.Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Compress a trained image classifier for an edge device, without the data it was trained on.",
    epilog="Exit codes: 0 done - 1 done, a limit missed - 2 usage - 3 input refused - 4 environment lacking - "
    "5 measurement failed - 6 export failed - 7 integrity failed - 8 training diverged - "
    "70 our bug - 130, 143 interrupted, run again to resume - 141 nobody read on.",
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


app.command()(compress_command.compress)
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
