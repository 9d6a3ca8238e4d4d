"""Checkpoint to Teacher. Nothing that a user hands in is ever unpickled beyond tensors and plain values."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import TeacherError, UsageError
from edgekd.files import from_dict, nearest, plain, sha256, written
from edgekd.networks import LeNet
from edgekd.program import Program, capture
from edgekd.student import PUBLISHED, build_student, named
from edgekd.types import Images, Teacher
from edgekd.vision import torchvision

FORMAT = "edgekd-teacher-1"
CONVERT = 'save only the weights in your project:  torch.save(model.state_dict(), "teacher_sd.pt")'


def save_teacher(
    model: nn.Module, path: str | Path, *, images: Images, classes: Sequence[str], arch: str | None = None
) -> None:
    """Writes a self-contained teacher file: graph (or architecture's name), weights, input facts and class names.

    images: what the model is fed; classes: names in the order of its logits. With `arch` the file names the
    architecture (as `--arch` does) instead of carrying the graph. The file holds tensors and JSON, no pickled code.
    Raises TeacherError where the model cannot be captured or its output does not fit `classes`.
    """
    model = model.eval()
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    example = torch.zeros(2, images.channels, images.height, images.width, device=device)
    _check_output(model, example, len(classes))
    if arch is None:
        nodes, tensors = capture(model, example)
    else:
        nodes, tensors = [], dict(model.state_dict())
        _fitting(arch, tensors, images, len(classes))
    facts = {"arch": arch, "nodes": nodes, "images": plain(images), "classes": list(classes)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written(Path(path)) as temporary:
        torch.save({"format": FORMAT, "facts": json.dumps(facts), "state": state}, temporary)


def load_teacher(
    path: str | Path,
    *,
    arch: str | None = None,
    images: Images | None = None,
    size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: Sequence[str] | None = None,
) -> Teacher:
    """Reads a teacher: a file of save_teacher, or a state_dict with `arch` and `images` saying what it belongs to.

    Raises TeacherError: unreadable or unsafe file, unknown architecture, weights that do not fit it.
    """
    path = Path(path)
    if size and mean and std:
        images = Images(*size, mean, std)
    content = _read(path)
    if content.get("format") == FORMAT:
        if arch or images or classes:
            raise UsageError(
                f"{path} says itself what it is; --arch, --input, --mean, --std and --classes are for bare weights",
                code="E0201",
                fix="leave those options out",
            )
        model, images, classes, name = _own(path, content)
    else:
        if arch is None or images is None:
            raise TeacherError(
                f"{path} holds weights and does not say of which network",
                code="E0313",
                why="a state_dict has names and shapes only",
                fix="add e.g.  --arch resnet20 --input 3x32x32 --mean .485,.456,.406 --std .229,.224,.225",
            )
        state = _state_dict(path, content)
        count = len(classes) if classes else _class_count(state)
        model, name = _fitting(arch, state, images, count), arch
        classes = classes or [str(k) for k in range(count)]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    _check_output(model, torch.zeros(2, images.channels, images.height, images.width), len(classes))
    return Teacher(model=model, images=images, classes=tuple(classes), sha256=sha256(path), architecture=name)


def _read(path: Path) -> dict[str, Any]:
    """The checkpoint's content, tensors and plain values only."""
    if not path.is_file():
        raise TeacherError(f"{path} is not there" if not path.exists() else f"{path} is not a file", code="E0310")
    with open(path, "rb") as handle:
        head = handle.read(4)
    if not head:
        raise TeacherError(f"{path} is empty", code="E0310", fix="copy the checkpoint again")
    if head != b"PK\x03\x04" and head[:1] != b"\x80":
        raise TeacherError(
            f"{path} is not a torch checkpoint",
            code="E0311",
            why=f"it starts with {head!r}; checkpoints are zip archives or pickles",
            fix=CONVERT,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of old formats; errors still come as exceptions
            content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # torch.load raises RuntimeError, EOFError, ValueError and more for damaged files
        if "TorchScript" in str(error):
            raise TeacherError(f"{path} is a TorchScript archive", code="E0314", fix=CONVERT) from error
        raise TeacherError(
            f"{path} is damaged or cut short",
            code="E0311",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="copy the checkpoint again and compare its size",
        ) from error
    if not isinstance(content, dict):
        raise TeacherError(f"{path} holds {_kind(content)}, not a dictionary of weights", code="E0315", fix=CONVERT)
    return content


def _refused(path: Path, error: pickle.UnpicklingError) -> TeacherError:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # legacy files have no list: the message of torch.load names the first one
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if not names:
        return TeacherError(
            f"{path} is damaged or is not a checkpoint",
            code="E0311",
            why=str(error).strip().splitlines()[0],
            fix=CONVERT,
        )
    return TeacherError(
        f"{path} holds a pickled object that may run code: {names[0]}",
        code="E0312",
        why=f"torch.load(weights_only=True) refused: {', '.join(names[:6])}",
        fix=CONVERT,
    )


def _own(path: Path, content: dict[str, Any]) -> tuple[nn.Module, Images, list[str], str]:
    try:
        facts = json.loads(content["facts"])
        arch, nodes, classes, state = facts["arch"], facts["nodes"], facts["classes"], content["state"]
        images = from_dict(Images, facts["images"], where=str(path), error=TeacherError)
        if not all(isinstance(c, str) for c in classes) or not all(isinstance(t, Tensor) for t in state.values()):
            raise TypeError("class names or weights of another type")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TeacherError(f"{path} is not a whole teacher file", code="E0316", why=f"{error!r}") from error
    check_images(images, where=str(path))
    if arch is not None:
        return _fitting(arch, state, images, len(classes)), images, classes, arch
    return Program(nodes, state), images, classes, "program"


def check_images(images: Images, *, where: str) -> None:
    """Raises TeacherError unless sizes are positive and mean and std have one sensible number per channel."""
    if min(images.channels, images.height, images.width) < 1:
        raise TeacherError(f"{where}: an image of {images.channels}x{images.height}x{images.width}", code="E0317")
    if len(images.mean) != images.channels or len(images.std) != images.channels or min(images.std) <= 0:
        raise TeacherError(
            f"{where}: mean and std need {images.channels} numbers each, std above zero",
            code="E0317",
            why=f"found mean {list(images.mean)}, std {list(images.std)}",
        )


def _state_dict(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by name, without the wrapper 'state_dict' and the prefix 'module.' of DataParallel."""
    inner = content.get("state_dict", content)
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(t, Tensor) for t in inner.values()):
        raise TeacherError(
            f"{path} holds no dictionary of tensors",
            code="E0315",
            why=f"its keys are: {', '.join(map(str, list(content)[:8]))}",
            fix=CONVERT,
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in inner.items()}


def _class_count(state: Mapping[str, Tensor]) -> int:
    last = list(state.values())[-1]  # the classifier's bias, or its weight
    return last.shape[0] if last.ndim else 0


def _build(arch: str, images: Images, classes: int) -> nn.Module:
    if arch in ("lenet5", "lenet5half"):
        return LeNet(images, classes, width=6 if arch == "lenet5" else 3)
    known = ["lenet5", "lenet5half", *PUBLISHED]
    if student := named(arch.removeprefix("edgekd:"), images, tuple(map(str, range(classes)))):
        return build_student(student)
    if arch.startswith("torchvision:"):
        models = torchvision().models
        listed = models.list_models(module=models)
        if arch.removeprefix("torchvision:") in listed:
            built: nn.Module = models.get_model(arch.removeprefix("torchvision:"), weights=None, num_classes=classes)
            return built
        known = [f"torchvision:{name}" for name in listed]
    raise TeacherError(
        f"unknown architecture {arch!r}.{nearest(arch, known)}",
        code="E0318",
        why="known: resnet8 ... resnet110 (CIFAR), resnet18, resnet34, wrn40-2, lenet5, lenet5half, torchvision:NAME",
        fix="name one of these, or write the file with edgekd.save_teacher in your project",
    )


def _fitting(arch: str, state: Mapping[str, Tensor], images: Images, classes: int) -> nn.Module:
    """The named network with these weights. Raises TeacherError naming the first tensor that does not fit."""
    with torch.device("meta"):
        model = _build(arch, images, classes)
    wanted = model.state_dict()
    counters = {n: torch.tensor(0) for n in wanted if n.endswith("num_batches_tracked")}
    state = counters | dict(state)  # files older than torch 0.4.1 lack them, and inference does not read them
    for name, tensor in wanted.items():
        if name not in state:
            problem = f"the file lacks {name}, which {arch} has with shape {list(tensor.shape)}"
        elif state[name].shape != tensor.shape:
            problem = f"{name} is {list(state[name].shape)} in the file and {list(tensor.shape)} in {arch}"
        else:
            continue
        raise _mismatch(arch, problem)
    for name in state:
        if name not in wanted:
            raise _mismatch(arch, f"the file has {name} {list(state[name].shape)}, which {arch} has not")
    floats = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    model.load_state_dict(floats, assign=True)
    return model


def _mismatch(arch: str, problem: str) -> TeacherError:
    return TeacherError(
        f"the weights do not fit --arch {arch}",
        code="E0319",
        why=problem,
        fix="name the architecture they were made with",
    )


def _check_output(model: nn.Module, example: Tensor, classes: int) -> None:
    try:
        with torch.no_grad():
            logits = model(example)
    except TeacherError:
        raise
    except Exception as error:  # whatever a network raises on an image size that it was not made for
        raise TeacherError(
            f"the teacher cannot take images of {'x'.join(map(str, example.shape[1:]))}",
            code="E0323",
            why=str(error).strip().splitlines()[0],
            fix="correct --input (channels x height x width)",
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (len(example), classes):
        raise TeacherError(
            f"the teacher must give logits of shape (N, {classes}), one per class",
            code="E0324",
            why=f"it gave {_kind(logits)} for a batch of {len(example)}",
        )


def _kind(value: Any) -> str:
    return f"a tensor of {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
