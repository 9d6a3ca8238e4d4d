"""torchvision's and timm's classifiers: found by their names and shapes in an index, built only when they may fit.

architectures.json, made by benchmarks/index_architectures.py, holds for every network of both libraries the hashes of
`signature`, the side of its images and what they are normalised by: to build all of them would take minutes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from edgekd.errors import EnvironmentLacking
from edgekd.teacher.preprocessing import NORMALISATIONS
from edgekd.vision import torchvision

Shape = tuple[int, ...]
INDEX = Path(__file__).with_name("architectures.json")
COUNTER = "num_batches_tracked"  # of BatchNorm; inference does not read it
AUXILIARY = re.compile(r"(^|\.)(aux\d?|AuxLogits|aux_logits|aux_head|auxiliary\w*|aux_classifier)\.")
HEAD = re.compile(r"(fc|classifier|heads?|linear|last_linear|head_dist|output)\.")


class Signature(NamedTuple):
    """Hashes of the tensors' names, of those outside the classifier, and of the shapes in their order."""

    names: str
    body: str
    shapes: str


class Entry(NamedTuple):
    """A network of the index."""

    arch: str  # "torchvision:resnet18", "timm:resnet26d"
    signature: Signature
    side: int  # pixels of its images
    normalisation: str | None  # of preprocessing.NORMALISATIONS; None: another one


def counted(name: str) -> bool:
    """Whether a tensor takes part in the comparison: counters and auxiliary heads do not."""
    return not name.endswith(COUNTER) and not AUXILIARY.search(name)


def signature(shapes: Mapping[str, Shape]) -> Signature:
    """Of a network's tensors, whatever its number of classes and of input channels."""
    kept = {name: shape for name, shape in shapes.items() if counted(name)}
    flat = [name for name, shape in kept.items() if len(shape) == 2]
    last = flat[-1].rpartition(".")[0] if flat else ""
    order: list[str] = []
    for name, shape in kept.items():
        if name.rpartition(".")[0] != last:  # the classifier has as many rows as there are classes
            order.append("x".join(map(str, shape if order else (shape[0], 0, *shape[2:]))) if shape else "-")
    return Signature(_hash(sorted(kept)), _hash(sorted(n for n in kept if not HEAD.match(n))), _hash(order))


def _hash(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


@cache
def entries() -> tuple[Entry, ...]:
    """The whole index: torchvision's networks first, then timm's, short names before long ones."""
    networks = json.loads(INDEX.read_text(encoding="utf-8"))["networks"]
    return tuple(
        Entry(arch, Signature(*hashes.split()), side, normalisation if normalisation in NORMALISATIONS else None)
        for arch, (hashes, side, normalisation) in networks.items()
    )


def known() -> Iterable[str]:
    """The names that `build` takes on this machine."""
    return (entry.arch for entry in entries() if entry.arch.startswith("torchvision:") or available("timm"))


def available(library: str) -> bool:
    """Whether a library is installed; torchvision always is."""
    return find_spec(library) is not None


def build(arch: str, classes: int, names: Iterable[str] = ()) -> nn.Module:
    """A network of torchvision or timm with random weights on the default device, in eval mode.

    names: of the file's tensors; auxiliary heads are built where it has them. Raises EnvironmentLacking where timm is
    not installed and ValueError for a name that the library does not know.
    """
    library, _, name = arch.partition(":")
    with torch.random.fork_rng(devices=[]):
        if library == "timm":
            return _timm().create_model(name, pretrained=False, num_classes=classes).eval()  # type: ignore[no-any-return]
        options: dict[str, Any] = {"num_classes": classes}
        models = torchvision().models
        builder = models.get_model_builder(name)
        source = inspect.getsource(inspect.unwrap(builder))
        if "aux_logits" in source:
            options |= {"aux_logits": any(AUXILIARY.search(n) for n in names), "init_weights": False}
        network: nn.Module = models.get_model(name, weights=None, **options)
        return network.eval()


def _timm() -> Any:
    torchvision()  # timm imports it, and it must be made importable first
    try:
        import timm
    except ImportError as error:
        raise EnvironmentLacking(
            "this network is one of timm's, and timm is not installed",
            code="E0407",
            fix='pip install "edgekd[timm]"',
        ) from error
    return timm


def listed(library: str) -> list[str]:
    """The classifiers that an installed library offers."""
    if library == "timm":
        return sorted(_timm().list_models())
    models = torchvision().models
    return sorted(models.list_models(module=models))
