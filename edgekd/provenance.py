"""Where a bundle comes from: the command, the versions, the machine and the licence, for its manifest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path

import edgekd

LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy")  # what made the graphs and the samples
INHERITED = "the student is derived from the teacher and inherits its licence"
COMMANDS = ("edgekd", "edgekd.exe", "__main__.py", "cli.py")


@dataclass(frozen=True)
class Provenance:
    """The part `provenance` of manifest.json."""

    command: str  # as it was typed, the home folder as ~; empty: edgekd was called from Python
    licence: str  # what holds for the student
    teacher_licence: str  # as the user named it; empty: not named
    processor: str  # of the machine that trained
    cores: int  # logical ones of that machine
    gpu: str  # that trained; empty: none


def provenance(arguments: list[str], *, teacher_licence: str, gpu: str) -> Provenance:
    """What is known of this run. arguments: sys.argv; gpu: name of the GPU that trains, or empty."""
    note = f"{INHERITED}: " + (teacher_licence or "which one, the user did not say")
    typed = shortened(command(arguments))
    return Provenance(typed, note, teacher_licence, processor(), os.cpu_count() or 0, gpu)


def made_with(device: str) -> dict[str, str]:
    """Versions of what made a bundle, the operating system, and the torch device that trained."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    system = {"python": platform.python_version(), "machine": platform.platform(), "device": device}
    return {"edgekd": edgekd.__version__, **libraries, **system}


def command(arguments: list[str]) -> str:
    """The command line as a person would type it; empty where edgekd was called from Python."""
    return shlex.join(["edgekd", *arguments[1:]]) if Path(arguments[0]).name in COMMANDS else ""


def shortened(text: str) -> str:
    """The text with the user's home folder as ~: a bundle goes to strangers."""
    home = str(Path.home())
    return text.replace(home + os.sep, "~/") if len(home) > 1 else text


def processor() -> str:
    """The CPU's name: /proc/cpuinfo's on Linux, what Python knows elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
