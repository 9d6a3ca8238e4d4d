"""What is particular to each of the methods beside RDSKD; what all have in common is in test_methods.py."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd import Images, checkpoint, compute, losses
from edgekd.augment import moved
from edgekd.bank import to_pixels
from edgekd.compute import autocast
from edgekd.errors import UsageError
from edgekd.generator import Generator, images_from, new_generator, sampler_of
from edgekd.held_out import banks, share_out
from edgekd.methods import METHODS, configure, dafl, deepinversion, dfad, fast, mskd, zskd
from edgekd.observe import Observed
from edgekd.student import build_student
from edgekd.types import Run, StudentSpec, Teacher

CPU = torch.device("cpu")


class Plain(nn.Module):
    """A teacher without BatchNorm, and without a linear layer unless `linear`."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.linear = nn.Linear(4, 4) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(F.relu(self.conv(x)).mean(dim=(2, 3)))
        return logits


def plain(teacher: Teacher, *, linear: bool) -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dataclasses.replace(teacher, model=Plain(linear).eval().requires_grad_(False))


def colour(teacher: Teacher) -> Teacher:
    """The tiny teacher as if it took colour images: enough for settings, as it looks at one blank channel."""

    class Gray(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = teacher.model(x[:, :1])
            return logits

    return dataclasses.replace(teacher, model=Gray(), images=Images(3, 8, 8, (0.5,) * 3, (0.25,) * 3))


def student_of(teacher: Teacher, seed: int = 5) -> nn.Module:
    return build_student(StudentSpec("resnet", 1, 4, teacher.images, teacher.classes), seed=seed)


def distil(name: str, teacher: Teacher, folder: Path, log: Any = lambda *_, **__: None, **changes: Any) -> Any:
    """The trained student and the method's sampler."""
    folder.mkdir(exist_ok=True)
    student = student_of(teacher)
    config = dataclasses.replace(METHODS[name].BUDGETS["paper"], **changes)
    return student, METHODS[name].distill(teacher, student, config, Run(CPU, 5, folder, log))


def gradients(loss: Tensor, generator: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(generator.parameters()), retain_graph=True))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL of distributions (N, K), of each image: (N,)."""
    return (p * (p.log() - q.log())).sum(dim=1)


def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "bf16_pays", lambda kind: False)


# what some have in common


@pytest.mark.parametrize(
    ("name", "settings", "labels"),
    [
        ("zskd", {"student_batch": 16, "iterations": 2, "temperature": 2.0, "cross_entropy": 0.3}, 0.3),
        ("deepinversion", {"iterations": 2, "temperature": 2.0}, 0.0),
        ("fast", {"latent": 8, "generator_width": 8, "warmup_steps": 1, "iterations": 2, "temperature": 2.0}, 0.0),
    ],
)
def test_a_students_first_step_by_hand(
    name: str,
    settings: dict[str, Any],
    labels: float,
    teacher: Teacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T^2 KL(teacher || student), and for ZSKD `labels` times the cross entropy with the teacher's class."""
    in_fp32(monkeypatch)
    seen: list[Tensor] = []
    told: dict[str, float] = {}

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        told.update(figures if phase == "student" else {})

    student = student_of(teacher)
    first = copy.deepcopy(student).train()
    student.register_forward_pre_hook(lambda model, args: seen.append(args[0].clone()) if model.training else None)
    config = dataclasses.replace(
        METHODS[name].BUDGETS["paper"], batch=16, synthesis_steps=2, student_steps=1, **settings
    )
    METHODS[name].distill(teacher, student, config, Run(CPU, 5, tmp_path, log))
    (x,) = seen
    target, guess = teacher.model(x), first(x)
    expected = 4 * divergence((target / 2).softmax(dim=1), (guess / 2).softmax(dim=1)).mean()
    own = guess.log_softmax(dim=1).gather(1, target.argmax(dim=1, keepdim=True))
    expected = expected - labels * own.mean()
    assert told["loss"] == pytest.approx(expected.item(), rel=2e-3)  # banks keep logits in fp16
    for learnt, wanted in zip(student.parameters(), gradients(expected, first), strict=True):
        assert learnt.grad is not None and torch.allclose(
            learnt.grad, wanted, rtol=0.02, atol=1e-3 * wanted.abs().max().item()
        )


@pytest.mark.parametrize("name", ["zskd", "deepinversion"])
@pytest.mark.parametrize(("batch", "batches", "apart"), [(16, 2, 4), (3, 1, 1), (1, 2, 1), (1, 1, 1)])
def test_no_image_of_the_sampler_was_learnt(
    name: str, batch: int, batches: int, apart: int, teacher: Teacher, tmp_path: Path
) -> None:
    """An eighth of those made, one at least, is the sampler's, which gives each once before it begins again."""
    learnt: set[bytes] = set()

    def given(x: Tensor) -> list[bytes]:
        return [image.numpy().tobytes() for image in to_pixels(x, teacher.images)]

    student = student_of(teacher)
    student.register_forward_pre_hook(lambda model, args: learnt.update(given(args[0])) if model.training else None)
    settings = {"batch": batch, "synthesis_steps": batches, "iterations": 2, "student_steps": 40}
    settings |= {"student_batch": 16, "augment": False} if name == "zskd" else {}
    config = configure(name, "paper", settings, teacher)
    made = config.batch * config.synthesis_steps
    sampler = METHODS[name].distill(teacher, student, config, Run(CPU, 5, tmp_path, lambda *_, **__: None))
    rounds = [set(given(torch.cat([sampler(apart // 2), sampler(apart - apart // 2)]))) for _ in range(3)]
    assert rounds[0] == rounds[1] == rounds[2] and len(rounds[0]) == apart
    assert len(learnt) == made - apart and not learnt & rounds[0]
    assert len(sampler(2 * apart + 1)) == 2 * apart + 1  # more than there are


def test_images_are_held_out_of_every_batch(teacher: Teacher, tmp_path: Path) -> None:
    """Not the same places of each, which would be the same classes."""
    bank, held_out = banks(24, teacher, Run(CPU, 5, tmp_path, lambda *_, **__: None))
    drawn, places = torch.Generator().manual_seed(0), set()
    for count in (1, 2, 3):
        x = torch.linspace(-2, 2, 8).view(8, 1, 1, 1).expand(8, 1, 8, 8)
        share_out(x, teacher, bank, held_out, drawn)
        assert (len(bank), len(held_out)) == (7 * count, count)
        places |= set(held_out.pixels[:, 0, 0, 0].tolist())
    assert len(places) > 1
    large = tmp_path / "large"
    large.mkdir()
    bank, held_out = banks(64_000, teacher, Run(CPU, 5, large, lambda *_, **__: None))
    assert (bank.capacity, held_out.capacity) == (58_000, 6_000)


# DAFL and MSKD


def test_published_settings_of_dafl_and_mskd(teacher: Teacher) -> None:
    mnist, cifar = (configure("dafl", "paper", {}, t) for t in (teacher, colour(teacher)))
    assert (mnist.batch, mnist.latent, mnist.joint_steps) == (512, 100, 200 * 120)
    assert (mnist.generator_lr, mnist.student_lr, mnist.student_sgd) == (0.2, 2e-3, False)
    assert (mnist.one_hot, mnist.information_entropy, mnist.activation) == (1, 5, 0.1)
    assert (cifar.batch, cifar.latent, cifar.joint_steps) == (1024, 1000, 2000 * 120)
    assert (cifar.generator_lr, cifar.student_lr, cifar.student_sgd) == (0.02, 0.1, True)
    assert (cifar.one_hot, cifar.information_entropy, cifar.activation) == (0.05, 5, 0.01)
    assert mnist.generator_width == 128 and mnist.temperature == 1 and mnist.mode_seeking == 0
    for t, of_dafl in ((teacher, mnist), (colour(teacher), cifar)):
        assert vars(configure("mskd", "paper", {}, t)) == vars(of_dafl) | {"mode_seeking": 1.0}
    assert vars(mskd.BUDGETS["fast"]) == vars(dafl.BUDGETS["fast"]) | {"mode_seeking": 1.0}


def test_a_fraction_scales_the_steps_of_the_teachers_images(teacher: Teacher) -> None:
    assert configure("dafl", "0.1", {}, teacher).joint_steps == 2_400
    assert configure("dafl", "0.1", {}, colour(teacher)).joint_steps == 24_000
    assert configure("fast", "0.1", {}, teacher).warmup_steps == 2
    tiny = configure("fast", "0.001", {}, teacher)
    assert (tiny.synthesis_steps, tiny.warmup_steps) == (1, 0)  # the warm-up leaves one batch to the student


@pytest.mark.parametrize("name", ["dafl", "mskd"])
def test_dafls_first_step_is_the_published_one(name: str, teacher: Teacher, tmp_path: Path) -> None:
    """OH, IE in decimal logarithms and ACT move the generator; of the student's loss nothing reaches it."""
    seen: dict[str, float] = {}
    settings = {"batch": 16, "latent": 8, "generator_width": 8}
    distil(name, teacher, tmp_path / "a", lambda *_, **figures: seen.update(figures), joint_steps=1, **settings)
    generator = new_generator(teacher.images, latent=8, width=8, seed=5, device=CPU).train()
    z = torch.randn(16, 8, generator=torch.Generator().manual_seed(5))
    x = images_from(generator, z)
    with autocast(CPU), Observed() as observed:
        logits = teacher.model(x).float()
    mean = logits.softmax(dim=1).mean(dim=0)
    assert observed.classifier is not None
    features = observed.classifier.features.float()
    expected = losses.one_hot(logits) + 5 * (mean * torch.log10(mean)).sum() - 0.1 * features.abs().mean()
    expected = expected + (losses.mode_seeking(x, z) if name == "mskd" else 0)
    assert seen["generator"] == pytest.approx(expected.item(), rel=1e-4)
    kept = []
    for index, temperature in enumerate((1.0, 30.0)):  # a weight of the student's loss
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "EVERY_S", 0.0)
            folder = tmp_path / str(index)
            student, _ = distil(name, teacher, folder, joint_steps=2, temperature=temperature, **settings)
        state = torch.load(folder / "distillation.ckpt", weights_only=True)
        kept.append((state["generator"], student.state_dict()))
    assert all(torch.equal(kept[0][0][key], kept[1][0][key]) for key in kept[0][0])
    assert not all(torch.equal(kept[0][1][key], kept[1][1][key]) for key in kept[0][1])


def test_mode_seeking_changes_the_generator(teacher: Teacher, tmp_path: Path) -> None:
    settings = {"batch": 16, "latent": 8, "generator_width": 8, "joint_steps": 4}
    one, other = (distil(name, teacher, tmp_path / name, **settings)[1](4) for name in ("dafl", "mskd"))
    assert not torch.equal(one, other)


def test_dafls_colour_students_rate_falls_twice(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = torch.optim.SGD.step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    distil(
        "dafl", teacher, tmp_path, batch=8, latent=4, generator_width=4, joint_steps=5, student_sgd=True, student_lr=0.1
    )
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_dafl_refuses_a_teacher_without_features_unless_the_term_is_off(teacher: Teacher) -> None:
    with pytest.raises(UsageError) as refused:
        configure("dafl", "paper", {}, plain(teacher, linear=False))
    assert refused.value.code == "E0223" and "activation=0" in refused.value.fix
    assert configure("dafl", "paper", {"activation": 0}, plain(teacher, linear=False)).activation == 0


def test_samples_are_made_by_the_batch(teacher: Teacher) -> None:
    """Four images of a batch of sixteen are the first four of it: BatchNorm has seen the other twelve."""
    generator = new_generator(teacher.images, latent=8, width=8, seed=0, device=CPU).train()
    few, many = (
        sampler_of(generator, latent=8, batch=16, rng=torch.Generator().manual_seed(1))(count) for count in (4, 16)
    )
    assert torch.equal(few, many[:4])


# ZSKD


def test_published_settings_of_zskd(teacher: Teacher) -> None:
    mnist, cifar = (configure("zskd", "paper", {}, t) for t in (teacher, colour(teacher)))
    assert (mnist.synthesis_steps * mnist.batch, cifar.synthesis_steps * cifar.batch) == (24_000, 40_000)
    assert (cifar.batch, cifar.iterations, cifar.image_lr, cifar.betas) == (100, 1500, 1e-3, (1.0, 0.1))
    assert (cifar.student_batch, cifar.student_steps, cifar.student_lr) == (64, 500 * 625, 1e-3)
    assert (cifar.temperature, cifar.augment) == (20, True)


def test_class_similarity_and_concentration_by_hand() -> None:
    weight = torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, -5.0]])  # at 0, 45 and -90 degrees
    half = math.sqrt(0.5)
    similarity = zskd.class_similarity(weight)
    expected = torch.tensor([[1, half, 0], [half, 1, -half], [0, -half, 1]])
    assert torch.allclose(similarity, expected, atol=1e-6)
    found = zskd.concentration(similarity[1], beta=0.1)  # from -half..1 to 0..1
    assert found.tolist() == pytest.approx([0.1 * (2 * half) / (1 + half) + 1e-4, 0.1 + 1e-4, 1e-4], abs=1e-6)
    alike = zskd.concentration(torch.ones(3), beta=1.0)  # all classes the same: nothing to divide by
    assert alike.tolist() == pytest.approx([1e-4] * 3)


def test_impressions_come_closer_to_the_opinions_drawn(teacher: Teacher, tmp_path: Path) -> None:
    falls: list[float] = []

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        if phase == "images":
            falls.append(figures["loss"])

    _, sampler = distil(
        "zskd", teacher, tmp_path, log, batch=16, synthesis_steps=4, iterations=40, image_lr=0.05, student_steps=1
    )
    by_batch = [falls[start : start + 3] for start in range(0, len(falls), 3)]  # steps 1, 21 and 40
    assert len(by_batch) == 4 and all(first > last for first, _, last in by_batch)
    pixels = sampler(64) * 0.25 + 0.5
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6


def test_classes_and_scales_take_turns(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []
    concentration = zskd.concentration

    def watched(similarity: Tensor, *, beta: float) -> Tensor:
        asked.append((int(similarity.argmax()), beta))  # the class itself is the most alike
        return concentration(similarity, beta=beta)

    monkeypatch.setattr(zskd, "concentration", watched)
    distil("zskd", teacher, tmp_path, batch=4, synthesis_steps=9, iterations=1, student_steps=1)
    assert asked == [(index % 4, beta) for beta in (1.0, 0.1) for index in range(4)] + [(0, 1.0)]


def test_augmented_images_are_drawn_from_the_given_generator() -> None:
    x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one, again, other = (zskd.augmented(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    flat = torch.full((8, 3, 6, 6), 0.3)
    assert torch.allclose(zskd.augmented(flat, torch.Generator().manual_seed(0)), flat)  # nothing comes in from outside


def test_zskd_refuses_a_teacher_without_a_classifier(teacher: Teacher) -> None:
    with pytest.raises(UsageError) as refused:
        configure("zskd", "paper", {}, plain(teacher, linear=False))
    assert refused.value.code == "E0223" and "rdskd" in refused.value.fix
    configure("zskd", "paper", {}, plain(teacher, linear=True))


def test_an_impressions_first_step_by_hand(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross entropy of softmax(t / T) with the opinions; the batch is stretched to 0..1 behind the step."""
    in_fp32(monkeypatch)
    rng = torch.Generator().manual_seed(0)
    pixels, opinions = torch.rand(8, 1, 8, 8, generator=rng), torch.rand(8, 4, generator=rng).softmax(dim=1)
    start = pixels.clone().requires_grad_()
    config = dataclasses.replace(zskd.BUDGETS["paper"], iterations=1, image_lr=0.1, temperature=2.0)
    (loss,) = zskd.impressing(pixels, opinions, teacher, config)
    expected = -(opinions * (teacher.model((start - 0.5) / 0.25) / 2).log_softmax(dim=1)).sum(dim=1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (slope,) = torch.autograd.grad(expected, start)
    assert pixels.grad is not None and torch.allclose(pixels.grad, slope, rtol=1e-3, atol=1e-6)
    moved_on = start.detach() - 0.1 * slope / (slope.abs() + 1e-8)  # Adam's first step
    stretched = (moved_on - moved_on.min()) / (moved_on.max() - moved_on.min())
    assert torch.allclose(pixels.detach(), stretched, atol=1e-3)


# DeepInversion


def test_published_settings_of_deepinversion(teacher: Teacher) -> None:
    config = configure("deepinversion", "paper", {}, teacher)
    assert (config.batch, config.iterations, config.image_lr, config.jitter) == (256, 2000, 0.05, 2)
    assert (config.batch_norm, config.total_variation, config.one_hot, config.l2) == (10, 2.5e-5, 1, 0)
    assert (config.adaptive, config.temperature, config.adaptive_temperature) == (0, 3, 3)
    assert (config.student_steps, config.synthesis_steps) == (250 * 195, 250 * 2)


def test_deepinversion_refuses_a_teacher_without_batch_norm_before_it_starts(teacher: Teacher, tmp_path: Path) -> None:
    bare = plain(teacher, linear=True)
    with pytest.raises(UsageError) as refused:
        configure("deepinversion", "fast", {}, bare)
    assert refused.value.code == "E0223" and "rdskd" in refused.value.fix
    with pytest.raises(UsageError):
        distil("deepinversion", bare, tmp_path)
    assert not list(tmp_path.iterdir())


def inverted(teacher: Teacher, **changes: Any) -> tuple[Tensor, Tensor, Observed]:
    """32 images, and what the teacher makes of them."""
    settings = {"iterations": 60, "image_lr": 0.1, "jitter": 1} | changes
    config = dataclasses.replace(deepinversion.BUDGETS["paper"], **settings)
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(32, 1, 8, 8, generator=drawn).clamp(-2, 2)
    assert len(list(deepinversion.inverting(x, teacher, student_of(teacher), config, drawn))) == config.iterations
    with torch.no_grad(), Observed() as observed:
        logits = teacher.model(x)
    assert x.min() >= -2 and x.max() <= 2  # (0 - 0.5) / 0.25 to (1 - 0.5) / 0.25
    return x, logits, observed


def test_inverted_images_have_the_statistics_and_the_classes(teacher: Teacher) -> None:
    _, _, noise = inverted(teacher, iterations=0)
    _, _, matched = inverted(teacher)
    before, after = (losses.batch_norm_distance(seen.batch_norms).item() for seen in (noise, matched))
    assert after < 0.7 * before
    _, logits, _ = inverted(teacher, batch_norm=0.0, jitter=0)
    assert (logits.argmax(dim=1) == torch.arange(32) % 4).float().mean() > 0.9
    smooth, _, _ = inverted(teacher, batch_norm=0.0, total_variation=1.0)
    rough, _, _ = inverted(teacher, batch_norm=0.0, total_variation=0.0)
    assert losses.total_variation(smooth) < losses.total_variation(rough) / 2


def test_inversions_first_step_by_hand(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    in_fp32(monkeypatch)
    config = dataclasses.replace(
        deepinversion.BUDGETS["paper"], iterations=1, jitter=2, batch_norm=3.0, one_hot=2.0, total_variation=0.02,
        l2=0.05, adaptive=7.0, adaptive_temperature=2.0,
    )  # fmt: skip
    student = student_of(teacher).eval()
    drawn, again = (torch.Generator().manual_seed(0) for _ in range(2))
    x = torch.randn(8, 1, 8, 8, generator=drawn)
    start = torch.randn(8, 1, 8, 8, generator=again).requires_grad_()
    (loss,) = deepinversion.inverting(x, teacher, student, config, drawn)

    down, right = torch.randint(-2, 3, (2,), generator=again).tolist()
    rolled = start.roll((down, right), dims=(2, 3))
    with Observed() as observed:
        logits = teacher.model(rolled)
    expected = 3 * losses.batch_norm_distance(observed.batch_norms)
    expected = expected - 2 * logits.log_softmax(dim=1)[torch.arange(8), torch.arange(8) % 4].mean()
    expected = expected + 0.02 * losses.total_variation(rolled) + 0.05 * start.square().sum().sqrt()
    p, q = ((model / 2).softmax(dim=1) for model in (logits, student(rolled)))
    middle = (p + q) / 2
    expected = expected + 7 * (1 - (divergence(p, middle) + divergence(q, middle)).mean() / 2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (slope,) = torch.autograd.grad(expected, start)
    assert x.grad is not None and torch.allclose(x.grad, slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("adaptive", [0.0, 5.0])
def test_the_student_shapes_images_only_when_adaptive(adaptive: float, teacher: Teacher) -> None:
    config = dataclasses.replace(deepinversion.BUDGETS["paper"], iterations=4, adaptive=adaptive)
    results = []
    for seed in (1, 2):
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(8, 1, 8, 8, generator=drawn)
        list(deepinversion.inverting(x, teacher, student_of(teacher, seed).eval(), config, drawn))
        results.append(x.detach())
    assert torch.equal(*results) == (adaptive == 0)


# DFAD


def test_published_settings_of_dfad(teacher: Teacher) -> None:
    mnist, cifar = (configure("dfad", "paper", {}, t) for t in (teacher, colour(teacher)))
    assert (mnist.batch, mnist.latent, mnist.generator_steps) == (512, 100, 40 * 50)
    assert (mnist.student_lr, mnist.student_weight_decay, mnist.decay_at) == (0.01, 1e-4, ())
    assert (cifar.batch, cifar.latent, cifar.generator_steps) == (256, 256, 500 * 50)
    assert (cifar.student_lr, cifar.student_weight_decay, cifar.decay_at) == (0.1, 5e-4, (0.2, 0.4))
    assert (mnist.student_per_generator, mnist.generator_lr, mnist.generator_width) == (5, 1e-3, 128)


@pytest.mark.parametrize("term", ["l1", "masked_adversarial"])
def test_the_adversarial_gradient_changes_with_the_student(term: str, teacher: Teacher) -> None:
    """It would not where the teacher is taken for the student: then the term is 0."""
    generator = new_generator(teacher.images, latent=8, width=8, seed=0, device=CPU).train()
    x = images_from(generator, torch.randn(16, 8, generator=torch.Generator().manual_seed(0)))
    target = teacher.model(x)
    loss = getattr(losses, term)
    one, other, itself = (
        gradients(loss(student=model(x), teacher=target), generator)
        for model in (student_of(teacher, 1).eval(), student_of(teacher, 2).eval(), teacher.model)
    )
    assert not all(torch.allclose(a, b) for a, b in zip(one, other, strict=True))
    assert all(gradient.abs().max() < 1e-6 for gradient in itself)


def test_dfads_generator_depends_on_the_student_and_drives_it_away(teacher: Teacher, tmp_path: Path) -> None:
    """With a student that does not learn, the generator raises their difference."""
    differences: list[float] = []

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        differences.append(-figures["generator"])

    samples = []
    for seed in (1, 2):
        student = student_of(teacher, seed)
        config = dataclasses.replace(
            dfad.BUDGETS["paper"], batch=32, latent=8, generator_width=8, generator_steps=41, student_lr=1e-9,
            student_per_generator=1,
        )  # fmt: skip
        folder = tmp_path / str(seed)
        folder.mkdir()
        samples.append(dfad.distill(teacher, student, config, Run(CPU, 5, folder, log))(4))
        assert all(parameter.requires_grad for parameter in student.parameters())
    assert len(differences) == 6 and differences[2] > differences[0] > 0 and differences[5] > differences[3] > 0
    assert not torch.equal(*samples)


# Fast-DFKD


def meta_batch(teacher: Teacher, *, seed: int = 1, adversarial: float = 0.0, **changes: Any) -> Any:
    """The meta-learnt generator behind one batch of images, what it gave, and the config."""
    settings = {"batch": 16, "latent": 8, "generator_width": 8, "iterations": 2} | changes
    config = fast.derived(dataclasses.replace(fast.BUDGETS["paper"], **settings), teacher)
    meta = new_generator(teacher.images, latent=8, width=8, seed=0, device=CPU).train()
    with torch.no_grad(), Observed() as observed:
        teacher.model(torch.zeros(2, 1, 8, 8))
    moments = [t for _, mean, var in observed.batch_norms for t in (mean, var)]
    history = nn.ParameterList(nn.Parameter(torch.zeros_like(t), requires_grad=False) for t in moments)
    rng = torch.Generator().manual_seed(3)
    made = fast.synthesised(
        meta, history, teacher, student_of(teacher, seed).eval(), config, rng, adversarial=adversarial, momentum=0.0
    )
    return meta, history, made, config


def test_published_settings_of_fast(teacher: Teacher) -> None:
    config = configure("fast", "paper", {}, teacher)
    assert (config.batch, config.latent, config.generator_width) == (256, 256, 128)
    assert (config.synthesis_steps, config.warmup_steps, config.reset_steps) == (220, 20, 120 + 20)
    assert (config.iterations, config.generator_lr, config.latent_lr) == (10, 2e-3, 0.01)
    assert (config.batch_norm, config.batch_norm_momentum, config.one_hot) == (10, 0.9, 0.5)
    assert (config.adversarial, config.temperature) == (1.33, 20)
    assert (config.student_steps, config.student_lr, config.student_weight_decay) == (200 * 400, 0.2, 1e-4)
    assert (config.shift, config.mirror) == (0, False)
    cifar = configure("fast", "paper", {}, colour(teacher))
    assert (cifar.shift, cifar.mirror) == (4, True)


@pytest.mark.parametrize("adversarial", [0.0, 1.33])
def test_the_meta_gradient_is_that_of_the_adapted_copies(
    adversarial: float, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First-order MAML: the gradients at each iteration's weights, summed. The generator itself stays where it is."""
    in_fp32(monkeypatch)
    first = new_generator(teacher.images, latent=8, width=8, seed=0, device=CPU).state_dict()
    one, _, (_, told), _ = meta_batch(teacher, iterations=1, seed=5, adversarial=adversarial)
    two, _, _, _ = meta_batch(teacher, iterations=2, seed=5, adversarial=adversarial)
    assert all(torch.equal(first[name], tensor) for name, tensor in two.state_dict().items())
    reference = Generator(teacher.images, latent=8, width=8).train()
    reference.load_state_dict(first)
    rng = torch.Generator().manual_seed(3)
    z = torch.randn(16, 8, generator=rng)
    wanted = torch.randint(4, (16,), generator=rng)
    x = images_from(reference, z)
    with autocast(CPU), Observed() as observed:
        logits = teacher.model(x)
    loss = 10 * losses.batch_norm_distance(observed.batch_norms) + 0.5 * losses.cross_entropy(logits, wanted)
    guess = student_of(teacher, 5).eval()(x)
    agree = guess.argmax(dim=1) == logits.argmax(dim=1)
    assert agree.any() and not agree.all()
    loss = loss - adversarial * (divergence(logits.softmax(dim=1), guess.softmax(dim=1)) * agree).mean()
    assert told.item() == pytest.approx(loss.item(), rel=1e-5)
    for found, expected in zip(one.parameters(), gradients(loss, reference), strict=True):
        assert found.grad is not None and torch.allclose(found.grad, expected, rtol=1e-4, atol=1e-4)
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert any(a.grad is not None and b.grad is not None and not torch.allclose(a.grad, b.grad) for a, b in pairs)


def test_the_best_iteration_is_kept(teacher: Teacher) -> None:
    """More iterations never make the batch worse, and its loss is the lowest one seen."""
    found = [meta_batch(teacher, iterations=count)[2][1].item() for count in (1, 2, 8)]
    assert found[0] >= found[1] >= found[2]


def test_statistics_of_earlier_batches(teacher: Teacher) -> None:
    _, history, (images, _), _ = meta_batch(teacher, iterations=1)
    with torch.no_grad(), Observed() as observed:
        teacher.model(images)
    moments = [moment for inputs, _, _ in observed.batch_norms for moment in losses.moments(inputs)]
    assert all(torch.allclose(kept, now, rtol=0.05, atol=0.05) for kept, now in zip(history, moments, strict=True))


def test_the_student_matters_only_through_the_adversarial_term(teacher: Teacher) -> None:
    for adversarial in (0.0, 5.0):
        one, other = (meta_batch(teacher, seed=seed, adversarial=adversarial, iterations=3)[2][0] for seed in (1, 2))
        assert torch.equal(one, other) == (adversarial == 0)


def test_meta_generator_moves_bank_grows_and_the_adversary_comes_with_the_last_batch_of_the_warm_up(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    calls: list[tuple[float, float]] = []
    made = fast.synthesised

    def watched(*args: Any, adversarial: float, momentum: float) -> Any:
        calls.append((adversarial, momentum))
        return made(*args, adversarial=adversarial, momentum=momentum)

    monkeypatch.setattr(fast, "synthesised", watched)
    states: list[dict[str, Any]] = []

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        if phase == "images" and step > 1:
            states.append(torch.load(tmp_path / "distillation.ckpt", weights_only=True))

    student, sampler = distil(
        "fast", teacher, tmp_path, log, batch=16, latent=8, generator_width=8, synthesis_steps=4, warmup_steps=2,
        reset_steps=9, iterations=2, student_steps=5,
    )  # fmt: skip
    assert calls == [(0, 0), (1.33, 0.9), (1.33, 0.9), (1.33, 0.9)]  # as released, from the last one of the warm-up on
    assert [state["bank"]["added"] for state in states] == [16, 32, 48]
    assert [state["counters"]["student"] for state in states] == [0, 0, 2]  # none in the warm-up, then shared evenly
    weights = [state["generator"]["project.weight"] for state in states]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert student.training is False and all(parameter.requires_grad for parameter in student.parameters())
    assert sampler(40).shape == (40, 1, 8, 8) and not student.training  # three fresh batches


def test_the_first_layer_is_drawn_anew(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the batch of that number, counted from 1."""
    spreads = []
    made = fast.synthesised

    def watched(meta: Any, *args: Any, **kwargs: Any) -> Any:
        spreads.append(meta.project.weight.std().item())
        return made(meta, *args, **kwargs)

    monkeypatch.setattr(fast, "synthesised", watched)
    distil(
        "fast", teacher, tmp_path, batch=8, latent=64, generator_width=8, synthesis_steps=4, warmup_steps=1,
        reset_steps=3, iterations=1, generator_lr=1e-6, student_steps=1,
    )  # fmt: skip
    born = 1 / math.sqrt(3 * 64)
    assert spreads == pytest.approx([born, born, 0.02, 0.02], rel=0.1)


def test_moved_images_by_hand(teacher: Teacher) -> None:
    facts, rng = teacher.images, torch.Generator().manual_seed(0)
    x = torch.arange(2 * 64).view(2, 1, 8, 8).float()
    shifted = moved(x, facts, rng, shift=1, mirror=False)
    black = -2.0  # (0 - 0.5) / 0.25
    padded = F.pad(x - black, (1,) * 4) + black
    windows = [[padded[n, 0, r : r + 8, c : c + 8] for r in range(3) for c in range(3)] for n in range(2)]
    assert all(any(torch.equal(shifted[n, 0], window) for window in windows[n]) for n in range(2))
    mirrored = moved(x, facts, rng, shift=0, mirror=True)
    assert all(torch.equal(m, o) or torch.equal(m, o.flip(2)) for m, o in zip(mirrored, x, strict=True))
    assert torch.equal(moved(x, facts, rng, shift=0, mirror=False), x)


def test_fast_serves_a_teacher_without_batch_norm(teacher: Teacher, tmp_path: Path) -> None:
    student, _ = distil(
        "fast", plain(teacher, linear=True), tmp_path, batch=8, latent=8, generator_width=8, synthesis_steps=2,
        warmup_steps=1, iterations=1, student_steps=2,
    )  # fmt: skip
    assert all(parameter.isfinite().all() for parameter in student.parameters())
