"""Tensors and plain values in a file that shows when it is damaged: torch's format with its SHA-256 behind it.

torch.load reads such a file as any other; `unsealed` looks at the seal first.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import torch

from edgekd.errors import IntegrityError

MARK = b"edgekd-sha256:"  # before the 64 hexadecimal digits at the end of the file
SEAL = len(MARK) + 64  # bytes
PART = 1 << 20  # bytes read at a time


class _Writing:
    """A file as torch.save needs it. It keeps what the system refused, which torch reports as an error of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.refused = error
            raise
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def seal(value: Any, path: Path, *, sealed: bool = True) -> None:
    """Writes tensors and plain values to `path` as torch.save does, and the seal. Raises OSError where no room is.

    sealed: False leaves the seal out, for files that other programs read byte by byte.
    """
    with open(path, "wb") as file:
        writing = _Writing(file)
        try:
            torch.save(value, writing)  # type: ignore[arg-type]  # torch's IO protocol wants no more than this
        except RuntimeError as error:  # of torch's writer, which notices that bytes are missing
            if writing.refused is None:
                raise
            raise OSError(writing.refused.errno, writing.refused.strerror, str(path)) from error
        if sealed:
            file.write(MARK + writing.digest.hexdigest().encode())


def intact(path: Path) -> bool:
    """Whether the file's seal holds; reads all of it. Raises OSError where it cannot be read."""
    left, digest = path.stat().st_size - SEAL, hashlib.sha256()
    with open(path, "rb") as file:
        while left > 0 and (part := file.read(min(PART, left))):
            digest.update(part)
            left -= len(part)
        return left == 0 and file.read() == MARK + digest.hexdigest().encode()


def unsealed(path: Path) -> Any:
    """What `seal` wrote, on the CPU. Raises IntegrityError for a file that was cut off or changed."""
    if not intact(path):
        raise IntegrityError(
            f"{path} is damaged",
            code="E0710",
            why="it is not what was written: its sha256 differs",
            fix="delete it",
        )
    return torch.load(path, weights_only=True, map_location="cpu")
