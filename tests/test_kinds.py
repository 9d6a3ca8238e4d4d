"""compress on the kinds of teachers that people have: without BatchNorm, transformers, gray, large, many classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd import Images, compress, distill, export_student, load_profile, load_teacher, save_teacher, stages
from edgekd.methods import configure
from edgekd.pipeline import doubts
from edgekd.profile import adjusted
from edgekd.vision import torchvision

FEW = {"student_steps": 2, "image_steps": 2, "rounds": 1, "prior_images": 16, "batch": 4, "image_batch": 4}


def group_norm() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 100))


def transformer() -> nn.Module:
    whole: nn.Module = torchvision().models.VisionTransformer(32, 8, 2, 2, 64, 128, num_classes=10)
    return whole


def plain() -> nn.Module:
    first, second = nn.Conv2d(1, 32, 5, 2, 2), nn.Conv2d(32, 64, 5, 2, 2)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(64 * 49, 10))


def large() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 4, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 512, 3, 2, 1),
        nn.BatchNorm2d(512), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
    )  # fmt: skip


def images(channels: int, side: int) -> Images:
    return Images(channels, side, side, (0.5,) * channels, (0.25,) * channels)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images a bundle has is no matter of the teacher; thousands of 96 pixels take a quarter of a minute."""
    monkeypatch.setattr(stages, "SAMPLES", 128)
    monkeypatch.setattr(stages, "SPARE", 64)


@pytest.mark.parametrize(
    ("build", "facts", "warned", "whole"),
    [
        (group_norm, images(3, 32), ("no BatchNorm: images of the prior stay", "100 classes"), False),
        (transformer, images(3, 32), ("no BatchNorm", "of 10 classes: agreement"), True),
        (plain, images(1, 28), ("no BatchNorm",), False),
        (large, images(3, 96), ("1000 classes",), True),
    ],
    ids=["GroupNorm, 100 classes", "transformer", "gray", "96 pixels, 1000 classes"],
)
def test_it_ends_with_graphs_and_says_what_is_weak(
    build: Callable[[], nn.Module], facts: Images, warned: tuple[str, ...], whole: bool, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
    with torch.no_grad():
        classes = model(torch.zeros(2, facts.channels, facts.height, facts.width)).shape[1]
    save_teacher(model, tmp_path / "teacher.pt", images=facts, classes=[str(k) for k in range(classes)])
    teacher, said = load_teacher(tmp_path / "teacher.pt"), list[str]()
    profile = adjusted(load_profile("cpu"), latency_ms=None, precision="fp32")
    if not whole:
        for doubt in doubts(teacher, configure("rdskd_plus", "fast", FEW, teacher)):
            said.append(doubt)
        found = distill(teacher, profile, tmp_path / "out", settings=FEW, family="cnn:4", warn=said.append)
        graphs = export_student(found, profile, tmp_path / "graphs")
        assert set(graphs) == {"fp32"} and len(said) == len(warned)
        assert all(any(words in line for line in said) for words in warned)
        return
    result = compress(teacher, profile, tmp_path / "out", settings=FEW, family="cnn:4", warn=said.append)
    assert (result.bundle.folder / "report.json").is_file()
    assert len(result.bundle.manifest.classes) == classes and set(result.report["graphs"]) == {"fp32", "teacher"}
    assert len(said) == len(warned) and all(any(words in line for line in said) for words in warned)


def test_generators_alone_are_warned_of_where_images_are_large(tmp_path: Path) -> None:
    facts = images(3, 224)
    save_teacher(large(), tmp_path / "teacher.pt", images=facts, classes=[str(k) for k in range(1000)])
    teacher = load_teacher(tmp_path / "teacher.pt")
    found = doubts(teacher, configure("rdskd_plus", "fast", {"prior": "none"}, teacher))
    assert any("--prior photo" in line for line in found)
    assert not any("--prior" in line for line in doubts(teacher, configure("rdskd_plus", "fast", {}, teacher)))


@pytest.mark.parametrize(("prior", "words"), [("none", "from its answers alone"), ("procedural", "stay as drawn")])
def test_without_batch_norm_it_is_said_where_the_images_come_from(prior: str, words: str, tmp_path: Path) -> None:
    save_teacher(plain(), tmp_path / "teacher.pt", images=images(1, 28), classes=list("0123456789"))
    teacher = load_teacher(tmp_path / "teacher.pt")
    (doubt,) = doubts(teacher, configure("rdskd_plus", "fast", {"prior": prior}, teacher))
    assert words in doubt and "--eval-data" in doubt
