"""Does everything to `edgekd compress` that docs/reliability.md speaks of, and writes the table there from what it saw.

    python benchmarks/fault_table.py [--write] [--only WORDS]

Linux; a full and a read-only disk are real ones where the user may mount (root). What cannot be had at will, memory
that runs out, a loss that is no number and a clock that jumps, is put into the process before it starts.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import demo
from demo import digits, train_teacher

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import faults
from faults import Ended, command, ended, kill_when

from edgekd import Images, save_teacher
from edgekd.checkpoint import NAME, previous

DOCS = Path(__file__).parents[1] / "docs" / "reliability.md"
MARKS = "<!-- table: begin, by benchmarks/fault_table.py -->", "<!-- table: end -->"
OPTIONS = ("--student", "resnet:1x8", "--precision", "fp32")
SOON = faults.EVERY.format(0.5)  # a checkpoint every half second
TRAINING = """
import edgekd.pipeline
def end(*_, **__): raise SystemExit(0)
edgekd.pipeline.bundled = end
"""  # what follows the training is left out: kill.py goes through it
SHORT_OF_MEMORY = """
import torch, edgekd.memory as m
was = m.in_parts
def in_parts(model, x, observed=None):
    m._batch.last = len(x)
    if m.fits_memory(x) and len(x) > 16: raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    return was(model, x, observed)
import edgekd.ranks
edgekd.ranks.in_parts = in_parts
"""
COLLAPSED = """
import edgekd.collapse as c
was, looks = c.spread, [0]
def spread(logits):
    looks[0] += 1
    return 0.0 if looks[0] <= 2 else was(logits)
c.spread, c.SETTLED = spread, 10
"""


@dataclass(frozen=True)
class Place:
    """Where a fault is tried."""

    teacher: Path
    other: Path  # another teacher
    folder: Path  # of the output; not there yet

    @property
    def checkpoint(self) -> Path:
        return self.folder / NAME

    def call(self, *options: str, first: str = SOON, **settings: object) -> list[str]:
        return command(self.teacher, self.folder, *OPTIONS, *options, first=TRAINING + first, **settings)

    def stopped(self) -> None:
        """A run that was killed when it had two checkpoints."""
        ended(self.call(), after=kill_when(previous(self.checkpoint), signal.SIGKILL, wait_s=0.3))  # two by then


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    does: Callable[[Place], Ended]
    exits: int  # what must come out
    says: str  # what must be in the message
    same: bool = True  # the same command afterwards ends with the student of a run left alone


def signalled(number: int, times: int = 1) -> Callable[[Place], Ended]:
    return lambda place: ended(place.call(), after=kill_when(previous(place.checkpoint), number, times))


def full_disk(place: Place) -> Ended:
    with faults.small_disk(place.folder, 40) as mounted:
        if not mounted:
            return ended(place.call(), limit="fsize=100000")

        def fill(child: subprocess.Popen[str]) -> bool:
            if previous(place.checkpoint).exists():
                subprocess.run(
                    ["dd", "if=/dev/zero", f"of={place.folder}/filler", "bs=64k"], capture_output=True, check=False
                )
                return True
            return False

        end = ended(place.call(), after=fill)
        wrong = faults.halves(place.folder)
        (place.folder / "filler").unlink()
        kept = place.folder.with_name("kept")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place.folder, kept)
    shutil.rmtree(place.folder)
    kept.rename(place.folder)
    return Ended(end.exit, end.message + "".join(wrong), end.seconds, end.killed)


def read_only(place: Place) -> Ended:
    with faults.small_disk(place.folder, 40) as mounted:
        if mounted:
            faults.remounted(place.folder, "ro")
        else:
            place.folder.chmod(0o555)
        end = ended(place.call())
    place.folder.chmod(0o755)
    return end


def twice(place: Place) -> Ended:
    found: list[Ended] = []

    def second(child: subprocess.Popen[str]) -> bool:
        if not place.checkpoint.exists():
            return False
        thread = threading.Thread(target=lambda: found.append(ended(place.call())))
        thread.start()
        thread.join()
        return True

    first = ended(place.call(), after=second)
    return found[0] if first.exit in (0, 1) else first


def owner_gone(place: Place) -> Ended:
    place.folder.mkdir()
    (place.folder / ".lock").write_text('{"pid": 999999, "host": "here", "since": "2020-01-01T00:00:00+00:00"}\n')
    return ended(place.call())


def damaged(*names: str) -> Callable[[Place], Ended]:
    def does(place: Place) -> Ended:
        place.stopped()
        for name in names:
            path = place.folder / name
            path.write_bytes(path.read_bytes()[:-100])
        return ended(place.call())

    return does


def bank_gone(place: Place) -> Ended:
    def learning(child: subprocess.Popen[str]) -> bool:  # from images that a checkpoint counts on
        lines = faults.steps(place.folder) if place.checkpoint.exists() else []
        if sum(line["phase"] == "student" for line in lines) < 2:
            return False
        child.kill()
        return True

    ended(place.call(), after=learning)
    (place.folder / "made.u8").unlink()
    return ended(place.call())


def changed(place: Place) -> Ended:
    place.stopped()
    return ended(place.call(student_steps=999))


def other_teacher(place: Place) -> Ended:
    place.stopped()
    return ended(command(place.other, place.folder, *OPTIONS))


def spoilt(when: str) -> Callable[[Place], Ended]:
    return lambda place: ended(place.call(first=SOON + faults.NOT_A_NUMBER.replace("{when}", when)))


def injected(first: str) -> Callable[[Place], Ended]:
    return lambda place: ended(place.call(first=first))


def worker_lost(place: Place) -> Ended:
    """Two processes under torchrun, which starts both again when one is killed."""
    of_one = place.folder.parent / "worker.py"
    of_one.write_text(TRAINING + SOON + faults.MAIN, encoding="utf-8")
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "2",
    ]
    arguments = [*torchrun, str(of_one), *place.call(first="")[3:]]

    def after(child: subprocess.Popen[str]) -> bool:
        if not previous(place.checkpoint).exists():
            return False
        workers = subprocess.run(
            ["pgrep", "-P", str(child.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        return True

    return ended(arguments, after=after)


FAULTS = (
    Fault("Ctrl-C (SIGINT)", signalled(signal.SIGINT), 130, "all work so far is saved"),
    Fault("Ctrl-C twice", signalled(signal.SIGINT, 2), 130, "stopped"),
    Fault("SIGTERM", signalled(signal.SIGTERM), 143, "all work so far is saved"),
    Fault("kill -9, or power lost", signalled(signal.SIGKILL), 137, ""),
    Fault("disk full while training", full_disk, 4, "No space left"),
    Fault("output folder read-only", read_only, 4, "cannot write to the output folder"),
    Fault("a second run in the same folder", twice, 4, "another run is at work"),
    Fault("lock of a run that is gone", owner_gone, 0, ""),
    Fault("newest checkpoint damaged", damaged(NAME), 0, "goes on from the checkpoint before it"),
    Fault("both checkpoints damaged", damaged(NAME, previous(Path(NAME)).name), 7, "no checkpoint"),
    Fault("bank of images deleted", bank_gone, 7, "are not in"),
    Fault("another setting in the same folder", changed, 2, "student_steps: was 160, is 999"),
    Fault("another teacher in the same folder", other_teacher, 2, "teacher: was"),
    Fault("clock set back an hour, again and again", injected(SOON + faults.JUMPING), 0, ""),
    Fault("a loss that is no number, once", spoilt("== 150"), 0, "learning rates times 0.3", same=False),
    Fault("a loss that is no number, every time", spoilt("> 150"), 8, "diverged 4 times", same=False),
    Fault("memory for 16 images only", injected(SOON + SHORT_OF_MEMORY), 0, "16 images at a time", same=False),
    Fault("a generator that shows one class", injected(SOON + COLLAPSED), 0, "begun anew", same=False),
    Fault("a worker of torchrun killed", worker_lost, 0, "", same=False),
)  # fmt: skip


def row(fault: Fault, place: Place, whole: Path) -> tuple[str, bool]:
    """The fault's line of the table, and whether all was as it must be."""
    end = fault.does(place)
    right = end.exit == fault.exits or (fault.exits == 0 and end.exit == 1)  # 1: a limit of the profile is missed
    right = right and fault.says in end.message
    if fault.exits == 7:  # as the message says
        for path in place.folder.glob("*.ckpt"):
            path.unlink()
    halves = faults.halves(place.folder) if place.folder.exists() else []
    if fault.exits == 8:
        shutil.rmtree(place.folder)
    after, again = "", end
    if fault.exits or end.exit not in (0, 1):
        again = ended(place.call())
        after = "the same command goes on" if fault.exits not in (7, 8) else "begins anew, as the message says"
    right = right and not halves and again.exit in (0, 1) and not faults.litter(place.folder)
    if fault.same:
        equal = again.exit in (0, 1) and faults.same(place.folder, whole)
        right, after = (
            right and equal,
            (f"{after}; " if after else "") + ("same student" if equal else "ANOTHER STUDENT"),
        )
    shown = [line.strip() for line in end.message.splitlines()]
    marks = ("error", "warning", "numbers are", "out of memory", "collapse", "the generator showed")
    told = next((line for line in shown if line.startswith(marks)), "-")
    told = re.sub(r"\s*\(exit \d+\)$", "", told.replace(str(place.folder), "DIR").replace("|", "\\|"))
    if not right:
        print(end, again, halves, faults.litter(place.folder), sep="\n", file=sys.stderr)
    return f"| {fault.name} | {end.exit} | {told[:160]} | {after or 'it went on to its end'} |", right


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/reliability.md")
    parser.add_argument("--only", default="", help="faults with these words")
    options = parser.parse_args()
    rows, wrong = ["| what happens | exit | what is said | then |", "|---|---|---|---|"], []
    demo.EPOCHS = 4  # a good teacher is not needed here
    with tempfile.TemporaryDirectory() as temporary:
        top, facts = Path(temporary), Images(1, 8, 8, (0.5,), (0.25,))
        (images, labels), _ = digits()
        model = train_teacher(images, labels, facts, seed=0)
        for name, classes in (("teacher.pt", "0123456789"), ("other.pt", "abcdefghij")):
            save_teacher(model, top / name, images=facts, classes=list(classes))
        whole = Place(top / "teacher.pt", top / "other.pt", top / "whole")
        if ended(whole.call()).exit not in (0, 1):
            sys.exit("the run without a fault fails")
        for fault in FAULTS:
            if options.only not in fault.name:
                continue
            place = Place(top / "teacher.pt", top / "other.pt", top / "run")
            shutil.rmtree(place.folder, ignore_errors=True)
            line, right = row(fault, place, whole.folder)
            rows.append(line)
            wrong += [] if right else [fault.name]
            print(line, "" if right else "   WRONG", flush=True)
    if options.write and not wrong:
        before, rest = DOCS.read_text(encoding="utf-8").split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        DOCS.write_text(before + "\n".join([MARKS[0], *rows, MARKS[1]]) + after, encoding="utf-8")
    sys.exit(f"not as documented: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
