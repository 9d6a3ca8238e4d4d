"""Whole files to whole teachers: every format and wrapper, over networks that are recognised, without a flag."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from edgekd import Images, load_teacher, save_teacher
from edgekd.networks import LeNet, ResNet, WideResNet
from edgekd.vision import torchvision

GRAY, COLOUR = Images(1, 32, 32, (0.1307,), (0.3081,)), Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
LARGE = Images(3, 224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Case = tuple[Callable[[], nn.Module], Images]


def chain() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, 6))


NETWORKS: dict[str, Case] = {
    "lenet5": (lambda: LeNet(GRAY, 10), GRAY),
    "resnet8": (lambda: ResNet(COLOUR, 10, depth=1, width=16, large_stem=False, option="A"), COLOUR),
    "wrn10-1": (lambda: WideResNet(COLOUR, 7, depth=10, widen=1), COLOUR),
    "squeezenet1_1": (lambda: torchvision().models.squeezenet1_1(weights=None, num_classes=5), LARGE),
    "resnet18": (lambda: torchvision().models.resnet18(weights=None, num_classes=3), LARGE),
    "chain": (chain, COLOUR),
}


def network(name: str) -> nn.Module:
    """The network in eval mode, with BatchNorm statistics as some images left them."""
    build, facts = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, name)))
        model = build().train()
        side = min(facts.height, 64)
        with torch.no_grad():
            model(torch.rand(8, facts.channels, side, side) * 4 - 2)
    return model.eval()


def trained_state(model: nn.Module) -> dict[str, object]:
    optimiser = torch.optim.Adam(model.parameters())
    return {"epoch": 12, "model": model.state_dict(), "optimizer": optimiser.state_dict(), "best": 0.9}


def saved(content: Callable[[nn.Module], object], **options: bool) -> Callable[[nn.Module, Path, Images], None]:
    return lambda model, path, facts: torch.save(content(model), path, **options)


def example(facts: Images) -> Tensor:
    return torch.rand(2, facts.channels, facts.height, facts.width, generator=torch.Generator().manual_seed(3))


def prefixed(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def own(model: nn.Module, path: Path, facts: Images) -> None:
    count = model(example(facts)).shape[1]
    save_teacher(model, path, images=facts, classes=[f"class {k}" for k in range(count)])


def exported(model: nn.Module, path: Path, facts: Images) -> None:
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(model, (example(facts),), dynamic_shapes=({0: batch},)), path)


def onnx(model: nn.Module, path: Path, facts: Images) -> None:
    torch.onnx.export(
        model, (example(facts),), path, dynamo=False, opset_version=17, input_names=["input"],
        dynamic_axes={"input": {0: "batch"}},
    )  # fmt: skip


def lightning(model: nn.Module) -> dict[str, object]:
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed(model, "model."),
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
    }


FORMATS: dict[str, Callable[[nn.Module, Path, Images], None]] = {
    "edgekd": own,
    "state_dict": saved(lambda model: model.state_dict()),
    "legacy": saved(lambda model: model.state_dict(), _use_new_zipfile_serialization=False),
    "data parallel": saved(lambda model: {"state_dict": prefixed(model, "module."), "best_prec1": np.float64(91.7)}),
    "compiled": saved(lambda model: prefixed(model, "_orig_mod.")),
    "whole training": saved(trained_state),
    "lightning": saved(lightning),
    "arguments": saved(lambda model: {"net": model.state_dict(), "args": argparse.Namespace(lr=0.1, arch="net")}),
    "half": saved(lambda model: {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}),
    "safetensors": lambda model, path, facts: safetensors.torch.save_file(model.state_dict(), path),
    "torchscript": lambda model, path, facts: torch.jit.save(torch.jit.trace(model, example(facts)), path),
    "torch.export": exported,
    "onnx": onnx,
}


FEW = ("edgekd", "state_dict", "legacy", "safetensors", "torchscript", "onnx")  # of networks for large images
CASES = [(name, format_) for name in NETWORKS for format_ in (FEW if NETWORKS[name][1] is LARGE else FORMATS)]


@pytest.mark.filterwarnings("ignore")  # torch's own, of the old exporters
@pytest.mark.parametrize(("name", "format_"), CASES)
def test_every_format_of_every_network_is_read_without_a_flag(name: str, format_: str, tmp_path: Path) -> None:
    model, facts = network(name), NETWORKS[name][1]
    path = tmp_path / "weights.bin"  # its name says nothing
    FORMATS[format_](model, path, facts)
    state = random.getstate(), torch.get_rng_state()
    teacher = load_teacher(path)
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    assert (teacher.images.channels, teacher.images.height) == (facts.channels, facts.height)
    x = example(facts)
    with torch.no_grad():
        wanted, found = model(x), teacher.model(x)
    tolerance = 2e-3 if format_ == "half" else 1e-5
    assert torch.allclose(found, wanted, atol=tolerance * wanted.abs().max().item(), rtol=0)
    assert len(teacher.classes) == wanted.shape[1] and not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert (format_ == "edgekd") == (not any("assumed normalisation" in line for line in teacher.warnings))
