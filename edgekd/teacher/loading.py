"""Checkpoint to Teacher: what the file holds, which network it is of, what that is fed; and what was assumed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.capture import capture
from edgekd.errors import TeacherError, UsageError
from edgekd.files import plain, sha256, written
from edgekd.program import Program, without_softmax
from edgekd.sealed import seal
from edgekd.teacher.content import Content
from edgekd.teacher.preprocessing import misfit, normalisation
from edgekd.teacher.reading.files import OWN, read
from edgekd.teacher.recognition import recognise
from edgekd.teacher.recognition.weights import as_used
from edgekd.types import Images, Teacher

USUAL = {1: "mnist", 3: "imagenet"}  # normalisation by channels, where nothing else says one; else "unit"


def save_teacher(
    model: nn.Module, path: str | Path, *, images: Images, classes: Sequence[str], arch: str | None = None
) -> None:
    """Writes a self-contained teacher file: graph (or architecture's name), weights, input facts and class names.

    images: what the model is fed; classes: names in the order of its logits. With `arch` the file names the
    architecture (as `--arch` does) instead of carrying the graph. The file holds tensors and JSON, no pickled code. The
    model stays as it is; what DataParallel and torch.compile put around it is left out, other floats become float32.
    Raises TeacherError where the model cannot be captured or its output does not fit `classes`.
    """
    model = _bare(model)
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    example = torch.zeros(2, images.channels, images.height, images.width, device=device)
    with _in_eval(model):
        _logits(model, example, len(classes))
        if arch is None:
            nodes, tensors = capture(model, example)
        else:
            nodes, tensors = [], dict(model.state_dict())
            recognise.named(arch, tensors, size=(images.channels, images.height, images.width), classes=len(classes))
    facts = {"arch": arch, "nodes": nodes, "images": plain(images), "classes": list(classes)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written(Path(path)) as temporary:
        seal({"format": OWN, "facts": json.dumps(facts), "state": state}, temporary, sealed=False)


def _bare(model: nn.Module) -> nn.Module:
    """In float32, without what DataParallel, its distributed sister and torch.compile put around it."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.get_submodule("_orig_mod" if hasattr(model, "_orig_mod") else "module")
    kinds = {t.dtype for t in model.state_dict().values() if t.is_floating_point()}
    return model if kinds <= {torch.float32} else copy.deepcopy(model).float()


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def load_teacher(
    path: str | Path,
    *,
    arch: str | None = None,
    images: Images | None = None,
    size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: Sequence[str] | None = None,
) -> Teacher:
    """Reads a teacher from any file that edgekd knows (docs/teachers.md) without running its author's code.

    arch: which network bare weights are of, where that is not recognised; size: channels, height, width; mean, std: of
    pixel / 255, one number for all channels or one for each; images: all three at once. What neither the file nor the
    caller says is taken as usual for the architecture and told in the Teacher's warnings. A softmax at the end is taken
    off: distillation wants logits. Raises TeacherError: unreadable or unsafe file, unknown architecture, weights that
    do not fit it; UsageError for options that a file of save_teacher does not need.
    """
    path = Path(path)
    content = read(path)
    if content.format == "edgekd" and (arch or images or size or mean or std or classes):
        raise UsageError(
            f"{path} says itself what it is; --arch, --input, --mean, --std and --classes are for bare weights",
            code="E0201",
            fix="leave those options out",
        )
    if images is not None:
        size, mean, std = (images.channels, images.height, images.width), images.mean, images.std
    model, name, usual_size, usual, notes = _network(path, content, arch, size, len(classes) if classes else None)
    facts, warnings = _images(path, content, size or usual_size, mean, std, usual, name)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    count = len(classes) if classes else len(content.classes or ()) or None
    example = torch.rand(2, facts.channels, facts.height, facts.width, generator=torch.Generator().manual_seed(0))
    logits = _logits(model, example, count)
    model = _of_any_layout(model, example)
    if _probabilities(logits):
        model = nn.Sequential(model, Logarithm())
        notes += ("its outputs are probabilities; their logarithms are used",)
    names = tuple(classes or content.classes or map(str, range(logits.shape[1])))
    if doubt := misfit(model, facts):
        warnings += (doubt,)
    return Teacher(
        model=model, images=facts, classes=names, sha256=sha256(path), architecture=name,
        notes=notes, warnings=warnings,
    )  # fmt: skip


def _of_any_layout(model: nn.Module, example: Tensor) -> nn.Module:
    """The model, or its graph where its code cannot take what training feeds: x.view(len(x), -1), channels last."""
    try:
        with torch.no_grad():
            model(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return Program(*capture(model, example))
    return model


class Logarithm(nn.Module):
    """Probabilities (N, K) -> their logarithms, whose softmax they are."""

    def forward(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp_min(1e-12).log()


def _network(
    path: Path, content: Content, arch: str | None, size: tuple[int, int, int] | None, classes: int | None
) -> tuple[nn.Module, str, tuple[int, int, int] | None, str | None, tuple[str, ...]]:
    """The model, its name, its usual input size and normalisation, and what there is to say of it."""
    if content.nodes:
        nodes, softmax = without_softmax(content.nodes)
        notes = (*content.notes, "the softmax at its end was taken off") if softmax else content.notes
        name = "program" if content.format == "edgekd" else content.format
        return Program(nodes, content.tensors), name, content.size, None, notes
    if content.images:
        size = (content.images.channels, content.images.height, content.images.width)
    classes = classes or len(content.classes or ()) or None
    tensors = as_used(content.tensors) if content.format == "safetensors" else content.tensors
    if arch or content.arch:
        found = recognise.named(arch or content.arch or "", tensors, size=size, classes=classes)
    else:
        found = recognise.recognise(tensors, size=size)
    notes = (*content.notes, f"{found.arch}: {found.sure}", *found.notes)
    return found.model, found.arch, found.size, found.normalisation, notes


def _images(
    path: Path,
    content: Content,
    size: tuple[int, int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    usual: str | None,
    name: str,
) -> tuple[Images, tuple[str, ...]]:
    """What the network is fed: from the caller, else the file, else as usual; and what was assumed."""
    if size is None and content.images is None:
        raise TeacherError(f"{path} does not say what images it takes", code="E0317", fix="add e.g.  --input 3x224x224")
    if content.images is not None:
        known = content.images
        channels, height, width = size or (known.channels, known.height, known.width)
        mean, std = mean or known.mean, std or known.std
    else:
        assert size is not None
        channels, height, width = size
    warnings: tuple[str, ...] = ()
    if mean is None or std is None:
        assumed = usual or USUAL.get(channels, "unit")
        usual_mean, usual_std = normalisation(assumed)
        mean, std = mean or usual_mean, std or usual_std
        figures = " ".join(f"{n} {','.join(f'{v:g}' for v in values)}" for n, values in (("mean", mean), ("std", std)))
        warnings = (f"assumed normalisation of {name}: {assumed} ({figures}); say another with --mean and --std",)
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    images = Images(channels, height, width, tuple(mean), tuple(std))
    check_images(images, where=str(path))
    return images, warnings


def check_images(images: Images, *, where: str) -> None:
    """Raises TeacherError unless sizes are positive and mean and std have one sensible number per channel."""
    if min(images.channels, images.height, images.width) < 1:
        raise TeacherError(f"{where}: an image of {images.channels}x{images.height}x{images.width}", code="E0317")
    if len(images.mean) != images.channels or len(images.std) != images.channels or min(images.std) <= 0:
        raise TeacherError(
            f"{where}: mean and std need {images.channels} numbers each, std above zero",
            code="E0317",
            why=f"found mean {list(images.mean)}, std {list(images.std)}",
        )


@torch.no_grad()
def _logits(model: nn.Module, example: Tensor, classes: int | None) -> Tensor:
    """The model's output for (N, C, H, W). Raises TeacherError unless it is (N, classes); None: any number of them."""
    try:
        logits = model(example)
    except TeacherError:
        raise
    except Exception as error:  # whatever a network raises on an image size that it was not made for
        raise TeacherError(
            f"the teacher cannot take images of {'x'.join(map(str, example.shape[1:]))}",
            code="E0323",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="correct --input (channels x height x width)",
        ) from error
    kind = f"a tensor of {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    fits = isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(example) and logits.shape[1] > 1
    if not fits or classes not in (None, logits.shape[1]):
        raise TeacherError(
            f"the teacher must give logits of shape (N, {classes or 'classes'}), one per class",
            code="E0324",
            why=f"it gave {kind} for a batch of {len(example)}",
            fix="" if isinstance(logits, Tensor) else "let forward return the logits alone, in eval mode at least",
        )
    result: Tensor = logits
    return result


def _probabilities(outputs: Tensor) -> bool:
    """Whether outputs (N, K) are a softmax's: none below zero, each row's sum 1."""
    return bool((outputs >= 0).all() and (outputs.sum(dim=1) - 1).abs().max() < 1e-4)
