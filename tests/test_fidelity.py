"""Fidelity without data: the interval and the calibration by hand, the sets of images, and a copy of a teacher."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import report_folders
import torch
from conftest import FACTS, pictures
from scipy.stats import binomtest

from edgekd import documents
from edgekd.agreement import SETS, Expected
from edgekd.export import Logits
from edgekd.fidelity import (
    agreement,
    by_class,
    calibration_error,
    contrasted,
    fidelity,
    noisy,
    other_source,
    pure_noise,
    shifted,
    surest,
    unseen,
    wilson,
)
from edgekd.files import plain
from edgekd.networks import ResNet
from edgekd.types import Images, Teacher


def one_hot(answers: list[int], classes: int = 3) -> Logits:
    return np.eye(classes, dtype=np.float32)[answers]


def test_wilson_by_hand_and_against_scipy() -> None:
    assert wilson(5, 10, z=2.0) == pytest.approx((0.5 - 0.5 * (2 / 7) ** 0.5, 0.5 + 0.5 * (2 / 7) ** 0.5))
    for hits, of in ((0, 7), (7, 7), (90, 100), (1, 2_000)):
        theirs = binomtest(hits, of).proportion_ci(0.95, method="wilson")
        assert wilson(hits, of) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_calibration_error_by_hand() -> None:
    """Two bins: [0, 1/2] with one of two right at 0.4, (1/2, 1] with one of two right at 0.9 and 0.7."""
    confidence, right = np.array([0.4, 0.4, 0.9, 0.7]), np.array([True, False, True, False])
    assert calibration_error(confidence, right, bins=2) == pytest.approx((2 * 0.1 + 2 * 0.3) / 4)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([False, False])) == 1


def test_agreement_and_classes_by_hand() -> None:
    wanted, given = one_hot([0, 0, 0, 2]), one_hot([0, 1, 0, 2])
    found = agreement(teacher=wanted, student=given)
    assert (found.images, found.share, found.largest) == (4, 0.75, 0.75) and found.low < 0.75 < found.high
    assert found.balanced == pytest.approx((2 / 3 + 0 + 1) / 3)
    classes = by_class(teacher=wanted, student=given)  # the teacher never names class 1
    assert classes.classes == (0, 2) and classes.images == (3, 1) and classes.share == pytest.approx((2 / 3, 1))


def test_classes_that_no_image_shows_are_told() -> None:
    assert unseen(one_hot([0, 1, 2] * 10)) == ""
    assert "show 2 of 3 classes" in unseen(one_hot([0, 2] * 15))
    assert unseen(one_hot([0, 2] * 14)) == "", "too few images to show every class"


def test_surest_are_a_quarter_of_each_class() -> None:
    logits = np.array([[2.0, 0], [3, 0], [1, 0], [4, 0], [5, 0], [0, 1]], dtype=np.float32)
    assert surest(logits).tolist() == [3, 4, 5]  # two of class 0's five, the only one of class 1


def test_copy_agrees_and_a_random_network_does_not(teacher: Teacher) -> None:
    held_out = pictures(256, seed=5)[0][:, None]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        random = ResNet(FACTS, 4, depth=1, width=4, large_stem=False).eval()

    def of(student: torch.nn.Module) -> dict[str, float]:
        found = fidelity(
            teacher=teacher.model, student=student, images=FACTS, held_out=held_out, prior="none", seed=0
        )  # fmt: skip
        assert set(found.sets) == set(SETS) and found.sets["held_out"].images == 256 and found.other == "strokes"
        return {name: one.share for name, one in found.sets.items()} | {"error": found.calibration.error}

    copy = of(teacher.model)
    assert copy.pop("error") < 0.2 and set(copy.values()) == {1.0}
    wrong = of(random)
    assert wrong["held_out"] < 0.7 and min(wrong.values()) < 0.5


def test_same_seed_same_figures_whatever_the_global_state(teacher: Teacher) -> None:
    held_out, found = pictures(64, seed=5)[0][:, None], []
    noised = dataclasses.replace(teacher, model=ResNet(FACTS, 4, depth=1, width=4, large_stem=False).eval())
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(fidelity(
            teacher=teacher.model, student=noised.model, images=FACTS, held_out=held_out, prior="procedural", seed=3
        ))  # fmt: skip
    assert plain(found[0]) == plain(found[1]) and found[0].other == "collages of noise"


def test_reports_are_tested_with_the_names_of_the_real_document(teacher: Teacher) -> None:
    held_out = pictures(64, seed=5)[0][:, None]
    real = plain(fidelity(
        teacher=teacher.model, student=teacher.model, images=FACTS, held_out=held_out, prior="none", seed=0
    ))  # fmt: skip
    made_up = report_folders.fidelity(4)
    assert real.keys() == made_up.keys() and real["sets"].keys() == made_up["sets"].keys()
    for name in ("by_class", "calibration"):
        assert real[name].keys() == made_up[name].keys()
    assert real["sets"]["sure"].keys() == made_up["sets"]["sure"].keys()
    assert {field.name for field in dataclasses.fields(Expected)} == made_up["expected"].keys()


def test_nothing_is_said_of_accuracy_from_a_few_images(teacher: Teacher) -> None:
    def of(count: int) -> Expected | None:
        held_out = pictures(count, seed=5)[0][:, None]
        return fidelity(
            teacher=teacher.model, student=teacher.model, images=FACTS, held_out=held_out, prior="none", seed=0
        ).expected  # fmt: skip

    known = of(40)
    assert known and known.low > 0.8 and known.high == 1.0 and of(39) is None  # ten for each of four classes


def test_table_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = report_folders.fidelity(3)
    documents.without_data(found)
    text = capsys.readouterr().out
    assert all(said in text for said in ("held out, shifted", "90.62%", "81.0% to 95.6%", "75.00%"))
    assert (
        "58% to 97% of the teacher's top-1 (90% interval): an estimate from 40 pairs" in text and "no guarantee" in text
    )
    documents.without_data(found | {"expected": None})
    assert "accuracy not known" in capsys.readouterr().out
    documents.without_data({})  # of a bundle of an earlier version
    assert capsys.readouterr().out == ""


def test_perturbed_images_keep_shape_and_do_what_they_say() -> None:
    rng, pixels = torch.Generator().manual_seed(0), np.zeros((40, 1, 8, 8), np.uint8)
    pixels[:, :, 3, 4] = 200  # one bright pixel
    moved = shifted(pixels, rng)
    places = np.argwhere(moved == 200)[:, 2:]
    assert len(places) == 40 and not (places == (3, 4)).all(axis=1).any()
    assert np.abs(places - (3, 4)).max() == 1 and (moved.reshape(40, -1).sum(axis=1) == 200).all()
    gray = np.full((40, 3, 16, 16), 100, np.uint8)
    assert (contrasted(gray, rng) == 100).all()  # around the mean
    assert np.std(noisy(gray, rng).astype(float)) == pytest.approx(25.5, rel=0.05)
    noise = pure_noise(400, Images(1, 16, 16, (0.5,), (0.1,)), rng)
    assert noise.mean() == pytest.approx(127.5, abs=1) and noise.std() == pytest.approx(25.5, rel=0.02)


def test_other_source_is_another_one_than_the_prior() -> None:
    gray, colour = Images(1, 12, 12, (0.5,), (0.2,)), Images(3, 12, 12, (0.5,) * 3, (0.2,) * 3)
    names = {(p, i.channels): other_source(p, i)[0] for p in ("none", "procedural", "photo") for i in (gray, colour)}
    assert names["procedural", 1] == "collages of noise" != names["none", 1] == names["photo", 1] == "strokes"
    assert names["procedural", 3] == "collages of photographs" and names["photo", 3] == "collages of noise"
    for prior, images in (("photo", gray), ("procedural", gray), ("none", colour), ("procedural", colour)):
        drawn = other_source(prior, images)[1](3, torch.Generator().manual_seed(0))
        assert drawn.dtype == torch.uint8 and tuple(drawn.shape) == (3, images.channels, 12, 12)
    five = Images(5, 12, 12, (0.5,) * 5, (0.2,) * 5)
    assert other_source("procedural", five)[1](2, torch.Generator().manual_seed(0)).shape == (2, 5, 12, 12)
