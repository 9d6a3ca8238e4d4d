"""log.jsonl: a line for every twentieth step of a training, each step once, however often it was interrupted."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

NAME = "log.jsonl"
EVENTS = ("memory", "rate")  # phases whose lines stay when a training goes back: they say why it did
TAIL = 4096  # bytes in which the last line lies


class TrainingLog:
    """Appends to a folder's log; satisfies edgekd.types.Log. time_s goes on from the last line that is there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.zero: float | None = None  # monotonic clock at time_s 0

    def __call__(self, phase: str, step: int, steps: int, **figures: float) -> None:
        if self.zero is None:
            self.zero = time.monotonic() - last_time_s(self.path)
        line = {"time_s": round(time.monotonic() - self.zero, 2), "phase": phase, "step": step, **figures}
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def last_time_s(path: Path) -> float:
    """Seconds of training at the last whole line; 0 without one."""
    if not path.exists():
        return 0.0
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - TAIL))
        times = [line.get("time_s") for line in _whole(handle.read())]
    return max((float(t) for t in times if isinstance(t, int | float)), default=0.0)


def size(path: Path) -> int:
    """Bytes of the log so far."""
    return path.stat().st_size if path.exists() else 0


def cut(path: Path, length: int) -> None:
    """Takes off what was logged after the first `length` bytes, as it is going to be logged again; events stay."""
    if size(path) <= length:
        return
    with open(path, "rb") as handle:
        handle.seek(length)
        events = [line for line in _whole(handle.read()) if line.get("phase") in EVENTS]
    os.truncate(path, length)
    with open(path, "a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(line) + "\n" for line in events)


def _whole(data: bytes) -> list[dict[str, object]]:
    """The lines that were not cut off."""
    found = []
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except ValueError:  # the first of a tail, or one that a crash cut off
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
