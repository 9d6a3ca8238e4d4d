from __future__ import annotations

import torch

from edgekd import Images
from edgekd.networks import LeNet, PlainNet, ResNet
from edgekd.observe import look, share_maps
from edgekd.types import Teacher

FACTS = Images(3, 16, 16, (0.5,) * 3, (0.2,) * 3)


def resnet(depth: int, width: int) -> ResNet:
    return ResNet(FACTS, 4, depth=depth, width=width, large_stem=False).eval()


def test_maps_are_what_the_stages_end_with() -> None:
    model = resnet(2, 4)
    teacher = Teacher(model=model, images=FACTS, classes=tuple("abcd"), sha256="", architecture="x")
    ends: dict[str, torch.Tensor] = {}
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: ends.__setitem__(name, out))
    maps = look(teacher).maps
    assert {key: map_.shape[1] for key, map_ in maps.items()} == {(16, 16): 4, (8, 8): 8, (4, 4): 16, (1, 1): 16}
    assert all(torch.equal(maps[out.shape[2:]], out) for out in ends.values())


def test_a_shallower_network_shares_maps_and_a_narrower_one_does_not() -> None:
    teacher = Teacher(model=resnet(2, 4), images=FACTS, classes=tuple("abcd"), sha256="", architecture="x")
    assert share_maps(teacher, resnet(1, 4))
    assert not share_maps(teacher, resnet(2, 6)) and not share_maps(teacher, LeNet(FACTS, 4, width=3))
    assert not share_maps(teacher, PlainNet(FACTS, 4, width=4))  # its first map is alike, its last is not
    student = resnet(1, 4).train()
    before = student.state_dict()["bn1.running_mean"].clone()
    assert (
        share_maps(teacher, student)
        and student.training
        and torch.equal(student.state_dict()["bn1.running_mean"], before)
    )
