"""Operators in the order in which they run, fused into layers as a runtime fuses them.

One set of rules for modules and for graphs, so that both give the same layers: BatchNorm, activations and constants go
into the layer that made their input, a residual sum into the later of the layers that it adds up, reshapes cost
nothing. What is left is a launch each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from math import prod

from edgekd.types import Layer

WEIGHTED = ("conv", "pointwise", "depthwise", "grouped", "linear", "matmul")  # operators with multiply-adds

Shape = tuple[int, ...]


@dataclass
class Fusion:
    """Takes operators one by one; `layers` are what they became so far.

    Tensors are told apart by any hashable key. Only those that depend on the network's input are known here: whatever
    else an operator takes is a constant.
    """

    layers: list[Layer] = field(default_factory=list)
    made_by: dict[Hashable, int] = field(default_factory=dict)  # tensor -> index of the layer that made it; -1: input
    sizes: dict[Hashable, int] = field(default_factory=dict)  # tensor -> numbers in it
    batch: int = 1  # images that the network was given

    def begin(self, key: Hashable, shape: Shape) -> None:
        """The network's input."""
        self.batch = shape[0]
        self._made(key, shape, -1)

    def knows(self, key: Hashable) -> bool:
        return key in self.made_by

    def view(self, of: Hashable, key: Hashable, shape: Shape) -> None:
        """The same numbers in another shape."""
        self._made(key, shape, self.made_by[of])

    def weighted(
        self, source: Hashable, key: Hashable, shape: Shape, weight: Shape, *, name: str, groups: int, bias: bool
    ) -> None:
        """A convolution (weight: out, in / groups, ...), or a matrix product where weight has two numbers (in, out)."""
        if len(weight) == 2:
            inputs, outputs, kernel, operator = weight[0], weight[1], 1, "linear"
            macs = prod(shape) // self.batch * inputs  # tokens may have been folded into the first dimension
        else:
            inputs, outputs, kernel = weight[1] * groups, weight[0], prod(weight[2:])
            macs = prod(shape[1:]) * weight[1] * kernel
            operator = _convolution(inputs, outputs, groups, kernel)
        self._launch(
            [source],
            [(key, shape)],
            Layer(
                name=name,
                operator=operator,
                output=tuple(shape[1:]),
                parameters=prod(weight) + (outputs if bias else 0),
                macs=macs,
                weights=prod(weight),
                inputs=inputs,
                outputs=outputs,
                groups=groups,
                kernel=kernel,
            ),
        )

    def product(self, sources: Sequence[Hashable], key: Hashable, shape: Shape, macs: int) -> None:
        """A matrix product of two activations."""
        layer = Layer(name="", operator="matmul", output=tuple(shape[1:]), parameters=0, macs=macs)
        self._launch(sources, [(key, shape)], layer)

    def launch(self, operator: str, sources: Sequence[Hashable], made: Sequence[tuple[Hashable, Shape]]) -> None:
        """A layer without weights: "pool", "concat", "copy", "elementwise" or "other"."""
        output = tuple(made[0][1][1:])
        self._launch(sources, made, Layer(name="", operator=operator, output=output, parameters=0, macs=0))

    def elementwise(self, sources: Sequence[Hashable], key: Hashable, shape: Shape) -> None:
        """Each number of the output from one of each source: activations, BatchNorm, sums, products."""
        makers = {self.made_by[source] for source in sources}
        last = max(makers)
        same = all(self.sizes[source] == prod(shape) for source in sources)  # else one is spread over the others
        if last >= 0 and same and (len(makers) == 1 or self.layers[last].operator in WEIGHTED):
            layer = self.layers[last]
            others = sum(self.sizes[source] for source in sources if self.made_by[source] != last)
            self.layers[last] = dataclasses.replace(layer, read_elements=layer.read_elements + others)
            self._made(key, shape, last)
        else:
            self.launch("elementwise", sources, [(key, shape)])

    def _launch(self, sources: Sequence[Hashable], made: Sequence[tuple[Hashable, Shape]], layer: Layer) -> None:
        read = sum(self.sizes[source] for source in dict.fromkeys(sources))
        written = sum(prod(shape) for _, shape in made)
        self.layers.append(dataclasses.replace(layer, read_elements=read, written_elements=written))
        for key, shape in made:
            self._made(key, shape, len(self.layers) - 1)

    def _made(self, key: Hashable, shape: Shape, by: int) -> None:
        self.made_by[key], self.sizes[key] = by, prod(shape)


def _convolution(inputs: int, outputs: int, groups: int, kernel: int) -> str:
    if groups == 1:
        return "pointwise" if kernel == 1 else "conv"
    return "depthwise" if groups == inputs and outputs % groups == 0 else "grouped"
