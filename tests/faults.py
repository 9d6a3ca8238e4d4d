"""Fault injection: edgekd as a process of its own that is killed, filled up, frozen and run twice.

tests/test_faults.py does a few of each, benchmarks/faults.py hundreds, and the table of docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgekd.bundle import read_bundle
from edgekd.checkpoint import NAME, previous
from edgekd.errors import EdgekdError
from edgekd.sealed import intact

SMALL = {  # some seconds of training, with replay, in two rounds
    "rounds": 2, "image_steps": 60, "image_batch": 64, "student_steps": 160, "batch": 64, "generator_width": 16,
}  # fmt: skip
LIMIT_S = 300  # of any call; more is a hang
# a checkpoint every N seconds, a clock that jumps back an hour at each look, a loss that is no number
EVERY = "import edgekd.checkpoint as c; c.EVERY_S = {}\n"
JUMPING = "import time; t0 = [time.time()]\ndef back(): t0[0] -= 3600.0; return t0[0]\ntime.time = back\n"
NOT_A_NUMBER = """
import edgekd.divergence as d, torch
was, calls = d.watched, [0]
def watched(loss):
    calls[0] += 1
    return was(loss * float("nan") if calls[0] {when} else loss)
import edgekd.compute as compute
compute.watched = watched
"""
BEGUN = """
import os, pathlib, edgekd.pipeline as p
was = p.claim
def claim(*given, **named):
    was(*given, **named)
    pathlib.Path(os.environ["EDGEKD_BEGUN"]).touch()
p.claim = claim
"""  # touches a file when the start-up is over: the teacher is read and the folder is ours
MAIN = "import sys; from edgekd.__main__ import app; sys.exit(app())"


@dataclass(frozen=True)
class Ended:
    """How a call ended."""

    exit: int  # as a shell shows it: 137 for SIGKILL
    message: str  # stderr
    seconds: float
    killed: bool  # by us, before it had ended


def command(teacher: Path, folder: Path, *options: str, first: str = "", **settings: Any) -> list[str]:
    """edgekd compress as a command line. first: Python that runs before it in the same process."""
    given = [f"--set={name}={value}" for name, value in {**SMALL, **settings}.items()]
    python = [sys.executable, "-c", first + MAIN] if first else [sys.executable, "-m", "edgekd"]
    return [*python, "compress", str(teacher), "-o", str(folder), "--no-progress", *given, *options]


def ended(
    arguments: list[str],
    *,
    after: Callable[[subprocess.Popen[str]], bool] | None = None,
    limit: str | None = None,
    environment: dict[str, str] | None = None,
) -> Ended:
    """Runs it to its end. after: called until it says True, to do it harm; limit: of prlimit, e.g. fsize=100000, a
    disk that is full where none can be mounted.

    One thread, so that sums are added in one order.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | (environment or {})
    start, harmed = time.monotonic(), False
    arguments = ["prlimit", f"--{limit}", *arguments] if limit else arguments
    child = subprocess.Popen(
        arguments, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        while after and child.poll() is None and not harmed:
            harmed = after(child)
            time.sleep(0.01)
        _, message = child.communicate(timeout=LIMIT_S)
    finally:
        child.kill()  # does nothing where it has ended
    code = child.returncode
    return Ended(code if code >= 0 else 128 - code, message, time.monotonic() - start, harmed and code < 0)


def kill_after(seconds: float, number: int = signal.SIGKILL, times: int = 1) -> Callable[[Any], bool]:
    """Sends a signal, `times` over at 50 ms, so long after the start."""
    start = time.monotonic()

    def after(child: subprocess.Popen[str]) -> bool:
        if time.monotonic() - start < seconds:
            return False
        return _sent(child, number, times)

    return after


def kill_when(path: Path, number: int, times: int = 1, wait_s: float = 0.0) -> Callable[[Any], bool]:
    """Sends a signal, `times` over, once a file is there (and `wait_s` later)."""

    def after(child: subprocess.Popen[str]) -> bool:
        if not path.exists():
            return False
        time.sleep(wait_s)
        return _sent(child, number, times)

    return after


def _sent(child: subprocess.Popen[str], number: int, times: int) -> bool:
    for _ in range(times):
        if child.poll() is not None:
            return False
        child.send_signal(number)
        time.sleep(0.05 if times > 1 else 0.0)
    return True


@contextmanager
def small_disk(folder: Path, mb: float) -> Iterator[bool]:
    """Mounts a disk of so many 10**6 bytes at the folder; gives whether it could (root, Linux)."""
    folder.mkdir(parents=True, exist_ok=True)
    size = ["mount", "-t", "tmpfs", "-o", f"size={int(mb * 1e6)}", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(size, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def remounted(folder: Path, how: str) -> None:
    """Makes a disk of small_disk "ro" or "rw", or gives it another "size=..."."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def halves(folder: Path) -> list[str]:
    """What is not whole among the files that have their final names."""
    found = []
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".npz": lambda path: [np.load(path)[name] for name in np.load(path).files],
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
        ".png": lambda path: path.read_bytes().index(b"IEND"),
        ".html": lambda path: path.read_text(encoding="utf-8").index("</html>"),
    }
    for path in (p for p in folder.iterdir() if not p.name.startswith(".")):
        try:
            if path.suffix in readers:
                readers[path.suffix](path)
        except Exception as error:  # whatever a broken file makes of its reader
            found.append(f"{path.name}: {error}")
    found += [p.name for p in (folder / NAME, previous(folder / NAME)) if p.exists() and not intact(p)]
    if (folder / "bundle").exists():
        try:
            read_bundle(folder / "bundle")
        except EdgekdError as error:
            found.append(error.what)
    return found


def litter(folder: Path) -> list[str]:
    """What a finished run must not leave: temporaries, checkpoints, banks, the lock."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*"))
    return [n for n in names if n.endswith((".tmp", ".ckpt", ".u8", ".lock"))]


def student(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the finished student, with the images that were made after it."""
    state: dict[str, torch.Tensor] = torch.load(folder / "student.pt", weights_only=True)["state"]
    return state | {"images": torch.from_numpy(np.load(folder / "images.npz")["pixels"])}


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same student, images and log, to the bit; times apart."""
    a, b = student(one), student(other)
    equal = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return equal and steps(one) == steps(other)


def steps(folder: Path) -> list[dict[str, Any]]:
    """The log without its times."""
    path = folder / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [{name: value for name, value in line.items() if name != "time_s"} for line in lines]


def newest_s(folder: Path) -> float:
    """The wall clock when the last piece of work became safe: a checkpoint, or the last file of a stage; 0: nothing."""
    ends = ("student.pt", "bundle", "teacher.onnx", "bundle/report.json", "report.html", "result.json")
    files = [folder / name for name in (NAME, previous(Path(NAME)).name, *ends)]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
