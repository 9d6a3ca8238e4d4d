"""A long distillation: does its memory grow? Its log and its checkpoints?

    python benchmarks/soak.py [--minutes 30] [--out benchmarks/results/soak.jsonl]

`edgekd compress` of demo.py's teacher with a bank that overflows, watched from outside every 5 s and then stopped as by
Ctrl-C. Resident memory without files is what counts: the bank is a file, whose pages the system takes back.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import demo
import numpy as np
import torch
from demo import digits, train_teacher

from edgekd import Images, save_teacher

LOOK_S, WARM_UP = 5.0, 0.2  # seconds between two looks; share of the time before which growth does not count
SETTINGS = (
    "rounds=400", "image_steps=400000", "student_steps=400000", "image_batch=64", "batch=64", "patience=0",
    "generator_width=16",
)  # fmt: skip


def resident_mb(pid: int) -> dict[str, float]:
    """10**6 bytes of a process's memory: its own, and with the files that it has mapped."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return {name: int(lines[key].split()[0]) * 1024 / 1e6 for name, key in (("own", "RssAnon"), ("all", "VmRSS"))}


def watched(command: list[str], folder: Path, minutes: float) -> dict[str, object]:
    """Runs it for so long, stops it, and says how memory and files behaved."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    start, seen, disk = time.monotonic(), list[tuple[float, float, float]](), list[float]()
    while (now := time.monotonic() - start) < 60 * minutes and child.poll() is None:
        time.sleep(LOOK_S)
        memory = resident_mb(child.pid)
        seen.append((now / 60, memory["own"], memory["all"]))
        disk.append(sum(p.stat().st_size for p in folder.glob("*.ckpt")) / 1e6)
    child.send_signal(signal.SIGINT)
    _, message = child.communicate(timeout=120)
    if child.returncode != 130:
        sys.exit(f"ended with {child.returncode}: {message}")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = {
        line["phase"]: line["step"] for line in lines if line["phase"] in ("images", "student")
    }  # the last of each
    late = np.array([row for row in seen if row[0] >= WARM_UP * minutes])
    return {
        "minutes": minutes,
        "steps": steps,
        "own_mb": {"first": round(float(late[0, 1]), 1), "last": round(float(late[-1, 1]), 1)},
        "own_mb_per_minute": round(float(np.polyfit(late[:, 0], late[:, 1], 1)[0]), 3),
        "with_files_mb_per_minute": round(float(np.polyfit(late[:, 0], late[:, 2], 1)[0]), 3),
        "checkpoints_mb": {"most": round(max(disk), 2), "last": round(disk[-1], 2)},
        "log_kb_per_1000_steps": round((folder / "log.jsonl").stat().st_size / sum(steps.values()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "soak.jsonl")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    demo.EPOCHS = 4  # a good teacher is not needed here
    with tempfile.TemporaryDirectory() as temporary:
        place, facts = Path(temporary), Images(1, 8, 8, (0.5,), (0.25,))
        (images, labels), _ = digits()
        save_teacher(train_teacher(images, labels, facts, seed=0), place / "teacher.pt", images=facts,
                     classes=[str(digit) for digit in range(10)])  # fmt: skip
        command = [sys.executable, "-m", "edgekd", "compress", str(place / "teacher.pt"), "-o", str(place / "run")]
        command += ["--quiet", "--no-progress", *(f"--set={setting}" for setting in SETTINGS)]
        found = watched(command, place / "run", options.minutes)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    line = {"date": date, "torch": torch.__version__, **found, "command": " ".join(["edgekd", "compress", *SETTINGS])}
    with open(options.out, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=2))
    sys.exit(float(line["own_mb_per_minute"]) >= 1.0)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
