"""Students that start from their teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd import Images, load_profile
from edgekd.errors import UsageError
from edgekd.latency import cost
from edgekd.networks import LeNet, ResNet, mobilenet_v2
from edgekd.pruning import pruned, prunings
from edgekd.sizing import size_student
from edgekd.steps import distill
from edgekd.student import first_student, name_of, named
from edgekd.types import Teacher

FACTS = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)


def resnet(depth: int, width: int = 16, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(FACTS, 10, depth=depth, width=width, large_stem=False, option="A")


def as_teacher(model: nn.Module) -> Teacher:
    return Teacher(model.eval(), FACTS, tuple(map(str, range(10))), "0", "named")


def test_pruned_keeps_the_share_the_classes_and_the_strongest_channels() -> None:
    teacher = resnet(3, seed=1)
    strong = [1, 4, 6]
    teacher.state_dict()["layer1.0.conv1.weight"][strong] *= 100
    small = pruned(as_teacher(teacher), share=0.5)
    whole = cost(teacher, FACTS).macs
    assert 0.4 * whole < cost(small, FACTS).macs <= 0.5 * whole
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    before, left = teacher.state_dict(), small.state_dict()
    for channel in strong:
        wanted = before["layer1.0.conv1.weight"][channel]
        assert any(torch.equal(kernel, wanted) for kernel in left["layer1.0.conv1.weight"])
    assert torch.equal(left["conv1.weight"], before["conv1.weight"])  # what shortcuts add to stays
    assert cost(teacher, FACTS).macs == whole  # the teacher itself is untouched


@pytest.mark.parametrize("align", [8, 16])
def test_widths_are_multiples_and_the_listed_ones_are_what_is_built(align: int) -> None:
    teacher = as_teacher(resnet(2, width=32, seed=1))
    whole, before, seen = cost(teacher.model, FACTS).macs, 1.0, []
    for share, empty in prunings(teacher, (0.8, 0.79, 0.5, 0.25), align=align):
        of = cost(empty, FACTS)
        assert all(p.is_meta for p in empty.parameters())
        assert of.macs / whole <= share < of.macs / whole + 0.01 and share < before
        before = share
        built = pruned(teacher, share=share, align=align)
        assert cost(built, FACTS) == of
        seen.append({m.out_channels for m in built.modules() if isinstance(m, nn.Conv2d)})
    assert len(seen) >= 2 and all(width % align == 0 for widths in seen for width in widths)


def test_depthwise_and_grouped_convolutions_lose_what_their_neighbours_lose() -> None:
    torch.manual_seed(0)
    mobile = mobilenet_v2(FACTS, 10, width=0.35, depth=0.5)
    small = pruned(as_teacher(mobile), share=0.5, align=8)
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert cost(small, FACTS).macs <= 0.5 * cost(mobile, FACTS).macs
    grouped = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    small = pruned(as_teacher(grouped), share=0.8)
    assert isinstance(small, nn.Sequential) and small(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    first, second = small[0], small[2]
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    assert first.out_channels % 4 == 0 and first.out_channels < 32 and second.in_channels == first.out_channels


def test_pruned_lenet_and_what_cannot_be_pruned() -> None:
    torch.manual_seed(0)
    whole = LeNet(FACTS, 10)
    small = pruned(as_teacher(whole), share=0.5)
    assert cost(small, FACTS).macs <= 0.5 * cost(whole, FACTS).macs
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(UsageError) as refused:
        pruned(as_teacher(resnet(1)), share=0.01)
    assert refused.value.code == "E0213" and "at least" in refused.value.what


def test_the_least_share_that_is_named_can_be_reached() -> None:
    teacher = as_teacher(resnet(2, seed=1))
    with pytest.raises(UsageError) as refused:
        pruned(teacher, share=0.01, align=8)
    least = float(refused.value.fix.split("pruned:")[1].split(",")[0])
    assert cost(pruned(teacher, share=least, align=8), FACTS).macs <= least * cost(teacher.model, FACTS).macs


def test_sized_and_built_by_name() -> None:
    teacher = as_teacher(resnet(3, seed=1))
    sizing = size_student(teacher, load_profile("cpu"), family="pruned:0.5")
    student, count = first_student(sizing.spec, teacher, seed=0)
    assert name_of(sizing.spec) == "pruned:0.50" and named("pruned:0.50", FACTS, teacher.classes) == sizing.spec
    assert count == sum(p.numel() for p in student.parameters())
    assert sizing.student == cost(student, FACTS) and sizing.student.macs <= sizing.teacher.macs / 2


def test_what_it_would_be_without_the_teachers_weights() -> None:
    """The same network drawn from the seed: what inheriting is measured against."""
    teacher = as_teacher(resnet(3, seed=1))
    for name in ("pruned:0.5", "resnet:2x16"):
        spec = size_student(teacher, load_profile("cpu"), family=name).spec
        inherited, count = first_student(spec, teacher, seed=0)
        (drawn, none), (again, _), (other, _) = (
            first_student(spec, teacher, seed=n, inherits=False) for n in (0, 0, 1)
        )
        assert (
            count > 0
            and none == 0
            and [p.shape for p in drawn.parameters()] == [p.shape for p in inherited.parameters()]
        )
        convs = [
            [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (inherited, drawn, again, other)
        ]
        same = [all(map(torch.equal, convs[1], weights)) for weights in convs]
        assert same == [False, True, True, False] and not torch.equal(convs[0][0], convs[1][0])
    assert all(map(torch.equal, teacher.model.state_dict().values(), resnet(3, seed=1).state_dict().values()))


@pytest.mark.parametrize(("inherit", "rate"), [("true", "0.015"), ("false", "None")])
def test_a_pruned_student_with_drawn_weights_learns_as_any_other(inherit: str, rate: str, tmp_path: Path) -> None:
    images = {"prior": "none", "rounds": 1, "image_steps": 4, "image_batch": 20, "generator_width": 8, "latent": 4}
    settings = images | {"student_steps": 2, "batch": 8, "held_out": 8, "inherit": inherit == "true"}
    teacher, said = as_teacher(resnet(1, width=8)), list[str]()
    distill(teacher, load_profile("cpu"), tmp_path, family="pruned:0.6", settings=settings, say=said.append)
    text = "\n".join(said)
    assert f"student_lr {rate}" in text and ("first weights are the teacher's" in text) == (inherit == "true")


def test_the_settings_that_are_printed_are_those_that_it_learns_by(tmp_path: Path) -> None:
    """A pruned student's differ from those asked for."""
    images = {"prior": "none", "rounds": 1, "image_steps": 4, "image_batch": 20, "generator_width": 8, "latent": 4}
    settings = images | {"student_steps": 2, "batch": 8, "held_out": 8}
    teacher, said = as_teacher(resnet(1, width=8)), list[str]()
    distill(teacher, load_profile("cpu"), tmp_path, family="pruned:0.6", settings=settings, say=said.append)
    shown = next(line for line in said if line.startswith("settings of rdskd_plus, budget fast: "))
    assert all(text in shown for text in ("student_lr 0.015", "features 10.0", "student_steps 2"))
