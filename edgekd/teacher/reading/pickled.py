"""Checkpoints of torch.save, zip archives and the older streams. Runs in the child process only (see child.py)."""

from __future__ import annotations

import io
import math
import pickle
import warnings
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import torch

from edgekd.errors import TeacherError
from edgekd.teacher.reading import opcodes
from edgekd.teacher.reading.archive import Archive, damaged

STREAMS = 5  # of an old file: magic number, version, system, the object, the storages' keys
CONVERT = (
    "in your own project, where its class is:  torch.save(model.state_dict(), 'teacher_sd.pt')\n"
    "or, with its graph and input:  from edgekd import Images, save_teacher\n"
    "save_teacher(model, 'teacher.pt', images=Images(...), classes=[...])"
)


class Namespace(dict[str, Any]):
    """Stands for argparse.Namespace: its attributes as a dictionary."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.update(state)


class _Dtype:
    """Stands for numpy.dtype: the code of a number's type, and its byte order."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = code if code in NUMBERS else "", "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and state[1:2] == (">",) else "<"


class _NumberDtype(_Dtype):
    """Stands for numpy.dtypes.Float64DType and its like, which newer pickles name beside numpy.dtype."""


NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


def _numbers(dtype: Any, data: Any) -> Any:
    """The numbers in `data` as an array; none where type or data are something else."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, _Dtype) or not dtype.code or not isinstance(data, bytes):
        return np.empty(0)
    return np.frombuffer(data, dtype.order + dtype.code)


def _number(dtype: Any, data: Any = b"") -> Any:
    """Stands for numpy's scalar: a Python number, or None for a type that is none."""
    numbers = _numbers(dtype, data)
    return numbers[0].item() if len(numbers) == 1 else None


class _Array(list[Any]):
    """Stands for numpy.ndarray: its numbers as nested lists; arrays of more than a few stay empty."""

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, tuple(shape), dtype, bool(by_columns), data) if math.prod(shape) <= 64:
                numbers = _numbers(dtype, data)
                if numbers.size and numbers.size == math.prod(shape):
                    self.extend(numbers.reshape(shape, order="F" if by_columns else "C").tolist())


def _array(*_: Any) -> _Array:
    """Stands for numpy's _reconstruct, which makes the array that the state is then given to."""
    return _Array()


def _path(*parts: Any) -> str:
    """Stands for a path of pathlib: its text."""
    return "/".join(part for part in parts if isinstance(part, str))


class _Dictionary:
    """Stands for dictionaries with a class of their own: a plain one is made instead, whatever the arguments."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


# The whole allow-list beyond torch's own. What stands behind each name is ours: plain data, and nothing of the library.
ALLOWED: list[Any] = [
    (Namespace, "argparse.Namespace"),
    (_Dtype, "numpy.dtype"),
    *((_NumberDtype, f"numpy.dtypes.{n}DType") for n in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_Array, "numpy.ndarray"),
    *((_path, f"pathlib.{kind}") for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    (_Dictionary, "collections.defaultdict"),
    *((_Dictionary, f"builtins.{factory}") for factory in ("dict", "list", "int", "float")),  # a defaultdict's
    (_Dictionary, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (_Dictionary, "lightning.fabric.utilities.data.AttributeDict"),
]


def loaded(file: IO[bytes], path: str, archive: Archive | None, size: int) -> Any:
    """What the checkpoint holds: tensors and plain values. archive: None for the streams of old files.

    Raises TeacherError: code in it (E0312), damage, storages larger than the file (E0311).
    """
    asked = _survey(file, path, archive, archive.unpacked if archive else size)
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # what other libraries allow is not our list
    file.seek(0)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED):
            warnings.simplefilter("ignore")  # what torch thinks of old formats; errors still come as exceptions
            return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise _refused(file, path, archive, asked, error) from error
    except (MemoryError, TeacherError):
        raise
    except Exception as error:  # torch.load raises RuntimeError, EOFError, ValueError and more for damaged files
        text = str(error).split("(Could this error message")[0].strip()
        if "memory" in text:
            raise MemoryError(text) from error
        raise damaged(path, text.splitlines()[0] if text else type(error).__name__) from error
    finally:
        torch.serialization.add_safe_globals(before)


def _survey(file: IO[bytes], path: str, archive: Archive | None, size: int) -> list[str]:
    """What the pickles name, found without loading them. Raises TeacherError where storages exceed the file."""
    asked: dict[str, None] = {}
    storages: dict[str, int] = {}

    def persistent(pid: Any) -> None:
        match pid:
            case ("storage", opcodes.Name(path=kind), str(key), _, int(numel), *_):
                storages[key] = max(storages.get(key, 0), numel * _item_bytes(kind))

    stream: IO[bytes] = io.BytesIO(archive.read("data.pkl")) if archive else file
    for _ in range(1 if archive else STREAMS):
        try:
            opcodes.value(stream, persistent, asked)
        except opcodes.Malformed:
            break  # torch's reader finds it too, and says where
    if sum(storages.values()) > size or min(storages.values(), default=0) < 0:
        raise TeacherError(
            f"{path} declares {sum(storages.values())} bytes of weights and has {size}",
            code="E0311",
            why="it is cut short, or was made to fill the memory",
            fix="copy the checkpoint again and compare its size",
        )
    return list(asked)


def _item_bytes(kind: str) -> int:
    """Bytes per number of the storage class torch.FloatStorage and its like."""
    sizes = {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4, "Half": 2,
             "BFloat16": 2, "Short": 2}  # fmt: skip
    return sizes.get(kind.rsplit(".", 1)[-1].removesuffix("Storage"), 1)


def _refused(
    file: IO[bytes], path: str, archive: Archive | None, asked: list[str], error: pickle.UnpicklingError
) -> TeacherError:
    culprits = asked
    if archive:
        file.seek(0)
        try:
            with torch.serialization.safe_globals(ALLOWED):
                culprits = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except Exception:  # torch's list knows only some opcodes and raises what it likes at others; ours knows all
            culprits = asked
    known = torch._weights_only_unpickler._get_allowed_globals().keys() | {name for _, name in ALLOWED}
    modern = [name.replace("__builtin__.", "builtins.", 1) for name in culprits]  # as Python 2 called it
    culprits = [name for name in modern if name not in known]
    if culprits:
        return TeacherError(
            f"{path} holds a pickled object that may run code: {culprits[0]}",
            code="E0312",
            why=f"torch.load(weights_only=True) refused: {', '.join(culprits[:6])}",
            fix=CONVERT,
        )
    file.seek(0)
    head = archive.read("data.pkl")[:2] if archive else file.read(2)
    protocol = head[1] if head[:1] == b"\x80" else 0
    text = str(error).strip()
    reason = (text.rsplit("WeightsUnpickler error:", 1)[-1].strip() or text).splitlines()[0]
    if protocol > 2 and "Unsupported operand" in reason:
        return TeacherError(
            f"{path} was saved with pickle protocol {protocol}",
            code="E0336",
            why=f"torch reads protocol 2 without running code, and stops here: {reason}",
            fix="save it again in your project, without pickle_protocol:  torch.save(state, 'teacher_sd.pt')",
        )
    return damaged(path, reason)
