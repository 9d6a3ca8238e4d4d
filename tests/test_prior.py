from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgekd import Images, prior
from edgekd.augment import mixed_up, warped
from edgekd.errors import EnvironmentLacking, InputError
from edgekd.prior import open_prior

GRAY, BRIGHT = Images(1, 16, 20, (0.13,), (0.3,)), Images(1, 16, 20, (0.9,), (0.3,))
COLOUR = Images(3, 20, 16, (0.5,) * 3, (0.2,) * 3)


def drawn(name: str, images: Images, n: int = 64, seed: int = 0) -> torch.Tensor:
    source = open_prior(name, images)
    assert source is not None
    return source(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["procedural", "photo", "picture"])
@pytest.mark.parametrize("images", [GRAY, COLOUR])
def test_same_seed_same_images_and_hardly_two_alike(name: str, images: Images, tmp_path: Path) -> None:
    if name == "picture":
        picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
        name = str(tmp_path / "own.png")
        Image.fromarray(picture).save(name)
    torch.manual_seed(1)
    first = drawn(name, images)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(name, images)) and not torch.equal(first, drawn(name, images, seed=1))
    assert first.shape == (64, images.channels, images.height, images.width) and first.dtype == torch.uint8
    assert len(first.flatten(1).unique(dim=0)) > 50  # a crop of a white sky has equals


def test_strokes_take_the_polarity_of_the_teachers_images() -> None:
    dark, bright = drawn("procedural", GRAY).float(), drawn("procedural", BRIGHT).float()
    assert dark.mean() < 100 < 155 < bright.mean()
    assert (dark == 0).float().mean() > 0.5 and dark.flatten(1).amax(dim=1).min() > 100  # ink in every image


def test_none_is_no_source() -> None:
    assert open_prior("none", GRAY) is None


def test_what_is_no_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    (empty := tmp_path / "empty").mkdir()
    wrong = {"procedual": "procedural", str(broken): "picture", str(tmp_path): "broken.jpg", str(empty): "folder"}
    for name, words in wrong.items():
        with pytest.raises(InputError) as refused:
            open_prior(name, GRAY)
        assert refused.value.code == "E0360" and words in refused.value.what + refused.value.fix
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentLacking) as lacking:
        open_prior("photo", COLOUR)
    assert "pip install scikit-learn" in lacking.value.fix


def test_pictures_of_a_folder_are_all_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat ones, each of another gray, beside what is no picture; of more than PICTURES evenly many."""
    for n in range(6):
        Image.new("RGB", (64, 48), (40 * n,) * 3).save(tmp_path / f"{n}.png")
    (tmp_path / "README.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    facts = Images(3, 16, 16, (0.5,) * 3, (0.2,) * 3)
    seen = [picture.unique().tolist() for picture in prior._pictures(tmp_path)]
    assert seen == [[0], [40], [80], [120], [160], [200]]
    assert len(drawn(str(tmp_path), facts, 200).flatten(1).unique(dim=0)) > 100
    monkeypatch.setattr(prior, "PICTURES", 3)
    assert [picture.unique().tolist() for picture in prior._pictures(tmp_path)] == [[0], [80], [160]]
    monkeypatch.setattr(prior, "PICTURES_NUMBERS", 3 * 3 * 33 * 24)
    assert {picture.shape for picture in prior._pictures(tmp_path)} == {(3, 24, 32)}


def test_warped_with_no_strength_is_the_image() -> None:
    x, rng = torch.randn(8, 3, 9, 9), torch.Generator().manual_seed(0)
    assert torch.allclose(warped(x, rng, strength=0.0, mirror=False), x, atol=1e-5)
    mirrored = warped(x, rng, strength=0.0, mirror=True)
    turned = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(mirrored, x, strict=True)]
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(mirrored, x, strict=True)]
    assert any(turned) and any(kept) and all(a or b for a, b in zip(turned, kept, strict=True))


def test_mixed_images_are_made_of_two() -> None:
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 6, 6).contiguous()
    rng = torch.Generator().manual_seed(0)
    blended = mixed_up(x, rng)
    assert (blended.amax(dim=(1, 2, 3)) - blended.amin(dim=(1, 2, 3))).abs().max() < 1e-5  # each one value
    assert (blended[:, 0, 0, 0] - x[:, 0, 0, 0]).abs().max() <= 3.5 and blended.max() <= 7


def test_recoloured_keeps_the_brightness() -> None:
    images = 0.4 + 0.1 * torch.rand(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))  # nothing to clamp
    turned = prior._recoloured(images, torch.Generator().manual_seed(1))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    assert torch.allclose((images * luma).sum(1), (turned * luma).sum(1), atol=1e-5)
    assert (images - turned).abs().flatten(1).amax(1).min() > 1e-3


def test_collage_is_pasted_from_textures_of_its_own() -> None:
    """Flat textures, each of another gray: a collage has as many grays as pieces, beside soft edges."""
    facts, grays = Images(1, 40, 40, (0.5,), (0.2,)), []

    def texture(n: int, rng: torch.Generator) -> torch.Tensor:
        grays.append(torch.rand(n, 1, 1, 1, generator=rng))
        return grays[-1].expand(n, 1, 40, 40)

    pictures = prior.collages(64, facts, torch.Generator().manual_seed(0), texture)
    assert len(grays) == prior.LEAVES + 1 and len(grays[0]) == 64
    drawn = (255 * torch.cat(grays).flatten()).round().to(torch.uint8)
    counts = torch.stack([picture.flatten().bincount(minlength=256) for picture in pictures.int()])
    pieces = (counts > 8).sum(1)
    assert pieces.min() == 1 and pieces.max() >= prior.LEAVES  # some have no shape on their ground, some all
    known = torch.isin(pictures, drawn).float().mean()
    assert known > 0.9  # the rest is edges
