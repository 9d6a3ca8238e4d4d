"""What can happen to a training: killed, diverged, collapsed, its folder taken. More: benchmarks/fault_table.py."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
from test_methods import TINY
from torch import Tensor, nn

from edgekd import checkpoint, collapse, divergence, load_teacher, losses, training_log
from edgekd.collapse import RENEWALS, renewed, spread
from edgekd.compute import descend
from edgekd.divergence import Diverged, paced
from edgekd.errors import EnvironmentLacking, InputError, TrainingError, UsageError
from edgekd.lock import locked
from edgekd.methods import METHODS, configure, distill
from edgekd.sealed import unsealed
from edgekd.stages import claim, differences
from edgekd.student import build_student
from edgekd.types import Run, StudentSpec, Teacher

FORKS = multiprocessing.get_context("fork")  # real processes that need not import torch each


def train(teacher_file: Path, folder: Path) -> None:
    """A short training that saves ten times a second. On one thread: the parent's others are not there."""
    torch.set_num_threads(1)
    checkpoint.EVERY_S = 0.1
    teacher = load_teacher(teacher_file)
    few = {"rounds": 2, "image_steps": 30, "image_batch": 16, "batch": 16, "student_steps": 80, "generator_width": 8}
    config = configure("rdskd_plus", "fast", few, teacher)
    student = build_student(StudentSpec("resnet", 1, 4, teacher.images, teacher.classes), seed=5)
    run = Run(torch.device("cpu"), 5, folder, training_log.TrainingLog(folder))
    distill("rdskd_plus", teacher, student, config, run)
    torch.save(student.state_dict(), folder / "student")


def test_killed_twice_and_gone_on_with(teacher_file: Path, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    for path in (whole, folder):
        path.mkdir()

    def begun(path: Path) -> Any:
        child = FORKS.Process(target=train, args=(teacher_file, path), daemon=True)
        child.start()
        return child

    def ended(child: Any) -> int:
        child.join(faults.LIMIT_S)
        return int(child.exitcode)

    assert ended(begun(whole)) == 0
    for index in range(2):
        newest = folder / checkpoint.NAME
        before = newest.stat().st_ino if newest.exists() else 0
        child = begun(folder)
        while child.is_alive() and (not newest.exists() or newest.stat().st_ino == before):
            time.sleep(0.01)
        time.sleep(0.07 * index)  # between two saves
        child.kill()
        assert ended(child) == -signal.SIGKILL
        assert faults.halves(folder) == [] and not (folder / "student").exists()
    assert ended(begun(folder)) == 0
    one, other = (torch.load(path / "student", weights_only=True) for path in (whole, folder))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert faults.steps(folder) == faults.steps(whole)


class Spoilt(nn.Module):
    """A teacher whose answers are no numbers in the calls of `when`."""

    def __init__(self, model: nn.Module, when: range) -> None:
        super().__init__()
        self.model, self.when, self.calls = model, when, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.model(x)
        return logits * math.nan if self.calls in self.when else logits


def distilled(
    teacher: Teacher, folder: Path, name: str = "rdskd", **changes: Any
) -> tuple[nn.Module, list[tuple[str, int]], list[str]]:
    """The student, and what was logged and said."""
    student = build_student(StudentSpec("resnet", 1, 4, teacher.images, teacher.classes), seed=5)
    log, said = list[tuple[str, int]](), list[str]()
    config = METHODS[name.split()[0]].Config(**{**TINY[name], **changes})
    run = Run(torch.device("cpu"), 5, folder, lambda phase, step, steps, **figures: log.append((phase, step)))
    distill(name.split()[0], teacher, student, config, run, said.append)
    return student, log, said


def spoilt(teacher: Teacher, when: range) -> Teacher:
    return Teacher(Spoilt(teacher.model, when), teacher.images, teacher.classes, teacher.sha256, "spoilt")


def test_a_loss_that_is_no_number_goes_back_and_slows_down(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    student, log, said = distilled(spoilt(teacher, range(5, 6)), tmp_path)
    assert all(tensor.isfinite().all() for tensor in student.state_dict().values())
    assert log.count(("rate", 1)) == 1 and len(said) == 1 and "times 0.3" in said[0]
    assert divergence.pace() == pytest.approx(0.3)
    assert unsealed(tmp_path / checkpoint.NAME)["pace"] == pytest.approx(0.3)


def test_after_three_tries_the_story_is_told(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    with pytest.raises(TrainingError) as stopped:
        distilled(spoilt(teacher, range(6, 1000)), tmp_path)
    error = stopped.value
    assert (error.code, error.exit_code) == ("E0801", 8) and "4 times" in error.what
    assert error.why.count("a loss is nan") == 4 and "times 0.027" in error.why and "student" in error.why
    state = unsealed(tmp_path / checkpoint.NAME)
    assert all(tensor.isfinite().all() for tensor in state["student"].values())  # the last good one


def test_slower_steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "_training", divergence._Training(pace=0.3))
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    assert descend(2 * weight.sum(), optimizer).item() == 2.0
    assert weight.item() == pytest.approx(1.0 - 0.3 * 0.5 * 2)
    with paced(optimizer):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.15)
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(Diverged, match="inf"):
        descend(weight.sum() * math.inf, optimizer)


def test_spread_by_hand() -> None:
    eye = torch.eye(10)
    assert spread(eye.repeat(3, 1)) == pytest.approx(1.0)
    assert spread(eye[:1].repeat(30, 1)) == 0.0
    assert spread(eye[:2].repeat(30, 1)) == pytest.approx(math.log(2) / math.log(10))
    assert spread(torch.eye(1000)[:20]) == pytest.approx(1.0)  # as even as 20 images can be


def test_a_collapsed_generator_is_begun_anew(tmp_path: Path) -> None:
    generator, made = nn.Linear(2, 2), list[int]()
    optimizer = torch.optim.Adam(generator.parameters())

    def fresh(further: int) -> nn.Module:
        made.append(further)
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, float(further))
        return model

    at: dict[str, Any] = {}
    run = Run(torch.device("cpu"), 0, tmp_path, lambda phase, step, steps, **figures: None)
    one, even = torch.eye(4)[:1].repeat(8, 1), torch.eye(4).repeat(2, 1)
    for step in range(2_000):
        renewed(at, step, even if step == 199 else one, generator, optimizer, fresh, run)
        if step == 400:
            assert made == []  # one look in three was good
    assert made == [1, 2, 3] == list(range(1, RENEWALS + 1))
    assert (generator.weight == 3).all()


class OneClass(nn.Module):
    """A teacher that sees one class in everything."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + 100 * torch.eye(logits.shape[1])[0]


def test_rounds_whose_generator_collapses_begin_anew_and_end(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "SETTLED", 2)
    of = Teacher(OneClass(teacher.model), teacher.images, teacher.classes, teacher.sha256, "x")
    _, log, _ = distilled(of, tmp_path, "rdskd_plus none", image_steps=12)
    assert [step for phase, step in log if phase == "collapse"] == [1, 2, 3] * 3
    _, log, _ = distilled(teacher, tmp_path / "..", "rdskd_plus none", image_steps=3, rounds=1)
    assert collapse.FLOOR < 1 and "collapse" not in {phase for phase, _ in log}  # too short to be judged


def test_what_a_collapsed_generator_has_shown_is_forgotten(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statistics of earlier batches, towards which later ones are made, are of images that are not wanted."""
    seen = list[tuple[int, float]]()
    plain = losses.batch_norm_distance

    def looked_at(inputs: Any, history: Any, *, momentum: float) -> Tensor:
        seen.append((len(seen), momentum))
        assert momentum > 0 or all(not statistic.any() for statistic in history)
        return plain(inputs, history, momentum=momentum)

    monkeypatch.setattr(losses, "batch_norm_distance", looked_at)
    monkeypatch.setattr(collapse, "half_way", lambda step, steps, logits, renewals: step == 3 and renewals == 0)
    name = next(name for name in TINY if TINY[name].get("batch_iterations") == 2)
    distilled(teacher, tmp_path, name, image_steps=12, batch_norm_momentum=0.9)
    fresh = [step for step, momentum in seen if momentum == 0]
    assert fresh[:2] == [0, 1] and 4 in fresh


def test_one_run_per_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with locked(folder):
        owner = json.loads((folder / ".lock").read_text(encoding="utf-8"))
        assert owner["pid"] == os.getpid() and owner["host"] == socket.gethostname()
        with pytest.raises(EnvironmentLacking, match="another run") as refused, locked(folder):
            pytest.fail("two at once")
        assert refused.value.code == "E0430" and f"pid {os.getpid()}" in refused.value.why
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "taken"),
    [
        (json.dumps({"pid": 99999999, "host": socket.gethostname()}), True),
        (json.dumps({"pid": 1, "host": socket.gethostname()}), False),
        ('{"pid": 99999999, "host": "another"}', False),
        ('{"pid": 9', True),
        ("[]", True),
    ],
)
def test_without_locks_the_owner_that_is_written_down_counts(
    owner: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / ".lock").write_text(owner, encoding="utf-8")
    if taken:
        with locked(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text(encoding="utf-8"))["pid"] == os.getpid()
    else:
        with pytest.raises(EnvironmentLacking, match="another run"), locked(tmp_path):
            pytest.fail("two at once")
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == owner


def test_what_differs_is_shown(tmp_path: Path) -> None:
    student: dict[str, Any] = {"student": {}}
    before = {**student, "recipe": {"config": {"batch": 4, "lr": 0.1}, "seed": 0}, "limits": [1, 2], "old": 3}
    now = {**student, "recipe": {"config": {"batch": 8, "lr": 0.1}, "seed": 0}, "limits": [1, 5], "new": "x" * 99}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "recipe.config.batch: was 4, is 8",
        "limits[1]: was 2, is 5",
        f'new: was not set, is "{"x" * 56}...',
        "old: was 3, is not set",
    ]
    claim(tmp_path, before)
    with pytest.raises(UsageError) as refused:
        claim(tmp_path, now)
    assert "recipe.config.batch: was 4, is 8" in refused.value.why
    (tmp_path / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError) as broken:
        claim(tmp_path, before)
    assert broken.value.code == "E0354"


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    """torch reports it as one of its own; RLIMIT_FSIZE stands for the disk."""
    save = "import sys, torch; from pathlib import Path; from edgekd.sealed import seal\n"
    save += "seal({'x': torch.zeros(100_000)}, Path(sys.argv[1]))"
    end = faults.ended([sys.executable, "-c", save, str(tmp_path / "x")], limit="fsize=50000")
    assert end.exit == 1 and "OSError: [Errno 27] File too large" in end.message


def test_the_clock_of_the_wall_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(range(0, -3600 * 1000, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    log = training_log.TrainingLog(tmp_path)
    for step in range(3):
        log("x", step, 3)
    times = [json.loads(line)["time_s"] for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert times == sorted(times) and 0 <= times[0] <= times[-1] < 5
