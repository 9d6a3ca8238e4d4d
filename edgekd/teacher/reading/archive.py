"""Zip archives: torch's own and those that only look so. Checked by their directory before anything is unpacked."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO

from edgekd.errors import TeacherError

MB = 10**6
RATIO = 100  # deflate reaches 1,000 on zeros alone; weights compress by a tenth, code by ten
UNREADABLE = (  # what zipfile and zlib raise for damaged files
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, IndexError, OverflowError, RuntimeError,
    OSError,
)  # fmt: skip
SMALL = MB  # an entry below this size is no bomb, whatever its ratio
WEIGHTS = 'save only the weights in your project:  torch.save(model.state_dict(), "teacher_sd.pt")'


class Archive:
    """The entries of a zip file by name, without the one folder that holds them all."""

    def __init__(self, file: IO[bytes], size: int, path: str) -> None:
        """size: of the file in bytes; path: for messages. Raises TeacherError: damaged, or made to harm."""
        try:
            self.zip = zipfile.ZipFile(file)
        except UNREADABLE as error:
            raise damaged(path, str(error)) from error
        self.path = path
        entries = [e for e in self.zip.infolist() if not e.filename.endswith("/")]
        _check_names(path, self.zip.infolist())
        _check_sizes(path, entries, size)
        tops = {e.filename.split("/")[0] for e in entries}
        self.top = f"{tops.pop()}/" if len(tops) == 1 and all("/" in e.filename for e in entries) else ""
        self.entries = {e.filename.removeprefix(self.top): e for e in entries}
        self.unpacked = sum(e.file_size for e in entries)  # bytes
        self.has_checksums = any(entry.CRC for entry in entries if entry.file_size)
        if not self.has_checksums:  # torch.serialization.set_crc32_options(False) writes zeros in their place
            for entry in entries:
                del entry.CRC  # zipfile then compares nothing

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def read(self, name: str) -> bytes:
        """An entry's bytes. Raises TeacherError where it is missing, or is not what its checksum says."""
        if name not in self.entries:
            raise damaged(self.path, f"{name} is missing in it")
        try:
            return self.zip.read(self.entries[name])
        except UNREADABLE as error:
            raise damaged(self.path, str(error)) from error

    def check(self) -> None:
        """Reads every entry once and compares its checksum, which torch itself leaves out. Raises TeacherError."""
        try:
            for entry in self.entries.values():
                with self.zip.open(entry) as data:
                    while data.read(MB):
                        pass
        except UNREADABLE as error:
            raise damaged(self.path, str(error)) from error


def room(size: int) -> int:
    """Bytes that the contents of a file of `size` bytes may take: re-packed, or stored once and named twice."""
    return 2 * size + 16 * MB


def damaged(path: str, why: str) -> TeacherError:
    """The error for a file that is cut short or altered."""
    return TeacherError(
        f"{path} is damaged or cut short",
        code="E0311",
        why=why or "its parts do not fit together",
        fix="copy the checkpoint again and compare its size",
    )


def _check_names(path: str, entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename  # with what follows a zero byte, where other readers may read on
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or any(c in name for c in "\\\0") or ":" in parts[:1] or not parts:
            problem = f"the entry {name!r} points outside of it"
        elif name in seen:
            problem = f"two entries are called {name!r}: what one reader checks, another would not load"
        elif stat.S_ISLNK(entry.external_attr >> 16):
            problem = f"the entry {name!r} is a link"
        elif entry.flag_bits & 0x1:
            problem = f"the entry {name!r} is encrypted"
        else:
            seen.add(name)
            continue
        raise _tricked(path, problem)


def _check_sizes(path: str, entries: list[zipfile.ZipInfo], size: int) -> None:
    """torch stores weights uncompressed. A re-packed file may be larger unpacked, by no more than weights allow."""
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _tricked(path, f"the entry {entry.filename!r} is compressed by method {entry.compress_type}")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise damaged(path, f"{entry.filename} is stored with {entry.compress_size} of {entry.file_size} bytes")
        if entry.header_offset + entry.compress_size > size:
            raise damaged(path, f"{entry.filename} ends behind the end of the file")
        if entry.file_size > SMALL and entry.file_size > RATIO * entry.compress_size:
            raise _tricked(path, f"{entry.filename!r} unpacks from {entry.compress_size} to {entry.file_size} bytes")
    total = sum(entry.file_size for entry in entries)
    if total > room(size):
        raise _tricked(path, f"its entries unpack to {total / MB:.0f} MB, the file has {size / MB:.1f}")


def _tricked(path: str, why: str) -> TeacherError:
    return TeacherError(f"{path} is a zip archive that no torch.save wrote", code="E0333", why=why, fix=WEIGHTS)
