"""One run per output folder: a lock that names its owner and that the system lifts when the owner is gone."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.errors import EnvironmentLacking
from edgekd.files import parsed

NAME = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what a network file system without flock answers


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and holds it for this process. Raises EnvironmentLacking where another one does.

    What a killed process leaves is taken over. On a file system without locks the owner that is written down counts:
    a process of this machine that is gone is taken over, one of another machine is not.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _opened(path)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        try:
            _own(file, path)
        except OSError as error:
            raise unwritable(folder, error) from error
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still ours
        os.close(file)


def unwritable(folder: Path, error: OSError) -> EnvironmentLacking:
    """The error for a folder that the system does not let us write to."""
    return EnvironmentLacking(
        f"cannot write to the output folder {folder}", code="E0402", why=str(error), fix="name another with -o DIR"
    )


def _opened(path: Path) -> int:
    """The lock's file, locked. Raises EnvironmentLacking where another process holds it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(path, file) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(file)
                raise
            if _at_work(_owner(file)):
                raise _taken(path, file) from error
            return file
        if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
            return file
        os.close(file)  # its owner deleted it between our two calls


def _own(file: int, path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}) + "\n"
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _owner(file: int) -> dict[str, Any]:
    try:
        found = parsed(os.pread(file, 4096, 0))
    except ValueError:  # being written, or cut off by a crash
        return {}
    return found if isinstance(found, dict) else {}


def _at_work(owner: dict[str, Any]) -> bool:
    """Whether the owner that is written down may still be running."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another user's
        return True
    return True


def _taken(path: Path, file: int) -> EnvironmentLacking:
    owner = _owner(file)
    os.close(file)
    who = ", ".join(f"{name} {owner[name]}" for name in ("pid", "host", "since") if name in owner)
    return EnvironmentLacking(
        f"another run is at work in {path.parent}",
        code="E0430",
        why=f"its owner: {who or 'not written down yet'}",
        fix=f"wait for it, stop it, or name another folder with -o DIR; if it is surely gone, delete {path}",
    )
