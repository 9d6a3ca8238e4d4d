"""The runner's figures by class and its histogram, by hand. The files are loaded by path: edgekd never imports them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TARGETS = Path(__file__).parent.parent / "targets"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TARGETS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_hot(answers: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[answers]


def test_agreement_by_class_by_hand() -> None:
    found = loaded("per_class").agreement(one_hot([0, 1, 1, 2], 4), one_hot([0, 0, 1, 2], 4))
    assert found["class"] == [0, 1, 2, 3] and found["images"] == [2, 1, 1, 0]
    assert found["share"] == [0.5, 1.0, 1.0, None] and found["note"] == ""  # the teacher never names class 3


def test_evaluation_by_hand() -> None:
    logits = np.array([[6.0, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [0, 9, 0, 0, 0, 0]])
    found = loaded("per_class").evaluation(logits, np.array([0, 5, 5, 1], dtype=np.uint8))
    assert found["top1"] == 0.75 and found["top5"] == 0.75  # the second image's label is the least likely of six
    assert found["by_class"]["share"] == [1.0, 1.0, None, None, None, 0.5]
    assert np.array(found["confusion"])[5].tolist() == [1, 0, 0, 0, 0, 1] and np.sum(found["confusion"]) == 4


def test_five_classes_have_no_top5() -> None:
    assert loaded("per_class").evaluation(one_hot([0, 1], 5), np.array([0, 1]))["top5"] is None


def test_of_many_classes_the_worst_are_kept() -> None:
    answers = list(range(150))
    answers[7] = answers[11] = 0
    found = loaded("per_class").evaluation(one_hot(answers, 150), np.arange(150))
    assert found["confusion"] is None
    assert found["by_class"]["class"][:2] == [7, 11] and len(found["by_class"]["class"]) == 20
    assert found["by_class"]["share"][:3] == [0.0, 0.0, 1.0] and "150" in found["by_class"]["note"]


@pytest.mark.parametrize("late", [0, 2])
def test_histogram_counts_every_run(late: int) -> None:
    times = [1.0 + 0.001 * n for n in range(200)] + [100.0] * late
    found = loaded("quantiles").percentiles(times)["histogram"]
    assert len(found["edges_ms"]) == 61 and len(found["counts"]) == 60
    assert sum(found["counts"]) + found["above"] == 200 + late
    assert found["edges_ms"][0] == 1.0 and found["above"] >= late and found["edges_ms"][-1] < 4


def test_histogram_of_one_value() -> None:
    found = loaded("quantiles").histogram([2.0, 2.0])
    assert sum(found["counts"]) + found["above"] == 2
