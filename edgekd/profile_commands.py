"""edgekd profiles: the devices that edgekd knows."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekd import console, documents
from edgekd.options import AsJson, Debug

app = typer.Typer(no_args_is_help=True, help="The devices that edgekd knows.")


@app.command("list")
def profiles_list(as_json: AsJson = False, debug: Debug = False) -> None:
    """All profiles that come with edgekd."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.profile import load_profile, profile_names

        found = {name: load_profile(name) for name in profile_names()}
        documents.profile_list(found, as_json)


@app.command("show")
def profiles_show(
    name: Annotated[str, typer.Argument(help="A name or a .toml file.")], as_json: AsJson = False, debug: Debug = False
) -> None:
    """Everything that edgekd assumes of a device, with the sources."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.files import plain
        from edgekd.profile import load_profile

        profile = load_profile(name)
        documents.show(plain(profile), plain(profile), as_json)
