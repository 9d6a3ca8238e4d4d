from __future__ import annotations

import pytest
import torch

from edgekd import Images, load_profile
from edgekd.errors import UsageError
from edgekd.inherit import inherit, pruned
from edgekd.latency import cost
from edgekd.networks import LeNet, ResNet
from edgekd.student import first_student, name_of, named, size_student
from edgekd.types import Teacher

FACTS = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)


def resnet(depth: int, width: int = 16, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(FACTS, 10, depth=depth, width=width, large_stem=False, option="A")


def test_first_blocks_stem_and_classifier_are_the_teachers() -> None:
    teacher, student = resnet(3, seed=1), resnet(1, seed=2)
    teacher.state_dict()["bn1.running_mean"].fill_(7.0)
    assert inherit(student, teacher) == sum(p.numel() for p in student.parameters())
    given = teacher.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in student.state_dict().items())
    student.conv1.weight.data.zero_()
    assert teacher.conv1.weight.abs().sum() > 0  # a copy


def test_other_shapes_and_names_stay_as_they_are() -> None:
    student = resnet(1, width=8, seed=2)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    assert inherit(student, resnet(3, width=16, seed=1)) == 0  # the classifier's bias is all that fits
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert inherit(LeNet(FACTS, 10, width=3), resnet(3)) == 0


def test_from_a_captured_program(teacher: Teacher) -> None:
    torch.manual_seed(5)
    student = ResNet(teacher.images, 4, depth=1, width=16, large_stem=False)
    assert inherit(student, teacher.model) == sum(p.numel() for p in student.parameters())
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(student.eval()(x), teacher.model(x), atol=1e-5)


def as_teacher(model: torch.nn.Module) -> Teacher:
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


def test_pruned_lenet_and_what_cannot_be_pruned(teacher: Teacher) -> None:
    torch.manual_seed(0)
    whole = LeNet(FACTS, 10)
    small = pruned(as_teacher(whole), share=0.5)
    assert cost(small, FACTS).macs <= 0.5 * cost(whole, FACTS).macs and small(torch.randn(2, 3, 32, 32)).shape == (
        2,
        10,
    )
    with pytest.raises(UsageError) as refused:
        pruned(as_teacher(resnet(1)), share=0.01)
    assert refused.value.code == "E0213" and "at least" in refused.value.what
    with pytest.raises(UsageError) as refused:
        pruned(teacher, share=0.5)
    assert "--arch" in refused.value.fix


def test_sized_and_built_by_name() -> None:
    teacher = as_teacher(resnet(3, seed=1))
    sizing = size_student(teacher, load_profile("cpu"), family="pruned:0.5")
    student, count = first_student(sizing.spec, teacher, seed=0)
    assert name_of(sizing.spec) == "pruned:0.50" and named("pruned:0.50", FACTS, teacher.classes) == sizing.spec
    assert count == sum(p.numel() for p in student.parameters())
    assert sizing.student == cost(student, FACTS) and sizing.student.macs <= sizing.teacher.macs / 2
