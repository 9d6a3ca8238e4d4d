"""The most numbers that are alive at one time while a network runs: what its activations need of a device's memory.

A tensor is alive from the layer that makes it to the last one that reads it, so a skip connection counts for as long
as it is waited for. Layers are the fused ones of edgekd/latency; a layer of one number in, one number out, that is the
last to read its input, writes in its place, as all runtimes have it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from edgekd.latency.costs import _cost
from edgekd.latency.fusion import Fusion, Shape
from edgekd.latency.tracing import _Trace
from edgekd.types import Cost, Images, Layer

INPUT = -1  # in place of a layer's index: the image


@dataclass
class Readers(Fusion):
    """A fusion that keeps which layers' results each layer reads."""

    reads: list[set[int]] = field(default_factory=list)  # of each layer

    def _launch(self, sources: Sequence[Hashable], made: Sequence[tuple[Hashable, Shape]], layer: Layer) -> None:
        self.reads.append({self.made_by[source] for source in sources})
        super()._launch(sources, made, layer)

    def elementwise(self, sources: Sequence[Hashable], key: Hashable, shape: Shape) -> None:
        before = len(self.layers)
        super().elementwise(sources, key, shape)
        if len(self.layers) == before:  # it went into the layer that made its last source
            into = self.made_by[key]
            self.reads[into] |= {self.made_by[source] for source in sources} - {into}


def cost_and_peak(model: nn.Module, images: Images) -> tuple[Cost, int]:
    """(what one image costs, numbers alive at the worst moment), by running `model` once on zeros; meta will do.

    The cost is that of edgekd.latency.cost, but for the names of its layers, which stay empty.
    """
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    device = tensors[0].device if tensors else torch.device("cpu")
    x = torch.zeros(1, images.channels, images.height, images.width, device=device)
    mode = _Trace({})
    mode.fusion = readers = Readers()
    readers.begin(mode.key(x), tuple(x.shape))
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad(), mode:
            model(x * 1.0 + 0.0)
    finally:
        for module in training:
            module.training = True
    of = _cost(readers.layers, sum(t.numel() for t in tensors))
    return of, most_alive(readers.layers, readers.reads, x.numel())


def most_alive(layers: Sequence[Layer], reads: Sequence[set[int]], image: int) -> int:
    """Numbers alive at the worst moment. reads: indexes of the layers that each reads, INPUT for the image."""
    last = {index: index for index in range(INPUT, len(layers))}  # who reads it last; a result that nobody reads: none
    for index, sources in enumerate(reads):
        for source in sources:
            last[source] = index
    last[len(layers) - 1] = len(layers)  # the logits
    sizes = {INPUT: image} | {index: layer.written_elements for index, layer in enumerate(layers)}
    alive, worst = {INPUT}, image
    for index, layer in enumerate(layers):
        ends = {source for source in alive if last[source] <= index}
        in_place = layer.operator == "elementwise" and any(sizes[s] == sizes[index] for s in ends & reads[index])
        worst = max(worst, sum(sizes[source] for source in alive) + (0 if in_place else sizes[index]))
        alive = (alive - ends) | {index}
    return worst
