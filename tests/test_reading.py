"""Benign files: whatever training code left is read, and its tensors come back exactly."""

from __future__ import annotations

import argparse
import copy
import io
import json
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekd import Images, save_teacher
from edgekd.errors import TeacherError
from edgekd.networks import LeNet, ResNet
from edgekd.teacher.content import Content
from edgekd.teacher.reading.files import read
from edgekd.vision import torchvision

CIFAR = Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
State = dict[str, Tensor]


def lenet() -> nn.Module:
    return LeNet(Images(1, 32, 32, (0.1,), (0.3,)), 4, width=2)


def resnet() -> nn.Module:
    return ResNet(CIFAR, 4, depth=1, width=4, large_stem=False)


def squeezenet() -> nn.Module:
    made: nn.Module = torchvision().models.squeezenet1_1(weights=None, num_classes=2)
    return made


NETWORKS: dict[str, Callable[[], nn.Module]] = {"lenet": lenet, "resnet": resnet, "squeezenet": squeezenet}


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    torch.manual_seed(0)
    return {name: make().state_dict() for name, make in NETWORKS.items()}


def equal(content: Content, state: Mapping[str, Tensor]) -> None:
    """Names in their order, types, shapes and every number."""
    assert list(content.tensors) == list(state)
    for name, tensor in state.items():
        read_back = content.tensors[name]
        assert read_back.dtype == tensor.dtype and read_back.shape == tensor.shape, name
        assert read_back.device.type == "cpu" and not read_back.requires_grad
        assert torch.equal(read_back.reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8))


def zipped(value: Any, path: Path) -> None:
    torch.save(value, path)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def without_checksums(value: Any, path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    torch.save(value, path)
    torch.serialization.set_crc32_options(True)


def repacked(value: Any, path: Path) -> None:
    """As if somebody had unpacked the archive, renamed its folder and packed it again, compressed."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr("my model/" + name.split("/", 1)[1], old.read(name))


CONTAINERS = {"zip": zipped, "legacy": legacy, "nocrc": without_checksums, "repacked": repacked}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("network", "dtype"),
    [(name, torch.float32) for name in NETWORKS]
    + [("resnet", dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)],
)
def test_state_dict(states: dict[str, State], network: str, container: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in states[network].items()}
    CONTAINERS[container](state, tmp_path / "weights")
    content = read(tmp_path / "weights")
    equal(content, state)
    assert content.format == "checkpoint" and content.notes == () and content.nodes is None


def optimizer() -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(3))
    made = torch.optim.Adam([parameter])
    parameter.sum().backward()
    made.step()
    return made.state_dict()


def slices(state: State) -> State:
    flat = torch.cat([torch.zeros(5), *(t.float().flatten() for t in state.values())])
    made, offset = {}, 5
    for name, tensor in state.items():
        if tensor.is_floating_point():
            made[name] = flat[offset : offset + tensor.numel()].view(tensor.shape)
        else:
            made[name] = tensor
        offset += tensor.numel()
    return made


def nested(state: State) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, tensor in state.items():
        *modules, last = name.split(".")
        level = tree
        for module in modules:
            level = level.setdefault(module, {})
        level[last] = tensor
    return tree


WRAPPED: dict[str, tuple[Callable[[State], Any], dict[str, Any]]] = {
    **{
        name: (lambda state, name=name: {name: state}, {})  # type: ignore[misc]
        for name in (
            *("state_dict", "model", "net", "network", "model_state_dict", "net_state_dict", "model_state", "params"),
            *("weights", "teacher", "ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema", "own"),
        )
    },
    "imagenet example": (
        lambda s: {"epoch": 90, "arch": "resnet18", "state_dict": s, "best_acc1": torch.tensor(69.7),
                   "optimizer": optimizer()},
        {"epoch": 90, "arch": "resnet18", "best_acc1": pytest.approx(69.7)},
    ),
    "namespace": (
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, mean=[0.5], inner=argparse.Namespace(depth=3))},
        {"args": {"lr": 0.1, "mean": [0.5], "inner": {"depth": 3}}},
    ),
    "numpy scalars": (
        lambda s: {"net": s, "acc": np.float64(91.5), "loss": np.float32(0.25), "epoch": np.int64(7),
                   "ok": np.bool_(True)},
        {"acc": 91.5, "loss": 0.25, "epoch": 7, "ok": True},
    ),
    "arrays, paths and dictionaries": (
        lambda s: {"net": s, "mean": np.array([0.5, 0.25]), "table": np.arange(6, dtype=np.int32).reshape(2, 3).T,
                   "args": argparse.Namespace(out=Path("runs") / "one"), "history": defaultdict(list, loss=[1.5, 0.5])},
        {"mean": [0.5, 0.25], "table": [[0, 3], [1, 4], [2, 5]], "args": {"out": "runs/one"},
         "history": {"loss": [1.5, 0.5]}},
    ),
    "lightning": (
        lambda s: {
            "epoch": 3, "global_step": 99, "pytorch-lightning_version": "2.4.0",
            "state_dict": {**{f"model.{n}": t for n, t in s.items()}, "criterion.weight": torch.ones(4),
                           "train_acc.tp": torch.zeros(20, dtype=torch.long)},
            "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {}, "optimizer_states": [optimizer()],
            "lr_schedulers": [], "hparams_name": "kwargs", "hyper_parameters": {"lr": 0.1, "num_classes": 4},
        },
        {"pytorch-lightning_version": "2.4.0", "hyper_parameters": {"lr": 0.1, "num_classes": 4}},
    ),
    "averaged model": (
        lambda s: {"n_averaged": torch.tensor(5), **{f"module.{n}": t for n, t in s.items()}}, {"n_averaged": 5}
    ),
    "normalisation around it": (
        lambda s: {"mean": torch.tensor([0.5, 0.25]), "std": torch.ones(2), **{f"model.{n}": t for n, t in s.items()}},
        {"mean": [0.5, 0.25], "std": [1.0, 1.0]},
    ),
    "plain beside ema": (lambda s: {"ema": {n: t + 1 for n, t in s.items()}, "model": s, "epoch": 1}, {"epoch": 1}),
    "nested wrappers": (lambda s: {"checkpoint": {"state_dict": {"model": s}}, "step": 4}, {"step": 4}),
    "list of one": (lambda s: [s], {}),
    "list in a wrapper": (lambda s: {"model": [s], "name": "a"}, {"name": "a"}),
    "teacher and student": (lambda s: {"student": {"x": torch.ones(3)}, "teacher": s, "epoch": 2}, {"epoch": 2}),
    "parameters": (lambda s: {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in s.items()}, {}),
    "ordered, with metadata": (OrderedDict, {}),
    "non-contiguous": (lambda s: {n: t.T.contiguous().T if t.ndim == 2 else t for n, t in s.items()}, {}),
    "slices of one storage": (slices, {}),
    "modules as dictionaries": (nested, {}),
    "operation counters": (lambda s: {**s, "conv1.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}, {}),
    "compiled inside": (lambda s: {n.replace("layer1.", "layer1._orig_mod."): t for n, t in s.items()}, {}),
    **{
        f"prefix {prefix}": (lambda s, prefix=prefix: {"state_dict": {prefix + n: t for n, t in s.items()}}, {})  # type: ignore[misc]
        for prefix in (
            *("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "module.model.", "model._orig_mod."),
            *("_orig_mod.module.", "module.module.", "network.", "teacher.", "_fsdp_wrapped_module."),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrapper", "container"), [(w, "legacy" if index % 3 == 0 else "zip") for index, w in enumerate(WRAPPED)]
)
def test_wrappers_and_prefixes(states: dict[str, State], wrapper: str, container: str, tmp_path: Path) -> None:
    state = states["resnet"]
    wrap, values = WRAPPED[wrapper]
    CONTAINERS[container](wrap(dict(state)), tmp_path / "weights")
    content = read(tmp_path / "weights")
    equal(content, state)
    for key, value in values.items():
        assert content.values[key] == value
    json.dumps(dict(content.values))  # plain all the way down


def test_notes_say_what_was_done(states: dict[str, State], tmp_path: Path) -> None:
    def notes(wrapper: str) -> str:
        torch.save(WRAPPED[wrapper][0](dict(states["resnet"])), tmp_path / "weights")
        return "; ".join(read(tmp_path / "weights").notes)

    assert "EMA" in notes("plain beside ema") and "'ema'" in notes("plain beside ema")
    assert "taken from state_dict" in notes("imagenet example") and "left out: optimizer" in notes("imagenet example")
    assert "criterion.weight" in notes("lightning") and "model." in notes("lightning")
    assert "module. model." in notes("prefix module.model.")
    assert "student" in notes("teacher and student")
    assert "joined" in notes("modules as dictionaries")


def test_prefix_that_only_some_weights_have_stays(tmp_path: Path) -> None:
    for state in (
        {"backbone.0.weight": torch.ones(2, 2), "head.weight": torch.ones(2, 2)},
        {"features.0.weight": torch.ones(2, 2), "features.1.weight": torch.ones(2, 2)},
        {"module.weight": torch.ones(2), "fc.weight": torch.ones(3)},
    ):
        torch.save(state, tmp_path / "weights")
        content = read(tmp_path / "weights")
        equal(content, state)
        assert content.notes == ()


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    torch.save({"a.weight": weight, "b.weight": weight, "c.weight": weight.T}, tmp_path / "weights")
    content = read(tmp_path / "weights")
    assert content.tensors["a.weight"] is content.tensors["b.weight"]
    assert torch.equal(content.tensors["c.weight"], weight.T)


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_tensors_saved_on_a_gpu(container: str, tmp_path: Path) -> None:
    """No GPU is needed to make one: the pickle names the device as text, of the same length as another."""
    CONTAINERS[container]({"a.weight": torch.arange(6.0)}, tmp_path / "weights")
    if container == "legacy":
        data = (tmp_path / "weights").read_bytes()
        (tmp_path / "weights").write_bytes(data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1"))
    else:
        with zipfile.ZipFile(tmp_path / "weights") as old, zipfile.ZipFile(tmp_path / "gpu", "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1"))
        (tmp_path / "gpu").rename(tmp_path / "weights")
    equal(read(tmp_path / "weights"), {"a.weight": torch.arange(6.0)})


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors(states: dict[str, State], network: str, prefix: str, tmp_path: Path) -> None:
    state = states[network]
    save_file({prefix + n: t for n, t in state.items()}, tmp_path / "x.bin", metadata={"format": "pt", "arch": network})
    content = read(tmp_path / "x.bin")
    assert content.format == "safetensors" and content.values["arch"] == network
    equal(content, {name: state[name] for name in content.tensors})  # the format sorts by type and name
    assert set(content.tensors) == set(state)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]
)
def test_safetensors_types(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"w": torch.arange(6).reshape(2, 3).to(dtype)}
    save_file(state, tmp_path / "x")
    equal(read(tmp_path / "x"), state)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("network", "scripted"), [("lenet", False), ("resnet", False), ("squeezenet", True)])
def test_torchscript(network: str, scripted: bool, tmp_path: Path) -> None:
    model: Any = NETWORKS[network]().eval()
    example = torch.zeros(1, next(model.parameters()).shape[1], 32, 32)
    script = torch.jit.script(model) if scripted else torch.jit.trace(model, example, check_trace=False)
    torch.jit.save(script, tmp_path / "script")
    content = read(tmp_path / "script")
    state = model.state_dict()
    assert content.format == "torchscript" and set(content.tensors) == set(state)
    equal(content, {name: state[name] for name in content.tensors})
    assert "was not run" in content.notes[0]


def test_torchscript_of_torch_1_0(tmp_path: Path) -> None:
    """model.json as torch 1.0 to 1.3 wrote it (ModelDef in torch/csrc/jit/torch.proto, as JSON)."""
    weight, count = torch.randn(3, 2), torch.tensor([5])
    model = {
        "protoVersion": "2",
        "producerName": "pytorch",
        "mainModule": {
            "torchscriptArena": {"key": "code/net.py"},
            "submodules": [
                {
                    "parameters": [
                        {"isBuffer": False, "tensorId": "0", "name": "weight"},
                        {"isBuffer": True, "tensorId": "1", "name": "count"},
                    ],
                    "name": "fc",
                    "optimize": True,
                }
            ],
            "name": "net",
            "optimize": True,
        },
        "tensors": [
            {"dims": ["3", "2"], "offset": "0", "strides": ["2", "1"], "requiresGrad": True, "dataType": "FLOAT",
             "data": {"key": "tensors/0"}, "device": "cpu"},
            {"dims": ["1"], "offset": "0", "strides": ["1"], "requiresGrad": False, "dataType": "INT64",
             "data": {"key": "tensors/1"}, "device": "cpu"},
        ],
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "old", "w") as archive:
        archive.writestr("net/version", "1\n")
        archive.writestr("net/code/net.py", "op_version_set = 0\n")
        archive.writestr("net/model.json", json.dumps(model))
        archive.writestr("net/tensors/0", weight.numpy().tobytes())
        archive.writestr("net/tensors/1", count.numpy().tobytes())
    content = read(tmp_path / "old")
    assert content.format == "torchscript"
    equal(content, {"fc.weight": weight, "fc.count": count})


@pytest.mark.parametrize("arch", [None, "torchvision:squeezenet1_1"])
def test_own_file(arch: str | None, tmp_path: Path) -> None:
    images = Images(3, 64, 64, (0.5,) * 3, (0.25,) * 3)
    model = squeezenet().eval()
    save_teacher(model, tmp_path / "t.pt", images=images, classes=["cat", "dog"], arch=arch)
    content = read(tmp_path / "t.pt")
    assert content.format == "edgekd" and content.images == images and content.classes == ("cat", "dog")
    assert content.arch == arch and content.size == (3, 64, 64) and (content.nodes is None) == (arch is not None)
    for name, tensor in model.state_dict().items():
        assert torch.equal(content.tensors[name], tensor)


def test_link_to_a_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    equal(read(tmp_path / "b"), {"w": torch.ones(2)})


def sparse() -> Any:
    return {"w": torch.eye(3).to_sparse()}


def quantised() -> Any:
    return {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (sparse, "E0334", "sparse"),
        (quantised, "E0334", "quantised"),
        (lambda: {"w": torch.ones(3, device="meta")}, "E0334", "meta"),
        (lambda: {"w": torch.ones(1).expand(10**7)}, "E0335", "declares"),
        (lambda: torch.ones(3), "E0315", "tensor of [3]"),
        (lambda: {"epoch": 3}, "E0315", "epoch"),
        (lambda: [1, 2], "E0315", "list"),
        (lambda: {}, "E0315", "no dictionary"),
        (lambda: {"optimizer": {"state": {0: torch.ones(3)}}}, "E0315", "optimizer"),
        (lambda: {"format": "edgekd-teacher-1", "facts": "{}", "state": {}}, "E0316", "whole"),
    ],
)
def test_what_is_no_set_of_weights(value: Callable[[], Any], code: str, words: str, tmp_path: Path) -> None:
    torch.save(value(), tmp_path / "weights")
    with pytest.raises(TeacherError) as caught:
        read(tmp_path / "weights")
    error = caught.value
    assert error.code == code and words in error.what + error.why and error.exit_code == 3 and error.fix


def test_what_other_libraries_allow_does_not_count(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "list": copy.copy(nn.ReLU())}, tmp_path / "weights")
    torch.serialization.add_safe_globals([nn.ReLU])
    try:
        with pytest.raises(TeacherError, match="ReLU"):
            read(tmp_path / "weights")
    finally:
        torch.serialization.clear_safe_globals()


def test_refusal_says_how_to_convert(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(TeacherError) as caught:
        read(tmp_path / "model.pt")
    assert caught.value.code == "E0312" and "torch.nn.modules" in caught.value.what
    assert "state_dict()" in caught.value.fix and "save_teacher" in caught.value.fix
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"w": torch.ones(2)}))
    with pytest.raises(TeacherError, match="_load_from_bytes"):
        read(tmp_path / "plain.pkl")


def test_newer_pickle_protocol_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt", pickle_protocol=4)
    with pytest.raises(TeacherError, match="protocol 4") as caught:
        read(tmp_path / "weights.pt")
    assert caught.value.code == "E0336" and "without pickle_protocol" in caught.value.fix
