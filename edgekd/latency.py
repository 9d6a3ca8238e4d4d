"""What a network costs, and the milliseconds it is expected to take on a device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from edgekd.types import Cost, Images, Layer, Prediction, Profile

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # of one number


class _Count(TorchDispatchMode):
    """Adds up the layers with weights as they run; works on any device, meta included.

    names: of weights, by their identity.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.traffic = self.peak = 0
        self.names, self.layers = names, list[Layer]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            flops = count(*args, **(kwargs or {}), out_val=out)
            tensors = [a for a in args if isinstance(a, Tensor)]
            numbers = [a.numel() for a in tensors]
            result = out if isinstance(out, Tensor) else out[0]
            known = [(self.names[key], a.numel()) for a in tensors if (key := _key(a)) in self.names]
            name = known[0][0].removesuffix(".weight").removesuffix(".bias") if known else ""
            parameters, operator = sum(size for _, size in known), str(func._overloadpacket).removeprefix("aten.")
            self.layers.append(Layer(name, operator, tuple(result.shape[1:]), parameters, flops // 2))
            self.flops += flops
            self.traffic += sum(numbers) + result.numel()
            self.peak = max(self.peak, max(numbers) + result.numel())
        return out


def _key(tensor: Tensor) -> int:
    """Tells a weight again, also where it comes transposed: views share their storage."""
    return int(tensor.untyped_storage()._cdata)


def cost(model: nn.Module, images: Images) -> Cost:
    """Counts what one image costs `model`, by running it once on zeros where its weights lie (meta will do).

    BatchNorm counts as parameters only: it is folded into the convolution before it when the graph is written.
    """
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    counted = _run(model, images)
    return Cost(
        parameters=sum(t.numel() for t in tensors),
        macs=counted.flops // 2,
        layers=len(counted.layers),
        traffic_elements=counted.traffic,
        peak_elements=counted.peak,
    )


def layers(model: nn.Module, images: Images) -> list[Layer]:
    """The layers with weights in the order in which they run, each with what one image costs it."""
    return _run(model, images).layers


def _run(model: nn.Module, images: Images) -> _Count:
    folded = copy.deepcopy(model).eval()
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    state = folded.state_dict()
    keys = {key: name for name, key in getattr(model, "keys", {}).items()}  # of a captured program
    names = {_key(tensor): keys.get(name, name) for name, tensor in state.items()}
    device = next((t.device for t in state.values()), torch.device("cpu"))
    x = torch.zeros(1, images.channels, images.height, images.width, device=device)
    with torch.no_grad(), _Count(names) as counted:
        folded(x)
    result: _Count = counted
    return result


def predict(of: Cost, profile: Profile, precision: str) -> Prediction:
    """Milliseconds per batch of the profile: compute, memory traffic and launches added up.

    t = a FLOPs / peak + b bytes / bandwidth + layer_us layers. A bare roofline is off by more than half for small
    networks, where the launches are most of the time. The interval is the coefficients' worst relative error.
    """
    fit, hardware = profile.latency, profile.hardware
    compute_ms = fit.compute * 2 * of.macs * profile.batch / (hardware.peak_gflops[precision] * 1e6)
    traffic = of.traffic_elements * profile.batch * BYTES[precision]
    traffic_ms = fit.traffic * traffic / (hardware.bandwidth_gb_per_s * 1e6)
    latency_ms = compute_ms + traffic_ms + fit.layer_us * of.layers / 1e3
    return Prediction(latency_ms, low_ms=latency_ms / (1 + fit.error), high_ms=latency_ms * (1 + fit.error))


def model_mb(of: Cost, precision: str) -> float:
    """Size of the deployed graph's weights, 10**6 bytes."""
    return of.parameters * BYTES[precision] / 1e6


def memory_mb(of: Cost, profile: Profile) -> float:
    """Weights and the largest layer's input and output in fp32, 10**6 bytes; the runtime's own memory comes on top."""
    return (of.parameters + of.peak_elements * profile.batch) * 4 / 1e6
