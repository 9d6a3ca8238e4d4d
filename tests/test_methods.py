"""Every method's contract, and what is particular to RDSKD."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekd import Images, checkpoint, compute, losses
from edgekd.errors import Interrupted, UsageError
from edgekd.generator import images_from, new_generator
from edgekd.methods import METHODS, configure
from edgekd.observe import Observed
from edgekd.student import build_student
from edgekd.types import Run, StudentSpec, Teacher

TINY: dict[str, dict[str, Any]] = {
    "rdskd": {"batch": 16, "latent": 8, "generator_width": 8, "generator_steps": 3, "student_steps": 3},
    "dafl": {"batch": 16, "latent": 8, "generator_width": 8, "joint_steps": 3},
    "mskd": {"batch": 16, "latent": 8, "generator_width": 8, "joint_steps": 3},
    "zskd": {"batch": 16, "synthesis_steps": 5, "iterations": 3, "student_batch": 16, "student_steps": 3},
    "deepinversion": {"batch": 16, "synthesis_steps": 2, "iterations": 3, "student_steps": 4, "adaptive": 1.0},
    "dfad": {"batch": 16, "latent": 8, "generator_width": 8, "generator_steps": 3, "student_per_generator": 2},
    "fast": {
        "batch": 16, "latent": 8, "generator_width": 8, "synthesis_steps": 4, "warmup_steps": 1, "reset_steps": 2,
        "iterations": 2, "student_steps": 6, "shift": 2, "mirror": True,
    },
    "rdskd_plus": {
        "prior": "procedural", "prior_images": 40, "rounds": 3, "image_steps": 9, "image_batch": 8,
        "batch": 16, "student_steps": 9,
    },
    "rdskd_plus lessons": {
        "prior": "procedural", "prior_images": 40, "rounds": 3, "image_steps": 9, "image_batch": 8,
        "batch": 16, "lesson_steps": 6, "student_steps": 9, "warp": 1.0, "mixed": 0.5, "features": 0.0,
    },
    "rdskd_plus hints": {
        "prior": "procedural", "prior_images": 40, "rounds": 3, "image_steps": 9, "image_batch": 8,
        "batch": 16, "lesson_steps": 6, "student_steps": 9, "warp": 1.0, "mixed": 0.5, "hints": 4,
    },
    "rdskd_plus none": {
        "prior": "none", "rounds": 3, "image_steps": 9, "image_batch": 16, "latent": 8, "generator_width": 8,
        "batch": 16, "student_steps": 9,
    },
    "rdskd_plus generated": {
        "prior": "procedural", "prior_images": 40, "generated": True, "batch_iterations": 2, "rounds": 3,
        "image_steps": 12, "image_batch": 16, "latent": 8, "generator_width": 8, "batch": 16, "student_steps": 9,
    },
}  # fmt: skip
PHASES = {  # of the log, in order
    "rdskd": ("generator", "student"),
    "dafl": ("joint",),
    "mskd": ("joint",),
    "zskd": ("images", "student"),
    "deepinversion": ("images", "student", "images"),
    "dfad": ("joint",),
    "fast": ("images", "images", "student", "images", "student"),
    "rdskd_plus": ("prior", "images", "student", "images", "student"),
    "rdskd_plus lessons": ("prior", "images", "lessons", "student", "images", "lessons", "student"),
    "rdskd_plus hints": ("prior", "images", "student", "images", "lessons", "student"),
    "rdskd_plus none": ("images", "student", "images", "student"),
    "rdskd_plus generated": ("prior", "images", "images", "student", "student"),
}


def run_method(
    name: str, teacher: Teacher, folder: Path, log: Any = lambda *_, **__: None, **changes: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """The student's weights and four samples."""
    method = METHODS[name.split()[0]]
    config = method.Config(**{**TINY[name], **changes})
    student = untrained(name, teacher)
    sampler = method.distill(teacher, student, config, Run(torch.device("cpu"), 5, folder, log))
    return student.state_dict(), sampler(4)


def untrained(name: str, teacher: Teacher) -> nn.Module:
    """One with the teacher's feature maps where they are asked for."""
    width = 16 if "hints" in TINY[name] else 4
    return build_student(StudentSpec("resnet", 1, width, teacher.images, teacher.classes), seed=5)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", TINY)
def test_contract(name: str, teacher: Teacher, tmp_path: Path) -> None:
    before = copy.deepcopy(teacher.model.state_dict())
    start = untrained(name, teacher).state_dict()
    folders = [tmp_path / "a", tmp_path / "b"]
    results = []
    for seed, folder in enumerate(folders):
        folder.mkdir()
        torch.manual_seed(seed)  # the global state differs and must not matter
        results.append(run_method(name, teacher, folder))
    (first, images), (second, again) = results
    assert equal(first, second) and torch.equal(images, again)
    assert not equal(first, start)
    assert equal(before, teacher.model.state_dict())
    assert images.shape == (4, 1, 8, 8) and images.isfinite().all() and not images.requires_grad


@pytest.mark.parametrize("name", TINY)
def test_resumed_student_is_the_uninterrupted_one_bit_for_bit(name: str, teacher: Teacher, tmp_path: Path) -> None:
    whole, images = run_method(name, teacher, tmp_path)
    folder = tmp_path / "stopped"
    folder.mkdir()

    def stop_at(phase: str) -> Any:
        def log(now: str, step: int, steps: int, **figures: float) -> None:
            if now == phase:
                signal.raise_signal(signal.SIGINT)

        return log

    for phase in PHASES[name]:
        with checkpoint.stoppable(), pytest.raises(Interrupted) as stopped:
            run_method(name, teacher, folder, log=stop_at(phase))
        assert stopped.value.exit_code == 130
        names = {p.name for p in folder.iterdir()}
        assert "distillation.ckpt" in names and not any(name.endswith(".tmp") for name in names)
    resumed, again = run_method(name, teacher, folder)
    assert equal(whole, resumed) and torch.equal(images, again)


def test_references_are_those_of_the_second_step(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released code takes them at i == 1 of an epoch; until then they are 0. They count from the next step on."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    seen: dict[int, dict[str, float]] = {}
    kept: dict[int, dict[str, float]] = {}
    for steps in (1, 2, 3, 6):

        def log(phase: str, step: int, of: int, **figures: float) -> None:
            if phase == "generator":
                seen[step] = figures

        folder = tmp_path / str(steps)
        folder.mkdir()
        run_method("rdskd", teacher, folder, log=log, generator_steps=steps, epoch=4, student_steps=1)
        kept[steps] = torch.load(folder / "distillation.ckpt", weights_only=True)["counters"]
    assert (kept[1]["reference_oh"], kept[1]["reference_ie"]) == (0.0, 0.0)
    for steps in (2, 3):
        assert kept[steps]["reference_oh"] == pytest.approx(seen[2]["one_hot"])
        assert kept[steps]["reference_ie"] == pytest.approx(seen[2]["entropy"])
    assert kept[6]["reference_oh"] == pytest.approx(seen[6]["one_hot"])  # the second epoch's second step
    first, third = seen[1], seen[3]
    assert first["loss"] == pytest.approx(math.exp(first["one_hot"]) + math.exp(first["entropy"]) + first["diversity"])
    assert third["loss"] == pytest.approx(
        math.exp(third["one_hot"] - seen[2]["one_hot"])
        + math.exp(third["entropy"] - seen[2]["entropy"])
        + third["diversity"],
        rel=1e-5,
    )


def test_every_method_is_tested() -> None:
    assert {name.split()[0] for name in TINY} == set(METHODS)


def test_published_settings(teacher: Teacher) -> None:
    config = METHODS["rdskd"].BUDGETS["paper"]
    assert (config.batch, config.generator_steps, config.student_steps) == (512, 20 * 120, 1000 * 120)
    assert (config.generator_lr, config.student_lr, config.temperature, config.epoch) == (1e-3, 2e-3, 10.0, 120)
    assert (config.one_hot, config.information_entropy, config.diversity, config.generator_width) == (1, 1, 1, 128)
    assert config.batch_norm == 0  # the paper matches no statistics
    colour = dataclasses.replace(teacher, images=Images(3, 8, 8, (0.5,) * 3, (0.5,) * 3))
    mnist, cifar = (configure("rdskd", "paper", {}, t) for t in (teacher, colour))
    assert (mnist.latent, mnist.student_decay_at) == (100, 1.0)  # the rate falls for CIFAR-10 alone
    assert (cifar.latent, cifar.student_decay_at) == (1000, 0.8)
    assert configure("rdskd", "paper", {"student_decay_at": 0.0}, teacher).student_decay_at == 0


@pytest.mark.parametrize(("decay_at", "last"), [(None, 2e-3), (0.8, 2e-4)])
def test_rdskds_rate_on_gray_images_falls_only_where_asked(
    decay_at: float | None, last: float, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = torch.optim.Adam.step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    run_method("rdskd", teacher, tmp_path, generator_steps=1, student_steps=5, student_decay_at=decay_at)
    assert rates == pytest.approx([1e-3] + [2e-3] * 4 + [last])


def test_budgets_and_settings(teacher: Teacher) -> None:
    tenth = configure("rdskd", "0.1", {"student_lr": 1}, teacher)
    assert (tenth.generator_steps, tenth.student_steps, tenth.student_lr) == (240, 12_000, 1.0)
    colour = dataclasses.replace(teacher, images=Images(3, 8, 8, (0.5,) * 3, (0.5,) * 3))
    assert tenth.latent == 100 and configure("rdskd", "paper", {}, colour).latent == 1000
    for method, budget, settings, words in (
        ("rdskdd", "fast", {}, "rdskd"),
        ("rdskd", "fsat", {}, "fast"),
        ("rdskd", "-1", {}, "fraction"),
        ("rdskd", "fast", {"batchs": 3}, "batch"),
        ("rdskd", "fast", {"batch": 2.5}, "int"),
        ("rdskd", "fast", {"prior": "photo"}, "prior"),
        ("rdskd_plus", "fast", {"prior": "none", "image_steps": 2}, "no images"),
    ):
        with pytest.raises(UsageError) as refused:
            configure(method, budget, settings, teacher)
        assert words in refused.value.what + refused.value.why


WEIGHTS = {"one_hot": 2.0, "information_entropy": 3.0, "diversity": 5.0, "batch_norm": 7.0}


def test_rdskds_first_step_by_hand(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "bf16_pays", lambda kind: False)
    told: dict[str, float] = {}

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        told.update(figures if phase == "generator" else {})

    run_method("rdskd", teacher, tmp_path, log=log, generator_steps=1, student_steps=1, **WEIGHTS)
    generator = new_generator(teacher.images, latent=8, width=8, seed=5, device=torch.device("cpu")).train()
    x = images_from(generator, torch.randn(16, 8, generator=torch.Generator().manual_seed(5)))
    with Observed() as observed:
        logits = teacher.model(x)
    p = logits.softmax(dim=1)
    mean = p.mean(dim=0)
    expected = 2 * (-p.max(dim=1).values.log().mean()).exp() + 3 * (mean * mean.log()).sum().exp()
    expected = expected + 5 * (p[8:] - p[:8]).norm() / (x[8:] - x[:8]).norm()
    expected = expected + 7 * losses.batch_norm(observed.batch_norms)
    assert told["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_term_of_rdskd_is_on_the_gradient_path(name: str, teacher: Teacher, tmp_path: Path) -> None:
    samples = []
    for weight in (1.0, 0.0):
        folder = tmp_path / str(weight)
        folder.mkdir()
        samples.append(run_method("rdskd", teacher, folder, generator_steps=8, student_steps=1, **{name: weight})[1])
    assert not torch.equal(samples[0], samples[1])
