"""Normalisations: named ones, and what the first BatchNorm says of an assumed one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd import Images, load_teacher
from edgekd.bank import normalised
from edgekd.errors import UsageError
from edgekd.prior import collages, coloured_noise, strokes
from edgekd.teacher import normalisation
from edgekd.teacher.preprocessing import misfit, trained_on

SHARED = Path(__file__).parents[2] / "shared"
COLOUR = Images(3, 32, 32, *normalisation("imagenet"))


def trained(images: Images, *, bias: bool = False, seed: int = 0) -> nn.Module:
    """A convolution and a BatchNorm whose statistics are those of drawn images normalised as `images` says."""
    pens = torch.Generator().manual_seed(seed)
    if images.channels == 1:
        pixels = strokes(512, images, pens)
    else:
        pixels = collages(512, images, pens, lambda n, rng: coloured_noise(n, images, rng))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(images.channels, 24, 3, padding=1, bias=bias), nn.BatchNorm2d(24, momentum=1.0))
    with torch.no_grad():
        model.train()(normalised(pixels, images))
    return model.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["imagenet", "half", "unit", "raw"])
def test_right_normalisation_is_believed_and_the_data_found_again(name: str, bias: bool) -> None:
    mean, std = ((v * 3)[:3] for v in normalisation(name))
    images = replace(COLOUR, mean=mean, std=std)
    model = trained(images, bias=bias)
    found = trained_on(model, images)
    assert found is not None and found.mean == pytest.approx(0.5, abs=0.1) and 0.15 < found.std < 0.45
    assert misfit(model, images) == ""


def test_wrong_normalisation_is_told_with_a_plausible_one() -> None:
    model = trained(COLOUR)
    raw = replace(COLOUR, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    unit = replace(COLOUR, mean=(0.0,) * 3, std=(1.0,) * 3)
    for wrong in (raw, unit):
        assert "imagenet" in misfit(model, wrong)
    fed_raw = trained(raw)
    assert "plausible would be: raw" in misfit(fed_raw, COLOUR)


def test_gray_images() -> None:
    digits = Images(1, 32, 32, *normalisation("mnist"))
    model = trained(digits)
    assert misfit(model, digits) == ""
    assert "mnist" in misfit(model, replace(digits, mean=(0.0,), std=(1 / 255,)))


def test_nothing_is_said_where_nothing_can_be_told() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert trained_on(plain, COLOUR) is None and misfit(plain, COLOUR) == ""
    bent = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)).eval()  # not linear before the BatchNorm
    assert trained_on(bent, COLOUR) is None


def test_unknown_name_suggests_one() -> None:
    with pytest.raises(UsageError) as caught:
        normalisation("imagnet")
    assert "'imagenet'" in caught.value.what and caught.value.code == "E0206"


@pytest.mark.skipif(not (SHARED / "teachers").is_dir(), reason="needs the CIFAR-10 teachers of ../shared")
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_teachers_of_others_show_what_they_were_trained_on(name: str) -> None:
    model = load_teacher(SHARED / "teachers" / f"{name}_cifar10.th", arch=name, images=COLOUR).model
    found = trained_on(model, COLOUR)  # CIFAR-10 has the mean 0.473 and the standard deviation 0.251
    assert (
        found is not None
        and found.mean == pytest.approx(0.473, abs=0.1)
        and found.std == pytest.approx(0.251, abs=0.05)
    )
    assert misfit(model, COLOUR) == ""
    for wrong in ("unit", "raw", "half"):
        mean, std = (v * 3 for v in normalisation(wrong))
        assert "imagenet" in misfit(model, replace(COLOUR, mean=mean, std=std))
