"""Files: where the data folders lie, writing that leaves no half file, and strict reading into dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from edgekd.errors import EdgekdError, EnvironmentLacking, InputError, TeacherError

T = TypeVar("T")
LARGEST_FLOAT = sys.float_info.max
DEEPEST = 64  # tables and lists inside each other; our documents have 8


def data_dir(name: str) -> Path:
    """The folder targets/ or profiles/: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise EnvironmentLacking(
        f"edgekd's own folder {name}/ is missing",
        code="E0401",
        why=f"it is neither in {package} nor beside it",
        fix="reinstall edgekd",
    )


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on leaving, what was written there is synced and renamed to `path`.

    On an error the temporary file is removed and `path` stays as it was. The names differ by process, so that two
    writers never share one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def sweep(folder: Path) -> None:
    """Deletes what killed processes left half written in an output folder and in the bundle there.

    To be called by the one process that writes there.
    """
    for path in (*folder.glob(".*.tmp"), *(folder / "bundle").glob("*.tmp")):
        if re.search(r"\.\d+\.tmp$", path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a dataclass, mapping or list as indented JSON, whole or not at all."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def opened(path: Path) -> IO[bytes]:
    """A checkpoint, opened once: what is checked is what is read. Never waits on a pipe, never opens a device.

    Raises TeacherError where it is no ordinary file with something in it.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        gone = isinstance(error, FileNotFoundError)
        what = f"{path} is not there" if gone else f"{path} can't be opened"
        raise TeacherError(
            what, code="E0310", why="" if gone else str(error), fix="correct the path" if gone else "make it readable"
        ) from error
    status = os.fstat(number)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return os.fdopen(number, "rb")
    os.close(number)
    if stat.S_ISREG(status.st_mode):
        raise TeacherError(f"{path} is empty", code="E0310", fix="copy the checkpoint again")
    kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
    raise TeacherError(f"{path} is not a file", code="E0310", why=f"it is {kind}", fix="name the checkpoint itself")


def parsed(text: str | bytes) -> Any:
    """The JSON value of a text that anybody may have written.

    Raises ValueError for what is no JSON, and for one that is nested more than DEEPEST deep: what walks through it
    later would run out of stack.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from error
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [v for values in inner for v in values]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what JSON knows, without fields that repr leaves out. NaN and Inf: None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """' Did you mean ...?' when one of the known names is close, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=8)
    ratios = {k: difflib.SequenceMatcher(a=k, b=name).ratio() for k in close}
    best = max(close, key=lambda k: (ratios[k], k[:-1] == name[:-1], k[:-2] == name[:-2]), default=None)
    return f" Did you mean {best!r}?" if best else ""


def from_dict(kind: type[T], values: Any, *, where: str, error: type[EdgekdError] = InputError) -> T:
    """Builds a dataclass from parsed TOML or JSON, checking every name and type, nested ones too.

    Raises `error` naming `where` for an unknown key (with the nearest known one), a missing one or a wrong type.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where}: expected a table of {kind.__name__}, found {values!r}", code="E0301")
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise error(
                f"{where}: unknown key {key!r}.{nearest(str(key), known)}",
                code="E0302",
                why=f"{kind.__name__} has: {', '.join(known)}",
                fix="correct or remove the key",
            )
    given: dict[str, Any] = {}
    for name, spec in known.items():
        if name in values:
            given[name] = _checked(hints[name], values[name], f"{where}: {name}", error)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise error(f"{where}: {name!r} is missing", code="E0303", fix=f"add {name} to it")
    return typing.cast(T, kind(**given))


def _checked(hint: Any, value: Any, where: str, error: type[EdgekdError]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _checked(inner, value, where, error)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type[Any], hint), value, where=where, error=error)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_checked(args[0], v, f"{where}[{i}]", error) for i, v in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): _checked(args[1], v, f"{where}.{k}", error) for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT:
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise error(f"{where}: expected {wanted}, found {value!r}", code="E0304", fix="correct the value")
