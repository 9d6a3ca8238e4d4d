"""The ways to tell a network from its tensors, each raising Unfit where it does not work out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from edgekd.errors import EnvironmentLacking, TeacherError
from edgekd.teacher.recognition import chain, library, own, wirings, zoo
from edgekd.teacher.recognition.evidence import images_of, preferred
from edgekd.teacher.recognition.heads import adapted, fits, with_head
from edgekd.teacher.recognition.layers import COUNTER, Layer, Unfit, layers
from edgekd.teacher.recognition.weights import blank, class_count, loaded

Size = tuple[int, int, int]  # channels, height, width
LISTED = 6  # candidates that an error names
STEPPING = ("mobilenet_v2", "mobilenetv2", "shufflenet_v2")  # networks that are made smaller by their strides alone
ALIKE = 4  # networks of the same names and shapes that a note names


@dataclass(frozen=True)
class Recognised:
    """A network with the weights of a file, and how it was told."""

    arch: str  # `named` builds the same from it: "resnet20", "torchvision:resnet18", "residual:pool=1", "chain:..."
    model: nn.Module  # fp32, eval mode
    size: Size  # channels, height, width: as asked, else usual for the architecture
    normalisation: str | None  # the usual one of such files, of preprocessing.NORMALISATIONS
    classes: int
    sure: str  # how it was told, for a person
    notes: tuple[str, ...] = ()  # what was assumed, a sentence each


def own_network(tensors: Mapping[str, Tensor], size: Size | None) -> Recognised:
    """One of edgekd's own networks, by exact names and shapes."""
    classes = class_count(tensors)
    for arch in own.likely(tensors):
        facts = images_of(size or size_of(tensors, own.side(arch, tensors)), None)
        build = partial(own_build, arch, facts, classes)
        try:
            model = blank(build)
        except ValueError as error:  # widths, depths and sizes that the network does not take
            raise Unfit(str(error)) from error
        if fits(model, tensors):
            shape = (facts.channels, facts.height, facts.width)
            usual = own.usual_normalisation(arch) or usual_normalisation(shape, classes)
            return Recognised(arch, loaded(build, tensors), shape, usual, classes, "every name and shape fits")
    raise Unfit("not one of edgekd's own networks")


def own_build(arch: str, facts: Any, classes: int) -> nn.Module:
    """own.build of a name that is known to be one."""
    model = own.build(arch, facts, classes)
    if model is None:
        raise Unfit(f"{arch} is none of edgekd's networks")
    return model


def library_network(tensors: Mapping[str, Tensor], size: Size | None) -> Recognised:
    """A network of torchvision or timm, by exact names and shapes, or by shapes in order."""
    classes = class_count(tensors)
    sign = library.signature({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    for by_names in (True, False):
        same = [
            e
            for e in library.entries()
            if (e.signature.names == sign.names if by_names else e.signature.shapes == sign.shapes)
        ]
        for entry in same:
            try:
                given = tensors if by_names else _renamed(entry.arch, tensors, classes)
                build = partial(adapted, entry.arch, given, classes)
                model = blank(build)
            except EnvironmentLacking:  # the index alone says what fits: names, and shapes in order
                if entry.signature == sign:
                    raise
                continue
            if not fits(model, given):
                continue
            sure = "every name and shape fits" if by_names else "names differ, shapes fit in order"
            return _against_families(entry, loaded(build, given), tensors, size, classes, sure, same)
    raise Unfit("no network of torchvision or timm has these names and shapes")


def _renamed(arch: str, tensors: Mapping[str, Tensor], classes: int) -> Mapping[str, Tensor]:
    """The tensors, in their order, under the names of the library's network."""
    wanted = blank(partial(adapted, arch, {}, classes)).state_dict()
    names = [name for name in wanted if not name.endswith(COUNTER)]
    values = [tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)]
    return dict(zip(names, values, strict=False))


def _against_families(
    entry: library.Entry,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    size: Size | None,
    classes: int,
    sure: str,
    same: Sequence[library.Entry],
) -> Recognised:
    """The library's network, unless BatchNorm speaks for the same layers with the steps of small images."""
    shape = size or size_of(tensors, entry.side)
    notes = _alike(entry, same)
    sure += "; so do those of other networks" if notes else ""
    small = _readings(tensors) if classes <= 100 and any(word in entry.arch for word in STEPPING) else []
    options = [(model, shape), *((network, size or size_of(tensors, 32)) for _, network in small)]
    chosen, said = preferred(options, entry.normalisation)
    if chosen:
        return Recognised(
            small[chosen - 1][0],
            small[chosen - 1][1],
            options[chosen][1],
            usual_normalisation(options[chosen][1], classes),
            classes,
            f"{sure}, {entry.arch}; {said}",
            notes,
        )
    return Recognised(entry.arch, model, shape, entry.normalisation, classes, sure, notes)


def _alike(entry: library.Entry, same: Sequence[library.Entry]) -> tuple[str, ...]:
    others = [e.arch for e in same if e.signature == entry.signature and e.arch != entry.arch]
    if not others:
        return ()
    return (f"the same names and shapes have: {', '.join(others[:ALIKE])}{', ...' if len(others) > ALIKE else ''}",)


def _readings(tensors: Mapping[str, Tensor]) -> list[tuple[str, nn.Module]]:
    """What the families make of the layers: architecture and network, by convention first."""
    given = layers(tensors)
    for family, module in zoo.FAMILIES.items():
        try:
            return [(zoo.written(family, choices), network) for choices, network in module.read(given)]
        except Unfit:  # another family may fit; what none of them takes is no error
            continue
    return []


def family_network(tensors: Mapping[str, Tensor], size: Size | None) -> Recognised:
    """A network of a family of the zoo: its convention, unless BatchNorm speaks for another of its readings."""
    given = layers(tensors)
    reasons = []
    for family, module in zoo.FAMILIES.items():
        try:
            readings = module.read(given)
        except Unfit as error:
            reasons.append(f"{family}: {error}")
            continue
        shape = size or family_size(given)
        usual = usual_normalisation(shape, class_count(tensors))
        chosen, said = preferred([(network, shape) for _, network in readings], usual)
        choices, network = readings[chosen]
        sure = "read from names and shapes" + (f"; {said}" if said else ", what they leave open by convention")
        return as_family(zoo.written(family, choices), network, given, size, sure, class_count(tensors))
    raise Unfit("; ".join(reasons))


def as_family(
    arch: str, network: nn.Module, given: Sequence[Layer], size: Size | None, sure: str, classes: int
) -> Recognised:
    """A network of the zoo with what is usual for it."""
    shape = size or family_size(given)
    family, _, choices = arch.partition(":")
    note = f"strides, padding and activations are those of {family} networks" + (f" with {choices}" if choices else "")
    return Recognised(arch, network, shape, usual_normalisation(shape, classes), classes, sure, (note,))


def family_size(given: Sequence[Layer]) -> Size:
    """224 pixels behind a stem of 7x7, else 32; 28 in gray."""
    first = next(layer for layer in given if layer.kind == "conv")
    side = 224 if max(first.kernel) >= 7 else 28 if first.into == 1 else 32
    return first.into, side, side


def other_head(tensors: Mapping[str, Tensor], size: Size | None) -> Recognised:
    """A network of torchvision or timm behind which the file has its own classifier."""
    sign = library.signature({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    for entry in library.entries():
        if entry.signature.body != sign.body or entry.signature.names == sign.names:
            continue
        try:
            build = partial(with_head, entry.arch, tensors)
            model = blank(build)
        except EnvironmentLacking:  # timm is not installed; torchvision may have the network
            continue
        if fits(model, tensors):
            note = "the classifier is the file's own; ReLU is assumed between its layers"
            return Recognised(
                f"{entry.arch}+head",
                loaded(build, tensors),
                size or size_of(tensors, entry.side),
                entry.normalisation,
                class_count(tensors),
                "every name and shape outside the classifier fits",
                (note,),
            )
    raise Unfit("no network of torchvision or timm with another classifier")


def size_of(tensors: Mapping[str, Tensor], side: int) -> Size:
    """Channels of the first convolution and a side."""
    first = next((t for t in tensors.values() if t.ndim == 4), None)
    return (3 if first is None else first.shape[1]), side, side


def usual_normalisation(size: Size, classes: int) -> str | None:
    """What such files are usually normalised by: a guess by channels, side and classes."""
    if size[0] != 3:
        return "mnist" if size[0] == 1 else None
    if size[1] > 64:
        return "imagenet"
    return "cifar100" if classes == 100 else "cifar10"


def plain_chain(tensors: Mapping[str, Tensor], size: Size | None, arch: str = "chain") -> Recognised:
    """A chain rebuilt from shapes. Raises TeacherError where several fit and nothing tells which (E0391)."""
    given = layers(tensors)
    found = chain.steps(given)
    asked = chain.parse(arch, found)
    listed = wirings.ranked(found, asked if size is None else {"size": size} | asked)
    if (
        size is None
        and "size" not in asked
        and not any(step.layer.kind == "conv" for step in found)
        and len(listed) != 1
    ):
        raise Unfit("no image has so many pixels")
    chosen, sure = wirings.chosen(given, found, listed)
    if chosen is None:
        raise several(listed)
    wiring = chosen.wiring
    model = chain.Chain(given, found, wiring)
    notes = [f"rebuilt as {wiring}"]
    if "activation" not in asked and len(found) > 1:
        notes.append(f"the activation is taken to be {wiring.activation}, no shape tells it")
    if wiring.pools and "pools" not in asked:
        notes.append("the pools are taken to be max pools where nothing else is said")
    classes = found[-1].layer.out
    return Recognised(
        str(wiring), model, wiring.size, usual_normalisation(wiring.size, classes), classes, sure, tuple(notes)
    )


def several(listed: Sequence[wirings.Ranked]) -> TeacherError:
    """The error that lists what fits."""
    lines = [f'--arch "{item.wiring}"' for item in listed[:LISTED]]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return TeacherError(
        "the shapes fit several networks, and nothing in the file tells which",
        code="E0391",
        why=f"size, padding or pools differ: {';  '.join(lines)}{more}",
        fix="give the one that was trained, as listed; --input alone may be enough",
    )
