"""edgekd try: what the deployed graph says of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from edgekd import completion, console, documents
from edgekd.options import AsJson, Debug


def try_picture(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or the output folder of compress.")],
    image: Annotated[Path, typer.Argument(help="A picture; any format that Pillow reads.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or int8; default: the fastest.", autocompletion=completion.graph_precisions),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Classify a picture with BUNDLE's graph, on this machine."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.picture import classify
        from edgekd.verification import bundle_in

        there = bundle_in(bundle)
        found = classify(there, image, precision=precision, top=top)
        if as_json:
            answers = [{"class": name, "probability": share} for name, share in found.answers]
            documents.show(
                {"image": str(image), "graph": str(found.graph), "precision": found.precision,
                 "notes": list(found.notes), "answers": answers}, "", as_json,
            )  # fmt: skip
            return
        table = Table("class", Column("probability", justify="right"), box=None, header_style="bold")
        for name, share in found.answers:
            table.add_row(escape(name), f"{share:.2%}")
        console.out.print(table)
        console.out.print(f"graph     {escape(str(found.graph))}, {found.chosen_by}", highlight=False, soft_wrap=True)
        for note in found.notes:
            console.out.print(f"picture   {note}", highlight=False, soft_wrap=True)
        console.then(documents.following(there.folder))
