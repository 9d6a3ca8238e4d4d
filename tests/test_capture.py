"""Models as users write them, saved by save_teacher: each comes back, trains in the training's form, and deploys."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd import Images, load_teacher, save_teacher
from edgekd.compute import logits_of, to_device
from edgekd.errors import TeacherError
from edgekd.export import export_fp32
from edgekd.program import Program

FACTS = Images(3, 16, 16, (0.5,) * 3, (0.25,) * 3)
NAMES = tuple("abcd")


class Net(nn.Module):
    """Its head is what differs between users."""

    shift: Tensor

    def __init__(self, head: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.head: Any = head
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3, 2, 1)
        self.last, self.wide, self.maps = nn.Linear(12, 4), nn.Linear(12 * 16, 4), nn.Conv2d(12, 4, 1)
        self.register_buffer("shift", torch.tensor([0.1, 0.2, 0.3]))

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.shift.reshape(1, 3, 1, 1)
        out: Tensor = self.head(self, self.second(self.norm(self.first(x)).relu()).relu())
        return out


def mean(net: Net, x: Tensor) -> Tensor:
    logits: Tensor = net.last(x.mean((2, 3)))
    return logits


HEADS: dict[str, Callable[[Net, Tensor], Any]] = {
    "a view": lambda net, x: net.wide(x.view(x.size(0), -1)),
    "a view of a size that is written down": lambda net, x: net.wide(x.view(-1, 12 * 16)),
    "squeeze of all": lambda net, x: net.last(F.adaptive_avg_pool2d(x, 1).squeeze()),
    "squeeze of axes": lambda net, x: F.adaptive_avg_pool2d(net.maps(x), 1).squeeze(3).squeeze(2),
    "an index": lambda net, x: net.last(F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]),
    "channels that are shuffled": lambda net, x: mean(
        net, x.view(x.size(0), 2, 6, 4, 4).transpose(1, 2).contiguous().view(x.size(0), -1, 4, 4)
    ),
    "a cast": lambda net, x: mean(net, x.float()),
    "a dropout": lambda net, x: net.last(F.dropout(x.mean((2, 3)), 0.5, net.training)),
    "an auxiliary output": lambda net, x: (mean(net, x), x) if net.training else mean(net, x),
}


def normed(by: Callable[..., nn.Module]) -> Net:
    net: Any = Net(mean)
    net.second = by(net.second)
    whole: Net = net
    return whole


def compiled() -> Any:
    return torch.compile(Net(mean), backend="eager")


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "DataParallel": lambda: nn.DataParallel(Net(mean)),
    "compiled": compiled,
    "both": lambda: nn.DataParallel(compiled()),
    "half precision": lambda: Net(mean).half(),
    "double precision": lambda: Net(mean).double(),
    "weight norm": lambda: normed(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: normed(nn.utils.parametrizations.spectral_norm),
}


@pytest.mark.parametrize("build", [*HEADS, *WRAPPED])
@pytest.mark.filterwarnings("ignore")
def test_models_as_they_are_written(build: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WRAPPED[build]() if build in WRAPPED else Net(HEADS[build])
    model.train()
    save_teacher(model, tmp_path / "teacher.pt", images=FACTS, classes=NAMES)
    assert all(module.training for module in model.modules())  # the user's own stays as it was
    teacher = load_teacher(tmp_path / "teacher.pt")
    x = torch.randn(5, 3, 16, 16)
    wanted = copy.deepcopy(getattr(model, "module", model)).float().eval()(x).detach()
    torch.testing.assert_close(teacher.model(x), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher.model(x[:1]), wanted[:1], rtol=1e-5, atol=1e-5)
    there = to_device(teacher.model, torch.device("cpu"))
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    logits_of(there, last).float().square().sum().backward()
    assert last.grad is not None and last.grad.abs().sum() > 0
    export_fp32(teacher.model, FACTS, NAMES, tmp_path / "teacher.onnx", opset=18)
    session = onnxruntime.InferenceSession(str(tmp_path / "teacher.onnx"))
    pixels = torch.randint(0, 256, (1, 3, 16, 16)).float()
    (deployed,) = session.run(None, {"pixels": pixels.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(deployed), teacher.model((pixels / 255 - 0.5) / 0.25), rtol=1e-3, atol=1e-4
    )


def test_what_depends_on_no_image_is_computed_once(tmp_path: Path) -> None:
    """A normalised weight is a weight: its layer is a module as any other."""
    save_teacher(normed(nn.utils.parametrizations.weight_norm), tmp_path / "t.pt", images=FACTS, classes=NAMES)
    model = load_teacher(tmp_path / "t.pt").model
    assert isinstance(model, Program)
    assert [type(module).__name__ for module in model.children()] == ["Conv2d", "BatchNorm", "Conv2d", "Linear"]
    assert "norm.running_mean" in model.keys and not any("parametrizations" in name for name in model.keys)


def test_models_that_cannot_be_captured_say_why(tmp_path: Path) -> None:
    def why(model: nn.Module) -> str:
        with pytest.raises(TeacherError) as refused:
            save_teacher(model, tmp_path / "teacher.pt", images=FACTS, classes=NAMES)
        return f"{refused.value.why} {refused.value.fix}"

    assert "torch.jit.save" in why(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(768, 4))))
    assert "gradients off" in why(Net(torch.no_grad()(mean)))
    assert "logits alone" in why(Net(lambda net, x: (mean(net, x), x)))
    assert not (tmp_path / "teacher.pt").exists()
