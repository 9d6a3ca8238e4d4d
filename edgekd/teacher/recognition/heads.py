"""Networks of a library fitted to a file: other input channels, another number of classes, another classifier."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgekd.teacher.recognition import library
from edgekd.teacher.recognition.chain import Chain, Wiring, steps
from edgekd.teacher.recognition.layers import Layer, Unfit, layers


def adapted(arch: str, tensors: Mapping[str, Tensor], classes: int) -> nn.Module:
    """The library's network with as many classes and input channels as the file has."""
    model = library.build(arch, classes, tensors)
    for name, module in model.named_modules():
        weight = tensors.get(f"{name}.weight")
        if isinstance(module, nn.Conv2d):
            other = weight is not None and weight.ndim == 4 and weight.shape[1] != module.weight.shape[1]
            if weight is not None and other and module.groups == 1 and weight.shape[2:] == module.weight.shape[2:]:
                _put(model, name, _with_channels(module, weight.shape[1]))
            break
    return model


def _with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The same convolution for images of other channels; libraries' own paddings are kept as they are."""
    if type(conv) is not nn.Conv2d:
        raise Unfit(f"a first layer of type {type(conv).__name__} is not changed to {channels} channels")
    assert not isinstance(conv.padding, str)
    return nn.Conv2d(
        channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        (conv.stride[0], conv.stride[1]),
        (conv.padding[0], conv.padding[1]),
        bias=conv.bias is not None,
        device=conv.weight.device,
    )


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def head_of(model: nn.Module) -> str:
    """The attribute that holds the classifier: where the last linear layer is."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise Unfit("no linear layer to replace")
    name: str = linear[-1].partition(".")[0]
    return name


def with_head(arch: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The library's network with the file's own classifier of linear layers, ReLU between them. Raises Unfit."""
    model = adapted(arch, tensors, 1000)
    name = head_of(model)
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    given = layers(own)
    found = steps(given)
    if any(layer.kind == "conv" for layer in given) or not given:
        raise Unfit(f"{name} is no classifier of linear layers")
    old = model.get_submodule(name)
    first = old if isinstance(old, nn.Linear) else next(m for m in old.modules() if isinstance(m, nn.Linear))
    if found[0].layer.into != first.in_features:
        raise Unfit(f"{name} takes {found[0].layer.into} features; {arch} gives {first.in_features}")
    bare = tuple(n for n, step in enumerate(found[:-1], start=1) if step.room == 0 and step.norm is None)
    relative = [Layer(layer.name.removeprefix(f"{name}."), layer.kind, layer.tensors) for layer in given]
    head = Chain(relative, steps(relative), Wiring((1, 1, 1), (), (), bare=bare))
    _put(model, name, head.to(torch.empty(0).device))
    return model


def fits(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether names and shapes are the file's; counters may be missing."""
    wanted = model.state_dict()
    if any(name not in wanted or wanted[name].shape != tensor.shape for name, tensor in tensors.items()):
        return False
    return all(name in tensors or name.endswith("num_batches_tracked") for name in wanted)
