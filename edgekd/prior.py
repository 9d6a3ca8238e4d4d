"""Images that no customer made: procedural ones, and collages of a photograph. A start for the bank.

Every function gives uint8 (n, C, H, W) from a torch.Generator, where that is: same generator, same images, on one type
of device.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import EnvironmentLacking, InputError
from edgekd.files import nearest
from edgekd.types import Images

NAMES = ("none", "procedural", "photo")  # beside them: the path of a picture, or of a folder of them
PICTURES, PICTURES_NUMBERS = 64, 100_000_000  # of a folder: most, and numbers that they have together (fp32: 0.4 GB)
LEAVES = 4  # shapes per collage at most
YUV = torch.tensor([[0.299, 0.587, 0.114], [-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]])  # of RGB
CURVES, POINTS = 4, 32  # strokes per image at most, points per stroke
DISTANCES = 2**23  # pixel to point, held in memory at once: 34 MB
Texture = Callable[[int, torch.Generator], Tensor]  # (n, rng) -> float (n, C, H, W) in [0, 1]
Source = Callable[[int, torch.Generator], Tensor]  # (n, rng) -> uint8 (n, C, H, W)


def open_prior(name: str, images: Images) -> Source | None:
    """The source that `--prior` names: None for "none", else a function that draws images of the teacher's size.

    "procedural": strokes for grayscale, collages of coloured noise for colour. "photo": collages of crops of
    scikit-learn's two sample photographs (CC BY 2.0). Otherwise a path: collages of crops of that picture, or of those
    of a folder, not of folders in it. Raises InputError for a file that is no picture and a folder without any.
    """
    if name == "none":
        return None
    if name == "procedural":
        if images.channels == 1:
            return lambda n, rng: strokes(n, images, rng)
        return lambda n, rng: collages(n, images, rng, lambda n, rng: coloured_noise(n, images, rng))
    pictures = _sample_photographs() if name == "photo" else _pictures(Path(name))
    pyramids = [_pyramid(picture, images) for picture in pictures]
    return lambda n, rng: collages(n, images, rng, lambda n, rng: crops(n, pyramids, images, rng))


def data_statement(prior: str) -> str:
    """What the student has seen, in a sentence for the manifest."""
    made = "the student saw only images that were made from the teacher's weights and statistics"
    drawn = "the student saw no images of the customer's, only {} and some that the teacher's weights made or refined"
    match prior:
        case "none":
            return f"prior none: {made}"
        case "procedural":
            return "prior procedural: " + drawn.format("drawn ones (strokes, or collages of noise)")
        case "photo":
            return "prior photo: " + drawn.format("collages of scikit-learn's two sample photographs")
    if Path(prior).is_dir():
        return "prior pictures: " + drawn.format(f"collages of the user's pictures in {Path(prior).resolve().name}")
    return "prior picture: " + drawn.format(f"collages of the user's picture {Path(prior).name}")


def strokes(n: int, images: Images, rng: torch.Generator) -> Tensor:
    """One to four strokes per image: quadratic Bezier curves, the first often an arc of an ellipse.

    In half of the images the pen is not lifted: each curve begins where the one before ended.

    Bright on dark where the teacher's images are dark on average (mean below a half), else dark on bright.
    """
    h, w, device = images.height, images.width, rng.device
    size, t = torch.tensor([h, w], device=device), torch.linspace(0, 1, POINTS, device=device)[:, None]
    a, b, c = (0.1 + 0.8 * _uniform(rng, 3, n, CURVES, 1, 2)).unbind()
    joined = (_uniform(rng, n, 1, 1, 1) < 0.5).expand(n, CURVES - 1, 1, 2)
    a[:, 1:] = torch.where(joined, c[:, :-1], a[:, 1:])
    curves = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c  # (n, CURVES, POINTS, 2), in units of the side
    centre, radius = 0.25 + 0.5 * _uniform(rng, n, 1, 2), 0.06 + 0.22 * _uniform(rng, n, 1, 2)
    start, extent = _uniform(rng, 2, n, 1, 1).unbind()
    angle = 2 * math.pi * (start + t * (0.4 + 1.2 * extent).clamp_max(1))  # four of ten are closed
    arc = centre + radius * torch.cat([angle.cos(), angle.sin()], dim=-1)
    curved = _uniform(rng, n, 1, 1) < 0.4
    curves[:, 0] = torch.where(curved & ~joined[:, 0], arc, curves[:, 0])
    count = torch.randint(1, CURVES + 1, (n, 1), generator=rng, device=rng.device)
    curves[torch.arange(CURVES, device=device) >= count] = math.inf
    pixels = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(device) + 0.5
    points = (curves * size).nan_to_num(posinf=1e4).flatten(1, 2)
    few = max(1, DISTANCES // (len(pixels) * points.shape[1]))  # images at once
    distance = torch.empty(n, len(pixels), device=device)  # before the large blocks: behind them it would part them
    for into, part in zip(distance.split(few), points.split(few), strict=True):
        torch.amin(torch.cdist(pixels, part), -1, out=into)
    width = (0.05 + 0.09 * _uniform(rng, n, 1)) * math.sqrt(h * w)
    ink = (width / 2 - distance + 0.5).clamp(0, 1) * (0.6 + 0.4 * _uniform(rng, n, 1))
    if sum(images.mean) / images.channels > 0.5:
        ink = 1 - ink
    return (255 * ink).round().to(torch.uint8).view(n, 1, h, w).expand(n, images.channels, h, w)


def collages(n: int, images: Images, rng: torch.Generator, texture: Texture) -> Tensor:
    """Shapes pasted over each other, each cut from a texture of its own: round, lobed or square, of many sizes.

    Things in photographs occlude each other so (dead leaves; Lee, Mumford, Huang, 2001; as training images: Baradad et
    al., Learning to See by Looking at Noise, NeurIPS 2021). The outline of one thing with the surface of another, in
    any colour, shows far more to a student than the texture alone (benchmarks/NOTES.md).
    """
    y = torch.linspace(-1, 1, images.height, device=rng.device)[:, None]
    x = torch.linspace(-1, 1, images.width, device=rng.device)
    soft = max(images.height, images.width) / 2  # edges one pixel wide
    canvas = _recoloured(texture(n, rng), rng)
    count = torch.randint(LEAVES + 1, (n,), generator=rng, device=rng.device)
    for leaf in range(LEAVES):
        here = (leaf < count).nonzero()[:, 0]
        if not len(here):
            break
        u = _uniform(rng, len(here), 10, 1, 1).unbind(1)
        radius, aspect, turn = 0.25 * 4 ** u[0], 0.35 + 1.3 * u[1], math.pi * u[2]  # of half the side
        dy, dx = y - (1.6 * u[3] - 0.8), x - (1.6 * u[4] - 0.8)
        along, across = dx * turn.cos() + dy * turn.sin(), (dy * turn.cos() - dx * turn.sin()) / aspect
        around, lobes = torch.atan2(across, along), 2 + (5 * u[5]).floor()
        wave = 0.35 * u[6] * (lobes * around + 6.3 * u[7]).cos() + 0.2 * u[8] * ((lobes + 1) * around).cos()
        lobed = radius * (1 + wave) - (along.square() + across.square()).sqrt()
        square = 0.85 * radius - torch.maximum(along.abs(), across.abs())
        inside = (torch.where(u[9] < 0.65, lobed, square) * soft + 0.5).clamp(0, 1)  # (len(here), H, W)
        pasted = torch.lerp(canvas[here], _recoloured(texture(len(here), rng), rng), inside[:, None])
        canvas = canvas.index_copy(0, here, pasted)
    return (255 * canvas).round().to(torch.uint8)


def _uniform(rng: torch.Generator, *shape: int) -> Tensor:
    """Numbers in [0, 1), where the generator is."""
    return torch.rand(*shape, generator=rng, device=rng.device)


def _recoloured(images: Tensor, rng: torch.Generator) -> Tensor:
    """RGB (N, 3, H, W) in [0, 1], each image's hues turned by an angle and made 0 to 1.3 times as strong."""
    n, channels = images.shape[:2]
    if channels != 3:
        return images
    angle, strength = 2 * math.pi * _uniform(rng, n), 1.3 * _uniform(rng, n)
    cos, sin, zero = strength * angle.cos(), strength * angle.sin(), torch.zeros_like(angle)
    turned = torch.stack([torch.ones_like(angle), zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(n, 3, 3)
    mixing = torch.linalg.inv(YUV).to(angle.device) @ turned @ YUV.to(angle.device)  # (N, 3, 3)
    recoloured: Tensor = torch.einsum("nij,njhw->nihw", mixing, images).clamp(0, 1)
    return recoloured


def coloured_noise(n: int, images: Images, rng: torch.Generator) -> Tensor:
    """Noise of spectrum 1/f around one colour per image, of a random contrast; float (n, C, H, W) in [0, 1]."""
    c, h, w = images.channels, images.height, images.width
    frequency = (torch.fft.fftfreq(h)[:, None].square() + torch.fft.rfftfreq(w).square()).sqrt()
    frequency[0, 0] = math.inf  # no mean: that is the colour
    frequency = frequency.to(rng.device)
    white = torch.randn(n, 1, h, w, generator=rng, device=rng.device) + 0.3 * torch.randn(
        n, c, h, w, generator=rng, device=rng.device
    )
    spectrum = torch.fft.rfft2(white) / frequency
    noise = torch.fft.irfft2(spectrum, s=(h, w))
    noise = noise / noise.flatten(1).std(dim=1).clamp_min(1e-6).view(n, 1, 1, 1)
    gray, contrast = _uniform(rng, 2, n, 1, 1, 1)
    tint = 0.4 * (_uniform(rng, n, c, 1, 1) - 0.5)  # colours of things are near to gray
    coloured: Tensor = (gray + tint + 0.15 * contrast * noise).clamp(0, 1)
    return coloured


def crops(n: int, pyramids: list[list[Tensor]], images: Images, rng: torch.Generator) -> Tensor:
    """Random crops of photographs: any place, sizes from the image's own to the whole picture, turned, mirrored,
    brightness and colour changed.

    One picture so augmented is enough to distil from (Asano and Saeed, The Augmented Image Prior, ICLR 2023).
    pyramids: per photograph, float (C, H, W) in [0, 1], each next one of half the size.
    """
    out = torch.empty(n, images.channels, images.height, images.width, device=rng.device)
    which = torch.randint(len(pyramids), (n,), generator=rng, device=rng.device)
    for index, levels in enumerate(pyramids):
        chosen = (which == index).nonzero()[:, 0]
        u = _uniform(rng, 9, len(chosen))
        _, height, width = levels[0].shape
        longest = min(height / images.height, width / images.width)  # photograph's pixels per pixel of the crop
        zoom = longest ** u[0]  # 1 to longest, every scale as often
        level = zoom.log2().floor().long().clamp(0, len(levels) - 1)
        turn, squeeze = (u[1] - 0.5) * 0.7, torch.exp((u[2] - 0.5) * 0.5)
        mirror = torch.where(u[3] < 0.5, -1.0, 1.0)
        sy, sx = zoom * images.height / height * squeeze, zoom * images.width / width / squeeze
        theta = torch.zeros(len(chosen), 2, 3, device=rng.device)
        theta[:, 0, 0], theta[:, 0, 1] = mirror * sx * turn.cos(), -sx * turn.sin()
        theta[:, 1, 0], theta[:, 1, 1] = mirror * sy * turn.sin(), sy * turn.cos()
        theta[:, 0, 2] = (2 * u[4] - 1) * (1 - sx).clamp_min(0)
        theta[:, 1, 2] = (2 * u[5] - 1) * (1 - sy).clamp_min(0)
        for step in level.unique().tolist():
            here = (level == step).nonzero()[:, 0]
            grid = F.affine_grid(theta[here], [len(here), 1, images.height, images.width], align_corners=False)
            picture = levels[step].to(rng.device).expand(len(here), -1, -1, -1)
            out[chosen[here]] = F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)
    contrast, bright = torch.exp(0.6 * (_uniform(rng, 2, n, 1, 1, 1) - 0.5))
    tint = torch.exp(0.4 * (_uniform(rng, n, images.channels, 1, 1) - 0.5))
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    out = ((out - mean) * contrast + mean) * bright * tint
    changed: Tensor = out.clamp(0, 1)
    return changed


def _pyramid(picture: Tensor, images: Images) -> list[Tensor]:
    """uint8 (3, H, W) -> float levels of the channels the teacher takes, each half the one before."""
    level = picture.float() / 255
    if images.channels == 1:
        level = (level * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    elif images.channels != 3:
        raise InputError(f"a photograph has no {images.channels} channels", code="E0361", fix="use --prior procedural")
    levels = [level]
    while min(levels[-1].shape[1:]) >= 2 * max(images.height, images.width):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _sample_photographs() -> list[Tensor]:
    """Read as files: importing scikit-learn takes seconds."""
    found = importlib.util.find_spec("sklearn")
    if found is None:
        raise EnvironmentLacking(
            "the prior 'photo' is scikit-learn's sample photographs, and scikit-learn is not installed",
            code="E0405",
            fix="pip install scikit-learn, or use a picture of your own (--prior picture.jpg) or --prior procedural",
        )
    folder = Path(*found.submodule_search_locations or ()) / "datasets" / "images"
    return [_picture(folder / name) for name in ("china.jpg", "flower.jpg")]


def _pictures(path: Path) -> list[Tensor]:
    """One picture, or those of a folder in the order of their names: PICTURES evenly picked ones where it has more.

    Larger ones are halved until all have their share of PICTURES_NUMBERS: beyond it only finer detail is lost.
    """
    if not path.is_dir():
        return [_picture(path)]
    from PIL import Image

    known = Image.registered_extensions()
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in known and not file.name.startswith("."))
    if not files:
        raise InputError(
            f"--prior {path}: no picture in that folder",
            code="E0360",
            why=f"files with the endings of pictures are looked for: .jpg, .png and {len(known) - 2} others",
            fix="name a folder of pictures, or a picture",
        )
    chosen = [files[n * len(files) // min(PICTURES, len(files))] for n in range(min(PICTURES, len(files)))]
    return [_picture(file, most=PICTURES_NUMBERS // len(chosen)) for file in chosen]


def _picture(path: Path, *, most: int | None = None) -> Tensor:
    """uint8 (3, H, W), halved until it has `most` numbers."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise InputError(
            f"--prior {path}: neither a prior nor a picture.{nearest(str(path), NAMES)}",
            code="E0360",
            fix=f"one of {', '.join(NAMES)}, or the path of a picture or of a folder of pictures",
        )
    try:
        with Image.open(path) as picture:
            half = 1
            while most and 3 * (picture.width // half) * (picture.height // half) > most:
                half *= 2
            return torch.from_numpy(np.array(picture.convert("RGB").reduce(half))).permute(2, 0, 1)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture that can be read", code="E0360", why=str(error)) from error
