"""Students: names, networks of every family, what they learn, export and are read back."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from edgekd import Images, load_teacher, save_teacher
from edgekd.compute import autocast, to_device
from edgekd.export import check_parity, export_fp32, export_int8, onnx_logits, scheme, torch_logits
from edgekd.families import FAMILIES, members
from edgekd.latency import cost
from edgekd.networks import Shortcut
from edgekd.student import build_student, name_of, named
from edgekd.types import StudentSpec

MNIST = Images(1, 32, 32, (0.1,), (0.3,))
COLOUR = Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
CLASSES = tuple("0123456789")
ONE_OF_EACH = {  # student -> opset; the other one is a matter of edgekd/export
    "resnet:1x4": 18, "bottleneck:1x4": 18, "wrn10-1": 13, "mobilenetv2:0.5x0.1": 13, "mobilenetv3:0.5x0.1": 13,
    "mcu:1x4": 18, "cnn:4": 13, "lenet:2": 18,
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["resnet:2x12", "bottleneck:1x16", "lenet:3", "cnn:8", "resnet8", "resnet18", "wrn16-1", "pruned:0.50",
     "pruned:0.35@16", "mobilenetv2:0.5", "mobilenetv2:0.35", "mobilenetv3:0.5x1.4", "mobilenetv3:1", "mcu:2x8"],
)  # fmt: skip
def test_names_are_read_as_they_are_written(name: str) -> None:
    spec = named(name, COLOUR, CLASSES)
    assert spec is not None and name_of(spec) == name


def test_names_of_every_member_and_what_is_none() -> None:
    for family, side in itertools.product(FAMILIES, (8, 32, 224)):
        for spec in itertools.chain(*members(family, Images(3, side, side, (0.5,) * 3, (0.5,) * 3), CLASSES)):
            assert named(name_of(spec), spec.images, CLASSES) == spec
    for name in ("resnet", "lenet:0", "wrn17-1", "resnet10", "mobilenetv2:0", "mcu:0x4", "pruned:1.5", "pruned:0"):
        assert named(name, COLOUR, CLASSES) is None


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 48), (96, 96)])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "pruned"])
def test_families_take_images_of_any_size(family: str, size: tuple[int, int]) -> None:
    images = Images(3, *size, (0.5,) * 3, (0.5,) * 3)
    for row in members(family, images, ("a", "b"))[:1]:
        logits = build_student(row[0], seed=0)(torch.zeros(2, 3, *size))
        assert logits.shape == (2, 2)


@pytest.mark.parametrize(("name", "opset"), ONE_OF_EACH.items())
def test_every_family_learns_exports_and_is_read_back(name: str, opset: int, tmp_path: Path) -> None:
    spec = named(name, COLOUR, CLASSES)
    assert spec is not None
    model = build_student(spec, seed=0)
    model = to_device(model, torch.device("cpu")).train()
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 32, 32), generator=rng)
    x = ((pixels / 255 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
    labels, optimiser, losses = torch.arange(16) % 10, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), []
    for _ in range(3):
        with autocast(torch.device("cpu")):
            logits = model(x)
        losses.append(F.cross_entropy(logits.float(), labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]
    save_teacher(model, tmp_path / "student.pt", images=COLOUR, classes=CLASSES, arch=f"edgekd:{name}")
    again, values = load_teacher(tmp_path / "student.pt").model, pixels.numpy().astype(np.uint8)
    wanted = torch_logits(model, COLOUR, values)
    assert np.allclose(torch_logits(again, COLOUR, values), wanted, atol=1e-5)  # the memory formats differ
    graph = tmp_path / "student.onnx"
    export_fp32(model, COLOUR, CLASSES, graph, opset=opset)
    assert onnx.load(graph).opset_import[0].version == opset
    assert check_parity("fp32", onnx_logits(graph, values), wanted)["relative"] < 1e-4
    export_int8(graph, tmp_path / "int8.onnx", values, scheme=scheme("onnxrt"))
    quantised = onnx_logits(tmp_path / "int8.onnx", values)
    assert np.corrcoef(quantised.ravel(), wanted.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("name", ["mobilenetv3:0.5x0.1", "cnn:4"])
def test_bf16_gives_nearly_the_same(name: str) -> None:
    spec = named(name, COLOUR, CLASSES)
    assert spec is not None
    model, x = build_student(spec, seed=0).eval(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(x).float()
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_mobilenet_v2_is_the_published_one() -> None:
    images = Images(3, 224, 224, (0.5,) * 3, (0.5,) * 3)
    spec = named("mobilenetv2:1", images, tuple(map(str, range(1000))))
    assert spec is not None
    with torch.device("meta"):
        model = build_student(spec)
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    assert cost(model, images).macs == 300_774_272


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
