"""edgekd profiles measure: the device itself says how fast it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from edgekd import completion, console
from edgekd.errors import UsageError
from edgekd.files import plain
from edgekd.options import AsJson, BoardPython, Debug, Quiet, SshConfig

if TYPE_CHECKING:
    from edgekd.measure import Measured


def measure(
    name: Annotated[
        str, typer.Argument(help="The device's profile: a name or a .toml file.", autocompletion=completion.profiles)
    ] = "cpu",
    on: Annotated[
        str | None, typer.Option(help="The board, ssh://user@host:port/folder; default: this machine.")
    ] = None,
    threads: Annotated[str, typer.Option(help="CPU threads to measure, comma-separated; 0: all.")] = "1,2",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File; default: among your own profiles.")] = None,
    python: BoardPython = "python3",
    ssh_config: SshConfig = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run probe networks on a device and fit its latency; written as your own profile, which goes before the shipped.

    Some minutes in which the device must do nothing else.
    """
    with console.errors(debug=debug, as_json=as_json), console.Display(quiet, False, True, as_json) as display:
        counts = _counts(threads)
        from edgekd.device import board_of, runner_of
        from edgekd.measure import measure as measured_by
        from edgekd.measure import write_profile
        from edgekd.profile import load_profile, user_profiles

        profile = load_profile(name)
        run = runner_of(board_of(on) if on else None, python=python, ssh_config=ssh_config, say=display.say)
        found = measured_by(
            profile, lambda bundle, count: run(bundle, quick=True, threads=count), threads=counts, say=display.say
        )
        path = out or user_profiles() / f"{profile.name}.toml"
        errors = [abs(error) for error in found.errors]
        mean, worst = sum(errors) / len(errors), max(errors)
        device = f"{found.device['name']}, {found.runtime['name']} {found.runtime['version']}"
        says = f"Measured on {time.strftime('%Y-%m-%d')}: {device}. {len(errors)} rows, mean error {mean:.1%}."
        write_profile(path, found, says)
        if as_json:
            print(json.dumps(document(path, found), indent=2, ensure_ascii=False))
            return
        table = Table(
            "network", *(Column(head, justify="right") for head in ("pixels", "threads")), "precision",
            *(Column(head, justify="right") for head in ("p50 ms", "fit")), box=None, header_style="bold",
        )  # fmt: skip
        for row, error in zip(found.rows, found.errors, strict=True):
            ms = f"{row.latency_ms:.4g}"
            table.add_row(row.network, str(row.pixels), str(row.threads), row.precision, ms, f"{error:+.1%}")
        console.out.print(table)
        console.warn(found.warnings)
        console.out.print(f"device    {escape(device)}", highlight=False)
        console.out.print(f"fit       mean error {mean:.1%}, worst {worst:.1%}, of the networks above", highlight=False)
        console.out.print(f"profile   {escape(str(path))}", highlight=False, soft_wrap=True)
        use = profile.name if out is None else str(path)
        console.out.print(f"next      edgekd plan TEACHER --profile {escape(use)}", highlight=False, soft_wrap=True)


def document(path: Path, found: Measured) -> dict[str, Any]:
    """The JSON document of edgekd profiles measure."""
    errors = [abs(error) for error in found.errors]
    return {
        "file": str(path), "device": plain(found.device), "runtime": plain(found.runtime),
        "mean_error": sum(errors) / len(errors), "worst_error": max(errors), "warnings": list(found.warnings),
        "rows": [{"network": r.network, "pixels": r.pixels, "precision": r.precision, "threads": r.threads,
                  "latency_ms": r.latency_ms, "error": e} for r, e in zip(found.rows, found.errors, strict=True)],
    }  # fmt: skip


def _counts(threads: str) -> list[int]:
    try:
        counts = [int(text) for text in threads.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise UsageError(f"--threads {threads} are no numbers", code="E0207", fix="write e.g.  --threads 1,4")
    return list(dict.fromkeys(counts))
