"""The fused layers of a module, by running it once on zeros; meta will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from edgekd.latency.fusion import Fusion
from edgekd.types import Images, Layer

VIEWS = {
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "clone", "contiguous", "alias",
    "detach", "expand", "t", "_to_copy", "lift_fresh", "dropout", "native_dropout", "select", "unbind", "as_strided",
    "_reshape_alias", "_reshape_copy", "copy",
}  # fmt: skip # select: a token taken out; the copy that clone makes is counted where the order changed
COPIES = {"transpose", "permute", "split", "split_with_sizes", "slice", "constant_pad_nd", "flip", "roll"}
POOLS = {
    "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "mean",
    "amax", "sum", "adaptive_max_pool2d",
}  # fmt: skip
ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "gelu", "elu", "leaky_relu", "tanh",
    "mish", "softplus", "clamp",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
OTHERS = {"_softmax", "_log_softmax", "native_layer_norm", "native_group_norm", "upsample_nearest2d"}


def traced(model: nn.Module, images: Images) -> list[Layer]:
    """The fused layers in the order in which they run, the first of them the normalisation of the deployed graph."""
    state = model.state_dict(keep_vars=True)
    keys = {key: name for name, key in getattr(model, "keys", {}).items()}  # of a captured program
    names = {_storage(tensor): keys.get(name, name) for name, tensor in state.items()}
    device = next((t.device for t in state.values()), torch.device("cpu"))
    x = torch.zeros(1, images.channels, images.height, images.width, device=device)
    mode = _Trace(names)
    mode.fusion.begin(mode.key(x), tuple(x.shape))
    training = [module for module in model.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it hides the layers of a transformer in one operator
        model.eval()  # a copy would take most of the time
        with torch.no_grad(), mode:
            model(x * 1.0 + 0.0)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module in training:
            module.training = True
    return mode.fusion.layers


class _Trace(TorchDispatchMode):
    """names: of weights, by their storage."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.fusion, self.kept = names, Fusion(), list[Tensor]()

    def key(self, tensor: Tensor) -> int:
        self.kept.append(tensor)  # else another tensor may get its id
        return id(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func._overloadpacket).removeprefix("aten.")
        name = name if name[0] == "_" else name.removesuffix("_")
        if "batch_norm" in name:
            out = (args[0], args[0].new_empty(0), args[0].new_empty(0))  # folded when the graph is written
        elif name in ACTIVATIONS:
            out = args[0]  # on meta it would cost more than a convolution
        else:
            out = func(*args, **(kwargs or {}))
        flat = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else (arg,))]
        sources = [id(a) for a in flat if isinstance(a, Tensor) and self.fusion.knows(id(a))]
        results = [t for t in (out if isinstance(out, list | tuple) else (out,)) if isinstance(t, Tensor)]
        if sources and results:
            self._take(name, func, args, out, sources, results)
        return out

    def _take(self, name: str, func: Any, args: Any, out: Any, sources: list[int], results: list[Tensor]) -> None:
        fusion, result = self.fusion, results[0]
        key, shape = self.key(result), tuple(result.shape)
        if name == "convolution":
            fusion.weighted(
                sources[0], key, shape, tuple(args[1].shape), name=self._name(args[1]), groups=args[8],
                bias=args[2] is not None,
            )  # fmt: skip
        elif name in PRODUCTS:
            matrices = [a for a in args[-2:] if isinstance(a, Tensor)]
            weights = [m for m in matrices if not fusion.knows(id(m))]
            if weights and len(weights[0].shape) == 2:
                weight: Tensor = weights[0]
                inputs, outputs = weight.shape if weight is matrices[1] else reversed(weight.shape)
                fusion.weighted(
                    sources[-1], key, shape, (inputs, outputs), name=self._name(weight), groups=1, bias=len(args) > 2
                )
            else:
                fusion.product(sources, key, shape, _macs(func, args, out))
        elif name in VIEWS or (name == "cat" and len(sources) == 1):
            fusion.view(sources[0], key, shape)
        elif name in COPIES or name in POOLS or name == "cat" or name in OTHERS:
            operator = "copy" if name in COPIES else "pool" if name in POOLS else "concat" if name == "cat" else "other"
            made = results if name in COPIES else results[:1]
            fusion.launch(operator, sources, [(self.key(r), tuple(r.shape)) for r in made])
        elif macs := _macs(func, args, out):
            fusion.product(sources, key, shape, macs)
        elif all(fusion.sizes[source] <= result.numel() for source in sources):
            fusion.elementwise(sources, key, shape)
        else:
            fusion.launch("other", sources, [(key, shape)])

    def _name(self, weight: Tensor) -> str:
        return self.names.get(_storage(weight), "").removesuffix(".weight")


def _macs(func: Any, args: Any, out: Any) -> int:
    count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
    return 0 if count is None else count(*args, out_val=out) // 2


def _storage(tensor: Tensor) -> int:
    """Tells a weight again, also where it comes transposed: views share their storage."""
    return int(tensor.untyped_storage()._cdata)
