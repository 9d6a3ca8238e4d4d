"""Teacher-student pairs of the benchmarks, what each needs, and one run of one of them.

No command of its own: benchmarks/methods.py and robustness.py run them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import demo
import flowers
import mnist
import numpy as np
import svhn_mini
import torch
from record import compress, lines
from teachers import images_of, joined, labelled

import edgekd
from edgekd import save_teacher
from edgekd.student import build_student, named

RESNET_INPUT = ("--input", "3x32x32", "--mean", ".485,.456,.406", "--std", ".229,.224,.225")


@dataclass(frozen=True)
class Pair:
    title: str  # teacher -> student
    teacher: tuple[str, ...]  # its file and the options that go with it
    student: str  # for --student
    data: tuple[str, ...]  # files needed of the data folder
    prepare: Callable[[Path, Path, Path], None]  # (data, teachers, folder): leaves teacher and test.npz there
    teachers: tuple[str, ...] = ()  # files needed of the folder of teachers
    cuda: bool = False  # too long without a GPU


@dataclass(frozen=True)
class Task:
    """One run. Its line is known again by everything but the notes."""

    pair: str
    method: str
    budget: str
    options: tuple[str, ...]  # further ones of edgekd compress
    seed: int
    notes: Mapping[str, Any] = field(default_factory=dict)  # further entries of the line


def prepare_mnist(data: Path, teachers: Path, folder: Path) -> None:
    mnist.train_teacher(data / "mnist.npz", folder)


def prepare_cifar10(data: Path, teachers: Path, folder: Path, *, teacher: str) -> None:
    shutil.copy(teachers / teacher, folder / teacher)
    images, labels = labelled(data, "cifar10", "test")
    np.savez(folder / "test.npz", images=images, labels=labels)


def prepare_trained(data: Path, teachers: Path, folder: Path, *, teacher: str) -> None:
    """A teacher that benchmarks/gpu.py has left in parts, and the test images of its data."""
    state, facts = joined(teacher, teachers)
    spec = named(facts["arch"], images_of(facts), tuple(facts["classes"]))
    assert spec, facts["arch"]
    model = build_student(spec)
    model.load_state_dict(state)
    path = folder / "teacher.pt"
    save_teacher(model.eval(), path, images=spec.images, classes=spec.classes, arch=facts["arch"])
    images, labels = labelled(data, facts["course"]["data"], "test")
    few = facts["course"]["images"]
    np.savez(folder / "test.npz", images=images[:few], labels=labels[:few])


def prepare_digits(data: Path, teachers: Path, folder: Path) -> None:
    """The demo's teacher on 1,437 of scikit-learn's digits, and the 360 held out."""
    demo.prepare(folder, seed=0)
    os.replace(folder / "digits-test.npz", folder / "test.npz")


def trained(title: str, teacher: str, student: str, *data: str) -> Pair:
    """A pair whose teacher benchmarks/gpu.py trains; `--teachers` is then its output folder."""
    prepare = partial(prepare_trained, teacher=teacher)
    return Pair(title, ("teacher.pt",), student, data, prepare, teachers=(f"teacher-{teacher}.json",), cuda=True)


PAIRS: dict[str, Pair] = {
    "mnist": Pair("LeNet5 -> LeNet5Half", ("teacher.pt",), "lenet:3", ("mnist.npz",), prepare_mnist),
    "cifar10-resnet8": Pair(
        "ResNet-20 -> ResNet-8",
        ("resnet20_cifar10.th", "--arch", "resnet20", *RESNET_INPUT),
        "resnet8",
        ("cifar10_test.npz",),
        partial(prepare_cifar10, teacher="resnet20_cifar10.th"),
        teachers=("resnet20_cifar10.th",),
    ),
    "cifar10-pruned": Pair(
        "ResNet-20 -> pruned to half of its MACs",
        ("resnet20_cifar10.th", "--arch", "resnet20", *RESNET_INPUT),
        "pruned:0.5",
        ("cifar10_test.npz",),
        partial(prepare_cifar10, teacher="resnet20_cifar10.th"),
        teachers=("resnet20_cifar10.th",),
    ),
    # two students that are predicted to be as fast (fp32 on the profile cpu): pruned, and the best of another family
    "cifar10-pruned39": Pair(
        "ResNet-20 -> pruned to 39 % of its MACs",
        ("resnet20_cifar10.th", "--arch", "resnet20", *RESNET_INPUT),
        "pruned:0.39@8",
        ("cifar10_test.npz",),
        partial(prepare_cifar10, teacher="resnet20_cifar10.th"),
        teachers=("resnet20_cifar10.th",),
    ),
    "cifar10-resnet14": Pair(
        "ResNet-20 -> ResNet-14",
        ("resnet20_cifar10.th", "--arch", "resnet20", *RESNET_INPUT),
        "resnet:2x16",
        ("cifar10_test.npz",),
        partial(prepare_cifar10, teacher="resnet20_cifar10.th"),
        teachers=("resnet20_cifar10.th",),
    ),
    "digits": Pair("digits 8x8, ResNet-8 -> a plain network", ("teacher.pt",), "cnn:8", (), prepare_digits),
    "svhn_mini": Pair(  # a sanity check: 486 test digits tell a working student from a broken one, no more
        "ResNet-8 -> ResNet-8 of half its width", ("teacher.pt",), "resnet:1x8", ("svhn_mini.npz",), svhn_mini.prepare
    ),
    "flowers": Pair(
        "ResNet-18 at 224 pixels -> pruned to a quarter of its MACs",
        ("resnet18.pt", "--arch", "torchvision:resnet18"),
        "pruned:0.25",
        ("flowers.zip",),
        flowers.prepare,
    ),
    "svhn": trained("WRN40-2 -> WRN16-1", "svhn-wrn40-2", "wrn16-1", "svhn.npz"),  # the full set: bring your own
    "cifar10-resnet20": Pair(
        "ResNet-56 -> ResNet-20 (1x1 shortcuts)",
        ("resnet56_cifar10.th", "--arch", "resnet56", *RESNET_INPUT),
        "resnet:3x16",
        ("cifar10_test.npz",),
        partial(prepare_cifar10, teacher="resnet56_cifar10.th"),
        teachers=("resnet56_cifar10.th",),
        cuda=True,
    ),
    "cifar10-resnet56": Pair(
        "ResNet-56 -> pruned to half of its MACs",
        ("resnet56_cifar10.th", "--arch", "resnet56", *RESNET_INPUT),
        "pruned:0.5",
        ("cifar10_test.npz",),
        partial(prepare_cifar10, teacher="resnet56_cifar10.th"),
        teachers=("resnet56_cifar10.th",),
    ),
    "cifar10-resnet34": trained("ResNet-34 -> ResNet-18", "resnet34", "resnet18", "cifar10_test.npz"),
    "cifar10-wrn16-1": trained("WRN40-2 -> WRN16-1", "wrn40-2", "wrn16-1", "cifar10_test.npz"),
    "cifar10-wrn16-2": trained("WRN40-2 -> WRN16-2", "wrn40-2", "wrn16-2", "cifar10_test.npz"),
    "cifar10-wrn40-1": trained("WRN40-2 -> WRN40-1", "wrn40-2", "wrn40-1", "cifar10_test.npz"),
}


def refusal(name: str, data: Path, teachers: Path) -> str:
    """Why a pair cannot be run here, in words; empty where it can."""
    pair = PAIRS[name]
    reasons = ["needs a CUDA device, and there is none"] if pair.cuda and not torch.cuda.is_available() else []
    wanted = [data / file for file in pair.data] + [teachers / file for file in pair.teachers]
    return "; ".join([*reasons, *(f"{path} is not there" for path in wanted if not path.is_file())])


def prepared(name: str, data: Path, teachers: Path, work: Path) -> Path:
    """The folder with a pair's teacher and test.npz, made on first use and kept: all runs have the same teacher.

    Made in a process of its own, whose memory record.run would else count as that of the runs.
    """
    folder, prepare = work / name, PAIRS[name].prepare
    if not folder.is_dir():
        print(f"{name}: preparing teacher and test images", flush=True)
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as temporary:
            whole = Path(temporary) / name
            whole.mkdir()
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(prepare, data.resolve(), teachers.resolve(), whole.resolve()).result()
            os.replace(whole, folder)
    return folder


def key(task: Task) -> str:
    """What tells a run from another: as a line has it, with edgekd's version."""
    return json.dumps([task.pair, task.method, task.budget, list(task.options), task.seed, edgekd.__version__])


def recorded(out: Path) -> set[str]:
    """The keys of the lines that are in `out`."""
    names = ("pair", "method", "budget", "options", "seed", "edgekd")
    return {json.dumps([line.get(name) for name in names]) for line in lines(out)}


def run(task: Task, folder: Path, out: Path) -> dict[str, Any]:
    """One run of `edgekd compress` beside links to the files of `folder`, its line appended to `out`.

    Raises CalledProcessError; what an unfinished run has left is removed.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        return run_in(Path(temporary), PAIRS[task.pair], task, folder, out)


def run_in(place: Path, pair: Pair, task: Task, folder: Path, out: Path, *, earlier_s: float = 0.0) -> dict[str, Any]:
    """The same in the folder `place`, where a run that was stopped goes on. earlier_s: what it has taken so far."""
    for file in folder.iterdir():
        link = place / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
    arguments = [*pair.teacher, "--profile", "cpu", "--precision", "fp32"]  # a bad student may have no true INT8
    arguments += ["--student", pair.student, "--method", task.method]
    arguments += ["--budget", task.budget, *task.options, "--eval-data", "test.npz"]
    extra = {"title": pair.title, "options": list(task.options), **task.notes}
    return compress(task.pair, arguments, folder=place, seed=task.seed, out=out, extra=extra, earlier_s=earlier_s)


def run_all(tasks: list[Task], data: Path, teachers: Path, work: Path, out: Path, *, jobs: int = 1) -> int:
    """Runs what is not in `out` yet, `jobs` at a time; gives the exit code: 0, or 1 where a run failed that should not.

    A pair that cannot be run here, and a method that cannot serve a teacher, are said and left out.
    """
    there, folders = recorded(out), {}
    refused = {name: refusal(name, data, teachers) for name in {task.pair for task in tasks}}
    for name in dict.fromkeys(task.pair for task in tasks):
        if refused[name]:
            print(f"{name}: left out, {refused[name]}", flush=True)
        elif any(task.pair == name and key(task) not in there for task in tasks):
            folders[name] = prepared(name, data, teachers, work)
    unserved: set[tuple[str, str, str, tuple[str, ...]]] = set()

    def attempt(task: Task) -> bool:
        """Whether all went well, or as it may. Raises KeyboardInterrupt."""
        kind = (task.pair, task.method, task.budget, task.options)
        if refused[task.pair] or kind in unserved:
            return True
        if key(task) in there:
            print(f"{label_of(task)}: there already", flush=True)
            return True
        try:
            line = run(replace(task, notes={**task.notes, "jobs": jobs}), folders[task.pair], out)
        except subprocess.CalledProcessError as error:
            if error.returncode == 130:  # Ctrl-C, and the run was told first
                raise KeyboardInterrupt from error
            print(f"{label_of(task)}: {why(error)}", flush=True)
            if error.returncode == 2:  # usage: another seed would not mend it
                unserved.add(kind)
            return "E0223" in (error.output or "")
        print(f"{label_of(task)}: {line['top1']['fp32']:.2%} in {line['seconds']:.0f} s", flush=True)
        return True

    with ThreadPoolExecutor(jobs) as pool:
        try:
            each = map if jobs == 1 else pool.map  # in this thread a stop ends the run that is under way, too
            return 0 if all([*each(attempt, tasks)]) else 1
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def label_of(task: Task) -> str:
    return " ".join((f"{task.pair}: {task.method}, budget {task.budget}", *task.options, f"seed {task.seed}"))


def why(error: subprocess.CalledProcessError) -> str:
    """What `edgekd compress --json` says of its failure, in a line."""
    try:
        facts = json.loads(error.output)["error"]
    except (ValueError, TypeError, KeyError):
        return f"ended with exit code {error.returncode} and no word"
    return f"{facts['what']} ({facts['why']})" if facts["why"] else str(facts["what"])
