"""edgekd's own networks, by name or by the names and shapes of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from edgekd.networks import LeNet
from edgekd.student import PUBLISHED as CIFAR_RESNETS
from edgekd.student import build_student, named
from edgekd.types import Images

LENETS = {"lenet5": 6, "lenet5half": 3}  # channels of the first convolution
KNOWN = (*LENETS, *CIFAR_RESNETS, "resnet18", "resnet34", "wrn16-1", "wrn28-10", "wrn40-2", "wrn40-1", "wrn16-2")


def build(arch: str, images: Images, classes: int) -> nn.Module | None:
    """The network of that name on the default device; None for a name that is not edgekd's."""
    if arch in LENETS:
        return LeNet(images, classes, width=LENETS[arch])
    spec = named(arch.removeprefix("edgekd:"), images, tuple(map(str, range(classes))))
    return build_student(spec) if spec and spec.family != "pruned" else None


def likely(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """The names of edgekd's networks that a file may be of; the shapes are still to be compared."""
    names = " ".join(tensors)
    depth = [len(set(re.findall(rf"(?<!\w)layer{stage}\.(\d+)\.conv1\.weight", names))) for stage in range(1, 5)]
    first = next(iter(tensors.values()))
    width = first.shape[0] if first.ndim else 0
    if "layer1.0.conv1.weight" in tensors and "linear.weight" in tensors:
        if depth[3] == 0:
            yield f"resnet{6 * depth[0] + 2}"
        yield {2: "resnet18", 3: "resnet34"}.get(depth[0], "resnet18")
        yield f"resnet:{depth[0]}x{width}"
    elif "block1.layer.0.conv1.weight" in tensors:
        blocks = len(set(re.findall(r"block1\.layer\.(\d+)\.conv1\.weight", names)))
        widest = tensors["block1.layer.0.conv1.weight"].shape[0]
        yield f"wrn{6 * blocks + 4}-{widest // 16}"
    elif "convs.0.weight" in tensors:
        yield f"cnn:{width}"
    elif "conv3.weight" in tensors and "fc2.weight" in tensors:
        yield from ("lenet5", "lenet5half", f"lenet:{width}")


def usual_normalisation(arch: str) -> str | None:
    """What the published checkpoints of that name are normalised by; None where there is no custom."""
    return "imagenet" if arch in CIFAR_RESNETS else None


def side(arch: str, tensors: Mapping[str, Tensor]) -> int:
    """The usual side of the images of one of edgekd's networks, in pixels."""
    if "convs.0.weight" in tensors:  # a PlainNet halves its images down to four pixels
        count = sum(bool(re.fullmatch(r"convs\.\d+\.weight", name)) for name in tensors)
        return 4 * 2 ** (count - 2) if count < 7 else 224
    first = tensors["conv1.weight"] if "conv1.weight" in tensors else next(iter(tensors.values()))
    return 224 if first.ndim == 4 and first.shape[2] == 7 else 32
