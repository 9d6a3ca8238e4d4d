"""The plan: what it says of time and disk, and the file that compress takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgekd.errors import InputError
from edgekd.families import named
from edgekd.latency import cost
from edgekd.methods import configure
from edgekd.plan import (
    PROBE_S,
    SCHEMA,
    Plan,
    bank_images,
    device_of,
    disk_mb,
    forecast,
    learning_beside,
    matching,
    read_plan,
    settled,
    write_plan,
)  # fmt: skip
from edgekd.profile import load_profile
from edgekd.types import Teacher

PLAN = Plan(
    schema=SCHEMA, teacher="ab" * 32, profile="cpu", student="resnet:1x8", method="rdskd_plus", budget="fast", seed=3,
    minutes=2.5, limits={"latency_ms": 1.5}, settings={"prior": "none", "student_steps": 10},
)  # fmt: skip


def test_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(path, PLAN, "one\ntwo")
    assert read_plan(path) == PLAN
    assert path.read_text(encoding="utf-8").startswith("# one\n# two\n")
    write_plan(path, dataclasses.replace(PLAN, minutes=None, limits={}, settings={}), "")
    assert read_plan(path) == dataclasses.replace(PLAN, minutes=None, limits={}, settings={})


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (('student = "resnet:1x8"', 'studnt = "resnet:1x8"'), "E0302", "'student'"),
        (('student = "resnet:1x8"', ""), "E0303", "'student'"),
        (("seed = 3", 'seed = "3"'), "E0304", "seed"),
        (("schema = 1", "schema = 2"), "E0362", "schema 2"),
        (("schema = 1", "schema = ["), "E0367", "TOML"),
    ],
)
def test_refused_plans(change: tuple[str, str], code: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(path, PLAN, "")
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_plan(path)
    assert refused.value.code == code and words in refused.value.what


def test_plan_that_is_not_there_or_is_anothers(tmp_path: Path, teacher: Teacher) -> None:
    with pytest.raises(InputError, match="not there"):
        read_plan(tmp_path / "plan.toml")
    with pytest.raises(InputError, match="another teacher"):
        matching(PLAN, teacher, tmp_path / "plan.toml")
    own = dataclasses.replace(PLAN, teacher=teacher.sha256)
    assert matching(own, teacher, tmp_path / "plan.toml") is own


def test_disk_by_hand(teacher: Teacher) -> None:
    few = {"prior": "none", "image_steps": 40, "rounds": 4, "lesson_steps": 0}
    config = configure("rdskd_plus", "fast", few, teacher)
    assert bank_images(config, teacher.images) == 1 + 4 * 5 * 128 + 1  # half of each round's ten batches are kept
    settings = {"prior": "procedural", "prior_images": 100, "rounds": 2, "lesson_steps": 3, "batch": 10}
    with_lessons = configure("rdskd_plus", "fast", settings, teacher)
    assert bank_images(with_lessons, teacher.images) == 100 + 2 * 128 + 30
    of = cost(teacher.model, teacher.images)
    small = dataclasses.replace(of, parameters=1_000)
    profile = load_profile("cpu")
    found = disk_mb(config, teacher, of, small, profile)
    pixels, logits = 64, 4 * 4
    samples = 5_512 * pixels + 2_000 * (pixels + logits * 3)
    graphs = 1_000 * (4 + 1) + 4 * 1_000 + 4 * of.parameters
    assert found["at the end"] == pytest.approx((samples + graphs) / 1e6)
    w = config.generator_width
    project, first, second, image = 101 * w * 2 * 2, 9 * w * w + w, (9 * w + 1) * w // 2, 9 * w // 2 + 1
    generator = project + first + second + image + 2 * (w + w + w // 2)  # and its BatchNorms
    banks, checkpoints = 2_562 * (64 + 8), 3 * 12 * (1_000 + generator)
    assert found["while it runs"] - found["at the end"] == pytest.approx((banks + checkpoints) / 1e6)
    refined = configure("rdskd_plus", "fast", settings, teacher)
    assert learning_beside(refined, teacher.images) == 128 * 64


def test_forecast_plans_what_compress_would_do(teacher: Teacher) -> None:
    asked = dataclasses.replace(PLAN, student="auto", profile="jetson", minutes=None, limits={}, settings={})
    profile = device_of(asked)
    found = forecast(teacher, profile, asked)
    assert not found.search.chosen.broken and found.minutes > 0
    assert set(found.step_ms) == {"images", "lessons", "student"} and min(found.step_ms.values()) > 0
    plan = settled(asked, found)
    assert named(plan.student, teacher.images, teacher.classes) == found.search.chosen.spec
    timed = forecast(teacher, profile, dataclasses.replace(asked, minutes=3))
    assert timed.minutes == pytest.approx(3, rel=0.5) and timed.config.student_steps != found.config.student_steps
    assert PROBE_S < 20


def test_device_of_a_plan_has_its_limits() -> None:
    plan = dataclasses.replace(PLAN, limits={"latency_ms": 1.5, "parameters": 9e4, "memory_mb": 3.0}, precision="fp32")
    profile = device_of(plan)
    assert profile.limits.latency_ms == 1.5 and profile.limits.parameters == 90_000
    assert profile.limits.memory_mb == 3.0 and profile.precisions == ("fp32",)
    assert profile.limits.model_mb == load_profile("cpu").limits.model_mb
    with pytest.raises(InputError, match="latency_ms"):
        device_of(dataclasses.replace(PLAN, limits={"latncy_ms": 1.0}))
