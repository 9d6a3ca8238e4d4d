"""edgekd profiles: the devices that edgekd knows, and those that a user adds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd import completion, console, documents, measure_command, profile_documents
from edgekd.errors import EnvironmentLacking, ProfileError, UsageError
from edgekd.options import AsJson, Debug

app = typer.Typer(no_args_is_help=True, help="The devices that edgekd knows, and your own.")
NameOrFile = Annotated[str, typer.Argument(help="A name or a .toml file.", autocompletion=completion.profiles)]


@app.command("list")
def profiles_list(
    device_class: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Only these: jetson, sbc, x86, mobile, npu, mcu, server, other.",
            autocompletion=completion.device_classes,
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """All profiles: those that come with edgekd and your own."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.files import nearest
        from edgekd.profile import aliases, load_profile, profile_files, user_profiles
        from edgekd.profile_rules import CLASSES

        if device_class is not None and device_class not in CLASSES:
            raise UsageError(
                f"--class {device_class} is not one.{nearest(device_class, CLASSES)}",
                code="E0214",
                fix=f"name one of: {', '.join(CLASSES)}",
            )
        others, files = aliases(), profile_files()
        own = {name for name, path in files.items() if path.parent == user_profiles()}
        profiles = []
        for name in files.keys() - others.keys():
            try:
                profiles.append(load_profile(name))
            except ProfileError as error:
                if name not in own:
                    raise
                console.warn([f"{error.what}; left out: edgekd profiles check {files[name]}"])
        profiles = [p for p in profiles if device_class in (None, p.device_class)]
        profiles.sort(key=lambda p: (CLASSES.index(p.device_class), p.name))
        profile_documents.listed(profiles, others, own, as_json)


@app.command("show")
def profiles_show(name: NameOrFile, as_json: AsJson = False, debug: Debug = False) -> None:
    """Everything that edgekd assumes of a device, with the sources."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.profile import aliases, load_profile, profile_files

        profile = load_profile(name)
        file = Path(name) if name.endswith(".toml") else profile_files()[profile.name]
        others = [alias for alias, of in aliases().items() if of == profile.name and not name.endswith(".toml")]
        profile_documents.shown(profile, file, others, as_json)


@app.command("check")
def profiles_check(
    files: Annotated[list[Path], typer.Argument(help="Profiles as .toml files.", metavar="FILE...")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Every problem and every doubtful figure in profiles, with the fix. Exit code 3 on problems."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.profile_check import check_file

        verdicts = [check_file(path) for path in files]
        profile_documents.checked(verdicts, as_json)
    raise typer.Exit(3 if any(verdict.problems for verdict in verdicts) else 0)


@app.command("new")
def profiles_new(
    name: Annotated[str, typer.Argument(help="Of the new profile, e.g. my-camera.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A similar device, whose figures and sources are taken over.",
            autocompletion=completion.profiles,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File; default: among your own profiles.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a commented profile to edit. Never over a file that is there."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.files import written
        from edgekd.profile import load_profile, user_profiles
        from edgekd.profile_toml import draft, profile_toml

        if name != Path(name).name or name.startswith(".") or name.endswith(".toml"):
            raise UsageError(f"{name!r} is no name for a profile", code="E0216", fix="letters, digits, - and _")
        path = user_profiles() / f"{name}.toml" if out is None else out
        if path.exists():
            raise UsageError(f"{path} is there already", code="E0217", fix="edit it, or name another with -o FILE")
        if path.suffix != ".toml":
            raise UsageError(f"{path} would not be read as a profile", code="E0218", fix="end its name in .toml")
        text = profile_toml(draft(load_profile(base or "cpu"), name, known=base is not None), explained=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise EnvironmentLacking(
                f"cannot write {path}", code="E0412", why=str(error), fix="name another with -o FILE"
            ) from error
        use = name if out is None else str(path)
        says = f"{path} written. Next: edit it, then\n  edgekd profiles check {path}\n  edgekd profiles measure {use}"
        says += f"\n  edgekd compress TEACHER --profile {use}"
        documents.show({"file": str(path), "profile": use, "from": base}, says, as_json)


app.command("measure")(measure_command.measure)
