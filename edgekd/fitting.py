"""What pruning has cut off a layer's input is made up for by its other weights: least squares, before any training.

Channel pruning by reconstruction (He, Zhang, Sun, ICCV 2017), on images that no customer made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekd.coupling import Layer
from edgekd.pruning import kept_channels

PLACES = 32_768  # over all images, at which a layer is looked at
MOST = 4_096  # inputs of an output from which on a layer is left as it is: the equations are of their square
ENOUGH = 4  # places per input at least
RIDGE = 1e-4  # of the inputs' mean square: how much the weights are held where they are


@dataclass(frozen=True)
class Fit:
    """A layer that lost inputs."""

    name: str
    layer: Layer
    norm: nn.BatchNorm2d | None  # that reads its outputs, and so can take up a constant


class _Reached(Exception):
    """The layer that was waited for is about to run; the rest of the network need not."""


@torch.no_grad()
def fit_pruned(student: nn.Module, teacher: nn.Module, images: Sequence[Tensor], *, seed: int) -> list[str]:
    """Sets the weights behind removed channels so that outputs come near to the teacher's; gives the layers' names.

    student: pruned from the teacher (edgekd.pruning); both in eval mode, on one device. images: batches (N, C, H, W),
    normalised. From the first layer to the last, each on what those before it then give. Left as they are: grouped
    convolutions, layers with more than MOST inputs per output, and those of which the images show too few places.
    """
    images = [x.float() for x in images]  # a generator's may be in bf16
    whole, kept = dict(teacher.named_modules()), kept_channels(student)
    ran = _in_order(student, images[0][:2])
    fits = [fit for fit in ran if _lost_inputs(fit.layer, whole.get(fit.name), kept.get(fit.name))]
    each = max(1, PLACES // sum(len(x) for x in images))
    wanted: dict[str, list[Tensor]] = {fit.name: [] for fit in fits}
    for batch, x in enumerate(images):
        for name, output in _outputs(teacher, {name: whole[name] for name in wanted}, x).items():
            rows = _at(whole[name], output, each, seed + batch)
            wanted[name].append(rows[:, kept[name].to(rows.device)] if name in kept else rows)
    return [fit.name for fit in fits if _solved(fit, student, images, wanted[fit.name], each, seed)]


def _solved(
    fit: Fit, student: nn.Module, images: Sequence[Tensor], wanted: Sequence[Tensor], each: int, seed: int
) -> bool:
    """Whether there were places enough; the layer then has the weights that give what is wanted, as nearly as can be.

    wanted: (places, outputs) per batch.
    """
    layer, norm = fit.layer, fit.norm
    weight = layer.weight.flatten(1)
    constant = layer.bias is not None or norm is not None
    start = torch.cat([weight, (torch.zeros(len(weight)).to(weight) if layer.bias is None else layer.bias)[:, None]], 1)
    left = torch.zeros(start.shape[1], start.shape[1], dtype=torch.float64, device=weight.device)
    right, places = torch.zeros(start.shape[1], len(weight), dtype=torch.float64, device=weight.device), 0
    for batch, (x, y) in enumerate(zip(images, wanted, strict=True)):
        seen = _patches(layer, _input(student, layer, x), y, each, seed + batch)
        seen = torch.cat([seen, torch.full_like(seen[:, :1], float(constant))], 1)
        left += (seen.T @ seen).double()
        right += (seen.T @ (y - seen @ start.T)).double()
        places += len(seen)
    ridge = RIDGE * left.diagonal()[:-1].mean()
    if places < ENOUGH * weight.shape[1] or ridge <= 0:
        return False
    change = torch.linalg.solve(left + ridge * torch.eye(len(left)).to(left), right).to(weight)
    layer.weight += change[:-1].T.reshape(layer.weight.shape)
    if layer.bias is not None:
        layer.bias += change[-1]
    elif norm is not None and norm.running_mean is not None:
        norm.running_mean -= change[-1]
    return True


def _in_order(student: nn.Module, x: Tensor) -> list[Fit]:
    """Its convolutions and linear layers in the order in which they run."""
    found: dict[str, Fit] = {}
    outputs: dict[str, Tensor] = {}

    def ran(name: str, layer: Layer, output: Tensor) -> None:
        found.setdefault(name, Fit(name, layer, None))
        outputs[name] = output

    def reads(norm: nn.BatchNorm2d, x: Tensor) -> None:
        for name in [name for name, output in outputs.items() if output is x]:
            found[name] = Fit(name, found[name].layer, norm)

    def handles() -> Iterator[RemovableHandle]:
        for name, module in student.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                yield module.register_forward_hook(lambda m, _, output, name=name: ran(name, m, output))
            if isinstance(module, nn.BatchNorm2d):
                yield module.register_forward_pre_hook(lambda m, inputs: reads(m, inputs[0]))

    with _hooked(handles()):
        student(x)
    return list(found.values())


def _lost_inputs(layer: Layer, was: nn.Module | None, kept: Tensor | None) -> bool:
    """Whether a layer has fewer inputs than its namesake had, and is of a kind that can be fitted."""
    if not isinstance(was, nn.Conv2d | nn.Linear) or layer.weight.ndim != was.weight.ndim:
        return False
    if len(layer.weight) != len(was.weight if kept is None else kept):  # nobody knows which outputs are left
        return False
    if isinstance(layer, nn.Conv2d) and (
        layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        return False
    return layer.weight.shape[1] < was.weight.shape[1] and layer.weight[0].numel() <= MOST


def _outputs(network: nn.Module, layers: dict[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """What the layers give for images x, by the names; of one that runs twice, the first time."""
    found: dict[str, Tensor] = {}
    with _hooked(
        layer.register_forward_hook(lambda m, _, output, name=name: (found.setdefault(name, output), None)[1])
        for name, layer in layers.items()
    ):
        network(x)
    return found


def _input(network: nn.Module, layer: Layer, x: Tensor) -> Tensor:
    """What a layer is fed for images x; the network runs no further."""
    found: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _Reached

    with _hooked([layer.register_forward_pre_hook(stop)]), suppress(_Reached):
        network(x)
    return found[0]


def _patches(layer: Layer, x: Tensor, wanted: Tensor, each: int, seed: int) -> Tensor:
    """(places, inputs): what the layer's outputs at the places are computed from, in the order of its weights."""
    if isinstance(layer, nn.Linear) or isinstance(layer.padding, str):
        return _at(layer, x, each, seed)
    (down, across), (high, wide), (gap, gap_across) = layer.padding, layer.kernel_size, layer.dilation
    padded = F.pad(x, (across, across, down, down))
    height = (padded.shape[2] - gap * (high - 1) - 1) // layer.stride[0] + 1
    width = (padded.shape[3] - gap_across * (wide - 1) - 1) // layer.stride[1] + 1
    image, row, column = _places(len(x), height, width, each, seed, x.device)
    row, column = row * layer.stride[0], column * layer.stride[1]
    shifted = [padded[image, :, row + gap * y, column + gap_across * z] for y in range(high) for z in range(wide)]
    return torch.stack(shifted, dim=-1).flatten(1)


def _at(layer: nn.Module, x: Tensor, each: int, seed: int) -> Tensor:
    """(places, channels) of what a layer gives: (N, C, H, W) of a convolution; (N, ..., C) of, or for, a linear one."""
    if isinstance(layer, nn.Linear):
        if x.ndim == 2:
            return x
        x = x.flatten(1, -2)  # tokens, or pixels with their channels last
        image, _, token = _places(len(x), 1, x.shape[1], each, seed, x.device)
        return x[image, token]
    image, row, column = _places(len(x), x.shape[2], x.shape[3], each, seed, x.device)
    return x[image, :, row, column]


def _places(n: int, height: int, width: int, each: int, seed: int, device: torch.device) -> tuple[Tensor, ...]:
    """Image, row and column of `each` random places, or all, in every one of n maps; the same for the same seed."""
    drawn = torch.rand(n, height * width, generator=torch.Generator().manual_seed(seed))
    at = drawn.topk(min(each, height * width)).indices.to(device)
    image = torch.arange(n, device=device)[:, None].expand_as(at)
    return image.flatten(), (at // width).flatten(), (at % width).flatten()


@contextmanager
def _hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()
