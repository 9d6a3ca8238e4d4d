"""Students as networks: built from their spec, with first weights from a seed or from the teacher."""

from __future__ import annotations

import torch
from torch import nn

from edgekd.families import DEEP, LARGE, PUBLISHED, name_of, named
from edgekd.inherit import inherit
from edgekd.networks import LeNet, PlainNet, ResNet, WideResNet, mobilenet_v2, mobilenet_v3, tiny
from edgekd.pruning import pruned
from edgekd.types import StudentSpec, Teacher

__all__ = ["DEEP", "LARGE", "PUBLISHED", "build_student", "first_student", "name_of", "named"]


def first_student(spec: StudentSpec, teacher: Teacher, *, seed: int, inherits: bool = True) -> tuple[nn.Module, int]:
    """The student before it learns, and how many of its parameters are the teacher's.

    A pruned one is all the teacher's; others start from seed, with the teacher's layers where they fit. Without
    `inherits` every weight is drawn from seed, also those of the pruned network.
    """
    if spec.family == "pruned":
        student = pruned(teacher, share=spec.width / 100, align=spec.depth, prior=spec.channels_by)
        if not inherits:
            _draw_anew(student, seed)
        return student, sum(p.numel() for p in student.parameters()) * inherits
    student = build_student(spec, seed=seed)
    return student, inherit(student, teacher.model) if inherits else 0


def _draw_anew(student: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in student.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()


def build_student(spec: StudentSpec, *, seed: int | None = None) -> nn.Module:
    """The network of `spec` on the default device. seed: of its first weights; the global random state stays.

    Not for "pruned", which needs its teacher: first_student.
    """
    if seed is None:
        return _build(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(spec)


def _build(spec: StudentSpec) -> nn.Module:
    images, classes = spec.images, len(spec.classes)
    match spec.family:
        case "lenet":
            return LeNet(images, classes, width=spec.width)
        case "cnn":
            return PlainNet(images, classes, width=spec.width)
        case "wrn":
            return WideResNet(images, classes, depth=spec.depth, widen=spec.width)
        case "mobilenetv2":
            return mobilenet_v2(images, classes, width=spec.width / 100, depth=spec.depth / 100)
        case "mobilenetv3":
            return mobilenet_v3(images, classes, width=spec.width / 100, depth=spec.depth / 100)
        case "mcu":
            return tiny(images, classes, width=spec.width, depth=spec.depth)
    option = "A" if spec.family == "resnet-a" else "B"
    return ResNet(
        images,
        classes,
        depth=DEEP.get(spec.family, spec.depth),
        width=spec.width,
        large_stem=max(images.height, images.width) > LARGE and option == "B",
        option=option,
        bottleneck=spec.family == "bottleneck",
    )
