"""Graphs that were exported for a fixed number of images, made to serve any.

Exporters bake the batch into sizes: view(x, [1, 512]). The graph is followed on the meta device, for the batch it was
made for and for a larger one; where a size has to grow with the batch it is left open. What was found is then held
against the graph as it was; where that fails, the graph runs part by part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.program import Program, operator_named, real_value

GROWTH = 7  # the larger batch is so many times the fixed one: a prime that is no usual size
LARGEST = 1 << 25  # elements of one value for one image: 64 maps of 724x724
MOST_IMAGES = 1024  # of a fixed batch
MOST_CLASSES = 1 << 17  # ImageNet-21k has 21,841
TRIES = 20_000  # nodes run before the search is given up
TOLERANCE = 1e-4  # of the largest output
META = torch.device("meta")
VIEWS = frozenset({"view", "reshape", "_unsafe_view"})
SIZED = {"expand": 1, "repeat": 1, "full": 0, "zeros": 0, "ones": 0, "new_zeros": 1, "new_ones": 1}  # where they stand
SHAPES_ONLY = frozenset({"sym_size", "new_zeros", "new_ones"})  # they do not look at the values


class _DeadEnd(Exception):
    """A choice that cannot be right."""


def free(
    nodes: list[Any], tensors: Mapping[str, Tensor], size: tuple[int, int, int], batch: int
) -> tuple[list[Any], str | None]:
    """The nodes for any batch, and a sentence if they had to be changed.

    size: (C, H, W) and batch: what the graph was made for. Raises TeacherError E0327 for a graph that does not run.
    """
    known = shapes(nodes, tensors, (batch, *size))
    if _free_already(nodes, tensors, size, batch, known):
        return nodes, None
    try:
        opened = _Search(nodes, tensors, size, batch, known).run()
        if _same(nodes, opened, tensors, size, batch):
            return opened, f"the graph was exported for a batch of {batch}; the batch was left open"
    except _DeadEnd:
        pass  # the caller is told below that it runs in parts
    parted = [["part", batch], *nodes]
    return parted, f"the graph is bound to a batch of {batch} and runs in parts of so many images, which takes longer"


def shapes(nodes: list[Any], tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, Any]:
    """Every value on the meta device: nothing is computed, so that no size costs memory."""
    if not (0 < shape[0] <= MOST_IMAGES * GROWTH and 0 < math.prod(shape[1:]) <= LARGEST):
        what = f"the teacher's graph wants a batch of {list(shape)}"
        raise TeacherError(what, code="E0327", fix="export the network again with one image")
    values: dict[str, Any] = {}
    for node in nodes:
        try:
            _step(node, values, tensors, shape)
        except TeacherError:
            raise
        except Exception as error:  # whatever an operator raises on arguments that do not fit
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TeacherError(
                f"the teacher's graph does not run on images of {'x'.join(map(str, shape[1:]))}",
                code="E0327",
                why=f"at {node[1]} ({node[2] if node[0] == 'call' else node[0]}): {line}",
                fix="export the network again, in eval mode",
            ) from error
    return values


def _step(node: list[Any], values: dict[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    if node[0] == "tensor":
        values[node[1]] = torch.empty_like(tensors[node[2]], device=META)
    elif node[0] == "input":
        values[node[1]] = torch.empty(shape, device=META)
    elif node[0] == "call":
        args = [real_value(a, values, META) for a in node[3]]
        kwargs = {k: real_value(v, values, META) for k, v in node[4].items()}
        result = operator_named(node[2])(*args, **kwargs)
        for tensor in _tensors(result):
            if tensor.numel() > LARGEST * shape[0]:
                raise ValueError(f"a value of {list(tensor.shape)}")
        values[node[1]] = result
    elif math.prod(values[node[1]].shape[1:]) > MOST_CLASSES:
        raise ValueError(f"an output of {list(values[node[1]].shape)}")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def _free_already(
    nodes: list[Any], tensors: Mapping[str, Tensor], size: tuple[int, int, int], batch: int, known: dict[str, Any]
) -> bool:
    output = next(node[1] for node in nodes if node[0] == "output")
    try:
        larger = shapes(nodes, tensors, (batch * GROWTH, *size))[output]
    except TeacherError:
        return False
    grown = larger.shape == (known[output].shape[0] * GROWTH, *known[output].shape[1:])
    return grown and _same(nodes, nodes, tensors, size, batch)


def _same(
    nodes: list[Any], opened: list[Any], tensors: Mapping[str, Tensor], size: tuple[int, int, int], batch: int
) -> bool:
    """Whether the opened graph gives for a batch what the first gives, and for two images what it gives for each."""
    images = torch.randn(max(batch, 2), *size, generator=torch.Generator().manual_seed(0))
    first, second = Program(nodes, tensors), Program(opened, tensors)
    with torch.no_grad():
        try:
            made_for = second(images[:batch])
            one = made_for if batch == 1 else second(images[:1])
            pairs = [(torch.cat([one, second(images[1:2])]), second(images[:2]))]
            if nodes is not opened:
                pairs.append((first(images[:batch]), made_for))
        except RuntimeError:
            return False
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=TOLERANCE * max(a.abs().max().item(), 1e-6))
        for a, b in pairs
    )


class _Search:
    """Depth first through the choices of which size grows; an operator that fails or two sizes that grow end a path."""

    def __init__(
        self,
        nodes: list[Any],
        tensors: Mapping[str, Tensor],
        size: tuple[int, int, int],
        batch: int,
        small: dict[str, Any],
    ) -> None:
        self.nodes, self.tensors, self.batch, self.small = nodes, tensors, batch, small
        self.shape, self.tries = (batch * GROWTH, *size), 0
        self.input = next(node[1] for node in nodes if node[0] == "input")
        self.count = "batch of " + self.input  # the name of the value that holds the batch's size
        self.output = next(node[1] for node in nodes if node[0] == "output")
        self.derived = _derived(nodes)

    def run(self) -> list[Any]:
        """The opened nodes. Raises _DeadEnd where there are none."""
        stack: list[tuple[int, dict[str, Any], list[Any], Iterator[list[Any]]]] = []
        index, values, opened = 0, dict[str, Any](), list[Any]()
        while index < len(self.nodes):
            choices = self._choices(self.nodes[index], values)
            stack.append((index, values, opened, choices))
            while stack:
                at, before, done, left = stack[-1]
                chosen = next(left, None)
                if chosen is None:
                    stack.pop()
                elif (after := self._advance(self.nodes[at], chosen, before)) is not None:
                    index, values, opened = at + 1, after, [*done, *chosen]
                    break
            else:
                raise _DeadEnd
            if _single(self.nodes[index - 1]):
                stack.pop()  # no other choice is left there: its values need not be kept
        return opened

    def _advance(self, node: list[Any], chosen: list[Any], before: dict[str, Any]) -> dict[str, Any] | None:
        """The values after the chosen nodes, or None where they cannot be right."""
        self.tries += 1
        if self.tries > TRIES:
            raise _DeadEnd
        values = before if _single(node) else dict(before)
        try:
            for part in chosen:
                _step(part, values, self.tensors, self.shape)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
            return None  # shapes that do not go together: this way of opening the node is wrong, the next one is tried
        if node[0] == "output":
            first, grown = self.small[node[1]].shape, values[node[1]].shape
            return values if tuple(grown) == (first[0] * GROWTH, *first[1:]) else None
        if node[1] not in self.derived:
            return values
        pairs = zip(_tensors(self.small[node[1]]), _tensors(values[node[1]]), strict=True)
        return values if all(_grown(a, b) is not None for a, b in pairs) else None

    def _choices(self, node: list[Any], values: dict[str, Any]) -> Iterator[list[Any]]:
        packet = node[2].split(".")[1] if node[0] == "call" else ""
        if node[0] == "input":
            yield [node, ["call", self.count, "aten.sym_size.int", [{"node": node[1]}, 0], {}]]
        elif packet in VIEWS and node[1] in self.derived and _whole(node[3][1]):
            source = node[3][0]["node"]
            for position in _positions(self.small[source], values[source], self.small[node[1]].shape, self.batch):
                sizes: list[Any] = list(self.small[node[1]].shape)
                sizes[position] = -1
                # not view: with one image more of the dimensions lie in a row
                yield [["call", node[1], "aten.reshape.default", [node[3][0], sizes], {}]]
            yield [node]
        elif packet in SIZED and len(node[3]) > SIZED[packet] and _whole(node[3][SIZED[packet]]):
            yield from self._sized(node, packet, values)
        elif packet == "cat":
            yield self._joined(node, values)
        else:
            yield [node]

    def _sized(self, node: list[Any], packet: str, values: dict[str, Any]) -> Iterator[list[Any]]:
        """expand, full and the like: each size that equals the batch may be it, the first one most likely."""
        at = SIZED[packet]
        sizes = node[3][at]
        if packet == "expand" and node[1] in self.derived:
            source = node[3][0]["node"]
            grown = _grown(self.small[source], values[source])
            position = None if grown is None else grown + len(sizes) - self.small[source].ndim
            yield [_with(node, at, [-1 if k == position else s for k, s in enumerate(sizes)])]
        elif node[1] not in self.derived:
            for k, size in enumerate(sizes):
                if size == self.batch:
                    yield [_with(node, at, [*sizes[:k], {"node": self.count}, *sizes[k + 1 :]])]
        yield [node]

    def _joined(self, node: list[Any], values: dict[str, Any]) -> list[Any]:
        """cat: a constant that stands for every image (a class token) is repeated for the batch."""
        parts = [p["node"] for p in node[3][0] if isinstance(p, dict) and "node" in p]
        grown = [_grown(self.small[p], values[p]) for p in parts if p in self.derived]
        position = next((g for g in grown if g is not None), None)
        if position is None:
            return [node]
        chosen, names = list[Any](), list[Any]()
        for part in parts:
            names.append({"node": part})
            if part not in self.derived and values[part].shape[position] == self.batch:
                sizes: list[Any] = [-1] * values[part].ndim
                sizes[position] = {"node": self.count}
                one = ["call", f"{part} once", "aten.narrow.default", [{"node": part}, position, 0, 1], {}]
                every = ["call", f"{part} for {node[1]}", "aten.expand.default", [{"node": one[1]}, sizes], {}]
                chosen += [one, every]
                names[-1] = {"node": every[1]}
        return [*chosen, [*node[:3], [names, *node[3][1:]], node[4]]]


def _single(node: list[Any]) -> bool:
    """Whether a node leaves no choice: then its values may be written over those before."""
    return node[0] != "call" or node[2].split(".")[1] not in VIEWS | SIZED.keys()


def _with(node: list[Any], at: int, value: Any) -> list[Any]:
    return [*node[:3], [*node[3][:at], value, *node[3][at + 1 :]], node[4]]


def _whole(sizes: Any) -> bool:
    return isinstance(sizes, list) and all(isinstance(s, int) for s in sizes)


def _grown(small: Tensor, large: Tensor) -> int | None:
    """The only dimension that grew with the batch; None where there is another number of them."""
    if small.ndim != large.ndim:
        return None
    found = [k for k, (a, b) in enumerate(zip(small.shape, large.shape, strict=True)) if a != b]
    return found[0] if len(found) == 1 and small.shape[found[0]] * GROWTH == large.shape[found[0]] else None


def _positions(small: Tensor, large: Tensor, target: torch.Size, batch: int) -> list[int]:
    """Where in the target's shape the batch can be, the likely places first: a view keeps the order in memory."""
    at = _grown(small, large)
    if at is None or not math.prod(target):
        return []
    inner, merged = math.prod(small.shape[at + 1 :]), small.shape[at] // batch
    found: list[tuple[bool, bool, int]] = []
    for position, size in enumerate(target):
        after = math.prod(target[position + 1 :])
        steps = {k * inner for k in {1, merged} if k and merged % k == 0}
        if any(step % after == 0 and (size * after) % (step * batch) == 0 for step in steps):
            outer = any(step * batch == size * after for step in steps)
            found.append((size != batch, not outer, position))
    return [position for *_, position in sorted(found)]


def _derived(nodes: list[Any]) -> set[str]:
    """Names of the values that come from the image."""
    found: set[str] = set()
    for node in nodes:
        if node[0] == "input" or (
            node[0] == "call"
            and node[2].split(".")[1] not in SHAPES_ONLY
            and _mentions([node[3], list(node[4].values())], found)
        ):
            found.add(node[1])
    return found


def _mentions(value: Any, names: set[str]) -> bool:
    if isinstance(value, list):
        return any(_mentions(v, names) for v in value)
    return isinstance(value, dict) and value.get("node") in names
