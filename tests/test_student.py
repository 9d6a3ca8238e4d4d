"""Sizing, cost and prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgekd import Images
from edgekd.compute import to_device
from edgekd.errors import UsageError
from edgekd.latency import cost, memory_mb, model_mb, predict
from edgekd.networks import LeNet, Shortcut
from edgekd.profile import adjusted, load_profile
from edgekd.student import broken, build_student, candidates, name_of, named, size_student
from edgekd.types import Cost, Profile, StudentSpec, Teacher

MNIST = Images(1, 32, 32, (0.1,), (0.3,))


def limited(name: str, **limits: float) -> Profile:
    profile = load_profile(name)
    return dataclasses.replace(profile, limits=dataclasses.replace(profile.limits, **limits))


def test_cost_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    found = cost(model, Images(1, 8, 8, (0.0,), (1.0,)))
    conv, linear = 4 * 9 * 36, 4 * 36 * 5
    assert found.macs == conv + linear
    assert found.layers == 2
    assert found.parameters == (4 * 9 + 4) + 4 * 4 + (144 * 5 + 5)
    assert found.traffic_elements == (64 + 36 + 4 + 144) + (144 + 720 + 5 + 5)
    assert model.training and isinstance(model[1], nn.BatchNorm2d)  # looked at, not changed


def test_cost_is_the_same_on_meta() -> None:
    with torch.device("meta"):
        empty = LeNet(MNIST, 10)
    assert cost(empty, MNIST) == cost(LeNet(MNIST, 10), MNIST)


def test_prediction_by_hand() -> None:
    profile = load_profile("jetson")
    of = Cost(parameters=10**6, macs=10**9, layers=20, traffic_elements=10**7, peak_elements=10**6)
    fit = profile.latency
    compute, traffic = 2e9 / 8350e9 * 1e3, 4e7 / 102.4e9 * 1e3
    expected = fit.compute * compute + fit.traffic * traffic + fit.layer_us * 20 / 1e3
    found = predict(of, profile, "fp32")
    assert found.latency_ms == pytest.approx(expected)
    assert found.low_ms < found.latency_ms < found.high_ms == pytest.approx(expected * (1 + fit.error))
    assert predict(of, profile, "int8").latency_ms < found.latency_ms
    assert model_mb(of, "int8") == 1.0 and model_mb(of, "fp32") == 4.0
    assert memory_mb(of, profile) == pytest.approx(8.0)


@pytest.mark.parametrize("name", ["jetson", "jetson-nano-4gb", "rpi-4b", "rpi-5", "cpu"])
def test_chosen_student_fits_and_the_next_larger_does_not(name: str, teacher: Teacher) -> None:
    profile = load_profile(name)
    sizing = size_student(teacher, profile)
    assert broken(sizing.student, sizing.teacher, profile) == []
    listed = candidates(sizing.spec.family, teacher.images, teacher.classes)
    larger = [of for _, of in listed if (of.macs, of.parameters) > (sizing.student.macs, sizing.student.parameters)]
    assert larger and all(broken(of, sizing.teacher, profile) for of in larger)
    assert size_student(teacher, profile) == sizing
    assert cost(build_student(sizing.spec, seed=1), teacher.images) == sizing.student


def test_limits_bind(teacher: Teacher) -> None:
    free = size_student(teacher, load_profile("jetson-nano-4gb"))
    size = model_mb(free.student, "fp32")
    smaller = size_student(teacher, limited("jetson-nano-4gb", model_mb=size / 2))
    assert smaller.student.parameters < free.student.parameters
    assert model_mb(smaller.student, "fp32") <= size / 2 and "graph size" in smaller.bound_by
    faster = adjusted(load_profile("jetson-nano-4gb"), latency_ms=free.predicted["fp32"].high_ms * 0.999)
    assert size_student(teacher, faster).predicted["fp32"].high_ms <= free.predicted["fp32"].high_ms


def test_nothing_fits_says_which_limit(teacher: Teacher) -> None:
    with pytest.raises(UsageError) as refused:
        size_student(teacher, limited("jetson", latency_ms=0.001))
    assert "latency" in refused.value.why
    with pytest.raises(UsageError, match="lenet"):  # 8x8 images are too small for it
        size_student(teacher, load_profile("jetson"), family="lenet")


def test_lenet_follows_where_no_resnet_is_small_enough() -> None:
    model = LeNet(MNIST, 10).eval()
    lenet = Teacher(model, MNIST, tuple("0123456789"), "", "lenet5")
    sizing = size_student(lenet, load_profile("cpu"), family="lenet")
    assert sizing.spec.family == "lenet" and sizing.spec.width < 6
    assert sizing.student.parameters <= 61_706 / 2
    assert size_student(lenet, load_profile("cpu")).student.macs <= sizing.teacher.macs / 2


def test_names_of_students(teacher: Teacher) -> None:
    for name in ("resnet:2x12", "lenet:3", "cnn:8", "resnet8", "resnet18", "wrn16-1", "pruned:0.50"):
        spec = named(name, teacher.images, teacher.classes)
        assert spec is not None and name_of(spec) == name
    assert not any(
        named(name, teacher.images, teacher.classes) for name in ("resnet", "lenet:0", "wrn17-1", "resnet10")
    )
    assert size_student(teacher, load_profile("jetson"), family="resnet:1x6").spec.width == 6
    with pytest.raises(UsageError, match="100% of the teacher"):
        raise_why(lambda: size_student(teacher, load_profile("jetson"), family="resnet:5x64"))
    with pytest.raises(UsageError, match="not one"):
        size_student(teacher, load_profile("jetson"), family="resnext")


def raise_why(call: Callable[[], object]) -> None:
    try:
        call()
    except UsageError as error:
        raise UsageError(error.why, code=error.code) from error


def test_first_weights_follow_the_seed_alone() -> None:
    spec = StudentSpec("lenet", 1, 3, MNIST, tuple("0123456789"))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = build_student(spec, seed=7).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    other = build_student(spec, seed=7).state_dict()
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert not torch.equal(one["conv1.weight"], build_student(spec, seed=8).state_dict()["conv1.weight"])


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 48), (96, 96)])
@pytest.mark.parametrize("family", ["resnet", "lenet"])
def test_families_take_images_of_any_size(family: str, size: tuple[int, int]) -> None:
    images = Images(3, *size, (0.5,) * 3, (0.5,) * 3)
    for spec, of in candidates(family, images, ("a", "b"))[:2]:
        logits = build_student(spec, seed=0)(torch.zeros(2, 3, *size))
        assert logits.shape == (2, 2) and of.macs > 0


@pytest.mark.parametrize(
    ("name", "parameters"),  # of the published networks, 10 classes (DAFL, Fast-DFKD, Wide Residual Networks)
    [("wrn16-1", 175_066), ("wrn16-2", 691_674), ("wrn40-1", 563_930), ("wrn40-2", 2_243_546), ("resnet18", 11_173_962),
     ("resnet34", 21_282_122), ("resnet8", 75_290), ("resnet20", 269_722)],
)  # fmt: skip
def test_published_networks_have_their_size(name: str, parameters: int) -> None:
    images = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
    spec = named(name, images, tuple(map(str, range(10))))
    assert spec is not None and name_of(spec) == name
    with torch.device("meta"):
        model = build_student(spec)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("channels", [2, 4, 6, 12])
def test_narrow_shortcut_has_the_gradient_of_its_strided_convolution(channels: int) -> None:
    """oneDNN's own gradient of it is wrong or ends the process, so the reference is fp64, which it does not do."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4, channels, 32, 32, generator=rng).contiguous(memory_format=torch.channels_last)
    layer = to_device(Shortcut(channels, 2 * channels, 2), torch.device("cpu"))
    weight = layer.weight.detach().double().requires_grad_()
    for _ in range(5):
        layer.zero_grad()
        layer(x).square().sum().backward()
    torch.nn.functional.conv2d(x.double(), weight, stride=2).square().sum().backward()
    assert layer.weight.grad is not None and weight.grad is not None
    assert torch.allclose(layer.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        assert torch.allclose(layer(x), torch.nn.functional.conv2d(x, layer.weight, stride=2), atol=1e-5)
