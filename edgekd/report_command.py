"""edgekd report and edgekd runs: a page of one student, several side by side, and what is in a folder."""

from __future__ import annotations

import json
import shlex
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from edgekd import console
from edgekd.errors import EnvironmentLacking
from edgekd.files import plain
from edgekd.options import AsJson, Debug

if TYPE_CHECKING:
    from edgekd.report.runs import RunLine

COMPARISON = Path("comparison.html")


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Output folders of compress, or bundles; several: compared.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help=f"The page; default: report.html in DIR, of several {COMPARISON} here."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the page of one student, or of several side by side: one HTML file that needs no network."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.report.compare import write_comparison
        from edgekd.report.page import write_page
        from edgekd.report.reading import read_subject

        subjects = [read_subject(folder) for folder in folders]
        path = out or (subjects[0].page if len(subjects) == 1 else COMPARISON)
        try:
            if len(subjects) == 1:
                write_page(subjects[0], path)
            else:
                write_comparison(subjects, path)
        except OSError as error:
            raise EnvironmentLacking(
                f"cannot write {path}", code="E0413", why=str(error), fix="name another file with -o FILE"
            ) from error
        if as_json:
            print(json.dumps({"page": str(path), "students": [str(s.folder) for s in subjects]}, indent=2))
        else:
            console.out.print(f"page      {path}", highlight=False, markup=False, soft_wrap=True)
            shown = " ".join(shlex.quote(str(folder)) for folder in folders)
            bundle = shlex.quote(str(subjects[0].bundle))
            console.then(f"edgekd bench {bundle} --on ssh://user@board" if open_ else f"edgekd report {shown} --open")
        if open_ and not webbrowser.open(path.resolve().as_uri()):
            console.warn([f"no browser was found; open {path} yourself"])


def runs(
    root: Annotated[Path, typer.Argument(help="A folder that holds output folders.")] = Path(),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What is in ROOT: a line per run of compress, finished or not."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.report.runs import runs as found_in

        found = found_in(root)
        if as_json:
            print(json.dumps({"root": str(root), "runs": plain(found)}, indent=2, ensure_ascii=False))
        elif not found:
            console.out.print(f"no output folder of compress in {root}", highlight=False, markup=False)
            console.then(f"edgekd compress TEACHER -o {shlex.quote(str(root / 'NAME'))}")
        else:
            console.out.print(_table(found))
            there = [str(root / line.folder) for line in found if line.p50_ms is not None][:3]
            console.then(
                f"edgekd report {shlex.join(there)}" if there else "the same edgekd compress again: it goes on"
            )


def _table(found: list[RunLine]) -> Table:
    right = [Column(head, justify="right") for head in ("agree", "top-1", "p50 ms")]
    table = Table(
        Column("folder", overflow="fold"), "student", "how", *right, Column("fits", no_wrap=True), "stage",
        box=None, header_style="bold", caption_justify="left",
        caption="agree: with the teacher; p50: of the graph to deploy, on the machine that made it; ~: not a valid "
        "measurement; fits: meets every limit",
    )  # fmt: skip
    words = {True: "[green]yes[/]", False: "[red]no[/]", None: "-"}
    for line in found:
        p50 = "-" if line.p50_ms is None else f"{'' if line.valid else '~'}{line.p50_ms:.3f}"
        table.add_row(
            escape(line.folder),
            escape(f"{line.student} of {line.teacher}\nfor {line.profile}"),
            escape(f"{line.method}, {line.budget}\nprior {line.prior}, seed {line.seed}"),
            _percent(line.agreement), _percent(line.top1), p50, words[line.deployable], escape(line.stage),
        )  # fmt: skip
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
