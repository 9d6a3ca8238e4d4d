"""A file to its Content. What it is is told by its bytes, never by its name; no code of its author is run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.files import from_dict, opened
from edgekd.teacher.content import Content
from edgekd.teacher.reading import opcodes, pickled, torchscript, wrappers
from edgekd.teacher.reading.archive import Archive, damaged
from edgekd.teacher.reading.child import isolated
from edgekd.types import Images

OWN = "edgekd-teacher-1"
ELSEWHERE = ("onnx", "torch.export")  # read by modules of their own
WEIGHTS = 'save only the weights in your project:  torch.save(model.state_dict(), "teacher_sd.pt")'
MISTAKES = (  # how files begin that people take for checkpoints: what it is, what to do
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file:  git lfs pull"),
    (b"<", "a web page or XML, not a checkpoint", "download it again from the address of the file itself"),
    (b"\x1f\x8b", "packed with gzip", "unpack it first:  gunzip"),
    (b"BZh", "packed with bzip2", "unpack it first:  bunzip2"),
    (b"\xfd7zXZ", "packed with xz", "unpack it first:  unxz"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it first:  unzstd"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it", "export it to ONNX there; edgekd reads ONNX"),
    (b"\x93NUMPY", "a numpy array", WEIGHTS),
    (b"GGUF", "a GGUF file", "edgekd compresses image classifiers of torch or ONNX"),
    (b"\x7fELF", "a program", WEIGHTS),
    (b"MZ", "a program", WEIGHTS),
)


def read(path: Path) -> Content:
    """Reads any file that a network may come in, in a child process of few rights (see child.py).

    Raises TeacherError: E0310 no ordinary file, E0311 damaged or no checkpoint, E0312 code in it, E0315 no weights,
    E0316 a teacher file that is not whole, E0313 too old, E0314 too much time or memory, E0333 a tricked archive,
    E0334 tensors of other kinds, E0335 tensors that the file has no room for.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        facts, tensors = isolated(lambda: _taken_apart(file, str(path), size), file, size, str(path))
    if facts["format"] == "onnx":
        from edgekd.teacher.graphs import onnx_graph

        return onnx_graph.read(path)
    if facts["format"] == "torch.export":
        from edgekd.teacher.graphs import pt2

        return pt2.read(path)
    notes = tuple(facts["notes"])
    if facts["format"] == "edgekd":
        return _own(path, facts["values"], tensors, notes)
    return Content(format=facts["format"], tensors=tensors, values=facts["values"], notes=notes)


def _taken_apart(file: IO[bytes], path: str, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What Content has beside the tensors, and the tensors. Runs in the child."""
    head = file.read(512)
    file.seek(0)
    try:
        if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            return _archive(Archive(file, size, path), file, path, size)
        if head[257:262] == b"ustar":
            return _tar(path)
        if _is_safetensors(head, size):
            return _safetensors(file, path)
        if head[:1] == b"\x80":
            return _checkpoint(pickled.loaded(file, path, None, size), path)
        if _is_onnx(file, size):
            return {"format": "onnx"}, {}
    except RecursionError as error:
        raise damaged(path, "its values are nested too deep") from error
    return _mistaken(file, head, path)


def _archive(archive: Archive, file: IO[bytes], path: str, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = archive.entries
    if "archive_format" in names or "serialized_exported_program.json" in names or "models/model.json" in names:
        return {"format": "torch.export"}, {}
    if not archive.top:
        return _no_layout(archive, path)
    if archive.has_checksums:
        archive.check()
    if torchscript.is_torchscript(archive):
        found = wrappers.Weights(torchscript.weights(archive))
        found.notes.append("the code in the TorchScript archive was not run; its weights were read")
        if not found.tensors:
            raise TeacherError(f"{path} is a TorchScript archive without weights", code="E0315", fix=WEIGHTS)
        found.tensors = wrappers.named(found)
        return _facts("torchscript", found)
    if "data.pkl" in names:
        return _checkpoint(pickled.loaded(file, path, archive, size), path)
    return _no_layout(archive, path)


def _no_layout(archive: Archive, path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    first = ", ".join(list(archive.entries)[:4])
    raise TeacherError(
        f"{path} is not a torch checkpoint",
        code="E0311",
        why=f"it is a zip archive without data.pkl in one folder; it holds {first or 'nothing'}",
        fix="unpack it and name the checkpoint in it, or " + WEIGHTS,
    )


def _tar(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    raise TeacherError(
        f"{path} is a tar archive",
        code="E0313",
        why="torch before 0.1.10 wrote such checkpoints, and torch reads them only by unpickling all that is in them",
        fix="unpack it if it holds a checkpoint; an old one needs loading and saving by the torch that wrote it",
    )


def _checkpoint(tree: Any, path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if isinstance(tree, dict) and tree.get("format") == OWN:
        state = tree.get("state")
        if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
            raise TeacherError(
                f"{path} is not a whole teacher file",
                code="E0316",
                why="it has no weights",
                fix="write it again with edgekd.save_teacher",
            )
        values = {"facts": tree["facts"]} if isinstance(tree.get("facts"), str) else {}
        return {"format": "edgekd", "values": values, "notes": []}, {str(k): t for k, t in state.items()}
    return _facts("checkpoint", wrappers.unwrapped(tree, where=path))


def _facts(kind: str, found: wrappers.Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"format": kind, "values": found.values, "notes": found.notes}, found.tensors


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of length, then a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


def _safetensors(file: IO[bytes], path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        numbers = Path("/dev/fd")  # the library takes a path: the file that is open already, where it has one
        with safe_open(numbers / str(file.fileno()) if numbers.exists() else path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            values = dict(opened.metadata() or {})
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise damaged(path, str(error)) from error
    found = wrappers.Weights(tensors, values)
    if not tensors:
        raise TeacherError(f"{path} holds no tensors", code="E0315", fix=WEIGHTS)
    found.tensors = wrappers.named(found)
    return _facts("safetensors", found)


def _is_onnx(file: IO[bytes], size: int) -> bool:
    """Whether it is a protobuf message with the fields of ONNX's ModelProto, a graph (7) among them."""
    fields = set()
    file.seek(0)
    while file.tell() < size:
        tag = _varint(file)
        if tag & 7 not in (0, 2) or tag >> 3 not in (1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26):
            return False
        fields.add(tag >> 3)
        length = _varint(file)
        if tag & 7 == 2:
            if length > size - file.tell():
                return False
            file.seek(length, os.SEEK_CUR)
    return 7 in fields


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        value |= (byte[0] & 0x7F) << shift if byte else 0
        if not byte or byte[0] < 0x80:
            break
    return value


def _mistaken(file: IO[bytes], head: bytes, path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Raises TeacherError saying what the file is instead."""
    for start, what, fix in MISTAKES:
        if head.lstrip().startswith(start):
            raise TeacherError(f"{path} is {what}", code="E0311", why=f"it starts with {head[:8]!r}", fix=fix)
    asked: dict[str, None] = {}
    file.seek(0)
    try:
        opcodes.value(file, lambda pid: pid, asked)  # pickles of protocol 0 and 1 have no mark of their own
    except opcodes.Malformed:
        asked = {}
    if asked:
        raise TeacherError(
            f"{path} is a pickle that would run code: {next(iter(asked))}",
            code="E0312",
            why=f"it asks for {', '.join(list(asked)[:6])}",
            fix=pickled.CONVERT,
        )
    raise TeacherError(
        f"{path} is not a torch checkpoint",
        code="E0311",
        why=f"it starts with {head[:4]!r}; checkpoints are zip archives or pickles, or safetensors or ONNX",
        fix=WEIGHTS,
    )


def _own(path: Path, values: dict[str, Any], tensors: dict[str, Tensor], notes: tuple[str, ...]) -> Content:
    """A file of edgekd.save_teacher."""
    try:
        facts = json.loads(values["facts"])
        arch, nodes, classes = facts["arch"], facts["nodes"], facts["classes"]
        images = from_dict(Images, facts["images"], where=str(path), error=TeacherError)
        if not isinstance(arch, str | None) or not isinstance(nodes, list) or not isinstance(classes, list):
            raise TypeError("architecture, nodes or classes of another type")
        if not all(isinstance(c, str) for c in classes):
            raise TypeError("class names of another type")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TeacherError(
            f"{path} is not a whole teacher file",
            code="E0316",
            why=f"{error!r}",
            fix="write it again with edgekd.save_teacher",
        ) from error
    return Content(
        format="edgekd",
        tensors=tensors,
        nodes=nodes if arch is None else None,
        size=(images.channels, images.height, images.width),
        images=images,
        classes=tuple(classes),
        arch=arch,
        notes=notes,
    )
