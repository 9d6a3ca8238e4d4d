from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd import Images
from edgekd.bank import Bank, normalised, to_pixels
from edgekd.errors import EnvironmentLacking

FACTS = Images(3, 4, 4, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8))


def test_normalised_by_hand_and_back() -> None:
    x = normalised(torch.full((1, 3, 1, 1), 51, dtype=torch.uint8), FACTS)
    expected = [(0.2 - m) / s for m, s in zip(FACTS.mean, FACTS.std, strict=True)]
    assert x.flatten().tolist() == pytest.approx(expected)
    assert torch.equal(to_pixels(normalised(pixels(5), FACTS), FACTS), pixels(5))


def test_images_and_logits_come_back_together(tmp_path: Path) -> None:
    bank, logits = Bank(tmp_path / "bank.u8", FACTS, capacity=8, classes=2), torch.randn(6, 2)
    bank.add(normalised(pixels(6), FACTS), lambda kept: logits)
    x, known = bank.sample(40, torch.Generator().manual_seed(0))
    originals = pixels(6).flatten(1).tolist()
    for image, of_image in zip(to_pixels(x, FACTS).flatten(1).tolist(), known, strict=True):
        assert torch.allclose(of_image, logits[originals.index(image)], atol=2e-3)


def test_labels_are_of_what_is_kept(tmp_path: Path) -> None:
    """An image beyond white is kept as white, and so it is labelled."""
    bank = Bank(tmp_path / "bank.u8", FACTS, capacity=2, classes=1)
    white = normalised(torch.full_like(pixels(2), 255), FACTS)
    beyond = white + torch.tensor([0.0, 3.0]).view(2, 1, 1, 1)
    bank.add(beyond, lambda kept: kept.mean(dim=(1, 2, 3))[:, None])
    assert torch.equal(bank.logits[0], bank.logits[1])


def test_oldest_are_overwritten_when_full(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank.u8", FACTS, capacity=4, classes=2)
    bank.add_pixels(pixels(3, seed=1), torch.zeros(3, 2))
    bank.add_pixels(pixels(2, seed=2), torch.zeros(2, 2))
    assert len(bank) == 4
    assert torch.equal(bank.pixels[0], pixels(2, seed=2)[1]) and torch.equal(bank.pixels[1], pixels(3, seed=1)[1])


def test_a_class_that_has_its_share_takes_no_more(tmp_path: Path) -> None:
    """Counted over what is kept, also after going back to an earlier state."""

    def of(*labels: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(labels), 3).float()

    bank = Bank(tmp_path / "bank.u8", FACTS, capacity=9, classes=3)
    first = of(0, 0, 1, 0, 0, 2)
    kept = bank.lacking(first)
    assert kept.tolist() == [True, True, True, True, False, True]
    bank.add_pixels(pixels(6)[kept], first[kept])
    assert bank.lacking(of(0, 2, 1, 1, 1, 2)).tolist() == [False, True, True, True, False, True]
    early = bank.state_dict()
    bank.add_pixels(pixels(2), of(2, 2))
    assert bank.lacking(of(2, 1)).tolist() == [False, True]
    again = Bank(tmp_path / "bank.u8", FACTS, capacity=9, classes=3)
    again.load_state_dict(early)
    assert again.lacking(of(2, 2, 2, 0)).tolist() == [True, True, False, False]


def test_classes_that_never_come_have_no_share(tmp_path: Path) -> None:
    """A thousand classes of which the source shows one or two: the bank is filled by those."""
    bank = Bank(tmp_path / "bank.u8", FACTS, capacity=9, classes=1_000)
    one, two = (torch.nn.functional.one_hot(torch.tensor(labels), 1_000).float() for labels in ([7] * 9, [7] * 6 + [3]))
    assert bank.lacking(one).all()
    assert bank.lacking(two).tolist() == [True] * 5 + [False, True]


def test_balanced_draws_every_class_alike(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank.u8", FACTS, capacity=100, classes=3)
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    bank.add_pixels(pixels(100), torch.nn.functional.one_hot(labels).float())
    rng = torch.Generator().manual_seed(0)
    counts = bank.sample(3_000, rng, balanced=True)[1].argmax(dim=1).bincount(minlength=3)
    assert counts.min() > 900
    assert bank.sample(3_000, rng)[1].argmax(dim=1).bincount(minlength=3)[0] > 2_600
    bank.add_pixels(pixels(50), torch.nn.functional.one_hot(torch.full((50,), 2), 3).float())  # overwrites zeros
    assert bank.sample(3_000, rng, balanced=True)[1].argmax(dim=1).bincount(minlength=3).min() > 900


def test_found_again_after_an_interruption(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank.u8", FACTS, capacity=4, classes=2)
    bank.add_pixels(pixels(3), torch.ones(3, 2))
    state = bank.state_dict()
    again = Bank(tmp_path / "bank.u8", FACTS, capacity=4, classes=2)
    again.load_state_dict(state)
    assert len(again) == 3 and torch.equal(again.pixels, bank.pixels) and torch.equal(again.logits, bank.logits)


def test_full_disk_shows_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EnvironmentLacking) as refused:
        Bank(tmp_path / "bank.u8", FACTS, capacity=4, classes=2)
    assert refused.value.code == "E0404" and "No space left" in refused.value.why
