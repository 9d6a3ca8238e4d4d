"""A child process in which strangers' files are taken apart. What comes back are numbers and JSON, never objects.

What is guaranteed where the system has fork and the `resource` module (Linux, macOS, BSD):

- the child can write no byte to a file (RLIMIT_FSIZE 0), holds no open file of its parent but the one to be read, and
  neither its stdin nor its stdout;
- it ends after a processor time and a wall time that grow with the file's size;
- what it hands back goes through a pipe in the format below, and the parent checks every length before it believes it.

On Linux also: memory beyond the parent's own is bounded by twice the file's size and 128 MB (RLIMIT_AS), no new
privileges, and the child ends with its parent. On x86-64 and arm64 the kernel refuses it (seccomp) sockets, new
processes and programs, signals, and opening, renaming or removing files otherwise than to read; and it has a network
of its own, an empty one, where the kernel lets this user make one (containers often do not).

What is not: files that the user may read can be read by the child too. A fault in torch's C++ reader could be used
within these walls. Where fork is missing (Windows) the file is read in this process, still with weights_only=True and
nothing else, and a note says so.

Format: 8 bytes length, little-endian, a JSON object {"facts", "tensors": [[name, dtype, shape, index]], "sizes"} or
{"refused"}, then the tensors' bytes, each once. Several names may share an index.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any

import torch
from torch import Tensor

from edgekd.errors import EdgekdError, TeacherError
from edgekd.teacher.reading import walls
from edgekd.teacher.reading.archive import MB, damaged, room

Work = Callable[[], tuple[dict[str, Any], Mapping[str, Tensor]]]

HEADER_MB = 64  # names and values: a checkpoint of 10,000 tensors has 1
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
                  torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16,
                  torch.uint8, torch.bool, torch.complex64, torch.complex128)
}  # fmt: skip


class _Stopped(Exception):
    """The child ended, or was ended, before it had said everything."""


def cpu_s(size: int) -> int:
    """Processor seconds for a file of `size` bytes: small values in pickles take 2 s per MB, weights nearly none."""
    return int(min(1 + 3 * size / MB, 60 + size / MB / 25))


def wall_s(size: int) -> int:
    """Seconds until the child is ended: cold files on a network drive come at 5 MB/s."""
    return 60 + cpu_s(size) + int(size / MB / 5)


def isolated(work: Work, file: IO[bytes], size: int, path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Runs `work` in a child process and gives what it gives: facts (JSON) and tensors by name.

    file: the one file that stays open in the child; size: its bytes, which bound time and memory; path: for messages.
    Raises TeacherError: the one that `work` raised, or one that says what stopped the child.
    """
    if not walls.AVAILABLE:
        facts, tensors = work()
        note = "read without a process of its own: this system has no fork"
        return {**facts, "notes": [*facts.get("notes", []), note]}, dict(tensors)
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: the child needs none of them
        pid = os.fork()
    if pid == 0:
        _child(work, file.fileno(), write_end, size, path)
    os.close(write_end)
    try:
        return _received(_Pipe(read_end, time.monotonic() + wall_s(size)), size)
    except (_Stopped, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = error
    finally:
        os.close(read_end)
        os.kill(pid, signal.SIGKILL)  # without effect where it has ended: it stays a zombie until waited for
        status = os.waitpid(pid, 0)[1]
    raise _explained(path, problem, status) from problem


def _child(work: Work, file: int, pipe: int, size: int, path: str) -> None:
    """Never returns."""
    try:
        gc.disable()  # touches every page that is still shared with the parent
        torch.set_num_threads(1)  # the parent's threads are not here
        walls.go_behind(size, cpu_s(size), file, pipe)
        try:
            facts, tensors = work()
            _send(pipe, facts, tensors, size, path)
        except TeacherError as error:
            _write(pipe, {"refused": _as_json(error)})
        except MemoryError:
            _write(pipe, {"refused": _as_json(_too_large(path))})
        except Exception:  # told to the parent, which raises it again; nobody else would hear of it
            _write(pipe, {"crashed": traceback.format_exc()})
    finally:
        os._exit(1)  # after a whole answer the status is not looked at


def _send(pipe: int, facts: dict[str, Any], tensors: Mapping[str, Tensor], size: int, path: str) -> None:
    """Facts and tensors in the module's format. Raises TeacherError for tensors that are not plain numbers in rows."""
    shared: dict[Any, int] = {}
    distinct: list[Tensor] = []
    rows = []
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in shared or not tensor.numel():
            shared[key] = len(distinct)
            distinct.append(tensor.detach().resolve_conj().resolve_neg())
        rows.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), shared[key]])
    sizes = [t.numel() * t.element_size() for t in distinct]
    if sum(sizes) > room(size):
        raise TeacherError(
            f"{path} declares tensors of {sum(sizes) / MB:.0f} MB and has {size / MB:.1f} MB itself",
            code="E0335",
            why="one stored number is repeated over and over, which weights of a network are not",
            fix="save the weights again in your project, each tensor with .clone()",
        )
    _write(pipe, {"facts": facts, "tensors": rows, "sizes": sizes})
    for tensor in distinct:
        if tensor.numel():
            _write_all(pipe, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _check_plain(path: str, name: str, tensor: Tensor) -> None:
    kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout)
    if tensor.is_meta:
        kind = "without data (device meta)"
    elif kind == "torch.strided" and str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        kind = f"of {tensor.dtype}"
    elif kind == "torch.strided" and type(tensor) in (Tensor, torch.nn.Parameter):
        return
    raise TeacherError(
        f"{path}: the tensor {name} is {kind.replace('torch.sparse', 'sparse, torch.sparse')}",
        code="E0334",
        why="edgekd reads tensors whose numbers lie in rows",
        fix="in your project, turn it with .to_dense() or .dequantize(), or save the float model itself",
    )


def _write(pipe: int, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    _write_all(pipe, memoryview(len(text).to_bytes(8, "little") + text))


def _write_all(pipe: int, view: memoryview) -> None:
    while view:
        view = view[os.write(pipe, view[: 16 * MB]) :]


class _Pipe:
    """Reads exactly as much as is asked for, or raises _Stopped: at the pipe's end, or after the deadline."""

    def __init__(self, number: int, deadline: float) -> None:
        self.number, self.deadline, self.ready = number, deadline, select.poll()
        self.ready.register(number, select.POLLIN)

    def fill(self, view: memoryview) -> None:
        while view:
            if not self.ready.poll(max(0.0, self.deadline - time.monotonic()) * 1000):
                raise _Stopped("it took too long")
            count = os.readv(self.number, [view])
            if count == 0:
                raise _Stopped("it ended early")
            view = view[count:]

    def take(self, count: int, most: int) -> bytearray:
        if count > most:
            raise _Stopped(f"it wanted to hand over {count} bytes")
        data = bytearray(count)
        self.fill(memoryview(data))
        return data


def _received(pipe: _Pipe, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the child sent; nothing in it is taken on trust."""
    length = int.from_bytes(pipe.take(8, 8), "little")
    header = json.loads(pipe.take(length, min(HEADER_MB * MB, 2 * size + MB)))
    if "refused" in header:
        said = {key: str(header["refused"][key]) for key in ("what", "code", "why", "fix")}
        raise TeacherError(said.pop("what"), **said)
    if "crashed" in header:
        raise _Stopped(str(header["crashed"]))
    left = room(size)
    rows: dict[int, tuple[torch.dtype, list[int]]] = {}
    for _, dtype, shape, index in header["tensors"]:
        rows.setdefault(index, (DTYPES[dtype], [int(n) for n in shape]))
    distinct = []
    for index, count in enumerate(header["sizes"]):
        dtype, shape = rows[index]
        numel = 1
        for n in shape:
            numel *= n
        left -= count
        if min(shape, default=0) < 0 or count != numel * dtype.itemsize or left < 0:
            raise _Stopped("it told of a tensor that can't be")
        tensor = torch.empty(shape, dtype=dtype)
        if count:
            pipe.fill(tensor.reshape(-1).view(torch.uint8).numpy().data)
        distinct.append(tensor)
    return dict(header["facts"]), {str(name): distinct[index] for name, _, _, index in header["tensors"]}


def _too_large(path: str) -> TeacherError:
    """The error for a file whose reading needs more memory than its size warrants."""
    return TeacherError(
        f"{path} needs more memory than its size warrants",
        code="E0314",
        why=f"reading it may take twice its size and {walls.SPARE_MB} MB",
        fix='save only the weights in your project:  torch.save(model.state_dict(), "teacher_sd.pt")',
    )


def _as_json(error: EdgekdError) -> dict[str, str]:
    """An error as JSON."""
    return {"what": error.what, "code": error.code, "why": error.why, "fix": error.fix}


def _explained(path: str, problem: Exception, status: int) -> TeacherError:
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if ended == signal.SIGXCPU or "too long" in str(problem):
        return TeacherError(
            f"{path} takes too long to read",
            code="E0314",
            why="the process that reads it was ended",
            fix="try again where the disk is fast and idle; if it stays, save the weights again in your project",
        )
    last = (str(problem).strip().splitlines() or ["no word"])[-1]  # of a traceback, the error itself
    return damaged(
        path, f"reading it ended with {signal.Signals(ended).name if ended not in (0, signal.SIGKILL) else last}"
    )
