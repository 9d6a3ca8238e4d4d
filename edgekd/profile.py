"""Device profiles: found by name, read from TOML, strictly."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

from edgekd.errors import ProfileError, UsageError
from edgekd.files import data_dir, from_dict, nearest
from edgekd.profile_rules import problems
from edgekd.types import Profile


def user_profiles() -> Path:
    """The folder of the user's own profiles; it may be missing. A profile there goes before a shipped one of its name.

    $XDG_CONFIG_HOME/edgekd/profiles, by default ~/.config/edgekd/profiles.
    """
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = configured if configured.is_absolute() else Path.home() / ".config"  # the XDG rule for relative paths
    return home / "edgekd" / "profiles"


def profile_files() -> dict[str, Path]:
    """Name -> file of every profile and alias, sorted by name; the user's go before those that come with edgekd."""
    shipped = {path.stem: path for path in data_dir("profiles").glob("*.toml")}
    own = {path.stem: path for path in user_profiles().glob("*.toml")}
    return dict(sorted((shipped | own).items()))


def profile_names() -> list[str]:
    """Names of the profiles that can be loaded, aliases among them."""
    return list(profile_files())


def aliases() -> dict[str, str]:
    """Alias -> name of the profile that it stands for. A file that cannot be read is none."""
    found: dict[str, str] = {}
    for name, path in profile_files().items():
        if path.stat().st_size < 500:  # an alias is one line; whole profiles need not be parsed for this
            try:
                table = read_table(path)
            except ProfileError:
                continue  # whoever loads that profile is told
            if set(table) == {"alias"}:
                found[name] = str(table["alias"])
    return found


def load_profile(name: str | Path) -> Profile:
    """Reads a profile by its name or by the path of a TOML file. An alias gives the profile that it stands for.

    Raises ProfileError: unknown name, unreadable TOML, unknown or missing keys, values that make no sense.
    """
    path = _file(name)
    table = read_table(path)
    if set(table) == {"alias"}:
        aliased = path
        path = _file(str(table["alias"]))
        table = read_table(path)
        if set(table) == {"alias"}:
            raise ProfileError(
                f"{aliased} is an alias of the alias {path.stem!r}",
                code="E0337",
                fix=f"write alias = {str(table['alias'])!r} into it",
            )
    profile = from_dict(Profile, {"name": path.stem, **table}, where=str(path), error=ProfileError)
    if found := problems(profile):
        more = f"; {len(found) - 1} more" if len(found) > 1 else ""
        raise ProfileError(
            f"{path}: {found[0].key}: {found[0].what}{more}",
            code="E0332",
            why="what edgekd derives from the profile would be wrong",
            fix=found[0].fix + (f"; all of them: edgekd profiles check {path}" if more else ""),
        )
    return profile


def read_table(path: Path) -> dict[str, Any]:
    """The TOML of a file. Raises ProfileError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProfileError(f"{path} is not there", code="E0330", fix="correct the path") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ProfileError(
            f"{path} cannot be read as TOML", code="E0331", why=str(error), fix="correct that place in the file"
        ) from error


def adjusted(
    profile: Profile,
    *,
    latency_ms: float | None = None,
    model_mb: float | None = None,
    memory_mb: float | None = None,
    parameters: int | None = None,
    precision: str = "auto",
) -> Profile:
    """The same device with other limits where they are named, or with one precision only.

    Raises UsageError for a precision that is not built for the device.
    """
    named = {"latency_ms": latency_ms, "model_mb": model_mb, "memory_mb": memory_mb, "parameters": parameters}
    limits = {name: value for name, value in named.items() if value is not None}
    if limits:
        profile = dataclasses.replace(profile, limits=dataclasses.replace(profile.limits, **limits))  # type: ignore[arg-type]
    if precision == "auto":
        return profile
    if precision not in profile.precisions:
        reason = profile.slower.get(precision) or profile.note
        raise UsageError(
            f"--precision {precision} is not for {profile.name}",
            code="E0211",
            why=f"edgekd builds {', '.join(profile.precisions)} for it. {reason}".rstrip(),
            fix="name one of these, or auto",
        )
    return dataclasses.replace(profile, precisions=(precision,))


def _file(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix == ".toml":
        return path
    files = profile_files()
    if str(name) not in files:
        raise ProfileError(
            f"no profile {str(name)!r}.{nearest(str(name), files)}",
            code="E0330",
            why=f"{len(files)} names are known: those that come with edgekd and those in {user_profiles()}",
            fix="name one that edgekd profiles list shows, or the path of a .toml file",
        )
    return files[str(name)]
