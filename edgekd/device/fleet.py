"""Several boards side by side: a few at a time, and one that fails stops no other."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from edgekd.device.board import Board
from edgekd.device.local import run_bundle
from edgekd.device.refusals import legible
from edgekd.device.remote import reports, run_on
from edgekd.errors import EdgekdError, EnvironmentLacking, Interrupted, UsageError
from edgekd.files import plain
from edgekd.types import Bundle


@dataclass(frozen=True)
class Outcome:
    """What became of one board: a report, or the error that kept it from one."""

    board: Board
    report: Mapping[str, Any] | None
    path: Path  # of report.json
    error: EdgekdError | None
    seconds: float
    received: str  # by the clock of this machine, UTC; boards' clocks are often wrong

    @property
    def valid(self) -> bool:
        """Whether the board has a latency that counts."""
        return self.report is not None and bool(self.report["valid"])

    @property
    def warnings(self) -> list[str]:
        """What the runner says against its figures though they count; safe for a terminal."""
        told = None if self.report is None else self.report.get("warnings")
        return [legible(str(one)) for one in told] if isinstance(told, list) else []

    @property
    def document(self) -> dict[str, Any]:
        """As JSON has it: "board", "received", "ok", "valid", and "path" with "report", or "error"."""
        error, facts = self.error, {"board": self.board.name, "received": self.received}
        if error is None:
            return facts | {"ok": True, "valid": self.valid, "path": str(self.path), "report": plain(self.report)}
        told = {"code": error.code, "what": error.what, "why": error.why, "fix": error.fix, "exit": error.exit_code}
        return facts | {"ok": False, "valid": False, "error": told}


def run_fleet(
    bundle: Bundle,
    boards: Sequence[Board],
    *,
    jobs: int = 4,
    quick: bool = False,
    threads: int | None = None,
    reference: Path | None = None,
    eval_data: Path | None = None,
    soak: float | None = None,
    runtime: str | None = None,
    keep: bool = False,
    python: str = "python3",
    ssh_config: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    done: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Measures the bundle on every board, at most `jobs` at a time; outcomes in the order of `boards`. See run_on.

    done: gets each outcome as soon as there is one, one after the other. say gets lines that begin with the board's
    name. Raises UsageError for a board named twice, and Interrupted on SIGINT or SIGTERM, after the boards were
    cleared.
    """
    names = [board.file_name for board in boards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"{twice[0]} is named twice", code="E0244", why="two measurements on one board would disturb each other"
        )

    one_at_a_time = threading.Lock()

    def one(board: Board) -> Outcome:
        start, path = time.monotonic(), reports(bundle, board) / "report.json"
        report, error = None, None
        try:
            report = run_on(
                bundle, board, out=path, quick=quick, threads=threads, reference=reference, eval_data=eval_data,
                soak=soak, runtime=runtime, keep=keep, python=python, ssh_config=ssh_config, stop=stop,
                say=lambda line: say(f"{board.name}  {line}"),
            )  # fmt: skip
        except Interrupted:
            raise
        except EdgekdError as caught:
            error = caught
        except OSError as caught:
            error = EnvironmentLacking(f"this machine refused: {caught.strerror}", code="E0408", why=str(caught))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        outcome = Outcome(board, report, path, error, time.monotonic() - start, now)
        if done:
            with one_at_a_time:
                done(outcome)
        return outcome

    with _stopping() as stop, ThreadPoolExecutor(max(1, jobs)) as pool:
        futures = [pool.submit(one, board) for board in boards]
        wait(futures)
    return [future.result() for future in futures]


def runner_of(
    board: Board | None, *, python: str = "python3", ssh_config: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Callable[..., dict[str, Any]]:  # fmt: skip
    """What takes a bundle to a board, or runs it here, and gives its report: run(bundle, quick=..., threads=...)."""

    def run(bundle: Bundle, *, quick: bool = False, threads: int | None = None) -> dict[str, Any]:
        if board is None:
            return run_bundle(bundle, quick=quick, threads=threads, say=say)
        (outcome,) = run_fleet(
            bundle, [board], quick=quick, threads=threads, python=python, ssh_config=ssh_config, say=say
        )
        if outcome.error is not None:
            raise outcome.error
        assert outcome.report is not None
        return dict(outcome.report)

    return run


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """While inside, SIGINT and SIGTERM set the event; afterwards the one that came is raised as Interrupted."""
    stop, came = threading.Event(), list[int]()

    def ask(number: int, frame: FrameType | None) -> None:
        came.append(number)
        stop.set()

    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise Interrupted("stopped; what ran on the boards was ended", signal=came[0], fix="run the same command again")
