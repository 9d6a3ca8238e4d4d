"""edgekd doctor: does this machine, or a board, have what it needs?"""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer
from rich.markup import escape

from edgekd import completion, console
from edgekd.files import plain
from edgekd.options import AsJson, BoardPython, Debug, SshConfig

COLOURS = {"ok": "green", "warning": "yellow", "lacking": "bold red", "absent": "dim"}


def doctor(
    profile: Annotated[
        str,
        typer.Option(
            "--profile", "-p", help="What the boards should be able to run.", autocompletion=completion.profiles
        ),
    ] = "cpu",
    on: Annotated[
        list[str] | None, typer.Option(help="A board: ssh://[user@]host[:port]; several times for several.")
    ] = None,
    python: BoardPython = "python3",
    ssh_config: SshConfig = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What this machine, or a board, has and lacks, with the line to type for each. Changes nothing."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.device import board_of
        from edgekd.doctor import examine_board, examine_here
        from edgekd.profile import load_profile

        target = load_profile(profile).target
        boards = [board_of(url) for url in on or []]
        found = {board.name: examine_board(board, target, python=python, config=ssh_config) for board in boards}
        if not boards:
            found = {"this machine": examine_here()}
        lacking = any(finding.state == "lacking" for findings in found.values() for finding in findings)
        if as_json:
            print(json.dumps({"complete": not lacking, "machines": plain(found)}, indent=2, ensure_ascii=False))
        else:
            for name, findings in found.items():
                console.out.print(f"[bold]{escape(name)}[/]", highlight=False)
                for finding in findings:
                    console.out.print(
                        f"  [{COLOURS[finding.state]}]{finding.state:<8}[/] {finding.name:<14} {escape(finding.found)}"
                        + (f"\n{'':<26}fix: {escape(finding.fix)}" if finding.fix else ""),
                        highlight=False, soft_wrap=True,
                    )  # fmt: skip
            wanted = "edgekd compress TEACHER --profile NAME"
            if boards:
                wanted = f"edgekd bench BUNDLE {shlex.join(f'--on={url}' for url in on or [])}"
            console.then("the lines after fix, then edgekd doctor again" if lacking else wanted)
    raise typer.Exit(4 if lacking else 0)
