"""The wirings that a chain's shapes allow, the likeliest first; and which of them BatchNorm speaks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from typing import Any, NamedTuple

from edgekd.teacher.recognition.chain import Chain, Pool, Step, Wiring
from edgekd.teacher.recognition.evidence import BELIEVED, measured
from edgekd.teacher.recognition.layers import Layer, Unfit

SIDES = (28, 32, 64, 96, 224)
RARE = (8, 16, 48, 50, 56, 100, 112, 128, 150, 160, 192, 227, 256, 299)
MOST = 10  # convolutions behind which a pool may or may not stand, without a hint
TESTED, UNUSUAL = 8, 2.5  # wirings that images are run through; cost above the cheapest that is still tried
CLOSE = 0.85  # of the distance to BatchNorm's statistics: nearer than that to the best, the usual one is taken
CLEAR = 1.0  # cost by which the likeliest must be ahead of the next
SQUARES = {784: 1, 1024: 1, 64: 1, 256: 1, 3072: 3, 12288: 3, 27648: 3, 150528: 3, 2352: 3}  # features: channels


class Ranked(NamedTuple):
    """A wiring and how unusual it is."""

    cost: float
    wiring: Wiring


def ranked(found: Sequence[Step], given: Mapping[str, Any]) -> list[Ranked]:
    """Every wiring that fits the linear layers' shapes and what is `given` (keywords of Wiring), cheapest first.

    Plain ones first: steps of 1, 2x2 pools, the usual sides; only where none of them fits, strides and other pools.
    """
    convs = [step.layer for step in found if step.layer.kind == "conv"]
    if not convs:
        return [Ranked(0, wiring) for wiring in _without(found, given)]
    for sides, strange in ((SIDES, False), (SIDES, True), (RARE, False), (RARE, True)):
        unique: dict[Wiring, float] = {}
        for cost, wiring in _fitting(found, convs, given, sides, strange=strange):
            unique[wiring] = min(cost, unique.get(wiring, math.inf))
        if unique:
            return sorted((Ranked(cost, wiring) for wiring, cost in unique.items()), key=lambda r: r.cost)
        if "size" in given and strange:
            break
    raise Unfit("no input size, padding and pools give the number of features that the first linear layer takes")


def _without(found: Sequence[Step], given: Mapping[str, Any]) -> list[Wiring]:
    """Linear layers only: the image is as large as the first one takes."""
    features = found[0].layer.into
    size = given.get("size")
    if size is None:
        channels = SQUARES.get(features, 1 if math.isqrt(features) ** 2 == features else 3)
        side = math.isqrt(features // channels)
        size = (channels, side, side)
    if math.prod(size) != features:
        raise Unfit(f"the first linear layer takes {features} features, which is no square image")
    known: dict[str, Any] = (
        {"bare": _bare_linear(found, 0)} | dict(given) | {"size": size, "padding": (), "strides": ()}
    )
    return [Wiring(**known)]


def _fitting(
    found: Sequence[Step], convs: Sequence[Layer], given: Mapping[str, Any], sides: Sequence[int], *, strange: bool
) -> Iterator[tuple[float, Wiring]]:
    channels = convs[0].into
    sizes = [given["size"]] if "size" in given else [(channels, side, side) for side in sides]
    paddings = [(0.0, given["padding"])] if "padding" in given else _paddings(convs)
    strides = [(0.0, given["strides"])] if "strides" in given else _strides(convs, strange=strange)
    pools = (
        [(0.0, given["pools"], given.get("bare", ()))]
        if "pools" in given
        else list(_pools(found, convs, strange=strange))
    )
    ends = [given["end"]] if "end" in given else ["flatten", "mean"]
    bare_linear = () if "bare" in given else _bare_linear(found, len(convs))
    for size, (pad_cost, padding), (step_cost, steps_), (pool_cost, places, bare), end in product(
        sizes, paddings, strides, pools, ends
    ):
        wiring = Wiring(
            size=size,
            padding=padding,
            strides=steps_,
            pools=places,
            bare=given.get("bare", (*bare, *bare_linear)),
            activation=given.get("activation", "relu"),
            end=end,
        )
        last = _sides(convs, wiring)
        if last is not None and _lands(found, wiring, last):
            cost = pad_cost + step_cost + pool_cost + _size_cost(size, sides) + _end_cost(wiring, last, found)
            yield cost, wiring


def _sides(convs: Sequence[Layer], wiring: Wiring) -> tuple[int, int] | None:
    """Height and width of the map behind the last convolution and its pool; None where an image is too small."""
    sides = [wiring.size[1], wiring.size[2]]
    pools = {pool.after: pool for pool in wiring.pools}
    for number, (layer, stride, padding) in enumerate(zip(convs, wiring.strides, wiring.padding, strict=True), start=1):
        for axis, kernel in enumerate(layer.kernel):
            room = sides[axis] + 2 * (padding if kernel > 1 else 0) - kernel
            sides[axis] = room // stride + 1 if room >= 0 else 0
            if (pool := pools.get(number)) and sides[axis] > 0:
                room = sides[axis] + 2 * pool.padding - pool.window
                sides[axis] = room // pool.step + 1 if room >= 0 else 0
        if min(sides) < 1:
            return None
    return sides[0], sides[1]


def _lands(found: Sequence[Step], wiring: Wiring, last: tuple[int, int]) -> bool:
    linear = next((step.layer for step in found if step.layer.kind == "linear"), None)
    channels = [step.layer for step in found if step.layer.kind == "conv"][-1].out
    if linear is None:
        return wiring.end == "mean"
    if wiring.end == "mean":
        return linear.into == channels and last != (1, 1)
    return linear.into == channels * last[0] * last[1]


def _size_cost(size: tuple[int, int, int], sides: Sequence[int]) -> float:
    usual = {1: (28, 32), 3: (32, 224, 64, 96)}.get(size[0], tuple(sides))
    return float(usual.index(size[1]) if size[1] in usual else 3)


def _end_cost(wiring: Wiring, last: tuple[int, int], found: Sequence[Step]) -> float:
    if wiring.end == "flatten":
        return 0.0
    return 1.0 if 4 <= max(last) <= 8 else 2.0


def _paddings(convs: Sequence[Layer]) -> list[tuple[float, tuple[int, ...]]]:
    """By custom: 3x3 kernels keep the side, 5x5 ones either keep it or, as in LeNet, have no padding at all."""
    kernels = [max(layer.kernel) for layer in convs]
    keep, none = tuple(k // 2 if k % 2 else 0 for k in kernels), (0,) * len(convs)
    large, many = any(k >= 5 for k in kernels), len(convs) > 4
    listed = [
        (0.5 if large else 0.0, keep),
        (0.0 if large else 2.5 if many else 0.5, none),
        (1.0 if kernels[0] == 5 else 3.0, (keep[0], *none[1:])),
        (1.5 if many else 3.0, (*keep[:-1], 0)),
        (1.5, tuple(k // 2 if k <= 3 else 0 for k in kernels)),
        (1.5, tuple(k // 2 if k > 3 else 0 for k in kernels)),
        (2.0, tuple(min(1, k // 2) for k in kernels)),
        (2.5, tuple(k // 2 for k in kernels)),
        (3.0, (2, *keep[1:])),
        (3.0, (2, *none[1:])),
    ]
    cheapest: dict[tuple[int, ...], float] = {}
    for cost, padding in listed:
        cheapest[padding] = min(cost, cheapest.get(padding, cost))
    return [(cost, padding) for padding, cost in cheapest.items()]


def _strides(convs: Sequence[Layer], *, strange: bool) -> list[tuple[float, tuple[int, ...]]]:
    ones = (1,) * len(convs)
    listed = [(0.0, ones)]
    if strange:
        first = max(convs[0].kernel)
        listed += [(1.0, (step, *ones[1:])) for step in ((2,) if first < 7 else (2, 4))]
        listed += [(1.5, (2,) * len(convs))]
        for count in (1, 2, 3, 4):
            for places in islice(combinations(range(len(convs)), count), 60):
                listed.append((2.0, tuple(2 if n in places else 1 for n in range(len(convs)))))
    return listed


def _pools(
    found: Sequence[Step], convs: Sequence[Layer], *, strange: bool
) -> Iterator[tuple[float, tuple[Pool, ...], tuple[int, ...]]]:
    """Cost, pools, and layers without activation, as the rooms allow; alike where the rooms are alike."""
    steps = found[: len(convs)]
    rooms = sorted({(step.early, step.room) for step in steps[:-1] if step.room is not None})
    last = steps[-1]
    kinds: list[Any] = [*rooms]
    kinds += ["last"] if last.room is None or (last.early, last.room) not in rooms else []
    free = [number for number, step in enumerate(steps[:-1], start=1) if step.room is None]
    if len(free) > MOST:
        free = [n for n in free if convs[n].out > convs[n - 1].out][:MOST]
    how = (
        [Pool(0)]
        if not strange
        else [Pool(0), Pool(0, window=3), Pool(0, window=3, padding=1), Pool(0, window=4, step=4)]
    )
    options = [_allowed(*kind) if kind != "last" else _allowed(last.early, last.room) for kind in kinds]
    for chosen in product(*options):
        table = dict(zip(kinds, chosen, strict=True))
        pooled_rooms = [table[kind][1] for kind in rooms]
        if pooled_rooms != sorted(pooled_rooms):
            continue  # a pool in the smaller room and none in the larger one
        extra = float(len(rooms) > 1 and pooled_rooms[0])
        for count in range(len(free) + 1):
            for places in combinations(free, count):
                after, bare = [], []
                for number, step in enumerate(steps, start=1):
                    key: Any = "last" if number == len(steps) and "last" in table else (step.early, step.room)
                    active, pooled = table.get(key, (True, number in places))
                    after += [number] if pooled else []
                    bare += [] if active or step.early else [number]
                for kind in how:
                    pools = tuple(kind._replace(after=number) for number in after)
                    if pools or kind == how[0]:
                        yield _pool_cost(convs, after) + extra + (0 if kind == how[0] else 2), pools, tuple(bare)


def _allowed(early: bool, room: int | None) -> list[tuple[bool, bool]]:
    """(activation, pool) that may stand in a room of so many modules."""
    if room is None:
        return [(True, True), (True, False)]
    if early:
        return [(True, False)] if room == 0 else [(True, True), (True, False)]
    if room == 0:
        return [(False, False)]
    return [(True, False), (False, True)] if room == 1 else [(True, True), (True, False)]


def _pool_cost(convs: Sequence[Layer], after: Sequence[int]) -> float:
    """Pools are expected where the channels change, and behind the last convolution."""
    cost = 0.0
    for number in range(1, len(convs)):
        changes = convs[number].out != convs[number - 1].out
        cost += (0.5 if changes else 1.0) * (changes != (number in after))
    return cost + 0.25 * (len(convs) not in after)


def _bare_linear(found: Sequence[Step], convs: int) -> tuple[int, ...]:
    """Linear layers directly followed by another one."""
    return tuple(
        number
        for number, step in enumerate(found[:-1], start=1)
        if number > convs and step.room == 0 and step.norm is None
    )


def chosen(given: Sequence[Layer], found: Sequence[Step], listed: Sequence[Ranked]) -> tuple[Ranked | None, str]:
    """The wiring that is clearly the likeliest, or that BatchNorm speaks for, and how it was told; None for neither."""
    if len(listed) == 1:
        return listed[0], "one network fits the shapes"
    tried = [item for item in listed[:TESTED] if item.cost <= listed[0].cost + UNUSUAL]
    options = [(Chain(given, found, item.wiring), item.wiring.size) for item in tried]
    distances = measured(options, None)
    best = min(distances, default=math.inf)
    if best < BELIEVED:
        near = [item for item, distance in zip(tried, distances, strict=False) if distance * CLOSE < best]
        cheapest = [item for item in near if item.cost == near[0].cost]
        if len(cheapest) == 1 or len(near) == 1:
            return near[0], f"the shapes fit {len(listed)} networks; BatchNorm's statistics fit this one ({best:.2f})"
    if listed[1].cost - listed[0].cost >= CLEAR:
        return listed[0], f"the shapes fit {len(listed)} networks; this is the usual one"
    return None, ""
