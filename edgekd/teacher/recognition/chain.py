"""Plain chains of convolutions, BatchNorms and linear layers, rebuilt from shapes and from the gaps in their numbers.

What neither tells is in a Wiring, and can be named on the command line:

    --arch "chain:size=1x28x28;padding=same;stride=3:2;pool=2,4;activation=relu;bare=5;end=flatten"

size: channels x height x width. padding: "same", "valid", or one number for each convolution ("2,0"). stride: the
convolutions (counted from 1) that do not step by 1, with their steps. pool: the convolutions after which a 2x2 max pool
follows; "2:avg" for an average, "2:max3/2" for a window of 3 and steps of 2, "2:max3/2/1" with a padding of 1; "none".
activation: a name of ACTIVATIONS. bare: layers (counted from 1, convolutions before linear ones) that have none behind
them; the last one never has. end: "flatten", or "mean" for the average of each map. What is left out is searched for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.files import nearest
from edgekd.teacher.recognition.layers import Conv, Layer, Network, Unfit, is_shortcut

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "none": lambda x: x,
}


GROUPS = 2  # of a convolution in a chain, unless it is depthwise


class Pool(NamedTuple):
    """A pool after the convolution of that number, counted from 1."""

    after: int
    kind: str = "max"  # or "avg"
    window: int = 2
    step: int = 2
    padding: int = 0


class Step(NamedTuple):
    """A convolution or linear layer, the BatchNorm that goes with it, and the places left free behind it."""

    layer: Layer
    norm: Layer | None
    early: bool  # the activation comes before the BatchNorm
    room: int | None  # modules without weights until the next layer, flattening not counted; None: unknown


@dataclass(frozen=True)
class Wiring:
    """What the shapes of a chain do not tell."""

    size: tuple[int, int, int]  # channels, height, width
    padding: tuple[int, ...]  # of each convolution
    strides: tuple[int, ...]  # of each convolution
    pools: tuple[Pool, ...] = ()
    bare: tuple[int, ...] = ()  # layers without an activation behind them, counted from 1
    activation: str = "relu"
    end: str = "flatten"

    def __str__(self) -> str:
        strides = [f"{n}:{step}" for n, step in enumerate(self.strides, start=1) if step != 1]
        words = [f"size={'x'.join(map(str, self.size))}"]
        if self.padding:
            words.append(f"padding={','.join(map(str, self.padding))}")
            words.append(f"pool={','.join(map(_pool_word, self.pools)) or 'none'}")
        words += [f"stride={','.join(strides)}"] if strides else []
        words += [f"bare={','.join(map(str, self.bare))}"] if self.bare else []
        words.append(f"activation={self.activation}")
        words += [f"end={self.end}"] if self.padding else []
        return "chain:" + ";".join(words)


def _pool_word(pool: Pool) -> str:
    if pool[1:] == Pool(0)[1:]:
        return str(pool.after)
    tail = f"/{pool.padding}" if pool.padding else ""
    return f"{pool.after}:{pool.kind}{pool.window}/{pool.step}{tail}"


def steps(given: Sequence[Layer]) -> tuple[Step, ...]:
    """The chain's layers in order, each with its BatchNorm. Raises Unfit where channels do not follow each other."""
    found: list[Step] = []
    for place, layer in enumerate(given):
        if layer.kind == "norm":
            last = found[-1] if found else None
            if last is None or last.norm is not None or last.layer.out != layer.out:
                raise Unfit(f"{layer.name} follows no layer of {layer.out} channels")
            found[-1] = Step(last.layer, layer, bool(_between(last.layer, layer)), None)
        else:
            found.append(Step(layer, None, False, None))
        following = given[place + 1] if place + 1 < len(given) else None
        if following is not None and following.kind != "norm":
            room = _between(layer, following)
            flat = found[-1].layer.kind == "conv" and following.kind == "linear"
            found[-1] = found[-1]._replace(room=None if room is None else max(0, room - 1) if flat else room)
    if around := next((layer.name for layer in given if is_shortcut(layer.name)), None):
        raise Unfit(f"{around} goes around others")
    kinds = [step.layer.kind for step in found]
    if kinds != sorted(kinds):
        raise Unfit("a convolution behind a linear layer")
    for one, other in pairwise(found):
        a, b = one.layer, other.layer
        if (b.kind == "conv" and a.out % b.into) or (b.kind == "linear" and b.into % a.out):
            raise Unfit(f"{b.name} takes {b.into} channels and {a.name} gives {a.out}")
        if a.kind == "linear" and b.into != a.out:
            raise Unfit(f"{b.name} takes {b.into} features and {a.name} gives {a.out}")
    if not found:
        raise Unfit("no layers")
    return tuple(found)


def _between(one: Layer, other: Layer) -> int | None:
    """How many modules without weights an nn.Sequential has between two layers; None where it cannot be said."""
    if one.parent != other.parent or one.index is None or other.index is None:
        return None
    return other.index - one.index - 1


class Chain(Network):
    """A chain under the names of its file."""

    def __init__(self, given: Sequence[Layer], found: Sequence[Step], wiring: Wiring) -> None:
        convs: dict[str, Conv] = {}
        channels = wiring.size[0]
        for step, stride, padding in zip(found, wiring.strides, wiring.padding, strict=False):
            if channels % step.layer.into:
                raise Unfit(f"{step.layer.name} takes {step.layer.into} channels and gets {channels}")
            pad = tuple(padding if k > 1 else 0 for k in step.layer.kernel)
            convs[step.layer.name] = Conv(stride, (pad[0], pad[1]), channels // step.layer.into)
            channels = step.layer.out
        flat = {step.norm.name for step in found if step.norm and step.layer.kind == "linear"}
        super().__init__(given, convs, flat=flat)
        self.found, self.wiring = tuple(found), wiring

    def forward(self, x: Tensor) -> Tensor:
        activation, last = ACTIVATIONS[self.wiring.activation], len(self.found)
        for number, step in enumerate(self.found, start=1):
            if step.layer.kind == "linear" and x.ndim > 2:
                x = F.adaptive_avg_pool2d(x, 1).flatten(1) if self.wiring.end == "mean" else x.flatten(1)
            active = number not in self.wiring.bare and (number < last or step.norm is not None)
            x = self.run(step.layer.name, x)
            x = activation(x) if active and step.early else x
            x = self.run(step.norm.name if step.norm else None, x)
            x = activation(x) if active and not step.early and number < last else x
            for pool in self.wiring.pools:
                x = _pooled(x, pool) if pool.after == number else x
        return F.adaptive_avg_pool2d(x, 1).flatten(1) if x.ndim > 2 else x


def _pooled(x: Tensor, pool: Pool) -> Tensor:
    if pool.kind == "max":
        return F.max_pool2d(x, pool.window, pool.step, pool.padding)
    return F.avg_pool2d(x, pool.window, pool.step, pool.padding)


def parse(text: str, found: Sequence[Step]) -> dict[str, object]:
    """What "chain:..." names, as keywords of Wiring. Raises TeacherError for what it does not know."""
    convs = [step.layer for step in found if step.layer.kind == "conv"]
    given: dict[str, object] = {}
    for word in filter(None, text.removeprefix("chain").removeprefix(":").split(";")):
        key, _, value = word.partition("=")
        try:
            given |= _parsed(key.strip(), value.strip(), convs)
        except (ValueError, KeyError) as error:
            raise TeacherError(
                f"--arch {text}: {word!r} cannot be read",
                code="E0393",
                why=str(error).strip("'\""),
                fix="e.g. chain:size=1x28x28;padding=same;pool=1,2;activation=relu",
            ) from error
    return given


def _parsed(key: str, value: str, convs: Sequence[Layer]) -> Mapping[str, object]:
    if key == "size":
        c, h, w = (int(n) for n in value.split("x"))
        return {"size": (c, h, w)}
    if key == "padding":
        if value in ("same", "valid"):
            return {"padding": tuple(max(layer.kernel) // 2 if value == "same" else 0 for layer in convs)}
        each = tuple(int(n) for n in value.split(","))
        if len(each) != len(convs):
            raise ValueError(f"{len(each)} paddings for {len(convs)} convolutions")
        return {"padding": each}
    if key == "stride":
        steps_of: dict[int, int] = {}
        for word in value.split(",") if value != "none" else []:
            number, _, step = word.partition(":")
            steps_of[int(number)] = int(step or 2)
        return {"strides": tuple(steps_of.get(number, 1) for number in range(1, len(convs) + 1))}
    if key == "pool":
        return {"pools": () if value == "none" else tuple(_pool(word) for word in value.split(","))}
    if key == "activation":
        if value not in ACTIVATIONS:
            raise ValueError(
                f"no activation {value!r}.{nearest(value, ACTIVATIONS)} There are: {', '.join(ACTIVATIONS)}"
            )
        return {"activation": value}
    if key == "end" and value in ("flatten", "mean"):
        return {"end": value}
    if key == "bare":
        return {"bare": tuple(int(n) for n in value.split(","))}
    raise ValueError("known: size, padding, stride, pool, activation, bare, end")


def _pool(word: str) -> Pool:
    after, _, how = word.partition(":")
    kind = "avg" if how.startswith("avg") else "max"
    window, step, padding = (*(int(n) for n in how[3:].split("/") if n), 0, 0, 0)[:3]
    return Pool(int(after), kind, window or 2, step or window or 2, padding)
