from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from edgekd import Images
from edgekd.generator import new_generator
from edgekd.tones import Tones, are_known

MNIST = Images(1, 32, 32, (0.1307,), (0.3081,))
CIFAR = Images(3, 32, 32, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))


@pytest.mark.parametrize("images", [MNIST, CIFAR, Images(1, 8, 8, (0.9,), (0.05,))])
def test_pixels_have_the_moments_of_the_normalisation(images: Images) -> None:
    x = torch.randn(64, images.channels, 64, 64, generator=torch.Generator().manual_seed(0))
    y = Tones(images)(x)
    assert y.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * images.channels, abs=0.02)
    assert y.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * images.channels, abs=0.02)
    mean, std = (torch.tensor(of).view(1, -1, 1, 1) for of in (images.mean, images.std))
    pixels = y * std + mean
    assert pixels.min() >= 0 and pixels.max() <= 1


def test_few_pixels_are_lit_where_the_mean_is_dark() -> None:
    y = Tones(MNIST)(torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    pixels = y * 0.3081 + 0.1307
    assert ((pixels < 0.1) | (pixels > 0.9)).float().mean() > 0.8  # nearly black and white: their variance says so
    assert (pixels > 0.5).float().mean().item() == pytest.approx(0.13, abs=0.02)


@pytest.mark.parametrize(
    ("mean", "std", "known"),
    [(0.1307, 0.3081, True), (0.485, 0.229, True), (0.5, 0.5, False), (0.0, 1.0, False), (0.5, 0.25, True)],
)
def test_customary_numbers_are_no_statistics(mean: float, std: float, known: bool) -> None:
    images = dataclasses.replace(MNIST, mean=(mean,), std=(std,))
    assert are_known(images) == known
    made = new_generator(images, latent=4, width=4, seed=0, device=torch.device("cpu"), tones=True)
    assert any(isinstance(part, Tones) for part in made.modules()) == known
    assert any(isinstance(part, nn.Tanh) for part in made.modules()) != known


def test_published_generators_have_none() -> None:
    made = new_generator(MNIST, latent=4, width=4, seed=0, device=torch.device("cpu"))
    assert not any(isinstance(part, Tones) for part in made.modules())
