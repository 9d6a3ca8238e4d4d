from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from edgekd import methods, pace
from edgekd.methods import METHODS, configure, gentle
from edgekd.methods.rdskd_plus import Config
from edgekd.pace import MAPS, RESERVE_S, expected_seconds, planned, seconds_per_step
from edgekd.rdskd_plus_settings import ENOUGH
from edgekd.types import Log, Run, Sampler, StudentSpec, Teacher

SPEED = {"prior": 0.001, "images": 0.1, "student": 0.02}


def test_expected_seconds_by_hand() -> None:
    config = Config(prior_images=1_000, rounds=12, image_steps=100, student_steps=1_000)
    assert expected_seconds(config, SPEED) == pytest.approx((RESERVE_S + 1, 100 * 0.1 + 1_000 * 0.02))


def test_steps_fill_the_minutes_and_kept_ones_stay() -> None:
    config = Config(prior_images=1_000, rounds=12, image_steps=100, student_steps=1_000)
    chosen = planned("rdskd_plus", config, 3, SPEED, {})
    assert sum(expected_seconds(chosen, SPEED)) == pytest.approx(180, abs=0.2)
    assert chosen.student_steps == pytest.approx(10 * chosen.image_steps, abs=6)
    kept = planned("rdskd_plus", config, 3, SPEED, {"image_steps": 100})
    assert kept.image_steps == 100 and sum(expected_seconds(kept, SPEED)) == pytest.approx(180, abs=0.2)
    whole = planned("rdskd_plus", config, 3, SPEED, {"image_steps": 100, "student_steps": 1_000})
    assert (whole.image_steps, whole.student_steps) == (100, 1_000)
    least = planned("rdskd_plus", config, 0.01, SPEED, {})
    assert least.student_steps == 5 and least.rounds == 1


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0, 8.0])
def test_minutes_for_which_there_are_images_enough_go_to_the_student(share: float) -> None:
    """As many steps of the generator as in a short training, up to ENOUGH of them; the rest of the time is filled."""
    config = Config("photo", 1_000, rounds=12, batch_iterations=5, image_steps=ENOUGH, student_steps=4 * ENOUGH)
    minutes = (RESERVE_S + 1 + share * (4 * ENOUGH * 0.02 + ENOUGH * 0.1)) / 60
    chosen = planned("rdskd_plus", config, minutes, SPEED, {})
    assert chosen.image_steps == pytest.approx(min(share, 1.0) * ENOUGH, rel=0.01)
    assert sum(expected_seconds(chosen, SPEED)) == pytest.approx(60 * minutes, rel=0.01)
    if share <= 1:
        assert chosen.student_steps == pytest.approx(4 * chosen.image_steps, rel=0.01)
    asked = dataclasses.replace(config, image_steps=2 * ENOUGH)
    more = planned("rdskd_plus", asked, minutes, SPEED, {"image_steps": 2 * ENOUGH})
    assert more.image_steps == 2 * ENOUGH and more.student_steps < chosen.student_steps


def test_a_slow_prior_gets_fewer_images() -> None:
    config = Config(prior_images=10_000, rounds=12, image_steps=100, student_steps=1_000)
    slow = SPEED | {"prior": 0.1}
    chosen = planned("rdskd_plus", config, 10, slow, {})
    assert chosen.prior_images == pytest.approx(0.2 * 600 / 0.1, abs=1)
    assert sum(expected_seconds(chosen, slow)) == pytest.approx(600, abs=0.2)
    assert planned("rdskd_plus", config, 10, slow, {"prior_images": 10_000}).prior_images == 10_000
    assert planned("rdskd_plus", config, 10, SPEED, {}).prior_images == 10_000


def test_what_is_drawn_to_choose_from_grows_with_the_steps_and_keeps_the_minutes() -> None:
    config = Config(prior_images=1_000, rounds=12, image_steps=100, student_steps=1_000, batch=2)
    speed = SPEED | {"prior": 0.02}
    for minutes, drawn in ((2, 1_000), (8, 2_682), (12, 4_000)):  # 8: 3,040 - 0.133 of what is drawn
        chosen = planned("rdskd_plus", config, minutes, speed, {})
        assert chosen.prior_images == 1_000 and chosen.drawings() == pytest.approx(drawn, rel=0.01)
        assert sum(expected_seconds(chosen, speed)) == pytest.approx(60 * minutes, rel=0.03)  # 12: 20 x the steps
    kept = planned("rdskd_plus", dataclasses.replace(config, prior_drawn=50), 60, speed, {"prior_drawn": 50})
    assert kept.drawings() == 50
    assert planned("rdskd_plus", config, 8, speed | {"prior": 0.06}, {}).drawings() == 0.2 * 480 / 0.06  # of the time


@pytest.mark.parametrize("method", ["rdskd_plus", "rdskd", "dafl", "fast", "zskd", "deepinversion"])
def test_probe_times_every_phase(method: str, teacher: Teacher) -> None:
    config = configure(method, "fast", {}, teacher)
    spec = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes)
    speed = seconds_per_step(method, config, teacher, spec, seed=0)
    assert all(value > 0 for value in speed.values())
    fixed, variable = expected_seconds(config, speed)
    assert fixed >= RESERVE_S and variable > 0
    longer = planned(method, config, (fixed + 2 * variable) / 60, speed, {})
    assert sum(expected_seconds(longer, speed)) == pytest.approx(fixed + 2 * variable, rel=0.02)


@pytest.mark.parametrize(("method", "each"), [("zskd", 150), ("deepinversion", 200), ("fast", 1)])
def test_batches_of_many_iterations_cost_as_many(
    method: str, each: int, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast-DFKD logs its batches, the other two their iterations; few of these are timed."""
    config, clock, ran = configure(method, "fast", {}, teacher), itertools.count(), list[int]()

    def briefly(method: str, short: Any, teacher: Teacher, spec: StudentSpec, seed: int, log: Log) -> None:
        ran.append(short.synthesis_steps * short.iterations)
        steps = ran[-1] if each > 1 else short.synthesis_steps
        for step in range(steps):
            log("images", step + 1, steps)

    monkeypatch.setattr(pace, "distilled_briefly", briefly)
    monkeypatch.setattr("time.perf_counter", lambda: 0.1 * next(clock))  # a tenth of a second a step
    spec = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes)
    assert seconds_per_step(method, config, teacher, spec, seed=0)["images"] == pytest.approx(0.1 * each)
    assert ran[0] <= 60


@pytest.mark.parametrize(
    ("hints", "common", "expected"),
    [
        (40, True, {"lessons": 8.0, "student": 3.0, MAPS: 10.0 - 3.0 - 8.0 / 4}),
        (40, False, {"lessons": 8.0, "student": 3.0}),  # no maps in common: lessons all along
        (200, True, {"lessons": 8.0, "student": 3.0, MAPS: 10.0 - 3.0 - 8.0 / 4}),  # more than there are steps, so far
        (None, True, {"student": 10.0}),
        (0, True, {"lessons": 8.0, "student": 3.0}),
    ],
)
def test_steps_with_feature_maps_are_timed_for_themselves(
    hints: int | None, common: bool, expected: dict[str, float], teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the seconds of all steps are those of the training: a step with maps is slower, and wants no lessons."""
    steps = 100
    config = Config(student_steps=steps, hints=hints, lesson_steps=steps // 4, batch=8, image_batch=8)
    clock, allowed = [0.0], list[float]()
    share_within = pace.share_within

    def briefly(method: str, short: Config, teacher: Teacher, spec: StudentSpec, seed: int, log: Log) -> None:
        with_maps = common and short.hints != 0
        for phase, each in (("lessons", 0.0 if with_maps else 8.0), ("student", 10.0 if with_maps else 3.0)):
            for step in range(12 if each else 0):
                clock[0] += each
                log(phase, step + 1, 12)

    def watched(teacher: Teacher, config: Config, within_s: float, steps: int = pace.FEW) -> float:
        allowed.append(within_s)
        return share_within(teacher, config, within_s, steps)

    monkeypatch.setattr(pace, "distilled_briefly", briefly)
    monkeypatch.setattr(pace, "share_within", watched)
    monkeypatch.setattr(pace, "common_maps", lambda *_: common or None)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    spec = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes)
    speed = seconds_per_step("rdskd_plus", config, teacher, spec, seed=0)
    assert speed == pytest.approx(expected)
    if hints and common:
        led = min(hints, steps)
        seconds = 10.0 * led + (3.0 + 8.0 / 4) * (steps - led)
        assert expected_seconds(config, speed)[1] == pytest.approx(seconds)
    monkeypatch.setattr(pace, "_seconds_per_image", lambda *_: 1e-3)
    seconds_per_step("rdskd_plus", config, teacher, spec, seed=0, within_s=6.0)
    assert set(allowed) == {3.0 if hints and common else 6.0}  # of each of two probes


@pytest.mark.parametrize("hints", [100, 800, 5_000, None])
@pytest.mark.parametrize("minutes", [1.0, 2.0, 8.0, 58.0])
@pytest.mark.parametrize("kept", [False, True])
def test_minutes_count_the_steps_that_feature_maps_lead(hints: int | None, minutes: float, kept: bool) -> None:
    """Where the number of the student's steps is kept, those of the images fill the time."""
    config = Config(
        "photo", 1_000, hints=hints, image_steps=100, prior_drawn=1_000, student_steps=500 if kept else 16_000
    )
    speed = SPEED | {MAPS: 0.05}
    chosen = planned("rdskd_plus", config, minutes, speed, {"student_steps": 500} if kept else {})
    assert chosen.hints == hints
    if not (kept and chosen.image_steps in (1, 2_000)):  # as few, or as many, as can be planned
        assert sum(expected_seconds(chosen, speed)) == pytest.approx(60 * minutes, rel=0.01)


def test_a_plan_is_told_whatever_is_left_open(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pruned student is held to feature maps in all of its steps, however many."""
    spec, said = StudentSpec("pruned", 1, 50, teacher.images, teacher.classes), list[str]()
    config = gentle(configure("rdskd_plus", "fast", {}, teacher), spec, {})
    monkeypatch.setattr(pace, "seconds_per_step", lambda *_, **__: {"student": 0.01, "images": 0.02})
    chosen = pace.timed(2.0, "rdskd_plus", config, teacher, spec, 0, {}, said.append)
    assert chosen.hints is None and f"student_steps {chosen.student_steps:,}; 2.0 minutes here" in said[-1]


def test_every_method_has_steps_that_can_be_planned() -> None:
    for method in METHODS.values():
        assert any(name.endswith("_steps") for name in vars(list(method.BUDGETS.values())[-1]))


def test_probe_leaves_no_files(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    spec = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes)
    seconds_per_step("rdskd_plus", configure("rdskd_plus", "fast", {}, teacher), teacher, spec, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["rdskd_plus", "zskd", "dafl"])
def test_short_probe_scales_up_the_images_it_left_out(
    method: str, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are cut to the share and the phases are all timed."""
    config = configure(method, "fast", {}, teacher)
    spec = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes)
    batches: list[int] = []
    real = methods.distill

    def seen(method: str, teacher: Teacher, student: nn.Module, config: Any, run: Run) -> Sampler:
        batches.append(config.batch)
        return real(method, teacher, student, config, run)

    monkeypatch.setattr(pace, "distill", seen)
    monkeypatch.setattr(pace, "share_within", lambda *_: 0.25)
    whole = seconds_per_step(method, config, teacher, spec, seed=0, within_s=2.0)
    assert batches == [2 * round(0.25 * config.batch / 2)]
    assert all(value > 0 for value in whole.values())


def test_share_of_a_batch_falls_with_the_time_there_is(teacher: Teacher) -> None:
    config = Config(batch=256, image_batch=256)
    assert pace.share_within(teacher, config, 1e9) == 1.0
    assert pace.share_within(teacher, config, 1e-6) == pace.LEAST / config.batch


def test_rough_seconds_are_those_of_all_iterations(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_seconds_per_image", lambda *_: 0.001)
    config = Config(batch=10, image_batch=20, student_steps=100, image_steps=50, lesson_steps=25)
    assert pace.rough_seconds(teacher, config) == pytest.approx(6 * 20 * 175 * 0.001)
    zskd = configure("zskd", "fast", {}, teacher)
    steps = zskd.synthesis_steps * zskd.iterations + zskd.student_steps
    assert pace.rough_seconds(teacher, zskd) == pytest.approx(6 * 128 * steps * 0.001)


def test_how_long_a_budget_takes_is_said_where_it_may_be_long(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, said, warned = configure("rdskd_plus", "fast", {}, teacher), list[str](), list[str]()
    spec = StudentSpec("resnet", 1, 4, teacher.images, teacher.classes)
    monkeypatch.setattr(pace, "rough_seconds", lambda *_: 299.0)
    pace.foretell("rdskd_plus", config, teacher, spec, 0, said.append, warned.append)
    assert said == []
    monkeypatch.setattr(pace, "rough_seconds", lambda *_: 301.0)
    for seconds, warnings in ((3_599.0, []), (3_603.0, ["this takes about 1.0 hours here"])):
        monkeypatch.setattr(pace, "expected_seconds", lambda *_, of=seconds: (1.0, of))
        pace.foretell("rdskd_plus", config, teacher, spec, 0, said.append, warned.append)
        assert said[-2] == "timing a few steps" and [line.split(":")[0] for line in warned] == warnings
        plan = "plan: image_steps 1,000, lesson_steps 1,000, student_steps 4,000; 60."
        assert said[-1].startswith(plan)


@pytest.mark.parametrize(("enough", "passes"), [(1e9, [2, 8, 16, 32, 48]), (1e-9, [2, 8])])
def test_a_quick_teacher_is_timed_by_a_whole_batch(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch, enough: float, passes: list[int]
) -> None:
    """Eight images cost more each than those of a batch, and the probe left out images without need."""
    monkeypatch.setattr(pace, "ENOUGH_S", enough)
    seen = list[int]()
    hook = teacher.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    pace.share_within(teacher, Config(batch=48, image_batch=20), 1.0)
    hook.remove()
    assert seen == passes
