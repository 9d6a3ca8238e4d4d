"""The paper's pairs on a GPU, in slots: trains the teachers, distils, evaluates. One command, again until all is done.

    python benchmarks/gpu.py [--seconds 540] [--pairs cifar10-resnet34 ...] [--methods rdskd_plus] [--seeds 0 1 2]
        [--budget fast] [--data ../shared/data] [--out benchmarks/results/gpu] [--plan] [-- COMPRESS OPTIONS]

A slot's end is a Ctrl-C: what is under way saves itself in OUT/work and the next call goes on with it. OUT itself holds
what to keep, in few files below 16 MB: teacher-NAME.json with teacher-NAME.part1.pt, ... (fp16), and gpu.jsonl, a line
per run as benchmarks/methods.py writes it. Teachers are trained on the images in --data: CIFAR-10, and SVHN where
svhn.npz is there (train_images, train_labels, test_images, test_labels; uint8, N,32,32,3). benchmarks/methods.py runs
the same pairs with --teachers OUT. --tiny goes the whole way with stand-ins on a CPU in a minute or two.

Run on an H200 for a quarter of an hour: results/gpu.

Exit codes: 0 slot over or all done, 1 a run failed, 4 no GPU, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import record
import torch
from pairs import PAIRS, Pair, Task, key, prepared, recorded, run_in, why
from teachers import COURSES

from edgekd.methods import METHODS

ORDER = ("cifar10-resnet34", "cifar10-wrn16-1", "cifar10-wrn16-2", "cifar10-wrn40-1", "svhn")
LEAST_S = 30.0  # of a slot: with less, nothing is begun
TINY = (
    'prior="procedural"',
    "prior_images=64",
    "rounds=1",
    "image_steps=4",
    "image_batch=8",
    "batch=16",
    "student_steps=8",
)


@dataclass(frozen=True)
class Slot:
    """One call: where things are and until when."""

    data: Path
    out: Path
    tiny: bool
    ends: float  # time.monotonic()

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()

    @property
    def results(self) -> Path:
        return self.out / "gpu.jsonl"

    @property
    def work(self) -> Path:
        return self.out / "work"


def teacher_of(pair: str) -> str:
    """The name of its teacher in COURSES."""
    (file,) = PAIRS[pair].teachers
    return file.removeprefix("teacher-").removesuffix(".json")


def lacking(pair: str, slot: Slot) -> str:
    """Which files of the data are not there, in words; empty where all are."""
    halves = ["cifar10_train_1of2.npz", "cifar10_train_2of2.npz"]
    names = [*PAIRS[pair].data, *(halves if COURSES[teacher_of(pair)].data == "cifar10" else [])]
    return ", ".join(f"{slot.data / name} is not there" for name in names if not (slot.data / name).is_file())


def steps(tasks: list[Task]) -> Iterator[str | Task]:
    """What is to be done, by pairs: each teacher's name before the first of its runs."""
    taught = set()
    for task in tasks:
        if (teacher := teacher_of(task.pair)) not in taught:
            taught.add(teacher)
            yield teacher
        yield task


def place_of(task: Task, slot: Slot) -> Path:
    """The folder in which a run goes on."""
    short = hashlib.sha256(key(task).encode()).hexdigest()[:8]  # of options, too long for a name
    return slot.work / f"run-{task.pair}-{task.method}-seed{task.seed}-{short}"


def state(step: str | Task, slot: Slot) -> str:
    """done, begun or to do."""
    if isinstance(step, str):
        done, begun = slot.out / f"teacher-{step}.json", slot.work / f"teacher-{step}.ckpt"
        return "done" if done.is_file() else "begun" if begun.is_file() else "to do"
    if key(step) in recorded(slot.results):
        return "done"
    return "begun" if place_of(step, slot).is_dir() else "to do"


def label(step: str | Task) -> str:
    if isinstance(step, str):
        return f"teacher {step}"
    return " ".join((f"{step.pair}: {step.method}, budget {step.budget}", *step.options, f"seed {step.seed}"))


def teach(name: str, slot: Slot) -> None:
    """Trains a teacher, or goes on with it. Raises CalledProcessError, and KeyboardInterrupt when the slot is over."""
    script = Path(__file__).parent / "teachers.py"
    command = [sys.executable, str(script), name, "--data", str(slot.data.resolve()), "--out", str(slot.out.resolve())]
    facts = json.loads(record.run([*command, "--tiny"] if slot.tiny else command, slot.out)[0])
    aim = facts["course"]["aim"]
    short = "" if facts["top1"] >= aim else f", short of the {aim:.1%} aimed at"
    print(f"{label(name)}: {facts['top1']:.2%}{short}, {facts['seconds']:.0f} s on {facts['device']}", flush=True)


def distil(task: Task, slot: Slot) -> None:
    """One run, or what is left of it; its seconds are those of all calls. Raises as `teach` does."""
    folder, place = prepared(task.pair, slot.data, slot.out, slot.work), place_of(task, slot)
    place.mkdir(exist_ok=True)
    clock = place / "seconds.txt"  # of the calls that were stopped
    earlier, begun = float(clock.read_text(encoding="utf-8")) if clock.exists() else 0.0, time.monotonic()
    try:
        line = run_in(place, _pair(task.pair, slot), task, folder, slot.results, earlier_s=earlier)
    except KeyboardInterrupt:
        clock.write_text(f"{earlier + time.monotonic() - begun:.1f}\n", encoding="utf-8")
        raise
    shutil.rmtree(place)
    print(f"{label(task)}: {line['top1']['fp32']:.2%} in {line['seconds']:.0f} s", flush=True)


def _pair(name: str, slot: Slot) -> Pair:
    return replace(PAIRS[name], student="cnn:4") if slot.tiny else PAIRS[name]


def work(tasks: list[Task], slot: Slot) -> int:
    """Goes through the steps until the slot is over; gives the exit code. Raises KeyboardInterrupt."""
    failed = 0
    for step in steps(tasks):
        lost = isinstance(step, Task) and state(teacher_of(step.pair), slot) != "done"  # its teacher has failed
        if lost or state(step, slot) == "done":
            continue
        if slot.left_s < LEAST_S:
            break
        print(f"{label(step)}: {state(step, slot)}, {slot.left_s:.0f} s left in this slot", flush=True)
        try:
            teach(step, slot) if isinstance(step, str) else distil(step, slot)
        except subprocess.CalledProcessError as error:
            if error.returncode in (130, 143):  # Ctrl-C, and the run was told first
                raise KeyboardInterrupt from error
            print(f"{label(step)}: {why(error)}", flush=True)
            failed = 1
    return failed


def timed(tasks: list[Task], slot: Slot) -> int:
    """`work` until the slot is over, and a line that says what is left; gives the exit code."""
    over: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        over.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(slot.left_s, 1e-3))
    try:
        code = work(tasks, slot)
    except KeyboardInterrupt:
        code = 0 if over else 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    left = [f"{label(step)} ({state(step, slot)})" for step in steps(tasks) if state(step, slot) != "done"]
    print(f"left, the same command goes on: {'; '.join(left)}" if left else "all done", flush=True)
    return code


def main(arguments: list[str] | None = None) -> int:
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=540, help="of this call")
    parser.add_argument("--pairs", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["rdskd_plus"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", default="fast", help="of every method")
    parser.add_argument(
        "--data", type=Path, default=here.parents[2] / "shared" / "data", help="folder of the npz files"
    )
    parser.add_argument("--out", type=Path, default=here.parent / "results" / "gpu")
    parser.add_argument("--plan", action="store_true", help="say what is done and what is left, and do nothing")
    parser.add_argument("--tiny", action="store_true", help="small stand-ins and a few steps, on a CPU too")
    parser.add_argument("options", nargs="*", help="further options of edgekd compress, behind --")
    given = parser.parse_args(arguments)
    slot = Slot(given.data, given.out, given.tiny, time.monotonic() + given.seconds)
    if not (given.tiny or given.plan or torch.cuda.is_available()):
        print("no CUDA device here: these trainings take days without one. --tiny shows the way on a CPU")
        return 4
    options = (*given.options, *(f"--set={setting}" for setting in TINY)) if given.tiny else tuple(given.options)
    reasons = {pair: lacking(pair, slot) for pair in ORDER if pair in given.pairs}
    print("".join(f"{pair}: left out, {reason}\n" for pair, reason in reasons.items() if reason), end="", flush=True)
    tasks = [
        Task(pair, method, given.budget, options, seed)
        for pair, reason in reasons.items()
        if not reason
        for seed in given.seeds
        for method in given.methods
    ]
    if given.plan:
        print("\n".join(f"{state(step, slot):<6} {label(step)}" for step in steps(tasks)))
        return 0
    slot.work.mkdir(parents=True, exist_ok=True)
    return timed(tasks, slot)


if __name__ == "__main__":
    sys.exit(main())
