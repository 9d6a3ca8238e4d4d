"""Files to a board: only those that differ from what is there, by rsync where both ends have it, else by sftp."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.bundle import MANIFEST
from edgekd.device.link import Link, Lost
from edgekd.device.refusals import NO_SPACE, full, last_line
from edgekd.errors import InputError, IntegrityError, MeasurementError
from edgekd.files import parsed, sha256
from edgekd.types import Bundle

PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*")
SPARE_BYTES = 1 << 16  # for the report and the progress
# What lies in the folder, and the room around it: {"free": bytes, "files": {path: [sha256, bytes]}}. Python 3.6.
LIST = """
import hashlib, json, os, sys
top = sys.argv[1]
found = {}
for folder, _, names in os.walk(top):
    for name in names:
        path = os.path.join(folder, name)
        with open(path, "rb") as handle:
            found[os.path.relpath(path, top)] = [hashlib.sha256(handle.read()).hexdigest(), os.path.getsize(path)]
room = os.statvfs(top)
print(json.dumps({"free": room.f_bavail * room.f_frsize, "files": found}))
"""


@dataclass(frozen=True)
class Freight:
    """A file that must lie on the board."""

    path: Path
    sha256: str
    size: int  # bytes


def freight(bundle: Bundle, more: Mapping[str, Path]) -> dict[str, Freight]:
    """What travels: path under the board's folder -> file. The bundle as verified, and `more` under the names given.

    Raises InputError for names that a shell or sftp might read as something else; edgekd writes none.
    """
    paths = {f"bundle/{name}": bundle.folder / name for name in (*bundle.manifest.files, MANIFEST)} | dict(more)
    hashes = {f"bundle/{name}": value for name, value in bundle.manifest.files.items()}
    for name in paths:
        if not PLAIN.fullmatch(name):
            raise InputError(
                f"the bundle holds a file with the name {name!r}",
                code="E0355",
                why="only letters, digits, dots, dashes and underscores are sent to a board",
                fix="make the bundle again with edgekd compress",
            )
    return {name: Freight(path, hashes.get(name) or sha256(path), path.stat().st_size) for name, path in paths.items()}


def deliver(
    link: Link, wanted: Mapping[str, Freight], folder: str, *, python: str, rsync: bool, say: Callable[[str], None]
) -> None:
    """Brings what differs, and compares the hashes over there with those here until nothing does.

    folder: the board's, made already. Raises Lost (call again: what arrived counts), EnvironmentLacking when the
    board's disk is full, IntegrityError when a file arrives changed twice.
    """
    for attempt in range(3):
        there = listing(link, folder, python)
        files: dict[str, list[Any]] = there["files"]
        missing = {name: f for name, f in wanted.items() if files.get(name, [""])[0] != f.sha256}
        if not missing:
            return
        if attempt == 2:
            raise IntegrityError(
                f"{link.board.name}: {min(missing)} arrived changed, twice",
                code="E0525",
                why="its sha256 there differs from the one here",
                fix="check the board's disk or card; another folder: --on ssh://host/folder",
            )
        need = SPARE_BYTES + sum(max(0, f.size - files.get(name, ["", 0])[1]) for name, f in missing.items())
        if there["free"] < need:
            free = there["free"] / 1e6
            raise full(link.board, folder, f"{need / 1e6:.2f} MB are to be copied, {free:.2f} MB are free")
        say(f"copying {len(missing)} files, {sum(f.size for f in missing.values()) / 1e6:.2f} MB")
        begun = {name for name, f in missing.items() if 0 < files.get(name, ["", 0])[1] < f.size and not attempt}
        _copy(link, missing, folder, rsync=rsync, begun=begun)


def listing(link: Link, folder: str, python: str) -> dict[str, Any]:
    """The files in the board's folder with their sha256, and the bytes that are free. Raises Lost."""
    found = link.sh(f"{shlex.quote(python)} -c {shlex.quote(LIST)} {shlex.quote(folder)} </dev/null")
    try:
        read: dict[str, Any] = parsed(found.out)
        return {"free": int(read["free"]), "files": {str(k): [str(v[0]), int(v[1])] for k, v in read["files"].items()}}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MeasurementError(
            f"{link.board.name}: {folder} cannot be listed", code="E0528", why=last_line(found.err) or str(error)
        ) from error


def has_rsync() -> bool:
    """Whether this machine has an rsync whose paths go round the far side's shell (3.0 or later, not openrsync)."""
    program = shutil.which("rsync")
    if program is None:
        return False
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return bool(re.match(r"rsync\s+version\s+v?[3-9]", said))


def _copy(link: Link, missing: Mapping[str, Freight], folder: str, *, rsync: bool, begun: set[str]) -> None:
    host = f"[{link.board.host}]" if ":" in link.board.host else link.board.host
    with tempfile.TemporaryDirectory(prefix="edgekd-") as temporary:
        for name, f in missing.items():  # links, so that both programs see plain names under one folder
            path = Path(temporary) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(f.path.resolve())
        if rsync:
            # -I: they differ by their hashes, even where size and time say otherwise; --inplace: a cut copy is gone on
            # with and needs no second room; -s: the path passes no shell
            remote = ["-e", " ".join(_rsync_word(w) for w in ("ssh", *link.options(), "-o", "ControlMaster=no"))]
            command = ["rsync", "-rLtsI", "--partial", "--inplace", "--files-from=-", *remote, "--", "."]
            fed = "".join(f"{name}\n" for name in missing)
            done = link.call([*command, f"{host}:{folder}/"], fed=fed.encode(), cwd=Path(temporary))
        else:
            lines = [f"cd {_sftp_word(folder)}"]
            lines += [f"{'put -a' if name in begun else 'put'} {name} {name}" for name in missing]
            command = ["sftp", *link.options(), "-o", "ControlMaster=no", "-q", "-b", "-", "--", host]
            done = link.call(command, fed="".join(f"{line}\n" for line in lines).encode(), cwd=Path(temporary))
    if done.code == 0:
        return
    link.master_wait(1.0)  # it may notice a little later than the copy that the link is down
    if not link.up():
        raise Lost(link.last_words(done.err))
    explain_full(link, folder)
    raise MeasurementError(
        f"{link.board.name}: copying to {folder} failed",
        code="E0529",
        why=last_line(done.err) or f"it ended with {done.code}",
        fix="the board needs rsync or OpenSSH's sftp-server",
    )


def explain_full(link: Link, folder: str) -> None:
    """Raises EnvironmentLacking when the board cannot write another small file into its folder. Raises Lost."""
    script = f"LC_ALL=C; export LC_ALL; cd {shlex.quote(folder)} && printf %4096s x >room && rm -f room"
    found = link.sh(script)
    if found.code and any(words in found.err.lower() for words in NO_SPACE):
        raise full(link.board, folder, last_line(found.err))


def _rsync_word(word: str) -> str:
    """One word of rsync's -e, which knows quotes but no backslashes."""
    return "'" + word.replace("'", "''") + "'" if any(c in word for c in " '\"") else word


def _sftp_word(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
