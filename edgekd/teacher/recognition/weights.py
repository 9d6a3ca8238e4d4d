"""Weights into networks built without memory: every tensor by name and shape, or in order where names differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from edgekd.errors import TeacherError
from edgekd.teacher.recognition.layers import COUNTER, Weightless

Build = Callable[[], nn.Module]
CLASSIFIER = re.compile(r"(fc|classifier|heads?|linear|last_linear|output|out|logits)\b")
HEAD = re.compile(r"(fc|classifier|heads?|linear|last_linear|output|out|logits)\d*")
NORM = re.compile(r"bn|norm")
TAILS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def class_count(tensors: Mapping[str, Tensor]) -> int:
    """Rows of the classifier: of the last tensor that is named so, else of the last tensor."""
    rows = [(name, tensor) for name, tensor in tensors.items() if tensor.ndim and not name.endswith(COUNTER)]
    named = [tensor for name, tensor in rows if CLASSIFIER.match(name)]
    return int((named or [tensor for _, tensor in rows] or [torch.zeros(0)])[-1].shape[0])


def as_used(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file that keeps no order (safetensors), as a network would list them, told by their names.

    The stem before numbered blocks and the classifier last; numbers as numbers; convolution, then its BatchNorm.
    """

    def place(name: str) -> tuple[object, ...]:
        *owner, last = name.split(".")
        first = owner[0] if owner else ""
        numbers = [int(text) for text in re.findall(r"\d+", ".".join(owner))]
        norm = bool(NORM.search(owner[-1] if owner else ""))
        tail = TAILS.index(last) if last in TAILS else len(TAILS)
        return bool(HEAD.fullmatch(first)), len(owner) > 1, numbers, norm, first, tail

    return {name: tensors[name] for name in sorted(tensors, key=place)}


def mismatch(arch: str, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """The first tensor that does not fit, in words; empty where all do."""
    for name, tensor in wanted.items():
        if name not in tensors:
            if not name.endswith(COUNTER):
                return f"the file lacks {name}, which {arch} has with shape {list(tensor.shape)}"
        elif tensors[name].shape != tensor.shape:
            return f"{name} is {list(tensors[name].shape)} in the file and {list(tensor.shape)} in {arch}"
    for name in tensors:
        if name not in wanted:
            return f"the file has {name} {list(tensors[name].shape)}, which {arch} has not"
    return ""


def refused(arch: str, problem: str) -> TeacherError:
    """The error for weights that are not of the architecture that was named."""
    return TeacherError(
        f"the weights do not fit --arch {arch}",
        code="E0319",
        why=problem,
        fix="name the architecture they were made with",
    )


def in_order(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors under the names of a network whose shapes they have in the same order; None where they differ."""
    ours = [name for name in wanted if not name.endswith(COUNTER)]
    theirs = [tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)]
    if [wanted[name].shape for name in ours] != [tensor.shape for tensor in theirs]:
        return None
    return dict(zip(ours, theirs, strict=True))


def blank(build: Build) -> nn.Module:
    """The network without memory for its weights."""
    with Weightless():
        return build()


def loaded(build: Build, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network with these tensors in fp32, in eval mode. All must fit (`mismatch`); counters may be missing."""
    model = blank(build)
    wanted = model.state_dict()
    whole = {name: torch.tensor(0) for name in wanted if name.endswith(COUNTER)} | dict(tensors)
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
    model.load_state_dict(floats, assign=True)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):  # some that no file holds
        model = build()
        model.load_state_dict(floats)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()
