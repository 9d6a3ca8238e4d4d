"""Students: the families, the largest that fits a device, and how one is built. Choosing is pure."""

from __future__ import annotations

import re

import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.inherit import inherit, pruned
from edgekd.latency import cost, memory_mb, model_mb, predict
from edgekd.networks import LeNet, PlainNet, ResNet, WideResNet
from edgekd.types import Cost, Images, Profile, Sizing, StudentSpec, Teacher

LARGE = 64  # pixels: above it a ResNet starts with the 7x7 stem of ImageNet
SHARE = 0.5  # a student has at most this share of the teacher's parameters and MACs; a larger one wins too little

WIDTHS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
DEPTHS = (1, 2, 3, 4, 5)
FAMILIES = ("resnet", "cnn", "lenet")
TINY = 16  # pixels: up to it a plain network is worth more per parameter than a ResNet (benchmarks/NOTES.md)
EXACT = re.compile(r"(resnet):(\d{1,2})x(\d{1,4})|(lenet|cnn):(\d{1,4})")  # one student of a family
PRUNED = re.compile(r"pruned:(0?\.\d{1,2})")  # the share of the teacher's MACs
PUBLISHED = {f"resnet{6 * n + 2}": n for n in range(1, 19)}  # CIFAR's, with shortcuts that have no parameters
DEEP = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks per stage
WIDE = re.compile(r"wrn(10|16|22|28|34|40)-(\d{1,2})")  # WRN-DEPTH-WIDEN


def first_student(spec: StudentSpec, teacher: Teacher, *, seed: int) -> tuple[nn.Module, int]:
    """The student before it learns, and how many of its parameters are the teacher's.

    A pruned one is all the teacher's; others start from seed, with the teacher's layers where they fit.
    """
    if spec.family == "pruned":
        student = pruned(teacher, share=spec.width / 100)
        return student, sum(p.numel() for p in student.parameters())
    student = build_student(spec, seed=seed)
    return student, inherit(student, teacher.model)


def build_student(spec: StudentSpec, *, seed: int | None = None) -> nn.Module:
    """The network of `spec` on the default device. seed: of its first weights; the global random state stays."""
    if seed is None:
        return _build(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(spec)


def _build(spec: StudentSpec) -> nn.Module:
    if spec.family in ("lenet", "cnn"):
        return (LeNet if spec.family == "lenet" else PlainNet)(spec.images, len(spec.classes), width=spec.width)
    if spec.family == "wrn":
        return WideResNet(spec.images, len(spec.classes), depth=spec.depth, widen=spec.width)
    option = "A" if spec.family == "resnet-a" else "B"
    large = max(spec.images.height, spec.images.width) > LARGE and option == "B"
    depth = DEEP.get(spec.family, spec.depth)
    return ResNet(spec.images, len(spec.classes), depth=depth, width=spec.width, large_stem=large, option=option)


def named(name: str, images: Images, classes: tuple[str, ...]) -> StudentSpec | None:
    """The one student that a name stands for; None for other names.

    "resnet:1x16", "cnn:8", "lenet:3" (of a family), "resnet8" ... "resnet110", "resnet18", "resnet34", "wrn16-1"
    (published ones), "pruned:0.5" (of this teacher).
    """
    if name in DEEP:
        return StudentSpec(name, 2, 64, images, classes)
    if match := WIDE.fullmatch(name):
        return StudentSpec("wrn", int(match[1]), max(1, int(match[2])), images, classes)
    if name in PUBLISHED:
        return StudentSpec("resnet-a", PUBLISHED[name], 16, images, classes)
    if match := PRUNED.fullmatch(name):
        return StudentSpec("pruned", 1, max(1, round(100 * float(match[1]))), images, classes)
    match = EXACT.fullmatch(name)
    if not match or not min(int(match[2] or 1), int(match[3] or match[5])):
        return None
    return StudentSpec(match[1] or match[4], int(match[2] or 1), int(match[3] or match[5]), images, classes)


def name_of(spec: StudentSpec) -> str:
    """The name that `named` reads."""
    if spec.family == "resnet-a":
        return f"resnet{6 * spec.depth + 2}"
    if spec.family in DEEP:
        return spec.family
    if spec.family == "wrn":
        return f"wrn{spec.depth}-{spec.width}"
    if spec.family == "pruned":
        return f"pruned:{spec.width / 100:.2f}"
    return f"resnet:{spec.depth}x{spec.width}" if spec.family == "resnet" else f"{spec.family}:{spec.width}"


def candidates(family: str, images: Images, classes: tuple[str, ...]) -> list[tuple[StudentSpec, Cost]]:
    """All students of a family with their costs, the smallest first. An exact one ("lenet:3") is alone."""
    exact = named(family, images, classes)
    if exact:
        specs = [exact]
    elif family == "lenet":
        fits = min(images.height, images.width) >= 16
        specs = [StudentSpec("lenet", 1, width, images, classes) for width in (*range(1, 13), 16, 24) if fits]
    elif family == "cnn":
        specs = [StudentSpec("cnn", 1, width, images, classes) for width in WIDTHS]
    else:
        specs = [StudentSpec("resnet", depth, width, images, classes) for depth in DEPTHS for width in WIDTHS]
    counted = []
    for spec in specs:
        with torch.device("meta"):
            counted.append((spec, cost(build_student(spec), images)))
    return sorted(counted, key=lambda pair: (pair[1].macs, pair[1].parameters, pair[0].depth))


def broken(of: Cost, teacher: Cost, profile: Profile, *, share: float = SHARE) -> list[str]:
    """Which limits a network breaks, each as a short sentence; empty when it fits.

    A limit on latency holds when the upper end of the predicted interval of the fastest precision meets it. share: of
    the teacher's parameters and MACs.
    """
    fastest = min(profile.precisions, key=lambda p: predict(of, profile, p).latency_ms)
    figures = (
        ("latency", predict(of, profile, fastest).high_ms, profile.limits.latency_ms, "ms"),
        ("graph size", model_mb(of, fastest), profile.limits.model_mb, "MB"),
        ("memory", memory_mb(of, profile), profile.limits.memory_mb, "MB"),
        ("parameters", of.parameters / 1e6, share * teacher.parameters / 1e6, f"M ({share:.0%} of the teacher's)"),
        ("MACs", of.macs / 1e6, share * teacher.macs / 1e6, f"M ({share:.0%} of the teacher's)"),
    )
    return [
        f"{name} {value:.3g} over {limit:.3g} {unit}" for name, value, limit, unit in figures if limit and value > limit
    ]


def size_student(teacher: Teacher, profile: Profile, *, family: str = "auto") -> Sizing:
    """The student with the most MACs that keeps every limit of `profile` and has at most half of the teacher's size.

    family: one of FAMILIES, one student ("resnet:DEPTHxWIDTH", "resnet8", "cnn:8", "lenet:3") or "auto": a plain
    network for images up to 16 pixels, else a ResNet, or a LeNet where no ResNet is small enough. Raises UsageError for
    another name and, with the limits that bind, when nothing fits.
    """
    if family not in (*FAMILIES, "auto") and not named(family, teacher.images, teacher.classes):
        raise UsageError(
            f"--student {family} is not one",
            code="E0212",
            fix=f"auto, {', '.join(FAMILIES)}, or one: resnet:1x16, resnet8, cnn:8, lenet:3, pruned:0.5",
        )
    of_teacher = cost(teacher.model, teacher.images)
    share = 1.0 if named(family, teacher.images, teacher.classes) else SHARE  # who names a student wants that one
    looked_at: list[tuple[StudentSpec, Cost]] = []
    small = max(teacher.images.height, teacher.images.width) <= TINY
    for name in (("cnn",) if small else ("resnet", "lenet")) if family == "auto" else (family,):
        if (spec := named(name, teacher.images, teacher.classes)) and spec.family == "pruned":
            listed = [(spec, cost(pruned(teacher, share=spec.width / 100), teacher.images))]
        else:
            listed = candidates(name, teacher.images, teacher.classes)
        looked_at += listed
        chosen = None
        for index, (_, of) in enumerate(listed):
            if not broken(of, of_teacher, profile, share=share):
                chosen = index
        if chosen is not None:
            spec, of = listed[chosen]
            larger = listed[chosen + 1 :]
            return Sizing(
                spec=spec,
                student=of,
                teacher=of_teacher,
                predicted={p: predict(of, profile, p) for p in profile.precisions},
                teacher_predicted={p: predict(of_teacher, profile, p) for p in profile.precisions},
                candidates=len(looked_at),
                bound_by="; ".join(broken(larger[0][1], of_teacher, profile, share=share))
                if larger
                else "the family's largest",
            )
    if not looked_at:
        images = teacher.images
        why = f"family {family} does not take images of {images.height}x{images.width}"
    else:
        spec, of = min(looked_at, key=lambda pair: pair[1].macs)
        limits = "; ".join(broken(of, of_teacher, profile, share=share))
        why = f"the smallest, {spec.family} of width {spec.width}: {limits}"
    raise UsageError(
        f"no student of {family if family != 'auto' else 'any family'} fits {profile.name}",
        code="E0210",
        why=why,
        fix="allow more (--latency 5ms), or choose another --profile",
    )
