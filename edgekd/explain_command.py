"""edgekd explain: what an error's code means, what to do, and an example."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edgekd import console
from edgekd.errors import UsageError
from edgekd.files import nearest
from edgekd.options import AsJson, Debug

CATALOGUE = Path(__file__).with_name("explanations.toml")


@dataclass(frozen=True)
class Explanation:
    """What one error code means."""

    title: str
    cause: str
    fix: str
    command: str  # that ends in this error
    shows: str  # how the error's first line begins


def catalogue() -> dict[str, Explanation]:
    """Code -> explanation, by code."""
    tables = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    return {code: Explanation(**tables[code]) for code in sorted(tables)}


def codes(incomplete: str) -> list[tuple[str, str]]:
    """Codes that begin so, with their titles, for the shell."""
    return [(code, text.title) for code, text in catalogue().items() if code.startswith(incomplete.upper())]


def explain(
    code: Annotated[
        str | None, typer.Argument(help="As in error[E0312]; without one: all of them.", autocompletion=codes)
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What the code of an error means, what to do about it, and an example."""
    with console.errors(debug=debug, as_json=as_json):
        known = catalogue()
        if code is None:
            if as_json:
                print(json.dumps({name: asdict(text) for name, text in known.items()}, indent=2, ensure_ascii=False))
            else:
                for name, text in known.items():
                    console.out.print(f"{name}  {text.title}", highlight=False, markup=False, soft_wrap=True)
            return
        wanted = code.strip().upper()
        if wanted not in known:
            raise UsageError(
                f"there is no code {code!r}.{nearest(wanted, known)}", code="E0247", fix="all of them:  edgekd explain"
            )
        text = known[wanted]
        if as_json:
            print(json.dumps({"code": wanted, **asdict(text)}, indent=2, ensure_ascii=False))
            return
        console.out.print(f"[bold]{wanted}[/]  {escape(text.title)}", highlight=False, soft_wrap=True)
        console.out.print(f"  [bold]cause[/]    {escape(text.cause)}", highlight=False, soft_wrap=True)
        console.out.print(f"  [bold]fix[/]      {escape(text.fix)}", highlight=False, soft_wrap=True)
        console.out.print(f"  [bold]example[/]  $ {escape(text.command)}", highlight=False, soft_wrap=True)
        console.out.print(f"           error\\[{wanted}] {escape(text.shows)}", highlight=False, soft_wrap=True)
