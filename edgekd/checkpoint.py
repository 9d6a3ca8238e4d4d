"""The state of a training on disk: written whole or not at all, every eight seconds and when a signal asks to stop.

Two generations are kept. A file under either name is whole, carries its SHA-256 and holds finite numbers only; where
the newest was damaged later, the training goes on from the one before. What is not in it: state of torch's global
random generator, which no method draws from.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from edgekd import training_log
from edgekd.bank import Bank
from edgekd.divergence import Diverged, pace, slowed_to
from edgekd.errors import IntegrityError, Interrupted, StoppedAtOnce
from edgekd.files import written
from edgekd.ranks import any_of, first, one_after_the_first
from edgekd.sealed import intact, seal, unsealed

EVERY_S = 8.0  # seconds between two saves; a step and the save itself come on top of what may be lost
NAME = "distillation.ckpt"
_stop: list[int] = []  # the signal that asked to stop, once one has
_behind: list[Callable[[], None]] = []  # what else is to be done when a state has been saved


@contextmanager
def stoppable() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM ask the next Checkpoint.keep to save and stop; a second one stops at once.

    In another thread than the main one signals are the program's, and nothing asks."""

    def ask(number: int, frame: FrameType | None) -> None:
        if _stop:
            raise StoppedAtOnce(number)
        _stop.append(number)

    main = threading.current_thread() is threading.main_thread()  # Python lets no other thread set handlers
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield
    finally:
        _stop.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def behind_each_save(work: Callable[[], None]) -> Iterator[None]:
    """While inside, work() is called behind each save, before the training goes on."""
    _behind.append(work)
    try:
        yield
    finally:
        _behind.remove(work)


class Checkpoint:
    """Saves and restores the parts of one training: modules, optimisers and random generators, and its counters.

    parts: anything with state_dict and load_state_dict, or a torch.Generator. The log beside the file goes with it.
    """

    def __init__(self, path: Path, **parts: Any) -> None:
        self.path, self.parts, self.log = path, parts, path.parent / training_log.NAME
        self.logged = 0  # bytes of the log up to the last step that is not going to be made again
        self.saved = time.monotonic()

    def restore(self, counters: dict[str, Any]) -> dict[str, Any]:
        """Loads the parts and gives back the counters as they were saved; the given ones where nothing was saved.

        The log loses what came after. Raises IntegrityError where the file is damaged.
        """
        if not self.path.exists():
            if first():
                training_log.cut(self.log, 0)
            return counters
        state = unsealed(self.path)
        for name, part in self.parts.items():
            if isinstance(part, torch.Generator):
                part.set_state(state[name])
            else:
                part.load_state_dict(state[name])
        slowed_to(state.get("pace", 1.0))
        self.logged = state["log"]
        if first():
            training_log.cut(self.log, self.logged)
        saved: dict[str, Any] = state["counters"]
        return saved

    def keep(self, counters: dict[str, Any], *, unfinished: bool = False) -> None:
        """Call once per step: saves when it is due; when a signal has come, saves and raises Interrupted.

        unfinished: the step belongs to a piece of work that an interrupted training makes again from its start.

        Of processes that train together the first saves, and all stop at the same step. Raises Diverged instead of
        saving numbers that are not finite.
        """
        stop = any_of(bool(_stop))
        if not unfinished:
            self.logged = training_log.size(self.log)
        if first() and (stop or self._due()):
            self._save(counters)
        if stop:
            with one_after_the_first():  # torchrun ends all when one has ended, so not before it is saved
                pass
            raise Interrupted(
                "stopped; all work so far is saved",
                signal=_stop[0] if _stop else signal.SIGTERM,
                fix="run the same command again: it goes on from here",
            )

    def _due(self) -> bool:
        banks = [part for part in self.parts.values() if isinstance(part, Bank)]
        return time.monotonic() - self.saved >= EVERY_S or any(bank.presses() for bank in banks)

    def _save(self, counters: dict[str, Any]) -> None:
        state: dict[str, Any] = {"counters": counters, "log": self.logged, "pace": pace()}
        for name, part in self.parts.items():
            if isinstance(part, Bank):
                part.flush()  # a checkpoint must not count on images that a power cut takes
            state[name] = part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
            if not _finite(state[name]):
                raise Diverged(f"{name} holds numbers that are not finite")
        with written(self.path) as temporary:
            seal(state, temporary)
            self._keep_the_last()
        for part in self.parts.values():
            if isinstance(part, Bank):
                part.saved()
        for work in _behind:
            work()
        self.saved = time.monotonic()

    def _keep_the_last(self) -> None:
        """Gives the checkpoint that is about to be replaced its second name."""
        if not self.path.exists():
            return
        try:
            with written(previous(self.path)) as temporary:
                temporary.unlink(missing_ok=True)
                os.link(self.path, temporary)
        except OSError:  # a file system without hard links; between the two renames only the older one is there
            os.replace(self.path, previous(self.path))


def previous(path: Path) -> Path:
    """The name of the generation before the newest."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def mend(path: Path, warn: Callable[[str], None]) -> None:
    """Puts the previous generation in the place of a newest one that is damaged or lost, and warns.

    Raises IntegrityError where neither is whole; does nothing where neither is there.
    """
    older = previous(path)
    if path.exists() and intact(path):
        return
    if older.exists() and intact(older):
        state = "is damaged" if path.exists() else "is not there"
        os.replace(older, path)
        warn(f"{path.name} {state}; the training goes on from the checkpoint before it")
        return
    there = [one for one in (path, older) if one.exists()]
    if there:
        raise IntegrityError(
            f"no checkpoint in {path.parent} is whole",
            code="E0711",
            why=f"the sha256 of {' and of '.join(one.name for one in there)} differs from what was written",
            fix=f"delete them, and the training begins anew:  rm {' '.join(str(one) for one in there)}",
        )


def step_back(path: Path) -> None:
    """Makes the previous generation the newest, where there is one."""
    if previous(path).exists():
        os.replace(previous(path), path)


def discard(folder: Path) -> None:
    """Deletes a finished training's checkpoints and banks of images."""
    for path in (folder / NAME, previous(folder / NAME), *folder.glob("*.u8")):
        path.unlink(missing_ok=True)


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(_finite(v) for v in value.values())
    return all(_finite(v) for v in value) if isinstance(value, list | tuple) else True
