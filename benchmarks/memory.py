"""Does compress keep to the memory that `edgekd plan` states? Watched from outside, over all its processes.

    python benchmarks/memory.py [--cases digits mnist ...] [--out benchmarks/results/memory.jsonl]

Teachers have random weights, but digits: memory does not depend on them. Trainings are cut to a few steps of every
phase, with batches as they are by default where nothing else is said. Linux. One JSON line per case: what plan said,
what was seen by stage, their ratio. Only own memory counts, without files (RssAnon), looked at every 20 ms.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo
import torch

from edgekd import Images, save_teacher
from edgekd.families import named
from edgekd.student import build_student
from edgekd.vision import torchvision

FEW = ("--set", "student_steps=6", "--set", "image_steps=6", "--set", "rounds=2")
PRIOR = ("--set", "prior_images=2000")
OF_32 = ("--set", "batch=32", "--set", "image_batch=32")
LOOK_S = 0.02


@dataclass(frozen=True)
class Case:
    network: str  # of edgekd or torchvision
    options: tuple[str, ...]
    size: tuple[int, int, int] = (3, 224, 224)
    classes: int = 10


LARGE = ("--student", "mobilenetv2:0.35", "--latency", "30ms")
SMALL = ("--set", "batch=8", "--set", "image_batch=8", "--set", "prior_images=64", "--set", "rounds=1")
CASES = {
    "digits": Case("", ("--student", "resnet:1x8", *FEW)),
    "mnist": Case("lenet:6", ("--student", "lenet:3", *FEW, *PRIOR), (1, 32, 32)),
    "cifar10": Case("resnet20", ("--student", "resnet8", *FEW, *PRIOR), (3, 32, 32)),
    "wide": Case("wrn40-2", ("--student", "wrn16-1", *FEW, *PRIOR, "--set", "batch=64"), (3, 32, 32)),
    "vgg11_bn at 64": Case(
        "torchvision:vgg11_bn",
        ("--student", "resnet:2x32", "--precision", "fp32", *FEW, *PRIOR, *OF_32),
        (3, 64, 64), 1000,
    ),
    "resnet18 at 224": Case("torchvision:resnet18", (*LARGE, *FEW, *SMALL), classes=1000),
    "vgg11_bn at 224": Case(  # 133 M parameters
        "torchvision:vgg11_bn", (*LARGE, "--precision", "fp32", *FEW, *SMALL), classes=1000
    ),
}  # fmt: skip


def prepare(case: Case, folder: Path) -> list[str]:
    """Leaves the teacher there; gives its file and the options that go with it."""
    torch.manual_seed(0)
    file = folder / "teacher.pt"
    if not case.network:
        demo.prepare(folder, seed=0)
        return [str(file)]
    channels, height, width = case.size
    images = Images(channels, height, width, (0.5,) * channels, (0.25,) * channels)
    if case.network.startswith("torchvision:"):
        model = getattr(torchvision().models, case.network.removeprefix("torchvision:"))(num_classes=case.classes)
        torch.save(model.state_dict(), file)
        return [str(file), "--arch", case.network, "--input", "x".join(map(str, case.size))]
    spec = named(case.network, images, tuple(map(str, range(case.classes))))
    assert spec, case.network
    save_teacher(build_student(spec).eval(), file, images=images, classes=spec.classes)
    return [str(file)]


def own_mb(pid: int) -> tuple[float, float]:
    """10**6 bytes of own memory of a process, and of all that it has started."""
    children = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            children += sum(own_mb(int(child)))
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024 / 1e6, children


def watched(command: list[str]) -> tuple[int, dict[str, float], str]:
    """(exit code, own memory at the most of all processes by the line that was printed last, the last line)."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    at, peaks = ["start"], dict[str, float]()

    def read() -> None:
        assert child.stdout
        for line in child.stdout:
            at[0] = line.strip()

    reader = threading.Thread(target=read)
    reader.start()
    while child.poll() is None:
        try:
            mb = sum(own_mb(child.pid))
        except (OSError, KeyError):  # one of them has just ended
            continue
        name = at[0].split("  ")[0]
        peaks[name] = max(peaks.get(name, 0.0), mb)
        time.sleep(LOOK_S)
    reader.join()
    return child.returncode, peaks, at[0]


def run(name: str, out: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        teacher = prepare(CASES[name], folder)
        call = [*teacher, "--profile", "cpu", *CASES[name].options]
        edgekd = [sys.executable, "-m", "edgekd"]
        planned = subprocess.run(
            [*edgekd, "plan", *call, "--json", "-o", str(folder / "plan")],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        stated: dict[str, float] = json.loads(planned.stdout)["memory_mb"]
        start = time.monotonic()
        code, peaks, last = watched([*edgekd, "compress", *call, "-o", str(folder / "out"), "--no-progress"])
    if code not in (0, 1):
        sys.exit(f"{name}: ended with {code}: {last}")
    exporting = next(i for i, line in enumerate(peaks) if line.startswith("exporting"))
    parts = list(peaks.values())
    seen = {"training": max(parts[:exporting]), "afterwards": max(parts[exporting:])}
    line: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "torch": torch.__version__, "case": name,
        "stated_mb": stated, "seen_mb": {key: round(mb, 1) for key, mb in seen.items()},
        "ratio": round(max(stated.values()) / max(seen.values()), 3), "seconds": round(time.monotonic() - start),
        "command": "edgekd compress " + " ".join(["teacher.pt", *call[1:]]),
        "by_line_mb": {key[:60]: round(mb, 1) for key, mb in peaks.items()},
    }  # fmt: skip
    with open(out, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{name}: stated {stated}, seen {line['seen_mb']}, ratio {line['ratio']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.jsonl")
    given = parser.parse_args()
    for name in given.cases:
        run(name, given.out)


if __name__ == "__main__":
    main()
