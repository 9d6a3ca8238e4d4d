"""An output folder in an object store, or wherever else fsspec reaches: worked on here, and kept there.

Files are copied there when a run ends, however it ends, and every few minutes of its training, right behind a save,
while nothing else changes: what is there can be gone on with on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from edgekd import checkpoint, lock
from edgekd.errors import EnvironmentLacking, StoppedAtOnce, UsageError
from edgekd.files import written

EVERY_S = 300.0  # seconds of training between two copies
MARK = ".copied"  # here and there: which copy it is
LAST = (checkpoint.NAME, "student.pt", "result.json")  # count on the others: are copied behind them, in this order


@contextmanager
def folder_of(
    out: str | None, otherwise: Path, say: Callable[[str], None], warn: Callable[[str], None]
) -> Iterator[Path]:
    """The folder to work in for `-o out`: itself, or for a URL the one of its last name, with what is there already.

    Raises UsageError for a URL without a name, for one whose run was gone on with elsewhere while another state of it
    is here, and EnvironmentLacking where there is no way to it.
    """
    if out is None or "://" not in out:
        yield otherwise if out is None else Path(out)
        return
    there = Elsewhere(out)
    there.fetch(say)
    due = time.monotonic() + EVERY_S

    def copied() -> None:
        nonlocal due
        if time.monotonic() >= due:
            try:
                there.push()
            except EnvironmentLacking as error:  # the next copy may reach it, and all is here
                warn(f"{error.what}: {error.why}")
            due = time.monotonic() + EVERY_S

    with checkpoint.behind_each_save(copied):
        try:
            yield there.folder
        except StoppedAtOnce:
            raise  # who says so twice does not want to wait
        except BaseException:
            try:
                there.push()
            except EnvironmentLacking as error:  # not in the place of what happened first
                warn(f"{error.what}: {error.why}")
            raise
        there.push()
        say(f"copied to {out}")


class Elsewhere:
    """The copy of a folder. url: e.g. s3://bucket/run; folder: the one here, named as the last part of it."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        name = url.split("://", 1)[1].rstrip("/").rsplit("/", 1)[-1]
        if not name or name in (".", ".."):
            raise UsageError(f"-o {url} names no folder", code="E0250", fix="write e.g.  -o s3://bucket/run1")
        self.folder = Path(name)
        try:
            self.system, self.path = fsspec.core.url_to_fs(self.url, use_listings_cache=False, auto_mkdir=True)
        except (ImportError, ValueError, TypeError, OSError) as error:
            raise _unreachable(self.url, error) from error
        self.known: dict[str, tuple[int, int]] = {}  # name -> (bytes, nanoseconds of its change) when it was copied

    def fetch(self, say: Callable[[str], None]) -> None:
        """Brings what is there, where nothing is here. Raises UsageError where both are, and differ."""
        found = self._reached(self._names)
        if not found:
            return
        theirs = self._reached(lambda: self.system.cat_file(f"{self.path}/{MARK}")) if MARK in found else b""
        mark = self.folder / MARK
        if mark.is_file() and mark.read_bytes() == theirs:
            say(f"{self.folder} is what was copied to {self.url}, or newer: going on with it")
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise UsageError(
                f"{self.folder} here is not what is in {self.url}",
                code="E0251",
                why="the run was gone on with on another machine, or it is another run",
                fix=f"delete or rename the folder here, and the run goes on from {self.url}; or name another URL",
            )
        say(f"bringing {len(found)} files of {self.url} to {self.folder}")
        for name in (*(n for n in found if n != MARK), *(n for n in found if n == MARK)):
            to = self.folder / name
            if not to.resolve().is_relative_to(self.folder.resolve()):  # a store's names may be anything
                raise _unreachable(self.url, ValueError(f"{name!r} would lie outside of {self.folder}"))
            to.parent.mkdir(parents=True, exist_ok=True)
            with written(to) as temporary:
                self._reached(partial(self.system.get_file, f"{self.path}/{name}", str(temporary)))

    def push(self) -> None:
        """Copies what has changed since the last time, and removes there what is gone here."""
        if not self.folder.is_dir():
            return
        here = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in (lock.NAME, MARK) and not path.name.endswith(".tmp"):
                of = path.stat()
                here[name] = of.st_size, of.st_mtime_ns
        changed = [name for name, state in here.items() if self.known.get(name) != state]
        gone = [name for name in self._reached(self._names) if name not in here and name != MARK]
        if not changed and not gone:
            return
        for name in sorted(changed, key=lambda name: (LAST.index(name) + 1 if name in LAST else 0, name)):
            self._put(self.folder / name, name)
        for name in gone:
            self._reached(partial(self.system.rm_file, f"{self.path}/{name}"))
        with written(self.folder / MARK) as temporary:
            temporary.write_text(uuid4().hex, encoding="ascii")
        self._put(self.folder / MARK, MARK)
        self.known = here

    def _put(self, path: Path, name: str) -> None:
        """Whole or not at all: a store takes a file in one piece, a file system by its new name."""
        to = f"{self.path}/{name}"
        if "file" in self.system.protocol or "local" in self.system.protocol:
            self._reached(lambda: self.system.put_file(str(path), f"{to}.part"))
            self._reached(lambda: self.system.mv(f"{to}.part", to))
        else:
            self._reached(lambda: self.system.put_file(str(path), to))

    def _names(self) -> list[str]:
        try:
            found = self.system.find(self.path)
        except FileNotFoundError:
            return []
        begin = self.path.lstrip("/") + "/"
        return sorted(name.lstrip("/").removeprefix(begin) for name in found if not name.endswith(".part"))

    def _reached(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # every store has errors of its own
            raise _unreachable(self.url, error) from error


def _unreachable(url: str, error: Exception) -> EnvironmentLacking:
    return EnvironmentLacking(
        f"no way to {url}",
        code="E0411",
        why=f"{type(error).__name__}: {error}",
        fix="install what fsspec wants for it (s3fs, gcsfs, adlfs), check address and credentials, or name a folder",
    )
