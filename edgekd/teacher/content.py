"""What a file holds, before anybody knows which network it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from edgekd.types import Images


@dataclass(frozen=True)
class Content:
    """Tensors and plain values of a file, read without running any code of its author."""

    format: str  # "edgekd", "checkpoint", "safetensors", "torchscript", "torch.export", "onnx"
    tensors: Mapping[str, Tensor]  # by name, on the CPU, types as stored; wrappers and prefixes taken off
    nodes: list[Any] | None = None  # the graph as Program has it, where the file carries one
    size: tuple[int, int, int] | None = None  # channels, height, width that the graph was made for
    images: Images | None = None  # what the network is fed, where the file says it
    classes: tuple[str, ...] | None = None  # names in the order of the logits, where the file says them
    arch: str | None = None  # the architecture's name, where the file says it
    values: Mapping[str, Any] = field(default_factory=dict)  # numbers, strings, lists beside the weights
    notes: tuple[str, ...] = ()  # what was assumed or left out on the way, a sentence each
