"""What a network costs, and the milliseconds it is expected to take on a device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from edgekd.types import Cost, Images, Prediction, Profile

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # of one number


class _Count(TorchDispatchMode):
    """Adds up the layers with weights as they run; works on any device, meta included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.layers = self.traffic = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
            numbers = [a.numel() for a in args if isinstance(a, Tensor)]
            result = out if isinstance(out, Tensor) else out[0]
            self.layers += 1
            self.traffic += sum(numbers) + result.numel()
            self.peak = max(self.peak, max(numbers) + result.numel())
        return out


def cost(model: nn.Module, images: Images) -> Cost:
    """Counts what one image costs `model`, by running it once on zeros where its weights lie (meta will do).

    BatchNorm counts as parameters only: it is folded into the convolution before it when the graph is written.
    """
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    device = tensors[0].device if tensors else torch.device("cpu")
    x = torch.zeros(1, images.channels, images.height, images.width, device=device)
    folded = copy.deepcopy(model).eval()
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    with torch.no_grad(), _Count() as counted:
        folded(x)
    return Cost(
        parameters=sum(t.numel() for t in tensors),
        macs=counted.flops // 2,
        layers=counted.layers,
        traffic_elements=counted.traffic,
        peak_elements=counted.peak,
    )


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
