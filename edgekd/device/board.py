"""A board's address. Nothing that passes here can be read as an option, or as more than one word, by ssh or a shell."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from edgekd.errors import UsageError

URL = re.compile(
    r"ssh://(?:(?P<user>[^@/:]*)@)?(?P<host>\[[^\]/]*\]|[^:/@\[\]]*)(?::(?P<port>[0-9]{1,5}))?(?P<folder>/.*)?"
)
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")  # users, hosts and aliases of ssh_config
ZONE = re.compile(r"[^%]*(%[A-Za-z0-9_.-]+)?")  # of an IPv6 address: fe80::1%eth0
PATH = re.compile(r"(?:[A-Za-z0-9._~/+=@:,-]|%[0-9A-Fa-f]{2})*")  # every other character is written %XX
LONGEST_FOLDER = 512  # characters


@dataclass(frozen=True)
class Board:
    """A device that ssh reaches. Raises UsageError for a value that is not one plain word, or a folder's path."""

    host: str  # name, alias of the ssh configuration, IPv4, or IPv6 without brackets
    user: str = ""  # "": as ssh would choose
    port: int = 0  # 0: as ssh would choose
    folder: str = "/tmp"  # noqa: S108  absolute; a folder with a name of its own is made in it, mode 700

    def __post_init__(self) -> None:
        doubt = _doubt(self)
        if doubt:
            raise UsageError(
                f"not a board's address: {doubt}",
                code="E0240",
                why="an address goes to ssh and to the board's shell, so only plain names and paths are taken",
                fix="write ssh://user@host:port/folder; user, port and folder may be left out",
            )

    @property
    def name(self) -> str:
        """How tables call it: user@host:port, as far as they are given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")

    @property
    def file_name(self) -> str:
        """The name as that of a folder here."""
        return re.sub(r"[^A-Za-z0-9@._-]", "_", self.name.replace("[", "").replace("]", ""))

    def ssh_line(self, config: Path | None = None) -> str:
        """What a person types to reach it."""
        words = ["ssh", *(["-F", str(config)] if config else []), *(["-p", str(self.port)] if self.port else [])]
        return " ".join([*words, (f"{self.user}@" if self.user else "") + self.host])


def board_of(url: str) -> Board:
    """The board that ssh://[user@]host[:port][/folder] names. Raises UsageError for anything else.

    An IPv6 address stands in brackets. Characters of the folder other than letters, digits and ._~/+=@:,- are written
    as %XX of their UTF-8; control characters are refused in either form.
    """
    found = URL.fullmatch(url)
    folder = (found["folder"] or "") if found else ""
    if found is None or not PATH.fullmatch(folder):
        raise UsageError(
            f"--on {url!r} is not the address of a board",
            code="E0241",
            why="it has the form ssh://[user@]host[:port][/folder], with %20 for a space in the folder",
            fix="e.g. --on ssh://pi@192.168.1.20 or --on ssh://jetson:2222/mnt/ssd",
        )
    host = found["host"]
    bare = host[1:-1] if host.startswith("[") else host
    if host != bare and ":" not in bare:
        raise UsageError(f"--on {url!r}: brackets are for IPv6 addresses", code="E0242", fix="write it without them")
    path = unquote(folder, errors="surrogateescape").rstrip("/")
    return Board(bare, found["user"] or "", int(found["port"] or 0), path or Board.folder)


def _doubt(board: Board) -> str:
    """What is wrong with an address; empty when nothing is."""
    if ":" in board.host:
        try:
            ipaddress.IPv6Address(board.host)
        except ValueError:
            return f"{board.host!r} is no IPv6 address"
        if not ZONE.fullmatch(board.host):
            return f"{board.host!r} has a zone that is no interface's name"
    elif not NAME.fullmatch(board.host):
        return f"host {board.host!r}"
    if board.user and not NAME.fullmatch(board.user):
        return f"user {board.user!r}"
    if not 0 <= board.port < 65536:
        return f"port {board.port}"
    if not board.folder.startswith("/") or len(board.folder) > LONGEST_FOLDER:
        return f"folder {board.folder!r} is not an absolute path of at most {LONGEST_FOLDER} characters"
    if any(not c.isprintable() for c in board.folder):  # control characters, and bytes that are not UTF-8
        return f"folder {board.folder!r} holds characters that cannot be printed"
    return ""
