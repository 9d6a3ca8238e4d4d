"""Device profiles: TOML to Profile, strictly."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

from edgekd.errors import ProfileError, UsageError
from edgekd.files import data_dir, from_dict, nearest
from edgekd.types import Profile

TARGETS = ("onnxrt", "tensorrt")
PRECISIONS = ("fp32", "int8")


def profile_names() -> list[str]:
    """Names of the profiles that come with edgekd, aliases among them."""
    return sorted(path.stem for path in data_dir("profiles").glob("*.toml"))


def load_profile(name: str | Path) -> Profile:
    """Reads a profile by its name or by the path of a TOML file. An alias gives the profile that it stands for.

    Raises ProfileError: unknown name, unreadable TOML, unknown or missing keys, values that make no sense.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = data_dir("profiles") / f"{name}.toml"
        if not path.is_file() or Path(name).name != str(name):
            raise ProfileError(
                f"no profile {str(name)!r}.{nearest(str(name), profile_names())}",
                code="E0330",
                why=f"there are: {', '.join(profile_names())}",
                fix="name one of these, or the path of a .toml file",
            )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProfileError(f"{path} is not there", code="E0330") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"{path} cannot be read as TOML", code="E0331", why=str(error)) from error
    if set(table) == {"alias"}:
        return load_profile(str(table["alias"]))
    profile = from_dict(Profile, {"name": path.stem, **table}, where=str(path), error=ProfileError)
    _check(profile, path)
    return profile


def adjusted(profile: Profile, *, latency_ms: float | None = None, precision: str = "auto") -> Profile:
    """The same device with another limit on latency, or with one precision only.

    Raises UsageError for a precision that the device has not.
    """
    if latency_ms is not None:
        profile = dataclasses.replace(profile, limits=dataclasses.replace(profile.limits, latency_ms=latency_ms))
    if precision == "auto":
        return profile
    if precision not in profile.precisions:
        raise UsageError(
            f"--precision {precision} is not for {profile.name}",
            code="E0211",
            why=f"edgekd builds {', '.join(profile.precisions)} for it. {profile.note}",
            fix="name one of these, or auto",
        )
    return dataclasses.replace(profile, precisions=(precision,))


def _check(profile: Profile, path: Path) -> None:
    hardware, limits = profile.hardware, profile.limits
    problem = ""
    if profile.target not in TARGETS:
        problem = f"target {profile.target!r}; there are: {', '.join(TARGETS)}"
    elif not profile.precisions or not set(profile.precisions) <= set(PRECISIONS):
        problem = f"precisions {list(profile.precisions)}; there are: {', '.join(PRECISIONS)}"
    elif lacking := set(profile.precisions) - set(hardware.peak_gflops):
        problem = f"hardware.peak_gflops has no {', '.join(sorted(lacking))}"
    elif min(*hardware.peak_gflops.values(), hardware.bandwidth_gb_per_s) <= 0:
        problem = "hardware figures must be above zero"
    elif any(v is not None and v <= 0 for v in (limits.latency_ms, limits.model_mb, limits.memory_mb)):
        problem = "limits must be above zero"
    elif min(profile.latency.compute, profile.latency.traffic, profile.latency.layer_us, profile.latency.error) < 0:
        problem = "latency coefficients must not be negative"
    elif profile.batch < 1 or profile.threads < 0 or not 13 <= profile.opset <= 23:
        problem = "batch must be 1 or more, threads 0 or more, opset 13 to 23"
    if problem:
        raise ProfileError(f"{path}: {problem}", code="E0332", fix="correct the profile")
