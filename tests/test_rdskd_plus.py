"""What is particular to RDSKD+; the contract that every method keeps is in test_methods.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import Images, compute, losses, rdskd_plus_settings
from edgekd.augment import moved
from edgekd.compute import answers_of, one_cycle
from edgekd.early_stop import rounds_left
from edgekd.errors import UsageError
from edgekd.generator import images_from
from edgekd.methods import configure, rdskd_plus
from edgekd.methods.rdskd_plus import Config
from edgekd.networks import LeNet, ResNet
from edgekd.pace import planned
from edgekd.rdskd_plus_settings import ENOUGH, HINTS
from edgekd.student import build_student
from edgekd.types import Run, StudentSpec, Teacher

SMALL: dict[str, Any] = {
    "rounds": 3, "image_steps": 12, "image_batch": 16, "latent": 8, "generator_width": 8, "batch": 16,
    "student_steps": 6, "prior_images": 60,
}  # fmt: skip


def run(teacher: Teacher, folder: Path, **changes: Any) -> tuple[list[tuple[str, int, int, dict[str, float]]], Any]:
    """Every line of the log, and the sampler."""
    seen: list[tuple[str, int, int, dict[str, float]]] = []
    folder.mkdir(exist_ok=True)
    student = build_student(StudentSpec("resnet", 1, 4, teacher.images, teacher.classes), seed=3)

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        seen.append((phase, step, steps, figures))

    config = Config(**{**SMALL, **changes})
    return seen, rdskd_plus.distill(teacher, student, config, Run(torch.device("cpu"), 3, folder, log))


def test_prior_follows_from_the_images(teacher: Teacher) -> None:
    tiny = configure("rdskd_plus", "fast", {}, teacher)
    assert tiny.prior == "none" and not tiny.tones  # 8x8, with BatchNorm
    drawn = configure("rdskd_plus", "fast", {"prior": "procedural"}, teacher)
    assert (tiny.batch_norm, tiny.temperature) == (3, 2) and (drawn.batch_norm, drawn.temperature) == (1, 4)
    assert configure("rdskd_plus", "fast", {"batch_norm": 0.5}, teacher).batch_norm == 0.5
    assert configure("rdskd_plus", "fast", {"tones": True}, teacher).tones
    for channels, prior in ((1, "procedural"), (4, "procedural"), (3, "photo")):
        images = Images(channels, 32, 32, (0.5,) * channels, (0.5,) * channels)
        other = dataclasses.replace(teacher, model=LeNet(images, 10).eval(), images=images)
        config = configure("rdskd_plus", "fast", {}, other)
        assert config.prior == prior
        assert config.image_steps == 0 and config.batch_norm == 0  # a LeNet has no statistics to refine towards
        without = configure("rdskd_plus", "fast", {"prior": "none"}, other)  # many small generators instead
        assert (without.rounds, without.image_steps, without.lesson_steps, without.generator_width, without.tones) == (
            12,
            1_000,
            1_000,
            16,
            True,
        )
        assert (config.warp, config.mixed) == ((1.0, 1.0) if channels > 1 else (0.0, 0.0))
        assert config.lesson_steps == (1_000 if channels > 1 else 0)  # what is not changed keeps its logits anyway
    assert configure("rdskd_plus", "fast", {"lesson_steps": 0}, other).lesson_steps == 0


def in_colour(side: int = 20) -> Teacher:
    """A network with BatchNorm whose statistics are its own, of noise: nothing that it has learnt is looked at."""
    images = Images(3, side, side, (0.5,) * 3, (0.25,) * 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(images, 4, depth=1, width=4, large_stem=False).train()
        model(torch.randn(64, 3, side, side))
    return Teacher(model.eval().requires_grad_(False), images, tuple("abcd"), "", "x")


def test_colour_images_under_batch_norm_come_from_one_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside a prior, unless its own images are to be refined, as large ones are."""
    monkeypatch.setattr(rdskd_plus_settings, "choose_device", lambda: torch.device("cpu"))
    alone = configure("rdskd_plus", "fast", {"prior": "none"}, in_colour())
    assert (alone.rounds, alone.batch_iterations, alone.made_share, alone.image_steps) == (12, 5, 1.0, 1_000)
    beside = configure("rdskd_plus", "fast", {}, in_colour())
    assert (beside.prior, beside.batch_iterations, beside.made_share, beside.image_steps) == ("photo", 5, 0.5, ENOUGH)
    longest = (
        configure("rdskd_plus", "best", {}, in_colour()),
        configure("rdskd_plus", "best", {"prior": "none"}, in_colour()),
    )
    assert [config.image_steps for config in longest] == [ENOUGH, 16_000]
    assert configure("rdskd_plus", "best", {"image_steps": 5_000}, in_colour()).image_steps == 5_000
    part = configure("rdskd_plus", "0.1", {}, in_colour())  # of the longest budget, whose images were enough
    assert (part.student_steps, part.image_steps) == (6_400, ENOUGH)
    for config in (alone, beside):
        assert (config.generated, config.batch_norm, config.batch_norm_momentum) == (True, 20, 0.9)
        assert (config.generator_lr, config.latent, config.shift, config.adversarial) == (3e-3, 256, 4, 0)
        assert (config.temperature, config.batch, config.image_batch, config.prior_images) == (4, 128, 128, 40_000)
    for refined in (
        configure("rdskd_plus", "fast", {"generated": False}, in_colour()),
        configure("rdskd_plus", "fast", {}, in_colour(65)),
    ):
        assert (refined.prior, refined.generated, refined.batch_iterations) == ("photo", False, 1)
        assert (refined.made_share, refined.image_steps) == (0.25, 500)
        assert (refined.batch_norm, refined.batch_norm_momentum, refined.shift, refined.adversarial) == (1, 0, 0, 1)
    assert configure("rdskd_plus", "fast", {"generated": True}, in_colour(65)).batch_iterations == 5
    tiny = configure("rdskd_plus", "fast", {}, in_colour(16))
    assert (tiny.prior, tiny.generated, tiny.batch_iterations, tiny.rounds) == ("none", True, 1, 4)


@pytest.mark.parametrize("prior", ["none", "procedural"])
def test_latent_vectors_learn_with_the_one_generator(
    prior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images are made first, each batch in five steps, of vectors drawn once; those of the first eighth go."""
    fed: list[tuple[torch.Tensor, torch.Tensor]] = []  # vectors, and the first weight of the generator
    momenta: list[float] = []
    histories: list[torch.Tensor] = []
    true, distance = images_from, losses.batch_norm_distance

    def watched(maker: nn.Module, z: torch.Tensor) -> torch.Tensor:
        if z.requires_grad:
            fed.append((z.detach().clone(), next(maker.parameters()).detach().clone()))
        return true(maker, z)

    def weighed(seen: Any, history: Sequence[torch.Tensor], *, momentum: float) -> torch.Tensor:
        momenta.append(momentum)
        histories.append(history[0].clone())
        return distance(seen, history, momentum=momentum)

    monkeypatch.setattr(rdskd_plus, "images_from", watched)
    monkeypatch.setattr(losses, "batch_norm_distance", weighed)
    teacher = in_colour()
    steps = 60
    lines, sampler = run(
        teacher,
        tmp_path / "x",
        prior=prior,
        generated=True,
        rounds=3,
        image_steps=steps,
        patience=0,
        latent_lr=0.01,
    )
    assert len(fed) == steps
    phases = [phase for phase, *_ in lines]
    assert phases.count("held out") == 3  # the student's rounds
    assert max(k for k, phase in enumerate(phases) if phase == "images") < phases.index("student")
    for index in range(1, len(fed)):
        apart = (fed[index][0] - fed[index - 1][0]).abs().max().item()
        assert apart > 0.5 if index % 5 == 0 else 0 < apart < 0.05
        assert not torch.equal(fed[index][1], fed[index - 1][1])
        assert (fed[index][1] - fed[index - 1][1]).abs().max() < 0.01  # it goes on where it was
    batches = [k // 5 for k in range(len(momenta))]
    assert momenta == pytest.approx([min(0.9, k / (k + 1)) for k in batches])
    for index in range(1, len(histories)):  # that of the batches before, the same for all steps on one
        assert torch.equal(histories[index], histories[index - 1]) is (index % 5 != 0)
    bank = np.memmap(tmp_path / "x" / "made.u8", np.uint8, "r")[: steps // 5 * SMALL["image_batch"] * 3 * 20 * 20]
    kept = [k for k in range(4, steps, 5) if k >= steps // 8]  # the last step on each batch
    assert bank.reshape(-1, 3 * 20 * 20).any(axis=1).sum() == len(kept) * SMALL["image_batch"]
    assert sampler(4).shape == (4, 3, 20, 20)
    made = [figures for phase, _, _, figures in lines if phase == "images"]
    assert set(made[0]) == {"authenticity", "balance", "diversity", "batch_norm"}


def test_a_term_is_compared_with_that_of_the_same_step_on_an_earlier_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a batch every term falls, which is no reason to weigh the later steps less. Renewed an epoch later."""
    seen: list[tuple[float, float]] = []  # BatchNorm's distance and its reference, step by step
    true = losses.bounded_ratio

    def watched(term: torch.Tensor, reference: torch.Tensor, *, scale: float) -> torch.Tensor:
        seen.append((term.item(), reference.item()))
        return true(term, reference, scale=scale)

    monkeypatch.setattr(losses, "bounded_ratio", watched)
    steps, each, epoch = 60, 5, 20
    run(in_colour(), tmp_path, prior="procedural", generated=True, rounds=1, image_steps=steps, epoch=epoch)
    assert len(seen) == steps
    for step, (_, reference) in enumerate(seen):
        batch, place = divmod(step, each)
        of = batch - (batch - 1) % (epoch // each) if batch else 0  # from the first one on an epoch's second
        assert reference == pytest.approx(seen[of * each + place][0])
    assert len({reference for _, reference in seen}) == each * (1 + steps // epoch)


@pytest.mark.parametrize(("prior", "distances"), [("none", 12), ("procedural", 0)])
def test_a_generator_weighs_the_distance_to_the_statistics_by_its_logarithm(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prior: str, distances: int
) -> None:
    """It starts far from them; images of a prior that are refined do not, and keep a fixed unit."""
    units: list[float] = []
    true = losses.bounded_ratio

    def watched(term: torch.Tensor, reference: torch.Tensor, *, scale: float) -> torch.Tensor:
        units.append(scale)
        return true(term, reference, scale=scale)

    monkeypatch.setattr(losses, "bounded_ratio", watched)
    run(teacher, tmp_path, prior=prior)
    assert units == [rdskd_plus_settings.SCALES["batch_norm"]] * distances


def test_hard_images_need_a_student_that_learns_between_them() -> None:
    with pytest.raises(UsageError, match="has not learnt yet"):
        configure("rdskd_plus", "fast", {"prior": "none", "adversarial": 1.0}, in_colour())
    apart = configure("rdskd_plus", "fast", {"prior": "none", "adversarial": 1.0, "batch_iterations": 1}, in_colour())
    assert (apart.adversarial, apart.batch_iterations) == (1.0, 1)


def test_images_are_shown_moved_while_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the pixels that are set, or by none."""
    shifts: list[int] = []
    true = moved

    def watched(images: torch.Tensor, *given: Any, shift: int, mirror: bool) -> torch.Tensor:
        assert images.requires_grad and mirror is bool(shift)
        shifts.append(shift)
        return true(images, *given, shift=shift, mirror=mirror)

    monkeypatch.setattr(rdskd_plus, "moved", watched)
    for shift in (None, 2, 0):
        run(in_colour(), tmp_path / str(shift), prior="none", image_steps=30, shift=shift)
    assert shifts == [4] * 30 + [2] * 30 + [0] * 30


def test_banks_of_large_images_stay_within_their_bytes(teacher: Teacher) -> None:
    images = Images(3, 224, 224, (0.5,) * 3, (0.5,) * 3)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4)).eval()
    config = configure("rdskd_plus", "fast", {}, dataclasses.replace(teacher, model=model, images=images))
    assert config.prior_images == 2 * 10**9 // (3 * 224 * 224)


def test_long_trainings_draw_more_to_choose_from(teacher: Teacher) -> None:
    def drawn(**settings: Any) -> tuple[int | None, int | None]:
        config = configure("rdskd_plus", "fast", {"prior": "procedural", "batch": 100, **settings}, teacher)
        return config.prior_images, config.prior_drawn

    assert drawn(student_steps=4_000, prior_images=40_000) == (40_000, 40_000)
    assert drawn(student_steps=8_000, prior_images=40_000) == (40_000, 80_000)
    assert drawn(student_steps=64_000, prior_images=40_000) == (40_000, 160_000)
    assert drawn(student_steps=64_000, prior_images=40_000, prior_drawn=50_000) == (40_000, 50_000)


def test_of_many_drawn_images_no_class_keeps_more_than_its_share(teacher: Teacher, tmp_path: Path) -> None:
    kept, most, classes = dict[int, torch.Tensor](), 60, len(teacher.classes)
    for drawn in (most, 3_000):
        lines, _ = run(teacher, tmp_path / str(drawn), prior="procedural", prior_drawn=drawn)
        logits = np.memmap(tmp_path / str(drawn) / "prior.u8", np.float16, "r", most * 8 * 8, (most, classes))
        used = torch.tensor(logits[: most if drawn == most else (logits != 0).any(axis=1).sum()])
        kept[drawn] = used.argmax(dim=1).bincount(minlength=classes)
        assert max(step for phase, step, _, _ in lines if phase == "prior") <= drawn
    share = most // classes
    assert kept[most].sum() == most and kept[most].max() > share  # drawn alone, they are what they are
    assert kept[3_000].max() == share
    rare = kept[most] < share
    assert (kept[3_000][rare] >= kept[most][rare]).all() and kept[3_000][rare].sum() > kept[most][rare].sum()


@pytest.mark.parametrize(
    ("channels", "side", "usual"),
    [(1, 8, 128), (1, 16, 128), (1, 17, 256), (1, 64, 256), (1, 65, 64), (3, 17, 128), (3, 64, 128), (3, 65, 64)],
)
def test_batches_are_those_of_the_images_unless_set(
    channels: int, side: int, usual: int, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rdskd_plus_settings, "choose_device", lambda: torch.device("cpu"))
    gray = dataclasses.replace(teacher, images=Images(1, side, side, (0.5,), (0.5,)))
    there = in_colour(side) if channels == 3 else gray
    config = configure("rdskd_plus", "fast", {"prior": "procedural"}, there)
    assert config.batch == config.image_batch == usual
    assert configure("rdskd_plus", "fast", {"prior": "procedural", "batch": 96}, there).batch == 96


def test_a_gpu_gets_larger_batches_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdskd_plus_settings, "choose_device", lambda: torch.device("cuda"))
    assert configure("rdskd_plus", "fast", {}, in_colour()).batch == 256


def test_images_of_a_generator_are_labelled_once_where_nothing_changes_them(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed ones keep the logits that they were made with."""
    labelled: list[int] = []
    answers = answers_of

    def counted(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        labelled.append(len(x))
        return answers(model, x)

    monkeypatch.setattr(rdskd_plus, "answers_of", counted)
    run(teacher, tmp_path, prior="none", features=0.0, lesson_steps=0)
    assert labelled.count(SMALL["batch"] // 2) == SMALL["student_steps"]  # the fresh half of each batch
    assert labelled.count(SMALL["image_batch"]) == SMALL["image_steps"] // 2  # what is kept


def test_terms_are_those_that_the_prior_and_the_round_call_for(teacher: Teacher, tmp_path: Path) -> None:
    lines, _ = run(teacher, tmp_path / "none", prior="none")
    images = [figures for phase, _, _, figures in lines if phase == "images"]
    assert set(images[0]) == {"authenticity", "balance", "diversity", "batch_norm"}
    assert set(images[-1]) == {*images[0], "adversarial"}  # after a third of the rounds
    for rounds in (1, 2):  # never before the student has learnt
        lines, _ = run(teacher, tmp_path / str(rounds), prior="none", rounds=rounds)
        first = [figures for phase, step, steps, figures in lines if phase == "images" and step <= steps / rounds]
        assert first and not any("adversarial" in figures for figures in first)
    lines, _ = run(teacher, tmp_path / "strokes", prior="procedural")
    images = [figures for phase, _, _, figures in lines if phase == "images"]
    assert set(images[0]) == {"authenticity", "batch_norm"}


@pytest.mark.parametrize("increments", [True, False])
def test_the_sum_over_the_terms_by_hand(
    increments: bool, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each term in its unit, times its weight and its rise since the second step of its generator."""
    weights = {"authenticity": 0.5, "balance": 2.0, "diversity": 3.0, "batch_norm": 0.7, "adversarial": 1.3}
    steps: list[dict[str, float]] = []
    summed: list[float] = []
    three, near, hard, step = rdskd_plus._terms, losses.batch_norm, losses.masked_adversarial, compute.descend

    def terms(*given: Any) -> dict[str, torch.Tensor]:
        found = three(*given)
        steps.append({name: term.item() for name, term in found.items()})
        return found

    def told(name: str, loss: Any) -> Any:
        def call(*given: Any, **named: Any) -> torch.Tensor:
            value: torch.Tensor = loss(*given, **named)
            steps[-1][name] = value.item()
            return value

        return call

    def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        if len(summed) < len(steps):  # not the student's
            summed.append(loss.item())
        return step(loss, optimizer)

    monkeypatch.setattr(rdskd_plus, "_terms", terms)
    monkeypatch.setattr(losses, "batch_norm", told("batch_norm", near))
    monkeypatch.setattr(losses, "masked_adversarial", told("adversarial", hard))
    monkeypatch.setattr("edgekd.methods.rdskd_plus.descend", descend)
    run(teacher, tmp_path / "x", prior="none", rounds=2, image_steps=8, increments=increments, **weights)
    assert len(steps) == len(summed) == 8 and ["adversarial" in found for found in steps] == [False] * 4 + [True] * 4
    reference: dict[str, float] = {}
    for number, found in enumerate(steps):
        reference = found if number % 4 in (0, 1) else reference
        expected = 0.0
        for name, term in found.items():
            unit = {"diversity": 3.0, "batch_norm": 0.1}.get(name, 1.0)
            since = reference[name] if increments else term
            rise = math.log(term / since) if name == "batch_norm" else (term - since) / unit
            expected += weights[name] * math.exp(min(2.0, max(-2.0, rise))) * term / unit
        assert summed[number] == pytest.approx(expected, rel=1e-4)


def test_refinement_nears_statistics_and_classes(teacher: Teacher, tmp_path: Path) -> None:
    lines, _ = run(teacher, tmp_path / "x", prior="procedural", rounds=1, image_steps=41, adversarial=0.0)
    first, last = ([f for phase, _, _, f in lines if phase == "images"][i] for i in (0, -1))
    assert last["authenticity"] < first["authenticity"] / 2
    assert last["batch_norm"] < first["batch_norm"]


def test_adversarial_term_reaches_the_images(teacher: Teacher, tmp_path: Path) -> None:
    """The same run with and without it: the generator's images differ once it counts, not before."""
    samples = []
    for name, weight in (("with", 1.0), ("without", 0.0)):
        _, sampler = run(teacher, tmp_path / name, prior="none", rounds=2, adversarial=weight, patience=0)
        samples.append(sampler(4))
    assert not torch.equal(*samples)


def test_sheet_of_images_and_the_banks_are_there(teacher: Teacher, tmp_path: Path) -> None:
    run(teacher, tmp_path / "x", prior="procedural")
    assert {"images.png", "prior.u8", "made.u8"} <= {path.name for path in (tmp_path / "x").iterdir()}


def test_samples_are_new_ones(teacher: Teacher, tmp_path: Path) -> None:
    for prior in ("none", "procedural"):
        _, sampler = run(teacher, tmp_path / prior, prior=prior)
        first, second = sampler(8), sampler(8)
        assert first.shape == (8, 1, 8, 8) and not torch.equal(first, second)


def test_cycle_rises_and_falls() -> None:
    assert one_cycle(0.0) == pytest.approx(0.04) and one_cycle(0.1) == pytest.approx(1.0)
    assert one_cycle(0.55) == pytest.approx(0.5) and one_cycle(1.0) == pytest.approx(0.0)


def test_flat_agreement_brings_the_end_near() -> None:
    rounds = rounds_left
    rising = [0.1 * k for k in range(1, 9)]
    assert rounds(3, rising, 20, 20) == 20
    flat = [*rising, 0.7, 0.7, 0.7]
    assert rounds(3, flat, 20, 20) == 11 + 4
    assert rounds(3, [*rising, 0.7, 0.7, 0.71], 20, 20) == 20  # a gain
    assert rounds(3, [0.1, 0.9, 0.1, 0.4, 0.5, 0.6], 20, 20) == 20  # one lucky round does not hide it
    assert rounds(3, [*flat, 0.7], 20, 15) == 15  # never later than decided
    assert rounds(0, [0.5] * 10, 20, 20) == 20  # switched off
    assert rounds(3, [0.9] * 3 + [0.4] * 3, 20, 20) == 6 + 4
    assert rounds(3, [0.9] * 3 + [0.4] * 3, 20, 20, since=3) == 20  # harder images, not a worse student
    assert rounds(3, [0.9] * 3 + [0.4] * 6, 20, 20, since=3) == 9 + 4


def test_lessons_are_labelled_once(teacher: Teacher, tmp_path: Path) -> None:
    seen = list[int]()
    hook = teacher.model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    labelled, phases = dict[int, int](), dict[int, list[str]]()
    try:
        for lessons in (0, 6):
            seen.clear()
            lines, _ = run(teacher, tmp_path / str(lessons), prior="procedural", warp=1.0, mixed=0.5, features=0.0,
                           student_steps=30, lesson_steps=lessons)  # fmt: skip
            labelled[lessons], phases[lessons] = sum(seen), [phase for phase, *_ in lines]
    finally:
        hook.remove()
    assert labelled[0] - labelled[6] == (30 - 6) * SMALL["batch"]
    assert "lessons" in phases[6] and "lessons" not in phases[0]


def test_flat_run_ends_early(teacher: Teacher, tmp_path: Path) -> None:
    lines, _ = run(teacher, tmp_path / "x", prior="procedural", rounds=10, image_steps=10, student_steps=10,
                   student_lr=0.0, patience=2)  # fmt: skip
    held_out = [step for phase, step, _, _ in lines if phase == "held out"]
    assert len(held_out) < 10


def test_feature_maps_lead_the_first_steps(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """HINTS of them, of a training planned by --minutes as well; all where a weight is set."""
    whole = configure("rdskd_plus", "good", {}, teacher)
    assert (whole.features, whole.hints, whole.student_steps) == (None, HINTS, 16_000)
    for minutes in (5.0, 60.0):
        assert planned("rdskd_plus", whole, minutes, {"student": 1.0}, {}).hints == HINTS
    for budget, settings in (("0.1", {}), ("0.1", {"student_steps": 2_000}), ("fast", {"student_steps": 400})):
        assert configure("rdskd_plus", budget, settings, teacher).hints == HINTS
    assert configure("rdskd_plus", "fast", {"hints": 5_000}, teacher).hints == 5_000
    assert configure("rdskd_plus", "fast", {"features": 2.0}, teacher).hints is None


@pytest.mark.parametrize(
    ("settings", "held", "labelled"),
    [
        ({}, 12, 0),  # fewer steps than HINTS
        ({"hints": 0}, 0, 6),
        ({"features": 0.0}, 0, 6),
        ({"hints": 6}, 6, 3),  # a round and a half of three: lessons for the other half
        ({"features": 1.0}, 12, 0),
        ({"features": 1.0, "hints": 8}, 8, 2),
        ({"hints": 11}, 11, 0),  # a last step for which no lesson is worth while,
    ],
)
def test_steps_behind_feature_maps_learn_from_lessons(
    settings: dict[str, Any],
    held: int,
    labelled: int,
    teacher: Teacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared, true = list[int](), losses.feature_distance

    def counted(**maps: Any) -> torch.Tensor:
        compared.append(1)
        return true(**maps)

    monkeypatch.setattr(losses, "feature_distance", counted)
    config = Config(
        rounds=3,
        image_steps=6,
        image_batch=4,
        batch=4,
        student_steps=12,
        warp=1.0,
        lesson_steps=6,
        patience=0,
        **settings,
    )
    student = ResNet(teacher.images, len(teacher.classes), depth=1, width=16, large_stem=False)

    rdskd_plus.distill(teacher, student, config, Run(torch.device("cpu"), 0, tmp_path, lambda *_, **__: None))
    assert len(compared) == held
    kept = np.memmap(tmp_path / "lessons.u8", np.uint8, "r")[: 6 * 4 * 64]
    made = kept.reshape(-1, 4 * 64).any(axis=1).sum()
    assert made == labelled
