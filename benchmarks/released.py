"""RDSKD's and DAFL's released code beside edgekd: MNIST, LeNet5 -> LeNet5Half, one teacher, the same hour.

    git clone https://github.com/PengchaoHan/RDSKD
    git clone https://github.com/huawei-noah/Efficient-Computing
    python benchmarks/released.py --rdskd RDSKD --dafl Efficient-Computing/Data-Efficient-Model-Compression/DAFL
        [--minutes 20] [--data ../shared/data/mnist.npz] [--seed 0] [--out benchmarks/results/released.jsonl]

Their scripts run as they are, with their own settings, for --minutes each; edgekd's default, with a prior and without,
runs first. Changed from outside: .cuda() does nothing where there is no GPU, the teacher is the same one (their LeNet5
has its layers), the test images are padded to 32x32 as the teacher's were and come from memory. One JSON line per run:
the curve is [seconds, test accuracy] at each of the code's own tests, and those take no part of the seconds; steps are
those of training that were done. RDSKD trains its generator first: its curve begins after that. Their best accuracy is
given, a choice by test images.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import mnist
import numpy as np
import torch
from record import compress
from torch import Tensor

from edgekd import load_teacher
from edgekd.evaluation import EvalData, load_eval_data
from edgekd.inherit import inherit
from edgekd.networks import LeNet
from edgekd.types import Teacher
from edgekd.vision import torchvision

SCRIPTS = {"rdskd": ("generator-train.py", "student-train.py"), "dafl": ("DAFL-train.py",)}
ACCURACY = re.compile(r"accuracy: ([0-9.]+)", re.IGNORECASE)
FACTS = mnist.FACTS


class OutOfTime(Exception):
    """The minutes are over."""


class Told:
    """Stands for stdout: collects the accuracies that are printed. Time that testing takes is not counted."""

    def __init__(self) -> None:
        self.start, self.testing, self.tests_s = time.perf_counter(), 0.0, 0.0
        self.curve: list[tuple[float, float]] = []
        self.steps = 0  # of training, of all scripts

    def test_begins(self) -> None:
        self.testing = time.perf_counter()

    def write(self, text: str) -> int:
        for found in ACCURACY.finditer(text):
            now = time.perf_counter()
            self.tests_s += now - self.testing
            self.curve.append((round(now - self.start - self.tests_s, 1), float(found[1])))
        return sys.__stderr__.write(text) if sys.__stderr__ else len(text)

    def flush(self) -> None:
        pass


class InMemory(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The test images as their scripts' MNIST, normalised."""

    def __init__(self, data: EvalData, told: Told) -> None:
        pixels = torch.from_numpy(np.asarray(data.pixels)).float() / 255
        self.images, self.told = (pixels - FACTS.mean[0]) / FACTS.std[0], told
        self.labels = [int(label) for label in data.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= len(self):
            raise IndexError(index)
        if index == 0:
            self.told.test_begins()
        return self.images[index], self.labels[index]


@contextmanager
def changed(teacher: Teacher, data: EvalData, folder: Path, told: Told) -> Iterator[None]:
    """Their surroundings: nothing is read from a pickle, as what they save stays in memory."""
    sys.path.insert(0, str(folder))
    lenet = importlib.import_module("lenet")  # theirs
    ours, whole = LeNet(FACTS, 10), lenet.LeNet5()
    assert inherit(ours, teacher.model)
    whole.load_state_dict(ours.state_dict())
    saved: dict[str, Any] = {"teacher": whole.eval()}
    loader, datasets = torch.utils.data.DataLoader, torchvision().datasets

    def same(thing: Any, *_: Any, **__: Any) -> Any:
        return thing

    def load(path: str, *_: Any, **__: Any) -> Any:
        return saved[Path(path).name]

    def save(thing: Any, path: str) -> None:
        saved[Path(path).name] = thing

    def tests(*_: Any, **__: Any) -> InMemory:
        return InMemory(data, told)

    def loading(of: Any, **more: Any) -> Any:
        return loader(of, **(more | {"num_workers": 0}))

    def backward(loss: Tensor, *arguments: Any, _backward: Any = torch.Tensor.backward, **options: Any) -> None:
        _backward(loss, *arguments, **options)
        told.steps += 1

    changes: list[tuple[Any, str, Any]] = [(torch.Tensor, "backward", backward)]
    changes += [(torch, "load", load), (torch, "save", save), (sys, "stdout", told)]
    changes += [(module, "MNIST", tests) for module in (datasets, datasets.mnist)]
    changes += [(torch.utils.data, "DataLoader", loading)]
    if not torch.cuda.is_available():
        changes += [(kind, "cuda", same) for kind in (torch.nn.Module, torch.Tensor)]
    with ExitStack() as stack:
        for target, name, value in changes:
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def theirs(name: str, clone: Path, teacher: Teacher, data: EvalData, minutes: float) -> dict[str, Any]:
    """The curve of one peer's scripts, and whether they came to their end."""
    told, ended = Told(), True

    def stop(*_: Any) -> None:
        raise OutOfTime

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        shutil.copytree(clone, folder, ignore=shutil.ignore_patterns(".git", "Metrics"))
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
        generator_s = 0.0
        try:
            with changed(teacher, data, folder, told):
                for script in SCRIPTS[name]:
                    generator_s = time.perf_counter() - told.start if script != SCRIPTS[name][0] else 0.0
                    places = ["--teacher_dir", "", "--output_dir", ""] + ["--generator_dir", ""] * (name == "rdskd")
                    with mock.patch.object(sys, "argv", [script, *places]):
                        runpy.run_path(str(folder / script), run_name="__main__")
        except OutOfTime:
            ended = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.path.remove(str(folder))
            for module in ("lenet", "resnet", "wresnet", "utils", "generator"):
                sys.modules.pop(module, None)
    facts = {"generator_seconds": round(generator_s, 1)} if name == "rdskd" and generator_s else {}
    best = max((accuracy for _, accuracy in told.curve), default=None)
    seconds = round(time.perf_counter() - told.start - told.tests_s, 1)
    found = {"best": best, "ended": ended, "seconds": seconds, "tests_s": round(told.tests_s, 3), "steps": told.steps}
    return found | facts | {"curve": told.curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rdskd", type=Path, help="folder of its clone")
    parser.add_argument("--dafl", type=Path, help="folder of its clone's DAFL")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each of them")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/mnist.npz")
    parser.add_argument("--seed", type=int, default=0, help="of edgekd; theirs are in their code")
    parser.add_argument("--priors", nargs="*", default=["procedural", "none"], help="edgekd's runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "released.jsonl")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mnist.train_teacher(given.data, folder)
        for prior in given.priors:
            arguments = ["teacher.pt", "--profile", "cpu", "--student", "lenet:3", "--prior", prior]
            arguments += ["--precision", "fp32", "--eval-data", "test.npz", "-o", prior]
            line = compress("mnist", arguments, folder=folder, seed=given.seed, out=given.out, extra={"code": "edgekd"})
            print(prior, line["top1"], line["seconds"], flush=True)
        teacher = load_teacher(folder / "teacher.pt")
        data = load_eval_data(folder / "test.npz", teacher.images, len(teacher.classes))
        for name in SCRIPTS:
            if clone := getattr(given, name):
                found = {
                    "date": datetime.date.today().isoformat(),
                    "code": name,
                    "minutes": given.minutes,
                    "threads": torch.get_num_threads(),
                }
                found |= theirs(name, clone, teacher, data, given.minutes)
                with open(given.out, "a", encoding="utf-8") as file:
                    print(json.dumps(found), file=file)
                print({key: value for key, value in found.items() if key != "curve"}, flush=True)


if __name__ == "__main__":
    main()
