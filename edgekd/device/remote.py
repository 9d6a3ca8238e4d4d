"""A bundle's measurement on a board: copied, started there by itself, looked at now and then, its report brought home.

The runner goes on over there when the link is cut. What was reached is written down in unfinished.json here, so that
the same command, started again, goes on with it. All lies in one folder of the board, which is removed at the end.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgekd.device import scripts
from edgekd.device.board import Board
from edgekd.device.copying import deliver, explain_full, freight, has_rsync
from edgekd.device.link import Link, Lost, stopped
from edgekd.device.local import FAILURES
from edgekd.device.refusals import NO_SPACE, full, last_line, legible, python_lacking
from edgekd.errors import EdgekdError, EnvironmentLacking, IntegrityError, MeasurementError, UsageError
from edgekd.files import parsed, write_json, written
from edgekd.types import Bundle

POLL_S, SLOWEST_POLL_S = 2.0, 10.0  # a look costs the board a process; the longer nothing happens, the rarer
REPORT, RUNS = "report.json", "raw_latency.npz"
LOSSES = 20  # times that one step may lose the link before we give up
SENT = {
    "reference.onnx": ("--reference", "../reference.onnx"),
    "evaluation.npz": ("--eval-data", "../evaluation.npz"),
}  # fmt: skip
T = TypeVar("T")


class Unfinished(MeasurementError):
    """The board is out of reach, and what was reached there stands."""


def run_on(
    bundle: Bundle,
    board: Board,
    *,
    out: Path | None = None,
    quick: bool = False,
    threads: int | None = None,
    reference: Path | None = None,
    eval_data: Path | None = None,
    soak: float | None = None,
    runtime: str | None = None,
    keep: bool = False,
    python: str = "python3",
    ssh_config: Path | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures the bundle on a board that ssh reaches and gives its report, as run_bundle does on this machine.

    out: where report.json goes (default: boards/<board> beside the bundle); quick, threads, reference, eval_data,
    soak, runtime, say: see run_bundle; keep: the board's folder stays; python: the interpreter over there; ssh_config:
    instead of the user's; stop: set by another thread, it ends the run and clears the board.
    Raises MeasurementError when the board is out of reach (Unfinished: the same call goes on) or its runner failed,
    EnvironmentLacking for what the board lacks, IntegrityError for a file or report that did not travel unchanged.
    """
    if not python or python.startswith("-") or not python.isprintable():
        raise UsageError(f"--python {python!r} is not the path of an interpreter", code="E0243")
    out, stop = out or reports(bundle, board) / "report.json", stop or threading.Event()
    out.parent.mkdir(parents=True, exist_ok=True)
    more = {"reference.onnx": reference, "evaluation.npz": eval_data}
    wanted = freight(bundle, {name: path for name, path in more.items() if path is not None})
    options = _options(quick, threads, soak, runtime) + [
        w for name, option in SENT.items() if more[name] for w in option
    ]
    asked = {
        "board": board.name,
        "python": python,
        "options": options,
        "sent": {n: f.sha256 for n, f in wanted.items()},
    }
    with Link(board, config=ssh_config, stop=stop) as link:
        visit = Visit(link, out.with_name("unfinished.json"), python, say)
        # the others need no onnxruntime; a board with none of them hears so from the runner
        other = (runtime or bundle.manifest.target) in ("tensorrt", "trt", "trtexec", "openvino", "litert")
        needed = ("numpy",) if other else ("numpy", "onnxruntime")
        rsync = visit.step(lambda: visit.greet(needed)) and has_rsync()
        folder = visit.settle(asked)
        try:
            if visit.step(lambda: link.sh(scripts.started(folder))).code:  # hashing would disturb a measurement
                visit.step(lambda: deliver(link, wanted, folder, python=python, rsync=rsync, say=say))
            visit.step(lambda: visit.start(folder, options))
            visit.follow(folder)
            content = visit.step(lambda: visit.fetch(folder))
            report: dict[str, Any] = parsed(content)
            runs = visit.step(lambda: visit.fetch(folder, RUNS)) if report.get("raw") else b""
        except Unfinished:
            raise
        except BaseException:
            visit.leave(folder, keep=keep)
            raise
        for path, arrived in ((out.with_name(RUNS), runs), (out, content)):
            if arrived:
                with written(path) as temporary:
                    temporary.write_bytes(arrived)
        visit.leave(folder, keep=keep)
    return report


def _options(quick: bool, threads: int | None, soak: float | None, runtime: str | None) -> list[str]:
    """The runner's, but for those that name a file."""
    options = ["--quick"] if quick else []
    options += ["--threads", str(threads)] if threads is not None else []
    options += ["--soak", f"{soak:g}"] if soak else []
    return options + (["--runtime", runtime] if runtime else [])


def reports(bundle: Bundle, board: Board) -> Path:
    """The folder of a board's report: beside the bundle, never in it."""
    return bundle.folder.resolve().parent / "boards" / board.file_name


class Visit:
    """One run over there, in steps that may be repeated after a lost link."""

    def __init__(self, link: Link, state: Path, python: str, say: Callable[[str], None]) -> None:
        self.link, self.board, self.state, self.python, self.say = link, link.board, state, python, say

    def step(self, action: Callable[[], T]) -> T:
        """What `action` gives; on a lost link it is tried again once the board is back. Raises Unfinished."""
        for _ in range(LOSSES):
            try:
                return action()
            except Lost as lost:
                self.say(f"link lost ({lost}), connecting again")
                try:
                    self.link.reopen(lost)
                except Lost as reason:
                    raise self.unfinished(str(reason)) from reason
                self.say("connected again")
        raise self.unfinished(f"the link went down {LOSSES} times")

    def unfinished(self, why: str) -> Unfinished:
        """The error for a board that stays away."""
        folder = self.folder() or "nothing yet"
        return Unfinished(
            f"{self.board.name} is out of reach; what was reached there stands ({folder})",
            code="E0514",
            why=why,
            fix="run the same command again when it is back: it goes on where this ended",
        )

    def folder(self) -> str:
        """The board's folder of a run that did not end, from the state kept here; empty when there is none."""
        folder = str(self.remembered().get("folder", ""))
        return folder if folder.isprintable() and re.fullmatch(r"/(.*/)?edgekd-[0-9a-f]{16}", folder) else ""

    def remembered(self) -> Mapping[str, Any]:
        """What an earlier call wrote down."""
        if not self.state.is_file():
            return {}
        try:
            found = parsed(self.state.read_text(encoding="utf-8"))
        except ValueError:  # a state that cannot be read is none: the run begins anew
            return {}
        return found if isinstance(found, dict) else {}

    def greet(self, needed: tuple[str, ...]) -> bool:
        """Looks whether the board's Python has what is needed; whether it has rsync. Raises EnvironmentLacking."""
        found = self.link.sh(scripts.greet(self.python, needed)).out.decode(errors="replace")
        match = re.search(r"^python=([ \w]*)\nrsync=(\w*)$", found, re.MULTILINE)
        lacking = python_lacking(self.board, self.python, match[1] if match else "", self.link.config)
        if lacking:
            raise lacking
        return bool(match and match[2] == "yes")

    def settle(self, asked: Mapping[str, Any]) -> str:
        """The board's folder: that of an unfinished run that asked the same, where it still is; else a new one."""
        before = self.folder()
        if before and self.remembered().get("asked") == asked:
            if self.step(lambda: self.link.sh(scripts.stands(before))).code == 0:
                self.say(f"going on with {before}")
                return before
        elif before:
            self.step(lambda: self.link.sh(scripts.clear(before)))
        folder = f"{self.board.folder.rstrip('/')}/edgekd-{secrets.token_hex(8)}"
        write_json(self.state, {"folder": folder, "asked": asked})  # first, so that a cut link leaves nothing unknown
        made = self.step(lambda: self.link.sh(scripts.make(folder)))
        if made.code:
            self.leave(folder, keep=False)  # a part of it may have been made
            if any(words in made.err.lower() for words in NO_SPACE):
                raise full(self.board, self.board.folder, last_line(made.err))
            raise EnvironmentLacking(
                f"{self.board.name}: no folder can be made in {self.board.folder}",
                code="E0524",
                why=last_line(made.err),
                fix="name a folder of yours over there: --on ssh://host/folder",
            )
        return folder

    def start(self, folder: str, options: list[str]) -> None:
        """Starts the runner over there, once however often this is called. Raises Lost, EnvironmentLacking."""
        started = self.link.sh(scripts.start(folder, self.python, options))
        if started.code:
            explain_full(self.link, folder)
            raise MeasurementError(
                f"{self.board.name}: the runner did not start", code="E0531", why=last_line(started.err)
            )

    def follow(self, folder: str) -> None:
        """Waits for the runner's end, passing on its progress lines. Raises for a runner that failed."""
        lines: list[str] = []
        offset, pause_s = 0, POLL_S
        while True:
            if self.link.stop.wait(pause_s):
                raise stopped()
            found = self.step(lambda offset=offset: self.link.sh(scripts.look(folder, offset)))  # type: ignore[misc]
            state, _, progress = found.out.partition(b"\n")
            whole = progress[: progress.rfind(b"\n") + 1]
            fresh = [legible(line) for line in whole.decode(errors="replace").splitlines()]
            for line in fresh:
                self.say(line)
            lines, offset = lines + fresh, offset + len(whole)
            pause_s = POLL_S if fresh else min(SLOWEST_POLL_S, 1.5 * pause_s)
            if state == b"running":
                continue
            if state == b"done 0":
                return
            self.step(lambda: explain_full(self.link, folder))
            raise _failed(self.board, state.decode(errors="replace"), lines, self.python)

    def fetch(self, folder: str, name: str = REPORT) -> bytes:
        """A file of the board's, as it lies there by its sha256. Raises Lost, IntegrityError, MeasurementError."""
        for _ in range(2):
            found = self.link.sh(scripts.fetch(folder, self.python, name))
            told, _, content = found.out.partition(b"\n")
            if found.code == 0 and hashlib.sha256(content).hexdigest().encode() == told.strip():
                return _checked(self.board, content) if name == REPORT else content
        raise IntegrityError(
            f"{self.board.name}: its {name} did not arrive unchanged",
            code="E0526",
            why=last_line(found.err) or "its sha256 there differs from the one here",
            fix="run the same command again",
        )

    def leave(self, folder: str, *, keep: bool) -> None:
        """Ends what runs over there and removes the folder, unless it is to be kept; says where it could not."""
        script = scripts.end(folder) if keep else scripts.clear(folder)
        try:
            if not self.link.up():
                self.link.open()
            found = self.link.sh(script, stoppable=False)
            why = (last_line(found.err) or "its removal failed") if found.code else ""
        except (Lost, EdgekdError) as error:
            why = str(error)
        if why:
            self.say(f"left on {self.board.name}: {folder} ({why}); the next run removes it")
            return
        if keep:
            self.say(f"kept on {self.board.name}: {folder}")
        self.state.unlink(missing_ok=True)


def _failed(board: Board, state: str, lines: list[str], python: str) -> EdgekdError:
    """Why the runner ended, by its exit code and its last words."""
    said = next((li.removeprefix("error: ") for li in reversed(lines) if li.startswith("error: ")), "")
    said = said or (lines[-1] if lines else "it said nothing")
    number = re.fullmatch(r"done (\d+)", state)
    if number is None:
        return MeasurementError(
            f"{board.name}: the runner is gone and left no exit code",
            code="E0532",
            why=f"the board was switched off or ran out of memory; its last line: {said}",
            fix="run the same command again",
        )
    code = int(number[1])
    if code > 128:
        said = f"signal {code - 128} ended it{' (out of memory?)' if code == 137 else ''}; its last line: {said}"
    kind = FAILURES.get(code, MeasurementError)
    fix = f"on the board: {python} -m runner in the bundle's folder (--keep leaves it there)" if code < 128 else ""
    return kind(f"the bundle did not run on {board.name}", code="E0530", why=said, fix=fix)


def _checked(board: Board, content: bytes) -> bytes:
    """The report's bytes, when all that tables show of it is there; a board may send anything."""
    try:
        report = parsed(content)
        words = [report["device"]["name"], report["runtime"]["name"], report["runtime"]["version"], *report["reasons"]]
        figures = [g[k] for g in report["graphs"].values() for k in ("mb", "agreement")]
        figures += [g["latency_ms"][q] for g in report["graphs"].values() for q in ("p50", "p90", "p99")]
        good = isinstance(report["valid"], bool) and all(isinstance(word, str) and word.isprintable() for word in words)
        good = good and bool(figures) and all(isinstance(f, int | float) for f in figures)
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise MeasurementError(f"{board.name}: what it sent is no report", code="E0527", fix="look at it with --keep")
    return content
