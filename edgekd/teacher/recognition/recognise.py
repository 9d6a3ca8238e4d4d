"""From tensors by name to the network that they are the weights of.

Known networks are told by names and shapes: edgekd's own, torchvision's and timm's (an index), families of residual,
mobile, dense and shuffled networks whose sizes are read from the file. Plain chains are rebuilt from shapes. What
neither names nor shapes tell is settled by convention, and tested by BatchNorm's statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.files import nearest
from edgekd.teacher.recognition import library, own, script, zoo
from edgekd.teacher.recognition.evidence import fit, images_of
from edgekd.teacher.recognition.heads import adapted, with_head
from edgekd.teacher.recognition.layers import Unfit, Weightless, layers
from edgekd.teacher.recognition.tidy import Normalised, Tidy, tidy, variants
from edgekd.teacher.recognition.ways import (
    Recognised,
    Size,
    as_family,
    family_network,
    library_network,
    other_head,
    own_build,
    own_network,
    plain_chain,
    size_of,
    usual_normalisation,
)
from edgekd.teacher.recognition.weights import blank, class_count, in_order, loaded, mismatch, refused

__all__ = ["Recognised", "fit", "named", "recognise"]
WAYS = (own_network, library_network, family_network, other_head, plain_chain)
REASONS = 3  # why nothing fits: the last ways tried say most


def recognise(tensors: Mapping[str, Tensor], *, size: Size | None = None) -> Recognised:
    """The network of a bare state_dict (prefixes of wrappers may be left). size: of its images, where it is known.

    Raises TeacherError where nothing fits (E0390), where several networks fit and nothing tells which (E0391), and
    where `size` has other channels than the weights (E0392); EnvironmentLacking where only timm has the network.
    """
    plain = tidy(tensors)
    if not any(tensor.ndim > 1 for tensor in plain.tensors.values()):
        raise TeacherError("the file holds no weights", code="E0390", fix="save model.state_dict()")
    _check_channels(plain.tensors, size)
    reasons: list[str] = []
    for kept in variants(plain.tensors):
        for way in WAYS:
            try:
                found = way(kept, size)
            except Unfit as error:
                reasons.append(str(error))
            else:
                return _behind(found, plain)
    raise TeacherError(
        "no known network has these names and shapes",
        code="E0390",
        why="; ".join(dict.fromkeys(reasons[len(WAYS) - REASONS : len(WAYS)])),
        fix="name it with --arch, give your own code (--arch path/to/file.py:factory), or use edgekd.save_teacher",
    )


def named(
    arch: str, tensors: Mapping[str, Tensor], *, size: Size | None = None, classes: int | None = None
) -> Recognised:
    """The network of that name with these weights: a name that `recognise` gives, or path/to/file.py:factory.

    Raises TeacherError for an unknown name (E0318), for weights that do not fit (E0319), and for the user's own code
    that cannot be run (E0394, E0395).
    """
    if script.is_script(arch):
        return _scripted(arch, tensors, size, classes)
    plain = tidy(tensors)
    try:
        found = _named(arch, plain.tensors, size, classes or class_count(plain.tensors))
    except Unfit as error:
        raise refused(arch, str(error)) from error
    return _behind(found, plain)


def _named(arch: str, tensors: Mapping[str, Tensor], size: Size | None, classes: int) -> Recognised:
    if arch.partition(":")[0] == "chain":
        return plain_chain(tensors, size, arch)
    if family := zoo.parsed(arch):
        given = layers(tensors)
        choices, network = zoo.FAMILIES[family[0]].read(given, family[1] if ":" in arch else None)[0]
        return as_family(zoo.written(family[0], choices), network, given, size, "named", class_count(tensors))
    if arch.startswith(("torchvision:", "timm:")):
        return _of_library(arch, tensors, size, classes)
    facts = images_of(size or size_of(tensors, own.side(arch, tensors)), None)
    with Weightless():
        if own.build(arch, facts, classes) is None:
            raise _unknown(arch)
    build = partial(own_build, arch, facts, classes)
    fitting, sure = _fitting(arch, blank(build).state_dict(), tensors)
    shape = (facts.channels, facts.height, facts.width)
    usual = own.usual_normalisation(arch) or usual_normalisation(shape, classes)
    return Recognised(arch, loaded(build, fitting), shape, usual, classes, sure)


def _of_library(arch: str, tensors: Mapping[str, Tensor], size: Size | None, classes: int) -> Recognised:
    name = arch.removesuffix("+head")
    entry = next((e for e in library.entries() if e.arch == name), None)
    if entry is None:
        raise _unknown(arch)
    build = partial(with_head, name, tensors) if name != arch else partial(adapted, name, tensors, classes)
    fitting, sure = _fitting(arch, blank(build).state_dict(), tensors)
    shape = size or size_of(tensors, entry.side)
    return Recognised(arch, loaded(build, fitting), shape, entry.normalisation, classes, sure)


def _fitting(
    arch: str, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], str]:
    """The tensors under the network's names. Raises TeacherError naming the first that does not fit."""
    problem = mismatch(arch, wanted, tensors)
    if not problem:
        return tensors, "named; every name and shape fits"
    ordered = in_order(wanted, tensors)
    if ordered is None:
        raise refused(arch, problem)
    return ordered, "named; names differ, shapes fit in order"


def _scripted(arch: str, tensors: Mapping[str, Tensor], size: Size | None, classes: int | None) -> Recognised:
    count = classes or class_count(tensors)
    network = script.run(arch, count)
    if problem := mismatch(arch, network.state_dict(), tensors):
        raise refused(arch, problem)
    note = f"your own code was run: {arch}"
    shape = size or size_of(tensors, 224)
    return Recognised(arch, loaded(lambda: network, tensors), shape, None, count, "every name and shape fits", (note,))


def _behind(found: Recognised, plain: Tidy) -> Recognised:
    """What was done to the tensors is told, and a normalisation that they hold goes before the network."""
    found = replace(found, notes=(*plain.notes, *found.notes))
    if plain.mean is None or plain.std is None:
        return found
    return replace(found, model=Normalised(found.model, plain.mean, plain.std), normalisation="unit")


def _check_channels(tensors: Mapping[str, Tensor], size: Size | None) -> None:
    first = next((tensor for tensor in tensors.values() if tensor.ndim == 4), None)
    if size is not None and first is not None and first.shape[1] != size[0]:
        raise TeacherError(
            f"the weights are for images of {first.shape[1]} channels, not {size[0]}",
            code="E0392",
            why=f"the first convolution's weight is {list(first.shape)}",
            fix=f"correct --input, e.g. {'x'.join(map(str, (first.shape[1], *size[1:])))}",
        )


def _unknown(arch: str) -> TeacherError:
    known = list(library.known()) if ":" in arch else [*own.KNOWN, *zoo.FAMILIES, "chain"]
    return TeacherError(
        f"unknown architecture {arch!r}.{nearest(arch, known)}",
        code="E0318",
        why="known: resnet8 ... resnet110 (CIFAR), resnet18, resnet34, wrn40-2, lenet5, lenet5half, torchvision:NAME, "
        f"timm:NAME, chain, {', '.join(zoo.FAMILIES)}, path/to/file.py:factory",
        fix="leave --arch out to have it recognised, or write the file with edgekd.save_teacher in your project",
    )
