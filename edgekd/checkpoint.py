"""The state of a training on disk: written whole or not at all, every ten seconds and when a signal asks to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import Interrupted
from edgekd.files import written
from edgekd.ranks import any_of, first, one_after_the_first

EVERY_S = 10.0  # seconds between two saves
_stop: list[int] = []  # the signal that asked to stop, once one has


@contextmanager
def stoppable() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM ask the next Checkpoint.keep to save and stop; a second one stops at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if _stop:
            raise Interrupted("stopped at once; the last checkpoint stands", signal=number)
        _stop.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _stop.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


class Checkpoint:
    """Saves and restores the parts of one training: modules, optimisers and random generators, and its counters.

    parts: anything with state_dict and load_state_dict, or a torch.Generator.
    """

    def __init__(self, path: Path, **parts: Any) -> None:
        self.path, self.parts = path, parts
        self.saved = time.monotonic()

    def restore(self, counters: dict[str, Any]) -> dict[str, Any]:
        """Loads the parts and gives back the counters as they were saved; the given ones where nothing was saved."""
        if not self.path.exists():
            return counters
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        for name, part in self.parts.items():
            if isinstance(part, torch.Generator):
                part.set_state(state[name])
            else:
                part.load_state_dict(state[name])
        saved: dict[str, Any] = state["counters"]
        return saved

    def keep(self, counters: dict[str, Any]) -> None:
        """Call once per step: saves when it is due; when a signal has come, saves and raises Interrupted.

        Of processes that train together the first saves, and all stop at the same step.
        """
        stop = any_of(bool(_stop))
        if first() and (stop or time.monotonic() - self.saved >= EVERY_S):
            self._save(counters)
        if stop:
            with one_after_the_first():  # torchrun ends all when one has ended, so not before it is saved
                pass
            raise Interrupted(
                "stopped; all work so far is saved",
                signal=_stop[0] if _stop else signal.SIGTERM,
                fix="run the same command again: it goes on from here",
            )

    def _save(self, counters: dict[str, Any]) -> None:
        state: dict[str, Any] = {"counters": counters}
        for name, part in self.parts.items():
            state[name] = part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        with written(self.path) as temporary:
            torch.save(state, temporary)
        self.saved = time.monotonic()


def scalar(value: float | Tensor) -> float:
    """A loss as a plain number, for counters and logs. Waits for the device."""
    return float(value.item()) if isinstance(value, Tensor) else float(value)
