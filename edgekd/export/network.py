"""A network as it is deployed: normalisation in front. Its logits in torch, and the checksum of its weights."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.room import per_pass
from edgekd.types import Images

Pixels = NDArray[np.uint8]  # (N, C, H, W)
Logits = NDArray[np.float32]  # (N, K)


class Deployed(nn.Module):
    """A network with its normalisation inside: pixels 0..255 as float32 or uint8 (N, C, H, W) -> logits (N, K)."""

    def __init__(self, model: nn.Module, images: Images) -> None:
        super().__init__()
        self.model = model
        self.scale: Tensor
        self.shift: Tensor
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (images.mean, images.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels.to(torch.float32) * self.scale + self.shift)
        return logits


def torch_logits(model: nn.Module, images: Images, pixels: Pixels) -> Logits:
    """Logits of the network on pixels, in fp32 on the CPU, in parts that memory holds."""
    deployed = Deployed(model, images).cpu().eval()
    with torch.no_grad():
        parts = [deployed(part.float()) for part in torch.from_numpy(pixels).split(per_pass(pixels[0].size))]
    logits: Logits = torch.cat(parts).numpy()
    return logits


def weights_sha256(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of the network's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
