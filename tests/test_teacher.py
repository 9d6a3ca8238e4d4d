from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd import Images, load_teacher, save_teacher
from edgekd.capture import capture
from edgekd.errors import EdgekdError, TeacherError, UsageError
from edgekd.networks import LeNet, ResNet
from edgekd.observe import Observed
from edgekd.program import Program
from edgekd.types import Teacher
from edgekd.vision import torchvision

CIFAR = Images(3, 32, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def refused(call: Callable[[], Any]) -> EdgekdError:
    with pytest.raises(EdgekdError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("arch", [None, "torchvision:mobilenet_v3_small", "torchvision:resnet18"])
def test_saved_teacher_comes_back_exactly(arch: str | None, tmp_path: Path) -> None:
    name = (arch or "torchvision:mobilenet_v3_small").removeprefix("torchvision:")
    images = Images(3, 64, 64, (0.5,) * 3, (0.5,) * 3)
    torch.manual_seed(0)
    model = torchvision().models.get_model(name, weights=None, num_classes=5).eval()
    path = tmp_path / "teacher.pt"
    save_teacher(model, path, images=images, classes=list("abcde"), arch=arch)
    teacher = load_teacher(path)
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(teacher.model(x), model(x))
    assert teacher.classes == tuple("abcde") and teacher.images == images
    assert teacher.architecture == (arch or "program")
    assert teacher.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_program_is_differentiable_and_shows_its_batchnorms(teacher: Teacher) -> None:
    assert isinstance(teacher.model, Program)
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    with Observed() as observed:
        teacher.model(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert len(observed.batch_norms) == 9  # the stem, three blocks of two, two shortcuts
    own = ResNet(teacher.images, 4, depth=1, width=16, large_stem=False).eval()
    with Observed() as observed:
        own(x)
    assert [mean.shape for _, mean, _ in observed.batch_norms] == [(c,) for c in (16, 16, 16, 32, 32, 32, 64, 64, 64)]


def test_program_runs_no_operator_outside_the_list() -> None:
    for target in ("aten.from_file.default", "operator.attrgetter", "os.system", "aten.relu.nothing"):
        nodes = [["input", "x"], ["call", "y", target, [{"node": "x"}], {}], ["output", "y"]]
        assert refused(lambda nodes=nodes: Program(nodes, {})).code == "E0322"  # type: ignore[misc]
    assert refused(lambda: Program([["call", "y"]], {})).code == "E0321"


def test_model_that_cannot_be_captured() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] if x.sum() > 0 else x.flatten(1)[:, 2:4]

    error = refused(lambda: capture(Branches(), torch.zeros(2, 1, 4, 4)))
    assert error.code == "E0320" and "arch" in error.fix


def test_state_dict_with_wrapper_prefix_and_half_precision(tmp_path: Path) -> None:
    model = ResNet(CIFAR, 10, depth=3, width=16, large_stem=False, option="A").eval()
    state = {f"module.{name}": t.half() for name, t in model.state_dict().items() if "num_batches" not in name}
    path = tmp_path / "weights.th"
    torch.save({"state_dict": state, "best_prec1": 91.7}, path, _use_new_zipfile_serialization=False)
    teacher = load_teacher(path, arch="resnet20", images=CIFAR)
    assert teacher.classes == tuple("0123456789")
    weights = teacher.model.state_dict()
    assert torch.equal(weights["conv1.weight"], model.state_dict()["conv1.weight"].half().float())


def test_parameters_of_the_named_networks() -> None:
    digits = Images(1, 32, 32, (0.1,), (0.3,))
    assert (
        sum(p.numel() for p in ResNet(CIFAR, 10, depth=3, width=16, large_stem=False, option="A").parameters())
        == 269_722
    )
    assert sum(p.numel() for p in LeNet(digits, 10).parameters()) == 61_706  # LeNet-5
    wide = Images(3, 224, 224, (0.0,) * 3, (1.0,) * 3)
    ours = ResNet(wide, 1000, depth=2, width=64, large_stem=True)
    theirs = torchvision().models.resnet18(weights=None)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


class Custom(nn.Module):
    pass


def write_good(path: Path) -> None:
    torch.save(ResNet(CIFAR, 10, depth=3, width=16, large_stem=False, option="A").state_dict(), path)


def write_truncated(path: Path) -> None:
    write_good(path)
    path.write_bytes(path.read_bytes()[:-5000])


def write_truncated_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-500])


def write_module(path: Path) -> None:
    torch.save(Custom(), path)


def write_legacy_module(path: Path) -> None:
    torch.save(Custom(), path, _use_new_zipfile_serialization=False)


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("exploited",))


def write_exploit(path: Path) -> None:
    path.write_bytes(pickle.dumps(Exploit(), protocol=2))


def write_script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


@pytest.mark.parametrize(
    ("write", "code", "words"),
    [
        (lambda path: None, "E0310", "not there"),
        (lambda path: path.mkdir(), "E0310", "not a file"),
        (lambda path: path.write_bytes(b""), "E0310", "empty"),
        (lambda path: path.write_text("hello"), "E0311", "not a torch checkpoint"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "E0311", "damaged"),
        (lambda path: path.write_bytes(b"\x80\x02"), "E0311", "damaged"),
        (write_truncated, "E0311", "damaged"),
        (write_truncated_legacy, "E0311", "cut short"),
        (write_module, "E0312", "Custom"),
        (write_legacy_module, "E0312", "Custom"),
        (write_exploit, "E0312", "mkdir"),
        (write_script, "E0319", "resnet20"),  # its weights are read, and are those of another network
        (lambda path: torch.save(torch.zeros(3), path), "E0315", "tensor"),
        (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), "E0315", "epoch"),
    ],
)
def test_refused_files(
    write: Callable[[Path], None], code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "teacher.pt"
    write(path)
    error = refused(lambda: load_teacher(path, arch="resnet20", images=CIFAR))
    assert isinstance(error, TeacherError) and error.exit_code == 3
    assert error.code == code and words in error.what + error.why
    assert not (tmp_path / "exploited").exists()


def test_own_file_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "teacher.pt"
    for facts in ("{}", "[]", "nonsense", '{"arch": null, "nodes": [], "images": {}, "classes": []}'):
        torch.save({"format": "edgekd-teacher-1", "facts": facts, "state": {}}, path)
        assert refused(lambda: load_teacher(path)).exit_code == 3


def test_every_cut_of_a_checkpoint_is_a_clear_error(teacher_file: Path, tmp_path: Path) -> None:
    whole, path = teacher_file.read_bytes(), tmp_path / "cut.pt"
    for length in range(1, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        assert refused(lambda: load_teacher(path)).exit_code == 3


@pytest.mark.parametrize(
    ("arch", "code", "words"),
    [
        ("resnet32", "E0319", "layer1.3.conv1.weight"),  # the first tensor that is missing
        ("lenet5", "E0319", "conv1.weight is [16, 3, 3, 3] in the file and [6, 3, 5, 5] in lenet5"),
        ("resnet8", "E0319", "layer1.1.conv1.weight"),
        ("resnet21", "E0318", "resnet2"),
        ("torchvision:resnet81", "E0318", "torchvision:resnet18"),
    ],
)
def test_wrong_architecture_names_the_first_mismatch(arch: str, code: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write_good(path)
    error = refused(lambda: load_teacher(path, arch=arch, images=CIFAR))
    assert error.code == code and words in error.what + error.why


def test_state_dict_is_recognised_and_own_file_takes_no_arch(teacher_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write_good(path)
    assert load_teacher(path).architecture == "resnet20" and "assumed" in load_teacher(path).warnings[0]
    torch.save({"some.weight": torch.zeros(3, 5, 7, 7), "other.weight": torch.zeros(9, 4, 3, 3)}, tmp_path / "odd.pt")
    error = refused(lambda: load_teacher(tmp_path / "odd.pt"))
    assert error.exit_code == 3 and "--arch" in error.fix
    assert isinstance(refused(lambda: load_teacher(teacher_file, arch="resnet20")), UsageError)
    error = refused(lambda: load_teacher(path, arch="resnet20", images=CIFAR, classes=["cat", "dog"]))
    assert error.code == "E0319" and "linear" in error.why


def test_softmax_inside_the_users_own_code_becomes_logits(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.Softmax(dim=1))\n",
        encoding="utf-8",
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.Softmax(dim=1))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    teacher = load_teacher(tmp_path / "weights.pt", arch=f"{tmp_path}/model.py:build", size=(3, 4, 4))
    x = torch.randn(5, 3, 4, 4)
    with torch.no_grad():
        assert torch.allclose(teacher.model(x).softmax(dim=1), model(x), atol=1e-6)
        assert (teacher.model(x) < 0).all()
    assert any("your own code was run" in note for note in teacher.notes)
    assert any("logarithms" in note for note in teacher.notes)


def test_size_and_normalisation_are_taken_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write_good(path)
    teacher = load_teacher(path, mean=(0.5,), std=(0.25,))
    assert teacher.images == Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
    assert not any("assumed" in line for line in teacher.warnings)
    assert load_teacher(path, size=(3, 64, 64)).images.height == 64
    assert refused(lambda: load_teacher(path, mean=(0.5, 0.5), std=(0.5,))).code == "E0317"


def test_wrong_image_size_is_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(torchvision().models.get_model("squeezenet1_1", weights=None, num_classes=2).state_dict(), path)
    small = Images(3, 8, 8, (0.5,) * 3, (0.5,) * 3)
    error = refused(lambda: load_teacher(path, arch="torchvision:squeezenet1_1", images=small))
    assert error.code == "E0323" and "3x8x8" in error.what


def test_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(OSError):
        save_teacher(model, tmp_path / "t.pt", images=Images(1, 8, 8, (0.5,), (0.5,)), classes=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_saved_teacher_has_no_pickled_code(teacher_file: Path) -> None:
    assert torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(teacher_file.read_bytes())) == []
