"""Teachers and data-free students of very different quality: their agreement without data, and their top-1.

    python benchmarks/agreement_pairs.py [NAME ...] --work FOLDER [--out benchmarks/results/agreement.jsonl]

One JSON line per pair, each appended when it is done; pairs that are there are left out, so a stopped call goes on. The
students stay in --work: a deleted line is measured anew without a training. The test images are read for the two top-1
figures alone, after the training. One thread, so that it can run beside others. benchmarks/agreement_link.py fits the
link. NAME: pairs of benchmarks/pairs.py; their data and teachers: ../shared beside the repository.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import prepared, refusal
from record import lines

import edgekd
from edgekd.bank import to_pixels
from edgekd.evaluation import EvalData, load_eval_data, top1
from edgekd.export import torch_logits
from edgekd.fidelity import fidelity
from edgekd.files import plain
from edgekd.methods import configure, distill, gentle, prior_of
from edgekd.pipeline import no_log
from edgekd.saliency import shown_by
from edgekd.student import first_student, named
from edgekd.teacher import load_teacher, save_teacher
from edgekd.types import Images, Run, Teacher

ROOT = Path(__file__).resolve().parent
SHARED = ROOT.parent.parent / "shared"
TEST_IMAGES = 2_000  # the first so many of each set, which has no order
HELD_OUT = 1_000  # compress keeps 2,000 where they are small
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published CIFAR ResNets


@dataclass(frozen=True)
class Trial:
    """A student to be trained. The short settings are what makes it better or worse."""

    pair: str  # of benchmarks/pairs.py, for teacher and test images
    student: str
    prior: str
    steps: int  # of the student
    image_steps: int = 0
    batch: int = 128
    seed: int = 0

    @property
    def name(self) -> str:
        parts = (self.pair, self.student, self.prior, self.steps, self.image_steps, self.seed)
        return "-".join(map(str, parts)).replace(":", "")

    @property
    def data(self) -> str:
        """The data set that its teacher knows."""
        return self.pair.split("-")[0]

    def settings(self) -> dict[str, Any]:
        """Of the method. Few images of the prior: drawing them would take longer than learning from them."""
        few = {"prior_images": 2_000 if self.data in ("cifar10", "svhn_mini") else 6_000}
        steps = {"student_steps": self.steps, "image_steps": self.image_steps, "rounds": 2}
        return {"prior": self.prior, "batch": self.batch, "image_batch": self.batch, **few, **steps}


TRIALS = (
    Trial("digits", "cnn:8", "none", 60, 60),
    Trial("digits", "cnn:8", "none", 250, 150),
    Trial("digits", "cnn:8", "none", 600, 400),
    Trial("digits", "cnn:8", "none", 120, 80, seed=1),
    Trial("digits", "cnn:8", "procedural", 150),
    Trial("digits", "cnn:8", "procedural", 600, 60),
    Trial("digits", "cnn:4", "photo", 300),
    Trial("digits", "resnet:1x4", "none", 300, 200),
    Trial("digits", "mcu:1x4", "none", 250, 150),
    Trial("digits", "resnet:1x12", "none", 150, 120),
    Trial("digits", "resnet:1x16", "procedural", 60),
    Trial("digits", "resnet:1x8", "photo", 400, 60),
    Trial("digits", "resnet:1x16", "none", 100, 100),
    Trial("digits", "cnn:16", "none", 500, 400),
    Trial("mnist", "lenet:3", "procedural", 40),
    Trial("mnist", "lenet:3", "procedural", 200),
    Trial("mnist", "lenet:3", "procedural", 800),
    Trial("mnist", "lenet:3", "none", 200, 120),
    Trial("mnist", "lenet:3", "photo", 300),
    Trial("mnist", "lenet:1", "procedural", 300),
    Trial("mnist", "cnn:8", "procedural", 150),
    Trial("mnist", "cnn:8", "photo", 150),
    Trial("mnist", "mcu:1x8", "procedural", 100),
    Trial("mnist", "resnet:1x4", "none", 80, 60),
    Trial("mnist", "lenet:6", "procedural", 300),
    Trial("mnist", "cnn:16", "procedural", 500),
    Trial("svhn_mini", "resnet:1x8", "photo", 60, batch=64),
    Trial("svhn_mini", "resnet:1x8", "photo", 300, 40, batch=64),
    Trial("svhn_mini", "resnet:1x8", "procedural", 100, batch=64),
    Trial("svhn_mini", "resnet:1x8", "none", 120, 80, batch=64),
    Trial("svhn_mini", "resnet:1x16", "photo", 40, batch=64),
    Trial("svhn_mini", "cnn:8", "photo", 250, batch=64),
    Trial("svhn_mini", "cnn:12", "procedural", 200, batch=64),
    Trial("svhn_mini", "mcu:1x8", "photo", 100, batch=64),
    Trial("svhn_mini", "resnet:1x16", "procedural", 80, batch=64, seed=1),
    Trial("cifar10-resnet8", "resnet8", "photo", 60, batch=64),
    Trial("cifar10-resnet8", "resnet8", "photo", 150, batch=64),
    Trial("cifar10-resnet8", "pruned:0.5", "photo", 20, batch=64),
    Trial("cifar10-resnet8", "resnet8", "procedural", 80, batch=64),
    Trial("cifar10-resnet8", "pruned:0.5", "photo", 80, batch=64),
    Trial("cifar10-resnet8", "cnn:16", "photo", 100, batch=64),
    Trial("cifar10-resnet8", "pruned:0.25", "procedural", 40, batch=64),
    Trial("cifar10-resnet8", "pruned:0.75", "photo", 30, batch=64),
    Trial("cifar10-resnet8", "resnet8", "none", 60, 50, batch=64),
    Trial("cifar10-resnet56", "pruned:0.5", "photo", 15, batch=64),
    Trial("cifar10-resnet8", "resnet:2x16", "photo", 80, batch=64),
    Trial("cifar10-resnet56", "resnet20", "photo", 30, batch=64),
)


def teacher_in(folder: Path) -> Path:
    """The teacher's file in a folder that pairs.prepared made."""
    return next(folder.glob("*.th"), folder / "teacher.pt")


@functools.cache
def read(path: Path) -> Teacher:
    """A teacher that was made here, or a published CIFAR ResNet."""
    if path.suffix != ".th":
        return load_teacher(path)
    return load_teacher(path, arch=path.name.split("_")[0], size=(3, 32, 32), mean=MEAN, std=STD)


def trained(trial: Trial, teacher: Teacher, folder: Path) -> float:
    """Leaves student.pt and images.npz, which the student has not seen, in `folder`; gives the seconds it took."""
    done = folder / "seconds.txt"  # written last
    if done.is_file():
        return float(done.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    config = configure("rdskd_plus", "fast", trial.settings(), teacher)
    spec = named(trial.student, teacher.images, teacher.classes)
    assert spec, trial.student
    if spec.family == "pruned":
        spec = replace(spec, channels_by=shown_by(prior_of(config), teacher.images))
    config = gentle(config, spec, trial.settings())
    student, _ = first_student(spec, teacher, seed=trial.seed)
    with tempfile.TemporaryDirectory() as temporary:
        run = Run(torch.device("cpu"), trial.seed, Path(temporary), no_log)
        sampler = distill("rdskd_plus", teacher, student, config, run)
        parts = [to_pixels(sampler(min(256, HELD_OUT - at)), teacher.images) for at in range(0, HELD_OUT, 256)]
    np.savez(folder / "images.npz", pixels=torch.cat(parts).numpy())
    arch = None if spec.family == "pruned" else f"edgekd:{trial.student}"
    save_teacher(student, folder / "student.pt", images=teacher.images, classes=teacher.classes, arch=arch)
    seconds = round(time.perf_counter() - start, 1)
    done.write_text(str(seconds), encoding="utf-8")
    return seconds


def measured(trial: Trial, teacher: Teacher, folder: Path, test: EvalData, teacher_top1: float) -> dict[str, Any]:
    """The line of a trained pair: what is known without data, then top-1 of both."""
    student = load_teacher(folder / "student.pt").model
    with np.load(folder / "images.npz", allow_pickle=False) as stored:
        held_out = stored["pixels"]
    start = time.perf_counter()
    found = fidelity(
        teacher=teacher.model, student=student, images=teacher.images, held_out=held_out, prior=trial.prior,
        seed=trial.seed,
    )  # fmt: skip
    return {
        "name": trial.name,
        "pair": trial.pair,
        "data": trial.data,
        "student": trial.student,
        "prior": trial.prior,
        "settings": trial.settings(),
        "seed": trial.seed,
        "fidelity": plain(found) | {"expected": None},  # it would be that of an earlier fit
        "fidelity_s": round(time.perf_counter() - start, 2),
        "test_images": len(test.labels),
        "teacher_top1": teacher_top1,
        "student_top1": top1(torch_logits(student, teacher.images, test.pixels), test),
        "edgekd": edgekd.__version__,
        "torch": torch.__version__,
    }


@functools.cache
def examined(teacher: Path, images: Images, classes: int, folder: Path) -> tuple[EvalData, float]:
    """The first test images of a pair, and the teacher's top-1 on them."""
    whole = load_eval_data(folder / "test.npz", images, classes)
    test = replace(whole, pixels=whole.pixels[:TEST_IMAGES], labels=whole.labels[:TEST_IMAGES])
    return test, top1(torch_logits(read(teacher).model, images, test.pixels), test)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of pairs.py; default: all")
    parser.add_argument("--work", type=Path, required=True, help="a folder for teachers and students")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--teachers", type=Path, default=SHARED / "teachers")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "agreement.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    refused = {name: refusal(name, options.data, options.teachers) for name in {trial.pair for trial in TRIALS}}
    for trial in in_turns(TRIALS):
        there = {line["name"] for line in lines(options.out)}
        if trial.name in there or (options.names and trial.pair not in options.names):
            continue
        if refused[trial.pair]:
            print(f"{trial.name}: left out, {refused[trial.pair]}", flush=True)
            continue
        prepared_at = prepared(trial.pair, options.data, options.teachers, options.work)
        path = teacher_in(prepared_at)
        teacher, folder = read(path), options.work / "students" / trial.name
        seconds = trained(trial, teacher, folder)
        test, teacher_top1 = examined(path, teacher.images, len(teacher.classes), prepared_at)
        line = measured(trial, teacher, folder, test, teacher_top1) | {"training_s": seconds}
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shares = ", ".join(f"{name} {of['share']:.3f}" for name, of in line["fidelity"]["sets"].items())
        print(f"{trial.name}: top-1 {line['student_top1']:.3f} of {teacher_top1:.3f}; {shares}", flush=True)
    return 0


def in_turns(trials: Sequence[Trial]) -> list[Trial]:
    """One of each data set after the other, so that a call that is stopped has some of each."""
    by_data: dict[str, list[Trial]] = {}
    for trial in trials:
        by_data.setdefault(trial.data, []).append(trial)
    return [trial for row in zip_longest(*by_data.values()) for trial in row if trial]


if __name__ == "__main__":
    sys.exit(main())
