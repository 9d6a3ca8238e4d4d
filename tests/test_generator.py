from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgekd import Images
from edgekd.generator import Generator, upsampled_conv


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (30, 50), (96, 96), (224, 224)])
def test_images_of_any_size_with_unit_statistics(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = Images(3, *size, (0.5,) * 3, (0.5,) * 3)
    generator = Generator(images, latent=16, width=8).train()
    x = generator(torch.randn(4, 16))
    assert x.shape == (4, 3, *size)
    assert x.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-4)
    assert x.var(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=1e-2)


def test_published_layers() -> None:
    """RDSKD's generator for MNIST: parameters counted by hand from the released code."""
    generator = Generator(Images(1, 32, 32, (0.1,), (0.3,)), latent=100)
    linear, norm = 100 * 8192 + 8192, 2 * 128
    convolutions = (128 * 128 * 9 + 128) + (128 * 64 * 9 + 64) + (64 * 9 + 1)
    assert sum(p.numel() for p in generator.parameters()) == linear + norm + convolutions + 2 * 128 + 2 * 64
    assert [m.eps for m in generator.norms] == [0.8, 0.8]


@pytest.mark.parametrize("size", [(8, 6), (16, 12), (15, 11)])
def test_upsampled_convolution_equals_upsampling_and_convolution(size: tuple[int, int]) -> None:
    """Values and gradients; only (16, 12) takes the short way."""
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 6)
    weights = torch.randn(2, 5, *size)
    results = []
    for short in (True, False):
        conv.zero_grad()
        inputs = x.clone().requires_grad_()
        y = upsampled_conv(conv, inputs, size) if short else conv(F.interpolate(inputs, size=size))
        (y * weights).sum().backward()
        assert inputs.grad is not None and conv.weight.grad is not None and conv.bias is not None
        assert conv.bias.grad is not None
        results.append([y.detach(), inputs.grad, conv.weight.grad.clone(), conv.bias.grad.clone()])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
