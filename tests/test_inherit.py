from __future__ import annotations

import torch

from edgekd import Images
from edgekd.inherit import inherit
from edgekd.networks import LeNet, ResNet
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
