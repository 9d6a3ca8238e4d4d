"""What a compress takes of this machine's memory: said before, and held to."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import footprint
from edgekd.compute import give_back_memory
from edgekd.errors import EnvironmentLacking, UsageError
from edgekd.export import torch_logits
from edgekd.footprint import afterwards_mb, extrapolated, held_to, highest_mb, own_mb, training_mb
from edgekd.latency import cost
from edgekd.methods import configure
from edgekd.room import PASS, PASS_NUMBERS, per_pass
from edgekd.types import Images, StudentSpec, Teacher

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says what a process takes")


@linux
def test_highest_is_that_since_the_last_call() -> None:
    give_back_memory()
    highest_mb()
    before = own_mb()
    assert before is not None
    block = np.ones(200_000_000, np.uint8)
    assert own_mb() == pytest.approx(before + 200, abs=50)
    del block
    give_back_memory()  # or the heap keeps it
    highest, after = highest_mb(), highest_mb()
    assert highest is not None and highest >= before + 150
    assert after is not None and after < highest - 100


@linux
def test_training_and_what_follows(teacher: Teacher) -> None:
    config = configure("rdskd_plus", "fast", {"prior": "none"}, teacher)
    spec = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes)
    give_back_memory()  # of the tests before
    now = own_mb()
    training = training_mb("rdskd_plus", config, teacher, spec, 0, within_s=2.0)
    assert now is not None and training is not None and 0.3 * now < training < now + 500
    of = cost(teacher.model, teacher.images)
    few, many = (afterwards_mb(teacher, of, of, images) for images in (1_000, 1_000_000))
    assert few is not None and many is not None
    assert many - few == pytest.approx(footprint.KEPT * 999_000 * 64 / 1e6, abs=30)


def test_straight_line_by_hand() -> None:
    assert extrapolated(0.25, 300.0, 0.5, 350.0) == 450.0
    assert extrapolated(0.5, 300.0, 1.0, 350.0) == 350.0
    assert extrapolated(0.25, 360.0, 0.5, 350.0) == 350.0  # noise: more images never take less
    assert extrapolated(0.5, 300.0, 0.5, 350.0) == 350.0  # no two sizes


def test_where_the_system_does_not_say(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "PROC", tmp_path)
    spec, of = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes), cost(teacher.model, teacher.images)
    assert training_mb("rdskd_plus", configure("rdskd_plus", "fast", {}, teacher), teacher, spec, 0, within_s=2) is None
    assert afterwards_mb(teacher, of, of, 100) is None
    with pytest.raises(UsageError, match="Linux"), held_to(1_000):
        pass


def test_a_pass_holds_as_many_images_as_memory_does() -> None:
    assert per_pass(28 * 28) == per_pass(3 * 32 * 32) == PASS
    assert per_pass(3 * 224 * 224) == PASS_NUMBERS // (3 * 224 * 224) < 20
    assert per_pass(10**9) == 1

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(len(x))
            return x.mean(dim=(2, 3))

    counting = Counting()
    images = Images(3, 224, 224, (0.5,) * 3, (0.25,) * 3)
    logits = torch_logits(counting, images, np.zeros((30, 3, 224, 224), np.uint8))
    assert logits.shape == (30, 3) and counting.seen == [13, 13, 4]


@linux
def test_limit_is_held_and_lifted() -> None:
    before, now = resource.getrlimit(resource.RLIMIT_DATA), own_mb()
    assert now is not None
    with pytest.raises(EnvironmentLacking) as lacking, held_to(now + 200):
        torch.empty(400_000_000, dtype=torch.uint8).fill_(1)
    assert lacking.value.code == "E0409" and "--max-ram" in lacking.value.fix
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with pytest.raises(EnvironmentLacking, match="do not suffice"), held_to(now / 2):
        pass
    with pytest.raises(ValueError, match="another"), held_to(now + 500):
        raise ValueError("another error passes through")
    with held_to(None):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


LIMITED = """
import sys
from pathlib import Path
import torch
from edgekd import compute
from edgekd.footprint import held_to, own_mb
from edgekd.methods import distill
from edgekd.methods.rdskd_plus import Config
from edgekd.student import build_student
from edgekd.types import Images, Run, StudentSpec, Teacher

compute.bf16_pays = lambda kind: False  # half of the memory where there is bf16, and its rounding
images = Images(1, 32, 32, (0.13,), (0.3,))
spec = StudentSpec("lenet", 1, 3, images, tuple("0123456789"))
wide = StudentSpec("lenet", 1, 12, images, spec.classes)
torch.manual_seed(0)
teacher = Teacher(build_student(wide, seed=1).eval(), images, spec.classes, "", "lenet")
config = Config(prior="procedural", prior_images=64, rounds=1, image_steps=0, batch=4096, student_steps=1, patience=0)
found = []
for limit in (None, own_mb() + 260):
    student, log = build_student(spec, seed=2), []
    folder = Path(sys.argv[1]) / str(limit)
    folder.mkdir()
    run = Run(torch.device("cpu"), 0, folder, lambda phase, step, steps, **figures: log.append((phase, step)))
    with held_to(limit):
        distill("rdskd_plus", teacher, student, config, run)
    found.append((student.state_dict(), [step for phase, step in log if phase == "memory"]))
(whole, enough), (parts, halved) = found
assert not enough and halved and halved[0] == 2048, (enough, halved)
assert all(torch.allclose(parts[name], value, rtol=1e-4, atol=1e-5) for name, value in whole.items())
"""


@linux
def test_training_within_a_limit_halves_and_ends_with_the_same_student(tmp_path: Path) -> None:
    """In a process of its own, whose memory is not that of the tests before."""
    subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], check=True, timeout=300)
