"""One ssh connection to a board: the system's OpenSSH client with the user's configuration, keys and jump hosts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edgekd.device.board import Board
from edgekd.device.refusals import last_line, refused
from edgekd.errors import EnvironmentLacking, Interrupted, MeasurementError

OPTIONS = (
    "BatchMode=yes",  # no questions: without a working key it ends at once
    "ConnectTimeout=15",
    "ServerAliveInterval=5",  # a dead link is noticed after 15 s
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "ControlPersist=no",
    "LogLevel=INFO",  # so that the last line says why, whatever the user's configuration has
)
LOGIN_S = 60.0  # from the first packet to a session
CALL_S = 600.0  # one short command over there
BEGIN = b"edgekd-answer-begins\n"  # what stands before it, the login shell's start files have written
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # before each attempt to reconnect


class Lost(Exception):
    """The link went down; what was asked may or may not have happened over there."""


@dataclass(frozen=True)
class Answer:
    """What a command over there left."""

    code: int
    out: bytes
    err: str


class Link:
    """A connection that commands and copies share (ControlMaster, its socket in a private folder).

    Raises MeasurementError on entry when the board cannot be reached, Lost from call() when the link went down.
    config: an ssh_config file instead of the user's; stop: once set, calls end with Interrupted.
    """

    def __init__(self, board: Board, *, config: Path | None, stop: threading.Event) -> None:
        self.board, self.config, self.stop = board, config, stop
        if shutil.which("ssh") is None:
            raise EnvironmentLacking(
                "this machine has no ssh", code="E0410", fix="install OpenSSH's client, e.g. apt install openssh-client"
            )
        short = "/tmp" if os.access("/tmp", os.W_OK) else None  # noqa: S108  a socket's path has 107 bytes at most
        self.private = Path(tempfile.mkdtemp(prefix="edgekd-", dir=short))
        self.socket, self.log = self.private / "c", self.private / "log"
        self.master: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Link:
        try:
            self.open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_master()
        shutil.rmtree(self.private, ignore_errors=True)

    def options(self) -> list[str]:
        """The part of the command line that ssh, sftp and rsync's ssh share; the host is not in it."""
        words = ["-F", str(self.config.resolve())] if self.config else []
        chosen = [*OPTIONS, f"ControlPath={self.socket}"]
        chosen += [f"User={self.board.user}"] if self.board.user else []
        chosen += [f"Port={self.board.port}"] if self.board.port else []
        for option in chosen:
            words += ["-o", option]
        return words

    def open(self) -> None:
        """Connects, again when there was a connection before. Raises MeasurementError with ssh's reason."""
        self._end_master()
        if self.stop.is_set():
            raise stopped()
        command = ["ssh", *self.options(), "-o", "ControlMaster=yes", "-N", "-T", "--", self.board.host]
        with open(self.log, "wb") as log:
            self.master = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                start_new_session=True, env=_environment(),
            )  # fmt: skip
        deadline = time.monotonic() + LOGIN_S
        while not self.socket.exists():
            if self.stop.is_set():
                raise stopped()
            ended = self.master.poll() is not None
            if ended or time.monotonic() > deadline:
                said = self.log.read_text(encoding="utf-8", errors="replace")
                raise refused(self.board, said if ended else f"{said}\nno answer within {LOGIN_S:.0f} s", self.config)
            self.master_wait(0.05)

    def master_wait(self, seconds: float) -> None:
        """Waits, but not longer than the connection lives."""
        assert self.master is not None
        try:
            self.master.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def reopen(self, lost: Lost) -> None:
        """Connects again after Lost, a few times. Raises Lost when the board stays away."""
        reason = str(lost)
        for pause_s in PAUSES_S:
            if self.stop.wait(pause_s):
                raise stopped()
            try:
                return self.open()
            except MeasurementError as error:
                reason = error.why or error.what
        raise Lost(reason)

    def call(
        self, command: list[str], *, fed: bytes = b"", cwd: Path | None = None, stoppable: bool = True,
        most_s: float | None = None,
    ) -> Answer:  # fmt: skip
        """Runs a client program (ssh, sftp, rsync) over the link, in a session of its own: Ctrl-C is ours to handle."""
        deadline = None if most_s is None else time.monotonic() + most_s
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd,
            start_new_session=True, env=_environment(),
        ) as process:  # fmt: skip
            try:
                while True:
                    try:
                        out, err = process.communicate(fed or None, timeout=0.25)
                        break
                    except subprocess.TimeoutExpired:
                        fed = b""  # communicate() has it already
                        if stoppable and self.stop.is_set():
                            raise stopped() from None
                        if deadline is not None and time.monotonic() > deadline:
                            raise Lost(f"no answer within {most_s:.0f} s") from None
            except BaseException:
                process.kill()
                raise
        return Answer(process.returncode, out, err.decode("utf-8", errors="replace"))

    def sh(self, script: str, *, stoppable: bool = True, most_s: float = CALL_S) -> Answer:
        """Runs lines of POSIX shell on the board; they go through stdin, so its login shell sees `sh -s` alone.

        Whatever varies in them must have gone through shlex.quote. They never end with 255, which is ssh's own.
        """
        if not self.up():  # ssh would make a connection of its own for every call
            raise Lost(self.last_words())
        command = ["ssh", *self.options(), "-o", "ControlMaster=no", "-T", "--", self.board.host, "sh -s"]
        fed = b"echo " + BEGIN + script.encode() + b"\n"
        found = self.call(command, fed=fed, stoppable=stoppable, most_s=most_s)
        _, mark, out = found.out.partition(BEGIN)
        if found.code == 255 or not mark:
            raise Lost(self.last_words(found.err))
        return Answer(found.code, out, found.err)

    def up(self) -> bool:
        """Whether the connection stands."""
        return self.master is not None and self.master.poll() is None

    def last_words(self, err: str = "") -> str:
        """What ssh said last, of the connection or of one command."""
        log = self.log.read_text(encoding="utf-8", errors="replace")
        return last_line(log) or last_line(err) or "the connection ended"

    def _end_master(self) -> None:
        if self.master is not None and self.master.poll() is None:
            self.master.terminate()
            try:
                self.master.wait(5)
            except subprocess.TimeoutExpired:
                self.master.kill()
                self.master.wait()
        self.socket.unlink(missing_ok=True)


def stopped() -> Interrupted:
    """Ctrl-C, for a board."""
    return Interrupted("stopped", signal=signal.SIGINT, fix="run the same command again")


def _environment() -> dict[str, str]:
    return os.environ | {"SSH_ASKPASS_REQUIRE": "never"}
