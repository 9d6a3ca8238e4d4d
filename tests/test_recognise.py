"""Networks as the field writes them, made anew and small: told from their tensors alone, with the same logits."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import EdgekdError, TeacherError
from edgekd.networks import LeNet, PlainNet, ResNet, WideResNet
from edgekd.teacher.recognition.evidence import drawn, fit, images_of
from edgekd.teacher.recognition.recognise import Recognised, named, recognise
from edgekd.types import Images
from edgekd.vision import torchvision

CIFAR = Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
SHARED = Path(__file__).parent.parent.parent / "shared" / "teachers"
Conv, Linear, Norm = nn.Conv2d, nn.Linear, nn.BatchNorm2d


def conv(a: int, b: int, k: int = 3, s: int = 1, *, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, s, k // 2, bias=bias, groups=groups)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with BatchNorm that is not the identity."""
    rng = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            bound = 1 / math.sqrt(max(1, tensor[0].numel())) if tensor.ndim > 1 else 0.2
            tensor.copy_(bound * (2 * torch.rand(tensor.shape, generator=rng) - 1) * (2 if tensor.ndim > 1 else 1))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_var is not None
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=rng))
            if module.affine:
                module.weight.data.copy_(0.5 + torch.rand(module.weight.shape, generator=rng))
    return model.eval()


def same(found: Recognised, model: nn.Module, size: tuple[int, int, int] | None = None) -> None:
    x = torch.randn(2, *(size or found.size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(x)
        assert torch.allclose(found.model(x), wanted, atol=1e-5, rtol=1e-5), found
    assert found.classes == wanted.shape[1] and not any(p.requires_grad for p in found.model.parameters())


class Named(nn.Module):
    """Layers by name, and a function that says how images go through them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.through = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.through(self, x)


class Post(nn.Module):
    """conv-bn-relu-conv-bn plus shortcut, relu. shortcut: the name of its module; "pad": zeros, "end": zeros behind."""

    def __init__(self, a: int, b: int, s: int, shortcut: str, *, deep: bool = False, groups: int = 1) -> None:
        super().__init__()
        wide = b // 4
        self.conv1, self.bn1 = (conv(a, wide, 1), Norm(wide)) if deep else (conv(a, b, 3, s), Norm(b))
        self.conv2 = conv(wide, wide, 3, s, groups=groups) if deep else conv(b, b)
        self.bn2 = Norm(wide if deep else b)
        if deep:
            self.conv3, self.bn3 = conv(wide, b, 1), Norm(b)
        self.deep, self.s, self.how, self.more = deep, s, shortcut, b - a
        if shortcut not in ("pad", "end") and (s > 1 or a != b):
            self.add_module(shortcut, nn.Sequential(nn.Conv2d(a, b, 1, s, bias=False), Norm(b)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = self.bn3(self.conv3(F.relu(y))) if self.deep else y
        if hasattr(self, self.how):
            x = getattr(self, self.how)(x)
        elif self.more:
            first = self.more // 2 if self.how == "pad" else 0
            x = F.pad(x[:, :, :: self.s, :: self.s], (0, 0, 0, 0, first, self.more - first))
        return F.relu(x + y)


class Pre(nn.Module):
    """bn-relu-conv-bn-relu-conv plus shortcut, which reads the activated input or the raw one."""

    def __init__(
        self, a: int, b: int, s: int, shortcut: str, *, raw: bool, bias: bool = False, wrap: bool = False
    ) -> None:
        super().__init__()
        self.bn1, self.conv1 = Norm(a), conv(a, b, 3, s, bias=bias)
        self.bn2, self.conv2 = Norm(b), conv(b, b, bias=bias)
        if a != b:
            side = nn.Conv2d(a, b, 1, s, bias=bias)
            self.add_module(shortcut, nn.Sequential(side) if wrap else side)
        self.how, self.raw = shortcut, raw

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (getattr(self, self.how)(x if self.raw else active) if hasattr(self, self.how) else x)


class Inner(nn.Module):
    """weiaicunzai's way: a path in one Sequential."""

    def __init__(self, a: int, b: int, s: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(conv(a, b, 3, s), Norm(b), nn.ReLU(), conv(b, b), Norm(b))
        self.shortcut = nn.Sequential()
        if s > 1 or a != b:
            self.shortcut = nn.Sequential(nn.Conv2d(a, b, 1, s, bias=False), Norm(b))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.residual_function(x) + self.shortcut(x))
        return y


def stages(
    block: Callable[[int, int, int], nn.Module], widths: list[int], depths: list[int], first: int
) -> list[nn.Sequential]:
    made, a = [], first
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = []
        for index in range(depth):
            blocks.append(block(a, width, 2 if stage and not index else 1))
            a = width
        made.append(nn.Sequential(*blocks))
    return made


def residual(
    block: Callable[[int, int, int], nn.Module],
    *,
    widths: list[int],
    depths: list[int],
    head: str,
    stage: str = "layer{}",
    start: int = 1,
    first: int = 8,
    stem: Mapping[str, nn.Module] | None = None,
    stem_relu: bool = True,
    pool: bool = False,
    last: str = "",
    inner: str = "",
    classes: int = 10,
) -> nn.Module:
    """A ResNet under any names. last: the name of the BatchNorm behind the blocks."""
    made = stages(block, widths, depths, first)
    named = {stage.format(i): s if not inner else nn.ModuleDict({inner: s}) for i, s in enumerate(made, start=start)}
    entry = stem or {"conv1": conv(3, first), "bn1": Norm(first)}
    ending: dict[str, nn.Module] = {last: Norm(widths[-1])} if last else {}

    def forward(net: Any, x: Tensor) -> Tensor:
        for name in entry:
            x = getattr(net, name)(x)
        x = F.relu(x) if stem_relu else x
        x = F.max_pool2d(x, 3, 2, 1) if pool else x
        for name in named:
            part = getattr(net, name)
            x = (part[inner] if inner else part)(x)
        x = F.relu(getattr(net, last)(x)) if last else x
        y: Tensor = getattr(net, head)(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return y

    return Named(forward, **entry, **named, **ending, **{head: Linear(widths[-1], classes)})


def post(shortcut: str, **options: Any) -> Callable[[int, int, int], nn.Module]:
    return lambda a, b, s: Post(a, b, s, shortcut, **options)


def pre(shortcut: str, **options: Any) -> Callable[[int, int, int], nn.Module]:
    return lambda a, b, s: Pre(a, b, s, shortcut, **options)


def alone(width: int = 8, *, bias: bool = False, name: str = "conv1") -> dict[str, nn.Module]:
    return {name: conv(3, width, bias=bias)}


THREE: dict[str, Any] = {"widths": [8, 16, 32], "depths": [2, 2, 2]}
FOUR: dict[str, Any] = {"widths": [8, 16, 32, 64], "depths": [2, 2, 2, 2]}
RESIDUAL: dict[str, Callable[[], nn.Module]] = {
    "option A, linear": lambda: residual(post("pad"), **THREE, head="linear"),
    "option A, fc": lambda: residual(post("pad"), **THREE, head="fc"),
    "option A, zeros behind": lambda: residual(
        post("end"), **THREE, head="classifier", stage="stage_{}", stem={"conv_1_3x3": conv(3, 8), "bn_1": Norm(8)}
    ),
    "shortcut, linear, three stages": lambda: residual(post("shortcut"), **THREE, head="linear"),
    "downsample, fc, three stages": lambda: residual(post("downsample"), **THREE, head="fc", classes=100),
    "shortcut, linear, four stages": lambda: residual(post("shortcut"), **FOUR, head="linear"),
    "downsample, fc, four stages": lambda: residual(post("downsample"), **FOUR, head="fc"),
    "bottlenecks": lambda: residual(post("shortcut", deep=True), **FOUR, head="linear"),
    "resnext": lambda: residual(
        post("shortcut", deep=True, groups=2), widths=[16, 32, 64], depths=[1, 2, 1], head="linear"
    ),
    "large stem": lambda: residual(
        post("downsample"),
        **FOUR,
        head="fc",
        pool=True,
        stem={"conv1": nn.Conv2d(3, 8, 7, 2, 3, bias=False), "bn1": Norm(8)},
    ),
    "stem in a Sequential": lambda: residual(
        Inner, **FOUR, head="fc", stage="conv{}_x", start=2, stem={"conv1": nn.Sequential(conv(3, 8), Norm(8))}
    ),
    "gray": lambda: residual(post("shortcut"), **THREE, head="fc", stem={"conv1": conv(1, 8), "bn1": Norm(8)}),
    "one block per stage": lambda: residual(post("shortcut"), widths=[8, 16, 32], depths=[1, 1, 1], head="fc"),
    "same first width": lambda: residual(
        post("shortcut"), widths=[16, 32, 64], depths=[1, 2, 2], first=8, head="linear"
    ),
    "preact, no last norm": lambda: residual(
        pre("shortcut", raw=False, wrap=True), **FOUR, head="linear", stem=alone(), stem_relu=False
    ),
    "preact, last norm": lambda: residual(
        pre("downsample", raw=True, wrap=True), **THREE, head="fc", stem=alone(), stem_relu=False, last="bn"
    ),
    "wide, biases": lambda: residual(
        pre("shortcut", raw=True, bias=True, wrap=True),
        **THREE,
        head="linear",
        stem=alone(bias=True),
        stem_relu=False,
        last="bn1",
    ),
    "wide, convShortcut": lambda: residual(
        pre("convShortcut", raw=False),
        **THREE,
        head="fc",
        stage="block{}",
        stem=alone(),
        stem_relu=False,
        last="bn1",
        inner="layer",
    ),
    "wide, conv_shortcut": lambda: residual(
        pre("conv_shortcut", raw=False),
        **THREE,
        head="linear",
        stage="group{}",
        stem=alone(name="conv"),
        stem_relu=False,
        last="bn",
    ),
}


@pytest.mark.parametrize("style", RESIDUAL)
def test_residual_networks_of_any_style(style: str) -> None:
    model = randomised(RESIDUAL[style]())
    found = recognise(model.state_dict())
    same(found, model)
    same(named(found.arch, model.state_dict()), model, found.size)
    shuffled = dict(sorted(model.state_dict().items()))  # as safetensors keeps them
    if style != "option A, zeros behind":
        same(recognise(shuffled), model)


@pytest.mark.parametrize(
    ("arch", "make"),
    [
        ("resnet8", lambda: ResNet(CIFAR, 10, depth=1, width=16, large_stem=False, option="A")),
        ("resnet20", lambda: ResNet(CIFAR, 10, depth=3, width=16, large_stem=False, option="A")),
        ("resnet18", lambda: ResNet(CIFAR, 10, depth=(2, 2, 2, 2), width=64, large_stem=False)),
        ("resnet:2x8", lambda: ResNet(CIFAR, 10, depth=2, width=8, large_stem=False)),
        ("wrn16-1", lambda: WideResNet(CIFAR, 10, depth=16, widen=1)),
        ("cnn:8", lambda: PlainNet(CIFAR, 10, width=8)),
        ("lenet5", lambda: LeNet(Images(1, 32, 32, (0.1,), (0.3,)), 10)),
        ("lenet5half", lambda: LeNet(Images(1, 32, 32, (0.1,), (0.3,)), 10, width=3)),
    ],
)
def test_own_networks(arch: str, make: Callable[[], nn.Module]) -> None:
    model = randomised(make())
    found = recognise(model.state_dict())
    assert found.arch == arch and found.sure == "every name and shape fits"
    same(found, model)
    same(named(arch, model.state_dict()), model, found.size)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
def test_torchvision(name: str) -> None:
    model = randomised(torchvision().models.get_model(name, weights=None, num_classes=7))
    found = recognise({k: v.half() for k, v in model.state_dict().items() if "num_batches" not in k})
    assert found.arch == f"torchvision:{name}" and found.size == (3, 224, 224) and found.classes == 7
    model.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()})
    same(found, model, (3, 64, 64))


def test_torchvision_with_other_channels_head_names_and_a_normalisation() -> None:
    model = torchvision().models.resnet18(weights=None, num_classes=4)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    found = recognise(randomised(model).state_dict())
    assert found.arch == "torchvision:resnet18" and found.size == (1, 224, 224)
    same(found, model, (1, 64, 64))
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict()))
    words = {name: name.rpartition(".") for name in model.state_dict()}
    found = recognise({f"part{modules.index(w[0])}.{w[2]}": model.state_dict()[name] for name, w in words.items()})
    assert found.arch == "torchvision:resnet18" and "order" in found.sure
    same(found, model, (1, 64, 64))
    model.fc = nn.Sequential(nn.Dropout(), Linear(512, 16), nn.ReLU(), nn.Dropout(), Linear(16, 4))
    randomised(model)
    found = recognise({f"backbone.{name}": tensor for name, tensor in model.state_dict().items()})
    assert found.arch == "torchvision:resnet18+head" and any("classifier" in note for note in found.notes)
    same(found, model, (1, 64, 64))
    same(named(found.arch, model.state_dict()), model, (1, 64, 64))
    inside = {"0.mean": torch.tensor([0.4]), "0.std": torch.tensor([0.2])}
    found = recognise(inside | {f"1.{name}": tensor for name, tensor in model.state_dict().items()})
    assert found.normalisation == "unit"
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(found.model(x), model((x - 0.4) / 0.2), atol=1e-5)


def test_auxiliary_heads_may_be_there_or_not() -> None:
    for aux in (True, False):
        model = torchvision().models.googlenet(weights=None, num_classes=5, aux_logits=aux, init_weights=False)
        found = recognise(randomised(model).state_dict())
        assert found.arch == "torchvision:googlenet"
        same(found, model, (3, 64, 64))


@pytest.mark.parametrize("classes", [10, 1000])
def test_densenet_and_mobilenet_of_torchvision(classes: int) -> None:
    for name in ("densenet121", "mobilenet_v2"):
        model = randomised(torchvision().models.get_model(name, weights=None, num_classes=classes))
        found = recognise(model.state_dict())
        assert found.arch == f"torchvision:{name}"
        same(found, model, (3, 64, 64))


def vgg(plan: str, *, bn: bool, into: int = 3, affine: bool = True, drop: bool = False) -> nn.Sequential:
    """plan: widths and M for a pool."""
    made: list[nn.Module] = []
    for word in plan.split():
        if word == "M":
            made.append(nn.MaxPool2d(2))
            continue
        made += [conv(into, int(word), bias=True), *([Norm(int(word), affine=affine)] if bn else []), nn.ReLU()]
        made += [nn.Dropout(0.3)] if drop else []
        into = int(word)
    return nn.Sequential(*made)


def features(net: Any, x: Tensor) -> Tensor:
    y: Tensor = net.classifier(net.features(x).flatten(1))
    return y


SIXTEEN = "4 4 M 8 8 M 8 8 8 M 16 16 16 M 16 16 16 M"
FLAT = nn.Flatten


def three_linear() -> nn.Sequential:
    first = [nn.Dropout(), Linear(16, 16), nn.ReLU(), nn.Dropout(), Linear(16, 16), nn.ReLU()]
    return nn.Sequential(*first, Linear(16, 10))


def functional(**modules: nn.Module) -> Callable[[str], nn.Module]:
    """conv and fc layers, ReLU behind all but the last; the argument lists the convolutions behind which a pool is."""

    def make(pools: str) -> nn.Module:
        def forward(net: Any, x: Tensor) -> Tensor:
            for name, module in modules.items():
                if isinstance(module, Linear):
                    x = x.flatten(1)
                x = getattr(net, name)(x)
                x = F.relu(x) if name != list(modules)[-1] else x
                x = F.max_pool2d(x, 2) if name in pools.split() else x
            return x

        return Named(forward, **modules)

    return make


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "vgg16-bn, one linear": lambda: Named(features, features=vgg(SIXTEEN, bn=True), classifier=Linear(16, 10)),
    "vgg16, one linear": lambda: Named(features, features=vgg(SIXTEEN, bn=False), classifier=Linear(16, 10)),
    "vgg16-bn, three linear": lambda: Named(features, features=vgg(SIXTEEN, bn=True), classifier=three_linear()),
    "vgg16, three linear": lambda: Named(features, features=vgg(SIXTEEN, bn=False), classifier=three_linear()),
    "vgg8, dropout": lambda: Named(
        features, features=vgg("8 M 16 M 16 16 M", bn=True, drop=True), classifier=nn.Sequential(Linear(256, 10))
    ),
    "examples' MNIST": lambda: functional(
        conv1=Conv(1, 8, 3), conv2=Conv(8, 12, 3), fc1=Linear(1728, 20), fc2=Linear(20, 10)
    )("conv2"),
    "old MNIST": lambda: functional(
        conv1=Conv(1, 10, 5), conv2=Conv(10, 20, 5), fc1=Linear(320, 50), fc2=Linear(50, 10)
    )("conv1 conv2"),
    "tutorial's CIFAR-10": lambda: functional(
        conv1=Conv(3, 6, 5), conv2=Conv(6, 16, 5), fc1=Linear(400, 120), fc2=Linear(120, 84), fc3=Linear(84, 10)
    )("conv1 conv2"),
    "two 5x5 that keep the side": lambda: functional(
        conv1=Conv(1, 16, 5, padding=2), conv2=Conv(16, 32, 5, padding=2), out=Linear(1568, 10)
    )("conv1 conv2"),
    "layers in Sequentials": lambda: Named(
        lambda net, x: net.fc(net.layer2(net.layer1(x)).flatten(1)),
        layer1=nn.Sequential(conv(1, 8, 5), Norm(8), nn.ReLU(), nn.MaxPool2d(2)),
        layer2=nn.Sequential(conv(8, 12, 5), Norm(12), nn.ReLU(), nn.MaxPool2d(2)),
        fc=Linear(588, 10),
    ),
    "pools without activations": lambda: nn.Sequential(
        conv(3, 8, 5, bias=True),
        nn.MaxPool2d(2),
        conv(8, 8, 5, bias=True),
        nn.MaxPool2d(2),
        conv(8, 16, 5, bias=True),
        nn.MaxPool2d(2),
        FLAT(),
        Linear(256, 16),
        Linear(16, 10),
    ),
    "one Sequential": lambda: nn.Sequential(
        Conv(1, 8, 3),
        nn.ReLU(),
        Conv(8, 12, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(),
        FLAT(),
        Linear(1728, 16),
        nn.ReLU(),
        nn.Dropout(),
        Linear(16, 10),
    ),
    "norm behind the activation": lambda: Named(
        features,
        features=nn.Sequential(
            conv(1, 8, 3), nn.ReLU(), Norm(8), nn.MaxPool2d(2), conv(8, 12, 3), nn.ReLU(), Norm(12), nn.MaxPool2d(2)
        ),
        classifier=Linear(588, 10),
    ),
    "perceptron": lambda: nn.Sequential(FLAT(), Linear(784, 32), nn.ReLU(), Linear(32, 16), nn.ReLU(), Linear(16, 10)),
    "perceptron with norms": lambda: nn.Sequential(
        FLAT(), Linear(3072, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), Linear(16, 10)
    ),
    "one linear layer": lambda: Named(lambda net, x: net.linear(x.flatten(1)), linear=Linear(784, 10)),
    "words in Sequentials": lambda: Named(
        features,
        features=nn.Sequential(
            OrderedDict(
                c1=Conv(3, 6, 5), r1=nn.ReLU(), p1=nn.MaxPool2d(2), c2=Conv(6, 8, 5), r2=nn.ReLU(), p2=nn.MaxPool2d(2)
            )
        ),
        classifier=nn.Sequential(OrderedDict(f3=Linear(200, 20), d3=nn.Dropout(), r3=nn.ReLU(), f4=Linear(20, 10))),
    ),
}


@pytest.mark.parametrize("style", CHAINS)
def test_plain_chains_are_rebuilt(style: str) -> None:
    model = randomised(CHAINS[style]())
    found = recognise(model.state_dict())
    assert found.arch.startswith("chain:") and found.notes
    same(found, model)
    same(named(found.arch, model.state_dict()), model, found.size)


class Inverted(nn.Module):
    """1x1, depthwise 3x3, 1x1; kuangliu's has a shortcut of its own, others only the identity."""

    def __init__(self, a: int, b: int, t: int, s: int, *, own: bool, clip: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(a, a * t, 1), Norm(a * t)
        self.conv2, self.bn2 = conv(a * t, a * t, 3, s, groups=a * t), Norm(a * t)
        self.conv3, self.bn3 = conv(a * t, b, 1), Norm(b)
        self.shortcut = nn.Sequential(conv(a, b, 1), Norm(b)) if own and s == 1 and a != b else nn.Sequential()
        self.joined, self.act = s == 1 and (own or a == b), F.relu6 if clip else F.relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn3(self.conv3(self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))))
        return y + self.shortcut(x) if self.joined else y


def mobile_two() -> nn.Module:
    """kuangliu's names."""
    plan = [(1, 4, 1, 1), (6, 6, 2, 1), (6, 8, 3, 2), (6, 12, 4, 2), (6, 16, 3, 1), (6, 20, 3, 2), (6, 24, 1, 1)]
    units, a = [], 8
    for t, b, n, s in plan:
        for index in range(n):
            units.append(Inverted(a, b, t, 1 if index else s, own=True, clip=False))
            a = b

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.bn2(net.conv2(net.layers(F.relu(net.bn1(net.conv1(x)))))))
        y: Tensor = net.linear(x.mean((2, 3)))
        return y

    named = {"conv1": conv(3, 8), "bn1": Norm(8), "layers": nn.Sequential(*units), "conv2": conv(24, 32, 1)}
    return Named(forward, **named, bn2=Norm(32), linear=Linear(32, 10))


def mobile_one() -> nn.Module:
    """Depthwise and pointwise convolutions in turn."""

    def pair(a: int, b: int, s: int) -> nn.Module:
        def forward(net: Any, x: Tensor) -> Tensor:
            return F.relu(net.bn2(net.conv2(F.relu(net.bn1(net.conv1(x))))))

        return Named(forward, conv1=conv(a, a, 3, s, groups=a), bn1=Norm(a), conv2=conv(a, b, 1), bn2=Norm(b))

    layers = nn.Sequential(pair(8, 16, 1), pair(16, 32, 2), pair(32, 32, 1), pair(32, 64, 2), pair(64, 64, 1))

    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.linear(net.layers(F.relu(net.bn1(net.conv1(x)))).mean((2, 3)))
        return y

    return Named(forward, conv1=conv(3, 8), bn1=Norm(8), layers=layers, linear=Linear(64, 10))


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def bends(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def shuffle_net() -> nn.Module:
    """weiaicunzai's names."""

    def right(a: int, b: int, s: int) -> nn.Sequential:
        return bends(
            conv(a, a, 1), Norm(a), nn.ReLU(), conv(a, a, 3, s, groups=a), Norm(a), conv(a, b, 1), Norm(b), nn.ReLU()
        )

    def unit(a: int, b: int, s: int) -> nn.Module:
        def forward(net: Any, x: Tensor) -> Tensor:
            left, other = (x, x) if s > 1 else x.chunk(2, dim=1)
            return shuffled(torch.cat([net.shortcut(left), net.residual(other)], dim=1))

        if s == 1:
            return Named(forward, residual=right(a // 2, a // 2, 1), shortcut=nn.Sequential())
        side = bends(conv(a, a, 3, 2, groups=a), Norm(a), conv(a, b // 2, 1), Norm(b // 2), nn.ReLU())
        return Named(forward, residual=right(a, b // 2, 2), shortcut=side)

    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.fc(net.conv5(net.stage4(net.stage3(net.stage2(net.pre(x))))).mean((2, 3)))
        return y

    stages = {
        f"stage{i}": nn.Sequential(unit(a, b, 2), unit(b, b, 1)) for i, a, b in ((2, 8, 16), (3, 16, 32), (4, 32, 64))
    }
    last = bends(conv(64, 32, 1), Norm(32), nn.ReLU())
    return Named(forward, pre=bends(conv(3, 8), Norm(8)), **stages, conv5=last, fc=Linear(32, 10))


def dense_net(*, newest_first: bool) -> nn.Module:
    """kuangliu's names, which put what is new first; or andreasveit's, which put it last."""

    def layer(a: int) -> nn.Module:
        def forward(net: Any, x: Tensor) -> Tensor:
            y = net.conv2(F.relu(net.bn2(net.conv1(F.relu(net.bn1(x))))))
            return torch.cat([y, x] if newest_first else [x, y], dim=1)

        return Named(forward, bn1=Norm(a), conv1=conv(a, 16, 1), bn2=Norm(16), conv2=conv(16, 4))

    def change(a: int, b: int) -> nn.Module:
        names = ("bn", "conv") if newest_first else ("bn1", "conv1")

        def forward(net: Any, x: Tensor) -> Tensor:
            return F.avg_pool2d(getattr(net, names[1])(F.relu(getattr(net, names[0])(x))), 2)

        return Named(forward, **{names[0]: Norm(a), names[1]: conv(a, b, 1)})

    block, last = ("dense{}", "bn") if newest_first else ("block{}", "bn1")
    made: dict[str, nn.Module] = {"conv1": conv(3, 8)}
    for index, a in ((1, 8), (2, 8)):
        layers = nn.Sequential(*[layer(a + 4 * n) for n in range(2)])
        made[block.format(index)] = layers if newest_first else Named(lambda net, x: net.layer(x), layer=layers)
        if index == 1:
            made["trans1"] = change(16, 8)
    made |= {last: Norm(16), "linear" if newest_first else "fc": Linear(16, 10)}

    def forward(net: Any, x: Tensor) -> Tensor:
        for name in list(made)[:-2]:
            x = getattr(net, name)(x)
        y: Tensor = getattr(net, list(made)[-1])(F.relu(getattr(net, last)(x)).mean((2, 3)))
        return y

    return Named(forward, **made)


def nine() -> nn.Module:
    def part(a: int, b: int, *, pool: bool = False) -> nn.Sequential:
        return nn.Sequential(conv(a, b, bias=True), Norm(b), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []))

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.conv2(net.conv1(x))
        x = net.conv4(net.conv3(net.res1(x) + x))
        y: Tensor = net.classifier(net.res2(x) + x)
        return y

    named: dict[str, nn.Module] = {"conv1": part(3, 8), "conv2": part(8, 16, pool=True)}
    named |= {"res1": nn.Sequential(part(16, 16), part(16, 16)), "conv3": part(16, 24, pool=True)}
    named |= {"conv4": part(24, 32, pool=True), "res2": nn.Sequential(part(32, 32), part(32, 32))}
    return Named(forward, **named, classifier=nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), Linear(32, 10)))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "mobilenet": mobile_two,
    "mobilenet, the first": mobile_one,
    "shufflenet": shuffle_net,
    "densenet": lambda: dense_net(newest_first=True),
    "densenet, newest last": lambda: dense_net(newest_first=False),
    "resnet9": nine,
}


@pytest.mark.parametrize("style", FAMILIES)
def test_families(style: str) -> None:
    model = randomised(FAMILIES[style]())
    found = recognise(model.state_dict())
    assert found.arch.partition(":")[0] == style.partition(",")[0]
    same(found, model, (3, 32, 32))
    same(named(found.arch, model.state_dict()), model, (3, 32, 32))


def test_mobilenet_for_small_images_is_told_from_torchvisions_by_its_statistics() -> None:
    model = torchvision().models.mobilenet_v2(weights=None, num_classes=10)
    for place in (0, 2):  # chenyaofo: these two step by 1
        for module in model.features[place].modules():
            if isinstance(module, Conv) and module.stride == (2, 2):
                module.stride = (1, 1)
    _trained(randomised(model), CIFAR)
    found = recognise(model.state_dict())
    assert found.arch.startswith("mobilenet") and found.size == (3, 32, 32) and "statistics" in found.sure
    same(found, model)


def _trained(model: nn.Module, images: Images) -> nn.Module:
    """BatchNorm with the statistics of images, as training leaves them."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        for seed in (5, 6):
            model(drawn(images, 32, seed=seed))
    return model.eval()


def test_statistics_tell_what_names_do_not() -> None:
    usual = residual(post("downsample"), **FOUR, head="fc")
    pooled = residual(post("downsample"), **FOUR, head="fc", pool=True)
    for model, words in ((usual, ""), (pooled, "pool=1")):
        _trained(randomised(model), images_of((3, 32, 32), "cifar10"))
        found = recognise(model.state_dict())
        assert words in found.arch and "statistics" in found.sure
        same(found, model)
    assert fit(usual, (3, 32, 32), "cifar10") < fit(usual, (3, 32, 32), "half")
    assert fit(nn.Flatten(), (3, 32, 32), None) == math.inf


def refused(call: Callable[[], Any]) -> EdgekdError:
    with pytest.raises(EdgekdError) as caught:
        call()
    assert caught.value.exit_code == 3
    return caught.value


def test_a_chain_that_shapes_do_not_tell_lists_its_wirings() -> None:
    made = functional(
        conv1=conv(3, 8, bias=True), conv2=conv(8, 12, bias=True), conv3=conv(12, 16, bias=True), fc=Linear(1024, 10)
    )
    for pools in ("conv1 conv2", "conv1 conv3", "conv2 conv3"):
        model = randomised(made(pools))
        error = refused(lambda: recognise(model.state_dict()))  # noqa: B023
        assert error.code == "E0391" and "--arch" in error.fix + error.why
        listed = re.findall(r'"(chain:[^"]+)"', error.why)
        wanted = f"pool={pools.replace(' ', ',').replace('conv', '')}"
        (chosen,) = [arch for arch in listed if wanted in arch and "3x32x32;padding=1,1,1" in arch]
        same(named(chosen, model.state_dict()), model)
        same(named(f"chain:{wanted};padding=same;size=3x32x32", model.state_dict()), model)


def test_lenet_for_gray_images_needs_its_size() -> None:
    model = functional(conv1=Conv(1, 6, 5), conv2=Conv(6, 16, 5), fc1=Linear(400, 30), fc2=Linear(30, 10))(
        "conv1 conv2"
    )
    error = refused(lambda: recognise(randomised(model).state_dict()))
    assert "1x28x28" in error.why and "1x32x32" in error.why
    same(recognise(model.state_dict(), size=(1, 32, 32)), model)


@pytest.mark.parametrize(
    ("arch", "change"),
    [
        ("chain:activation=tanh", {"activation": torch.tanh}),
        ("chain:pool=1:avg,2:avg", {"pool": F.avg_pool2d}),
    ],
)
def test_a_chain_as_it_is_named(arch: str, change: dict[str, Any]) -> None:
    act, pool = change.get("activation", F.relu), change.get("pool", F.max_pool2d)
    net: Any = randomised(
        functional(conv1=Conv(1, 10, 5), conv2=Conv(10, 20, 5), fc1=Linear(320, 50), fc2=Linear(50, 10))("")
    )
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        y = pool(act(net.conv2(pool(act(net.conv1(x)), 2))), 2).flatten(1)
        wanted = net.fc2(act(net.fc1(y)))
        assert torch.allclose(named(arch, net.state_dict()).model(x), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "code", "words"),
    [
        ("resnet32", "E0319", "layer1.3.conv1.weight"),
        ("resnet21", "E0318", "resnet2"),
        ("lenet5", "E0319", "conv1.weight is [16, 3, 3, 3] in the file and [6, 3, 5, 5] in lenet5"),
        ("torchvision:resnet81", "E0318", "torchvision:resnet18"),
        ("torchvision:resnet18", "E0319", "conv1.weight"),
        ("mobilenet", "E0319", "depthwise"),
        ("residual:steam=2", "E0393", "stem"),
        ("chain:pool=many", "E0319", "around"),
    ],
)
def test_wrong_names_are_refused(arch: str, code: str, words: str) -> None:
    state = ResNet(CIFAR, 10, depth=3, width=16, large_stem=False).state_dict()
    if code == "E0319" and not arch.startswith("chain"):
        state = ResNet(CIFAR, 10, depth=3, width=16, large_stem=False, option="A").state_dict()
    error = refused(lambda: named(arch, state))
    assert isinstance(error, TeacherError)
    assert error.code == code and words in error.what + error.why + error.fix


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"epoch": torch.tensor(3)},
        {"weight": torch.zeros(4)},
        {"lstm.weight_ih_l0": torch.zeros(8, 4), "lstm.weight_hh_l0": torch.zeros(8, 2)},
        {"a.weight": torch.zeros(4, 3, 3, 3), "b.weight": torch.zeros(4, 5, 3, 3), "c.weight": torch.zeros(2, 4)},
        {"conv.weight": torch.zeros(4, 3, 3, 3, 3), "fc.weight": torch.zeros(2, 4)},
        {"embedding.weight": torch.zeros(100, 7), "fc.weight": torch.zeros(3, 9)},
    ],
)
def test_what_is_no_classifier_is_refused(tensors: dict[str, Tensor]) -> None:
    error = refused(lambda: recognise(tensors))
    assert error.code == "E0390" and error.fix


def test_channels_that_are_not_the_files() -> None:
    model = randomised(RESIDUAL["gray"]())
    error = refused(lambda: recognise(model.state_dict(), size=(3, 32, 32)))
    assert error.code == "E0392" and "1x32x32" in error.fix


def test_masks_norms_and_counts_beside_the_weights() -> None:
    model = randomised(RESIDUAL["downsample, fc, four stages"]())
    state = model.state_dict()
    state["total_ops"] = torch.zeros(1)
    state["layer1.total_params"] = torch.zeros(1)
    mask = (torch.rand(8, 3, 3, 3) > 0.5).float()
    masked = {"conv1.weight_orig": state.pop("conv1.weight").clone(), "conv1.weight_mask": mask}
    model.get_parameter("conv1.weight").data.mul_(mask)
    same(recognise(masked | dict(state)), model)


def test_the_users_own_code(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom torch import nn\n\ndef make(num_classes=3):\n    return nn.Sequential(nn.Flatten(), "
        "nn.Linear(12, num_classes))\n\ndef broken():\n    raise ValueError('no data here')\n\n"
        "def other():\n    return 3\n"
    )
    model = nn.Sequential(nn.Flatten(), Linear(12, 5))
    found = named(f"{path}:make", model.state_dict(), size=(3, 2, 2))
    assert found.classes == 5 and any("your own code" in note for note in found.notes)
    same(found, model.eval())
    for arch, code, words in (
        (f"{path}:make", "E0319", "1.weight"),
        (f"{path}:broken", "E0395", "no data here (line 8"),
        (f"{path}:other", "E0395", "int"),
        (f"{path}:mak", "E0394", "'make'"),
        (f"{tmp_path}/none.py:make", "E0394", "not there"),
    ):
        state = {"1.weight": torch.zeros(5, 7)} if code == "E0319" else model.state_dict()
        error = refused(lambda: named(arch, state))  # noqa: B023
        assert error.code == code and words in error.what + error.why + error.fix
    path.write_text("def make(:\n    pass\n")
    error = refused(lambda: named(f"{path}:make", model.state_dict()))
    assert error.code == "E0395" and "line 1" in error.why


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_checkpoints_of_others(name: str) -> None:
    path = SHARED / f"{name}_cifar10.th"
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand")
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    found = recognise(state)  # with the prefix of DataParallel
    assert found.arch == name and found.size == (3, 32, 32) and found.normalisation == "imagenet"
    plain = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    renamed = recognise({key.replace("linear", "fc"): tensor for key, tensor in plain.items()})
    assert renamed.arch == "residual" and "agree" in renamed.sure
    same(renamed, found.model)
