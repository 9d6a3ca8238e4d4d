"""Names and tensors as training code leaves them, made plain: prefixes, pruning masks, normalisation as a layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

PROFILING = re.compile(r"(^|\.)total_(ops|params)$")  # thop counts operations in buffers
MEAN = re.compile(r"(?P<owner>.*?)(?P<part>mean|mu|_mean|mean_value)$")
DEVIATION = {"mean": "std", "mu": "sigma", "_mean": "_std", "mean_value": "std_value"}
MASKED = ("weight_orig", "weight_mask")  # torch.nn.utils.prune
NORMED = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


@dataclass(frozen=True)
class Tidy:
    """Tensors under plain names, what the images are normalised by inside the network, and what was done."""

    tensors: Mapping[str, Tensor]
    mean: Tensor | None = None  # (C,)
    std: Tensor | None = None  # (C,)
    notes: tuple[str, ...] = field(default=())


class Normalised(nn.Module):
    """A network behind the normalisation that its file holds: images come in as pixel / 255."""

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1))
        self.register_buffer("std", std.float().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net((x - self.get_buffer("mean")) / self.get_buffer("std"))
        return y


def tidy(tensors: Mapping[str, Tensor]) -> Tidy:
    """Leaves what belongs to the network, under names without a prefix that all share."""
    notes: list[str] = []
    kept = {name: tensor for name, tensor in tensors.items() if not PROFILING.search(name)}
    kept = _folded(kept, notes)
    mean, std = None, None
    for name in list(kept):
        match = MEAN.fullmatch(name)
        other = match and match["owner"] + DEVIATION[match["part"]]
        if other and other in kept and kept[name].numel() == kept[other].numel() <= 4:
            mean, std = kept.pop(name).flatten(), kept.pop(other).flatten()
            notes.append(f"the network normalises its images itself ({name}, {other}): give it pixels / 255")
    while len(kept) > 1 and len({name.partition(".")[0] for name in kept}) == 1 and all("." in n for n in kept):
        if min(name.count(".") for name in kept) < 2:
            break
        kept = {name.partition(".")[2]: tensor for name, tensor in kept.items()}
    return Tidy(kept, mean, std, tuple(notes))


def _folded(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Weights that are stored in two parts, put together."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        pair = next((p for p in (MASKED, *NORMED) if name.endswith(p)), None)
        if pair is None:
            kept[name] = tensor
            continue
        owner = name.removesuffix(pair[0]).removesuffix(pair[1])
        one, other = tensors.get(owner + pair[0]), tensors.get(owner + pair[1])
        if one is None or other is None:
            kept[name] = tensor
        elif pair == MASKED:
            kept[f"{owner}weight"] = one * other
        else:
            norm = torch.linalg.vector_norm(other.flatten(1).float(), dim=1)
            kept[f"{owner}weight"] = other.float() * (one.float().flatten() / norm).view(-1, *[1] * (other.ndim - 1))
    if len(kept) != len(tensors):
        notes.append("weights stored in two parts (pruning masks, weight normalisation) were put together")
    return kept


def variants(tensors: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The tensors as they are, then without the prefix that most of them have (backbone., encoder., 0.)."""
    yield tensors
    prefix, count = Counter(name.partition(".")[0] for name in tensors).most_common(1)[0]
    shorter = {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}
    if count < len(tensors) and 2 * count > len(tensors) and len(shorter) == len(tensors):
        yield shorter
