"""Captured programs whose layers are modules: what is pruned, fitted and learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekd import Images, load_teacher, save_teacher
from edgekd.errors import UsageError
from edgekd.latency import cost
from edgekd.networks import LeNet, ResNet, mobilenet_v2
from edgekd.program import Program
from edgekd.pruning import KEPT, pruned, prunings
from edgekd.types import Teacher

FACTS = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
NAMES = tuple("abcdefghij")


class Plain(nn.Module):
    """Flattens as much user code does, by a size or by what is left."""

    def __init__(self, flat: int) -> None:
        super().__init__()
        self.flat = flat
        self.first, self.act = nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16)
        self.second, self.norm = nn.Conv2d(16, 16, 3, padding="same"), nn.BatchNorm2d(16)
        self.hidden, self.flat_norm, self.last = nn.Linear(16 * 64, 32), nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(nn.functional.avg_pool2d(self.act(self.first(x)), 4))).relu()
        x = x.view(-1, self.flat) if self.flat > 0 else x.view(x.size(0), -1)
        out: Tensor = self.last(self.flat_norm(self.hidden(x)).relu())
        return out


class Twice(nn.Module):
    """Runs one convolution two times, and scales by a tensor that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.again(self.again(self.first(x) * self.scale).relu()).mean((2, 3)))
        return out


def used(model: nn.Module) -> nn.Module:
    """With statistics that are not those of a new network."""
    rng = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
    return model.eval()


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return used(ResNet(FACTS, 10, depth=1, width=16, large_stem=False))


def mobilenet() -> nn.Module:
    torch.manual_seed(0)
    return used(mobilenet_v2(FACTS, 10, width=0.35, depth=0.5))


def by_program(model: nn.Module, path: Path) -> Teacher:
    save_teacher(model, path, images=FACTS, classes=NAMES)
    return load_teacher(path)


def named(model: nn.Module) -> Teacher:
    return Teacher(model, FACTS, NAMES, "0", "named")


def saved(model: nn.Module, path: Path) -> Teacher:
    return by_program(model, path / "teacher.pt")


def exported(model: nn.Module, path: Path) -> Teacher:
    free = {0: torch.export.Dim("batch", min=1)}
    torch.export.save(torch.export.export(model, (torch.rand(2, 3, 32, 32),), dynamic_shapes=(free,)), path / "net.pt2")
    return load_teacher(path / "net.pt2", images=FACTS)


def onnx_file(model: nn.Module, path: Path) -> Teacher:
    torch.onnx.export(model, (torch.rand(2, 3, 32, 32),), str(path / "net.onnx"), dynamo=False)
    onnx.checker.check_model(str(path / "net.onnx"))
    return load_teacher(path / "net.onnx", images=FACTS)


@pytest.mark.parametrize("way", [saved, exported, onnx_file])
@pytest.mark.parametrize("build", [resnet, lambda: used(LeNet(FACTS, 10)), mobilenet])
@pytest.mark.filterwarnings("ignore")
def test_a_graph_is_pruned_as_its_network_is(
    way: Callable[[nn.Module, Path], Teacher], build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    model = build()
    teacher = way(model, tmp_path)
    assert isinstance(teacher.model, Program)
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(teacher.model(x), model(x), rtol=1e-4, atol=1e-4)
    small, wanted = pruned(teacher, share=0.5), pruned(named(model), share=0.5)
    of, macs = cost(teacher.model, FACTS), cost(small, FACTS).macs
    narrowed, as_many = (sum(hasattr(m, KEPT) for m in one.modules()) for one in (small, wanted))
    assert narrowed == as_many > 0 and 0.3 * of.macs < macs <= 0.5 * of.macs
    if way is not onnx_file:  # there BatchNorm is folded, and so other channels are the weakest
        assert torch.equal(small(x), wanted(x)) and macs == cost(wanted, FACTS).macs
        listed, also = (list(prunings(one, [0.7, 0.5], align=1)) for one in (teacher, named(model)))
        assert [share for share, _ in listed] == [share for share, _ in also]


def test_what_images_show_of_a_graph_is_what_they_show_of_its_network(tmp_path: Path) -> None:
    model = resnet()
    teacher = by_program(model, tmp_path / "teacher.pt")
    small, wanted = pruned(teacher, share=0.5, prior="photo"), pruned(named(model), share=0.5, prior="photo")
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(small(x), wanted(x))


def test_a_pruned_graph_learns_and_can_be_saved(tmp_path: Path) -> None:
    small = pruned(by_program(resnet(), tmp_path / "teacher.pt"), share=0.5).requires_grad_(True)
    before = {name: t.clone() for name, t in small.state_dict().items() if t.is_floating_point()}
    small.train()
    optimiser = torch.optim.SGD(small.parameters(), 0.1)
    small(torch.randn(8, 3, 32, 32)).square().mean().backward()
    optimiser.step()
    now = small.state_dict()
    assert before and not any(torch.equal(was, now[name]) for name, was in before.items())  # statistics learn, too
    again = by_program(small.eval(), tmp_path / "student.pt")
    assert isinstance(small, Program) and isinstance(again.model, Program)
    assert again.model.keys.keys() == small.keys.keys() >= {"conv1.weight", "bn1.running_mean"}
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(again.model(x), small(x))


def test_modules_hold_what_they_alone_use(tmp_path: Path) -> None:
    model = by_program(Twice().eval(), tmp_path / "teacher.pt").model
    assert isinstance(model, Program)
    assert sorted(model.layers()) == ["first", "last"]
    assert {name for name, key in model.keys.items() if key.startswith("t")} == {"again.weight", "again.bias", "scale"}
    assert not any(p.requires_grad for p in model.parameters()) and not any(m.training for m in model.modules())


@pytest.mark.parametrize("flat", [0, 1024])
def test_views_of_channels_that_lie_last(flat: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = used(Plain(flat))
    teacher, x = by_program(model, tmp_path / "teacher.pt"), torch.randn(4, 3, 32, 32)
    last = x.contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size"):
        model(last)
    torch.testing.assert_close(teacher.model(last), model(x))
    assert pruned(teacher, share=0.5)(last).shape == (4, 10)
    kinds = {type(module).__name__ for module in teacher.model.children()}
    assert kinds == {"Conv2d", "PReLU", "BatchNorm", "Linear"}


def test_views_in_code_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.last = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(256, 10)\n"
        "    def forward(self, x):\n"
        "        return self.last(self.conv(x).view(x.size(0), -1))\n"
    )
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, stride=4), "last": nn.Linear(256, 10)})
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    teacher = load_teacher(tmp_path / "weights.pt", arch=f"{tmp_path}/net.py:Net", images=FACTS)
    x = torch.randn(2, 3, 32, 32)
    wanted = model["last"](model["conv"](x).flatten(1))
    torch.testing.assert_close(teacher.model(x.contiguous(memory_format=torch.channels_last)), wanted)


class Shuffled(nn.Module):
    """Says how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).unflatten(1, (2, 8)).transpose(1, 2).flatten(1, 2)
        out: Tensor = self.last(self.second(x).mean((2, 3)))
        return out


@pytest.mark.parametrize("network", [Shuffled, Twice])
def test_graphs_that_count_on_the_number_of_channels(network: Callable[[], nn.Module], tmp_path: Path) -> None:
    teacher = by_program(network().eval(), tmp_path / "teacher.pt")
    with pytest.raises(UsageError) as refused:
        pruned(teacher, share=0.9)
    assert refused.value.code == "E0213" and "number of channels" in str(refused.value.why)
    with pytest.raises(UsageError):
        list(prunings(teacher, [0.9], align=1))


def test_the_share_counts_what_is_in_no_module(tmp_path: Path) -> None:
    """Of a convolution that runs twice nothing goes, and its multiply-adds stay in the sum."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again, self.wide = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 32, 3, padding=1)
            self.narrow, self.last = nn.Conv2d(32, 4, 3, padding=1), nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.narrow(self.wide(self.again(self.again(x))).relu())
            out: Tensor = self.last(x.mean((2, 3)))
            return out

    teacher = by_program(Both().eval(), tmp_path / "teacher.pt")
    small, whole = pruned(teacher, share=0.6), cost(teacher.model, FACTS).macs
    assert 0.5 * whole < cost(small, FACTS).macs <= 0.6 * whole
