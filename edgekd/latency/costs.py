"""Cost: the fused layers of a network and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from edgekd.latency.fusion import WEIGHTED
from edgekd.latency.graph import read_graph
from edgekd.latency.tracing import traced
from edgekd.types import Cost, Images, Layer


def cost(model: nn.Module, images: Images) -> Cost:
    """Counts what one image costs `model` once deployed, by running it on zeros where its weights lie (meta will do).

    The normalisation that every deployed graph begins with is the first of its layers. BatchNorm counts as parameters
    of the network; in its layers it is folded into the convolution before it, as when the graph is written.
    """
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    return _cost(traced(model, images), sum(t.numel() for t in tensors))


def cost_of_graph(path: Path) -> Cost:
    """Counts what one image costs an ONNX graph. The same layers as `cost` gives for the module it was written from.

    Its parameters are the graph's constants: BatchNorm is folded. Raises InputError for what is no ONNX graph or has
    shapes that are not known.
    """
    return _cost(*read_graph(path))


def layers(model: nn.Module, images: Images) -> list[Layer]:
    """The layers with weights in the order in which they run, each with what one image costs it."""
    return [layer for layer in traced(model, images) if layer.operator in WEIGHTED]


def _cost(ops: Sequence[Layer], parameters: int) -> Cost:
    weighted = [layer for layer in ops if layer.operator in WEIGHTED]
    return Cost(
        parameters=parameters,
        macs=sum(layer.macs for layer in weighted),
        layers=len(weighted),
        traffic_elements=sum(layer.read_elements + layer.written_elements + layer.weights for layer in ops),
        peak_elements=max((layer.read_elements + layer.written_elements for layer in ops), default=0),
        ops=tuple(ops),
    )
