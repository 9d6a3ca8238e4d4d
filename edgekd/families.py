"""The families of students: what their names mean, and the members that a search looks at."""

from __future__ import annotations

import re

from edgekd.types import Images, StudentSpec

LARGE = 64  # pixels: above it a ResNet starts with the 7x7 stem of ImageNet
SMALL_LENET = 16  # pixels: below it a LeNet has nothing left to look at

WIDTHS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
DEPTHS = (1, 2, 3, 4, 5)
LENET_WIDTHS = (*range(1, 13), 16, 24)
MOBILE_WIDTHS = (20, 35, 50, 75, 100, 140)  # percent
MOBILE_DEPTHS = (50, 100)  # percent
MCU_WIDTHS = (4, 6, 8, 12, 16, 20, 24)
MCU_DEPTHS = (1, 2, 3)
MCU_ACTIVATIONS, MCU_WEIGHTS = 256_000, 1_000_000  # bytes in int8: what a microcontroller of the middle class has
WIDE_NETS = ((10, 1), (16, 1), (22, 1), (28, 1), (40, 1), (10, 2), (16, 2), (22, 2), (28, 2), (40, 2))
FAMILIES = ("resnet", "bottleneck", "wrn", "mobilenetv2", "mobilenetv3", "mcu", "cnn", "lenet", "pruned")

GRID = re.compile(r"(resnet|bottleneck|mcu):(\d{1,2})x(\d{1,4})")  # DEPTHxWIDTH
SCALED = re.compile(r"(mobilenetv2|mobilenetv3):(?:(\d?\.?\d{1,2})x)?(\d?\.?\d{1,2})")  # [DEPTHx]WIDTH, shares
NARROW = re.compile(r"(lenet|cnn):(\d{1,4})")  # WIDTH
PRUNED = re.compile(r"pruned:(0?\.\d{1,2})(?:@(\d{1,2}))?")  # share of the teacher's MACs[@channels' multiple]
PUBLISHED = {f"resnet{6 * n + 2}": n for n in range(1, 19)}  # CIFAR's, with shortcuts that have no parameters
DEEP = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # blocks per stage
WIDE = re.compile(r"wrn(10|16|22|28|34|40)-(\d{1,2})")  # WRN-DEPTH-WIDEN


def named(name: str, images: Images, classes: tuple[str, ...]) -> StudentSpec | None:
    """The one student that a name stands for; None for other names.

    "resnet:1x16", "bottleneck:2x16", "mcu:2x8" (blocks per stage x channels), "mobilenetv2:0.35",
    "mobilenetv3:0.5x0.35" (share of the published blocks x of the channels), "cnn:8", "lenet:3" (channels), "resnet8"
    ... "resnet110", "resnet18", "resnet34", "wrn16-1" (published ones), "pruned:0.5" (share of this teacher's MACs),
    "pruned:0.5@8" (all widths multiples of 8).
    """
    if name in DEEP:
        return StudentSpec(name, 2, 64, images, classes)
    if name in PUBLISHED:
        return StudentSpec("resnet-a", PUBLISHED[name], 16, images, classes)
    if match := WIDE.fullmatch(name):
        family, depth, width = "wrn", int(match[1]), int(match[2])
    elif match := PRUNED.fullmatch(name):
        family, depth, width = "pruned", int(match[2] or 1), round(100 * float(match[1]))
    elif match := GRID.fullmatch(name):
        family, depth, width = match[1], int(match[2]), int(match[3])
    elif match := SCALED.fullmatch(name):
        family, depth, width = match[1], round(100 * float(match[2] or 1)), round(100 * float(match[3]))
    elif match := NARROW.fullmatch(name):
        family, depth, width = match[1], 1, int(match[2])
    else:
        return None
    return StudentSpec(family, depth, width, images, classes) if depth and width else None


def name_of(spec: StudentSpec) -> str:
    """The name that `named` reads."""
    match spec.family:
        case "resnet-a":
            return f"resnet{6 * spec.depth + 2}"
        case "wrn":
            return f"wrn{spec.depth}-{spec.width}"
        case "pruned":
            return f"pruned:{spec.width / 100:.2f}" + (f"@{spec.depth}" if spec.depth > 1 else "")
        case "resnet" | "bottleneck" | "mcu":
            return f"{spec.family}:{spec.depth}x{spec.width}"
        case "mobilenetv2" | "mobilenetv3":
            depth = "" if spec.depth == 100 else f"{spec.depth / 100:g}x"
            return f"{spec.family}:{depth}{spec.width / 100:g}"
    return spec.family if spec.family in DEEP else f"{spec.family}:{spec.width}"


def members(family: str, images: Images, classes: tuple[str, ...]) -> list[list[StudentSpec]]:
    """The students of a family in rows, each row the same network growing wider. None where images do not suit it.

    A pruned teacher's depend on the teacher: they are not listed here.
    """
    side = max(images.height, images.width)

    def rows(depths: tuple[int, ...], widths: tuple[int, ...]) -> list[list[StudentSpec]]:
        return [[StudentSpec(family, depth, width, images, classes) for width in widths] for depth in depths]

    match family:
        case "resnet":
            return rows(DEPTHS, WIDTHS)
        case "bottleneck":
            return rows((1, 2), WIDTHS[4:]) if side > LARGE else []
        case "wrn":
            return [[StudentSpec("wrn", *net, images, classes)] for net in WIDE_NETS] if side <= LARGE else []
        case "mobilenetv2" | "mobilenetv3":
            return rows(MOBILE_DEPTHS, MOBILE_WIDTHS)
        case "mcu":
            return rows(MCU_DEPTHS, MCU_WIDTHS)
        case "cnn":
            return rows((1,), WIDTHS)
        case "lenet":
            return rows((1,), LENET_WIDTHS) if min(images.height, images.width) >= SMALL_LENET else []
    return []
