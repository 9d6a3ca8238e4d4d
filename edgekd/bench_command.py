"""edgekd bench: a bundle measured on this machine, or on boards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd import console, documents
from edgekd.errors import UsageError
from edgekd.options import AsJson, BoardPython, Data, Debug, Quiet, Soak, SshConfig


def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    on: Annotated[
        list[str] | None, typer.Option(help="A board: ssh://user@host:port/folder; several times for a fleet.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="2 s and 200 runs a graph instead of 10 s and 1,000.")] = False,
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads; default: the profile's; 0: all.")] = None,
    eval_data: Data = None,
    reference: Annotated[Path | None, typer.Option(help="Another graph, measured in turns with the student's.")] = None,
    soak: Soak = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="onnxrt, trt, trtexec, openvino or litert; default: the one that the graphs are for."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Boards at a time.")] = 4,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was copied on the boards.")] = False,
    python: BoardPython = "python3",
    ssh_config: SshConfig = None,
    as_json: AsJson = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="For dashboards: a line of JSON on stdout per board, when it is done.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure BUNDLE on this machine, or on boards: the runner in it. Writes report.json into it or beside it."""
    with console.errors(debug=debug, as_json=as_json), console.Display(quiet, False, True, as_json) as display:
        if not on and (keep or json_lines or python != "python3"):
            raise UsageError(
                "--keep, --python and --json-lines are for boards", code="E0245", fix="name a board: --on ssh://host"
            )
        from edgekd import pipeline

        if on:
            from edgekd.device import board_of

            outcomes = pipeline.bench_on(
                bundle, [board_of(url) for url in on], jobs=jobs, quick=quick, threads=threads, eval_data=eval_data,
                reference=reference, soak=soak, runtime=runtime, keep=keep, python=python, ssh_config=ssh_config,
                say=display.say,
                done=documents.board_line if json_lines else None,
            )  # fmt: skip
            if not json_lines:
                documents.fleet(outcomes, bundle, as_json)
            valid = all(outcome.valid for outcome in outcomes)
        else:
            report = pipeline.bench(
                bundle, quick=quick, threads=threads, eval_data=eval_data, reference=reference, soak=soak,
                runtime=runtime, say=display.say,
            )  # fmt: skip
            display.report(report, bundle)
            valid = report["valid"]
    raise typer.Exit(0 if valid else 5)
