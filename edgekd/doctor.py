"""What this machine, or a board, has and lacks: one finding each, with the line to type. Nothing is changed."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekd.device import Board
from edgekd.device.link import Link, Lost
from edgekd.errors import EnvironmentLacking, MeasurementError
from edgekd.files import data_dir, from_dict

NEEDED = ("torch", "torchvision", "onnx", "onnxscript", "torch_pruning", "safetensors", "sklearn")
SCRIPT = "doctor.py"  # of targets/: what runs on a board runs here as well


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str  # "ok", "warning", "lacking" (needed), "absent" (not needed)
    found: str
    fix: str = ""  # what to type, or empty


def examine_here() -> list[Finding]:
    """This machine: what a device that runs ONNX Runtime is asked, and what distilling needs on top."""
    asked = [sys.executable, str(data_dir("targets") / SCRIPT), "onnxrt"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentLacking("the examination of this machine failed", code="E0420", why=done.stderr.strip())
    return [*_read(done.stdout), *(_imports(name) for name in NEEDED), cuda(), ssh()]


def examine_board(board: Board, target: str, *, python: str = "python3", config: Path | None = None) -> list[Finding]:
    """A board that ssh reaches. target: the profile's. Raises MeasurementError, EnvironmentLacking (no such Python)."""
    source = (data_dir("targets") / SCRIPT).read_text(encoding="utf-8")
    with Link(board, config=config, stop=threading.Event()) as link:
        try:
            answer = link.sh(f"{shlex.quote(python)} -c {shlex.quote(source)} {shlex.quote(target)}")
        except Lost as lost:
            raise MeasurementError(f"the link to {board.name} went down", code="E0541", why=str(lost)) from lost
    if answer.code:
        raise EnvironmentLacking(
            f"{board.name} cannot be examined",
            code="E0421",
            why=(answer.err.strip().splitlines() or [f"{python} ended with {answer.code}"])[-1],
            fix="name the board's Python (3.6 or later) with --python",
        )
    return _read(answer.out.decode("utf-8", errors="replace"))


def cuda() -> Finding:
    """Whether a kernel runs on the GPU: that torch sees one says little (its build may have none for that GPU)."""
    import torch

    built = torch.version.cuda
    if not torch.cuda.is_available():
        return Finding("CUDA", "absent", f"torch {torch.__version__} sees no GPU; edgekd trains on the CPU")
    name = "the GPU"
    try:
        name = torch.cuda.get_device_name(0)
        right = float((torch.arange(8.0, device="cuda") * 2).sum().item()) == 56.0
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        why = str(error).strip().splitlines()[0]
        return Finding("CUDA", "lacking", f"{name}: a kernel does not run: {why}", _torch_fix(built))
    if not right:
        return Finding("CUDA", "lacking", f"{name}: a kernel gives a wrong result", _torch_fix(built))
    return Finding("CUDA", "ok", f"{name}, torch's CUDA {built}, a kernel was run")


def _torch_fix(built: str | None) -> str:
    return f"install a torch that is built for this GPU (this one: CUDA {built})"


def ssh() -> Finding:
    """The client that --on needs."""
    done = _printed(["ssh", "-V"])
    if done is None:
        return Finding(
            "ssh", "warning", "no client: bench --on cannot reach a board", "sudo apt install openssh-client"
        )
    return Finding("ssh", "ok", done)


def _printed(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return (done.stdout + done.stderr).strip()


def _imports(name: str, load: Callable[[str], object] = importlib.import_module) -> Finding:
    """Whether a package that edgekd is built on imports, in this process."""
    if name == "torchvision":
        from edgekd.vision import torchvision

        return Finding(name, "ok", str(torchvision().__version__))
    try:
        module = load(name)
    except ImportError as error:
        return Finding(name, "lacking", f"does not import: {error}", "python -m pip install --force-reinstall edgekd")
    return Finding(name, "ok", str(getattr(module, "__version__", "no version")))


def _read(text: str) -> list[Finding]:
    """The lines of targets/doctor.py; what a login shell prints around them is left out."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return [from_dict(Finding, json.loads(line), where="the device's answer") for line in lines]
