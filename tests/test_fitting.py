"""Least squares behind pruned channels."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from edgekd import Images, fitting
from edgekd.fitting import fit_pruned
from edgekd.networks import LeNet, ResNet, mobilenet_v2
from edgekd.pruning import kept_channels, pruned
from edgekd.types import Teacher

FACTS = Images(3, 16, 16, (0.5,) * 3, (0.5,) * 3)


def as_teacher(model: nn.Module, images: Images = FACTS) -> Teacher:
    return Teacher(model.eval(), images, tuple(map(str, range(10))), "0", "named")


def images(count: int = 48, seed: int = 0, facts: Images = FACTS) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, facts.channels, facts.height, facts.width, generator=rng).split(count // 3))


def block(*, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 10, 3, stride=2, bias=bias), nn.BatchNorm2d(10),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def of(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name)


@pytest.mark.parametrize("bias", [False, True])
def test_what_other_channels_or_a_constant_can_make_up_for_is_made_up_for_exactly(bias: bool) -> None:
    """Two of the removed channels are multiples of ones that stay, one is constant, one is dead."""
    teacher = block(bias=bias)
    first = of(teacher, "0")
    with torch.no_grad():
        first.weight *= 10
        first.weight[4:6], first.bias[4:6] = 0.1 * first.weight[:2], 0.1 * first.bias[:2]
        first.weight[6:8] = 0.0
        first.bias[6:8] = torch.tensor([0.3, -0.3])
        of(teacher, "2").weight[:, 4:] *= 0.1  # the weakest by their norm
        of(teacher, "3").running_mean += 0.2
    student = pruned(as_teacher(teacher), share=0.5)
    assert kept_channels(student)["0"].tolist() == [0, 1, 2, 3]
    x = torch.randn(9, 3, 16, 16)
    with torch.no_grad():
        before = (student(x) - teacher(x)).abs().max()
        assert fit_pruned(student, teacher, images(), seed=0) == ["2"]
        after = (student(x) - teacher(x)).abs().max()
    assert before > 100 * after and after < 1e-3  # the ridge holds it back a little


def test_a_residual_networks_layers_come_nearer_to_the_teachers_in_their_order() -> None:
    torch.manual_seed(0)
    teacher = ResNet(FACTS, 10, depth=2, width=8, large_stem=False, option="A").eval()
    for x in images(seed=5):  # BatchNorm that knows its inputs
        teacher.train()(x)
    student = pruned(as_teacher(teacher), share=0.5)
    untouched = copy.deepcopy(student)
    names = fit_pruned(student, teacher, images(seed=1), seed=0)
    assert names == [f"layer{stage}.{at}.conv2" for stage in (1, 2, 3) for at in (0, 1)]
    x = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        wanted, before, after = teacher(x), untouched(x), student(x)
    assert (after - wanted).square().mean() < 0.7 * (before - wanted).square().mean()
    for name, tensor in untouched.state_dict().items():  # only those layers, and the constants behind them
        fitted = any(name.startswith(layer) or name == layer.replace("conv", "bn") + ".running_mean" for layer in names)
        assert fitted or torch.equal(tensor, student.state_dict()[name]), name
    assert not student.training and not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())


def test_chains_lose_inputs_and_outputs_at_once() -> None:
    """A LeNet's second convolution is fitted to those of the teacher's outputs that are left of it."""
    facts = Images(1, 32, 32, (0.5,), (0.5,))
    torch.manual_seed(0)
    teacher = LeNet(facts, 10).eval()
    student = pruned(as_teacher(teacher, facts), share=0.5)
    before = copy.deepcopy(student)
    many = images(3_000, facts=facts)
    names = fit_pruned(student, teacher, many, seed=0)
    layers = [name for name, m in teacher.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert names == layers[1:]
    x = torch.randn(64, 1, 32, 32)
    with torch.no_grad():
        wanted = teacher(x)
        assert (student(x) - wanted).square().mean() < 0.7 * (before(x) - wanted).square().mean()
    assert (
        fit_pruned(copy.deepcopy(before), teacher, images(30, facts=facts), seed=0) == layers[1:2]
    )  # one place per image behind it


def test_what_cannot_be_fitted_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mobile = mobilenet_v2(FACTS, 10, width=0.35, depth=0.5).eval()
    student = pruned(as_teacher(mobile), share=0.6)
    depthwise = {n: m.weight.clone() for n, m in student.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    names = fit_pruned(student, mobile, images(), seed=0)
    assert names and not depthwise.keys() & set(names)
    assert all(torch.equal(of(student, name).weight, weight) for name, weight in depthwise.items())
    teacher = block()
    student = pruned(as_teacher(teacher), share=0.5)
    monkeypatch.setattr(fitting, "MOST", 35)  # 4 channels of 3x3 are 36
    assert fit_pruned(student, teacher, images(), seed=0) == []
    monkeypatch.undo()
    with torch.no_grad():
        cast(nn.Conv2d, student[0]).weight.zero_()  # type: ignore[index]
        cast(Any, student)[0].bias.zero_()
    before = of(student, "2").weight.clone()
    assert fit_pruned(student, teacher, images(), seed=0) == []  # nothing to go by
    assert torch.equal(before, of(student, "2").weight)


def test_the_same_seed_gives_the_same_weights() -> None:
    teacher = block()
    first, second = (pruned(as_teacher(teacher), share=0.5) for _ in range(2))
    few = [x.bfloat16() for x in images(300)]  # as a generator may give them
    for student in (first, second):
        assert fit_pruned(student, teacher, few, seed=0) == ["2"]
    assert torch.equal(of(first, "2").weight, of(second, "2").weight)


class Tokens(nn.Module):
    """A block of a transformer, or of a ConvNeXt: linear layers on each pixel's channels, a shortcut around them."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.flat, self.stem = flat, nn.Conv2d(3, 8, 4, stride=4)
        self.wide, self.narrow, self.head = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x.flatten(1, 2) if self.flat else x
        x = x + self.narrow(torch.relu(self.wide(x)))
        logits: Tensor = self.head(x.flatten(1, -2).mean(1))
        return logits


@pytest.mark.parametrize("flat", [True, False])
def test_linear_layers_of_tokens_are_fitted_token_by_token(flat: bool) -> None:
    torch.manual_seed(0)
    teacher = Tokens(flat=flat).eval()
    student = pruned(as_teacher(teacher), share=0.7)
    before, x = copy.deepcopy(student), torch.randn(64, 3, 16, 16)
    assert fit_pruned(student, teacher, images(), seed=0) == ["narrow"]
    with torch.no_grad():
        wanted = teacher(x)
        assert (student(x) - wanted).square().mean() < 0.7 * (before(x) - wanted).square().mean()
