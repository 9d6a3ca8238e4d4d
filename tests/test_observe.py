from __future__ import annotations

import pytest
import torch

from edgekd import Images
from edgekd.networks import LeNet, PlainNet, ResNet
from edgekd.observe import Observed, common_maps
from edgekd.pruning import pruned
from edgekd.types import Teacher

FACTS = Images(3, 16, 16, (0.5,) * 3, (0.2,) * 3)


def resnet(depth: int, width: int) -> ResNet:
    return ResNet(FACTS, 4, depth=depth, width=width, large_stem=False).eval()


def of(model: torch.nn.Module) -> Teacher:
    return Teacher(model=model, images=FACTS, classes=tuple("abcd"), sha256="", architecture="x")


def outputs(model: torch.nn.Module, names: tuple[str, ...], x: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    hooks = [model.get_submodule(n).register_forward_hook(lambda _, __, out: found.append(out)) for n in names]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_maps_are_what_the_stages_end_with() -> None:
    model, shallow, x = resnet(2, 4), resnet(1, 4), torch.randn(2, 3, 16, 16)
    common = common_maps(of(model), shallow)
    assert common
    for network, at in ((model, common.teacher), (shallow, common.student)):
        ends = outputs(network, ("layer1", "layer2", "layer3"), x)
        with Observed(at) as seen:
            network(x)
        assert [tuple(map_.shape[1:]) for map_ in seen.maps] == [(4, 16, 16), (8, 8, 8), (16, 4, 4), (16, 1, 1)]
        assert all(torch.equal(map_, end) for map_, end in zip(seen.maps, ends, strict=False))


@pytest.mark.parametrize("captured", [False, True])
def test_of_a_pruned_student_the_maps_are_also_what_the_blocks_give(captured: bool) -> None:
    x = torch.randn(2, 3, 16, 16)
    teacher = of(resnet(2, 8))
    student = pruned(teacher, share=0.5, align=1).eval()
    blocks = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1))
    if captured:
        teacher = of(torch.export.export(teacher.model, (x,)).module())
    common = common_maps(teacher, student)
    assert common and (captured or common.teacher == common.student)
    for network, at in ((teacher.model, common.teacher), (student, common.student)):
        with Observed(at) as seen:
            network(x)
        assert len(seen.maps) == len(blocks) + 1  # and the last, averaged
        if not captured:
            assert all(torch.equal(a, b) for a, b in zip(seen.maps, outputs(network, blocks, x), strict=False))


def test_a_shallower_network_has_maps_in_common_and_a_narrower_one_has_not() -> None:
    teacher = of(resnet(2, 4))
    assert common_maps(teacher, resnet(1, 4))
    assert not common_maps(teacher, resnet(2, 6)) and not common_maps(teacher, LeNet(FACTS, 4, width=3))
    assert not common_maps(teacher, PlainNet(FACTS, 4, width=4))  # its first map is alike, its last is not
    student = resnet(1, 4)
    before = student.state_dict()["bn1.running_mean"].clone()
    assert common_maps(teacher, student)
    assert not student.training and torch.equal(student.state_dict()["bn1.running_mean"], before)
