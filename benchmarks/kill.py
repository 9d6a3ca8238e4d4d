"""kill -9 at random moments of a whole compress, gone on with each time: is it the student of a run left alone?

    python benchmarks/kill.py [--kills 200] [--seed 0] [--out benchmarks/results/faults.jsonl]

The teacher is one of demo.py, on scanned digits. A run is killed up to twenty times before it may end; half of the
runs save every second instead of every eight, so that more of them go on from a checkpoint. One JSON line per run.
lost_s: seconds of work that each kill cost, from the last checkpoint or finished stage, or the end of the start-up
where that is later, to the kill.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import demo
import torch
from demo import digits, train_teacher

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import faults  # the same harness as the tests

from edgekd import Images, save_teacher

CHAIN, LONGEST_S = 20, 16.0  # kills of one run; seconds after a start at which it comes at the latest
OPTIONS = ("--student", "resnet:1x8", "--quiet")
EVERY_S = (8.0, 1.0)
STAGES = {  # a file, and what comes after it
    "result.json": "ending", "bundle/report.json": "page", "teacher.onnx": "measuring", "bundle": "teacher's graph",
    "student.pt": "export", "images.npz": "student's file",
}  # fmt: skip


def stage(folder: Path) -> str:
    """What the run was at when it was killed, by what it had left."""
    for name, at in STAGES.items():
        if (folder / name).exists():
            return at
    lines = faults.steps(folder)
    return str(lines[-1]["phase"]) if lines else ("starting" if (folder / "settings.json").exists() else "reading")


def one_run(teacher: Path, reference: Path, folder: Path, rng: random.Random, every_s: float) -> dict[str, object]:
    """Kills a run up to CHAIN times at random moments, lets it end, and compares."""
    shutil.rmtree(folder, ignore_errors=True)
    first, begun = faults.EVERY.format(every_s) + faults.BEGUN, folder.parent / "begun"
    os.environ["EDGEKD_BEGUN"] = str(begun)
    kills, halves, lost = list[str](), list[str](), list[float]()
    while len(kills) < CHAIN:
        begun.unlink(missing_ok=True)
        end = faults.ended(
            faults.command(teacher, folder, *OPTIONS, first=first), after=faults.kill_after(rng.uniform(0.5, LONGEST_S))
        )
        if not end.killed:
            break
        now = time.time()
        kills.append(stage(folder) if folder.exists() else "reading")
        lost.append(round(now - max(begun.stat().st_mtime, faults.newest_s(folder)), 1) if begun.exists() else 0.0)
        halves += faults.halves(folder) if folder.exists() else []
    else:
        end = faults.ended(faults.command(teacher, folder, *OPTIONS, first=first))
    whole = end.exit in (0, 1)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "every_s": every_s,
        "kills": kills,
        "lost_s": lost,
        "halves": halves,
        "exit": end.exit,
        "same": whole and faults.same(folder, reference),
        "litter": faults.litter(folder),
        **({} if whole else {"message": end.message[-500:]}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "faults.jsonl")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rng, killed, wrong = random.Random(options.seed), 0, 0
    demo.EPOCHS = 4  # a good teacher is not needed here
    with tempfile.TemporaryDirectory() as temporary:
        place, facts = Path(temporary), Images(1, 8, 8, (0.5,), (0.25,))
        (images, labels), _ = digits()
        save_teacher(train_teacher(images, labels, facts, seed=0), place / "teacher.pt", images=facts,
                     classes=[str(digit) for digit in range(10)])  # fmt: skip
        reference = faults.ended(faults.command(place / "teacher.pt", place / "whole", *OPTIONS))
        if reference.exit not in (0, 1):
            sys.exit(reference.message)
        print(f"a run left alone takes {reference.seconds:.0f} s", flush=True)
        runs = 0
        while killed < options.kills:
            line = one_run(place / "teacher.pt", place / "whole", place / "run", rng, EVERY_S[runs % 2])
            runs, killed = runs + 1, killed + len(line["kills"])  # type: ignore[arg-type]
            wrong += not line["same"] or bool(line["halves"]) or bool(line["litter"])
            with open(options.out, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
            print(f"{killed} kills in {runs} runs, {wrong} runs wrong", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
