from __future__ import annotations

import pytest
import torch

from edgekd import Images
from edgekd.generator import Generator


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
    assert [m.eps for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d)] == [1e-5, 0.8, 0.8, 1e-5]
