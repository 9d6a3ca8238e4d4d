"""Labelled images as people have them: a folder per class, or a set of torchvision's on the disk. Nothing is fetched.

Like evaluation.py, which reads through it, nothing that distils imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgekd.errors import DataError
from edgekd.export import Pixels
from edgekd.picture import decoded
from edgekd.types import Images
from edgekd.vision import torchvision

Labels = NDArray[np.int64]
SETS = {"mnist": "MNIST", "fashionmnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of ImageFolder
LARGEST_MB = 4_000  # 10**6 bytes of pixels
BORDER = 0.0625  # of a large picture at each edge that is left out: 224 of 256, as torchvision's weights are evaluated
LARGE = 64  # pixels a side above which that is usual


def is_set(text: str) -> bool:
    """Whether the words name a set of SETS: cifar10:ROOT."""
    name, _, root = text.partition(":")
    return name.lower() in SETS and bool(root)


def of_set(text: str) -> tuple[Pixels, Labels]:
    """The test half of NAME:ROOT, ROOT as torchvision lays it out: uint8 (N, H, W) or (N, H, W, C), labels (N,).

    torchvision opens CIFAR and SVHN only where the files' MD5 are those of the published sets. Raises DataError.
    """
    name, _, root = text.partition(":")
    datasets = torchvision().datasets
    kind = getattr(datasets, SETS[name.lower()])
    which: dict[str, Any] = {"split": "test"} if kind is datasets.SVHN else {"train": False}
    try:
        found = kind(root, download=False, **which)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{root} does not hold {kind.__name__} as torchvision lays it out",
            code="E0349",
            why=str(error).strip().splitlines()[0].replace(" You can use download=True to download it", ""),
            fix=f"once, where there is a network:  torchvision.datasets.{kind.__name__}({root!r}, download=True)",
        ) from error
    pixels, labels = np.asarray(found.data), np.asarray(found.labels if kind is datasets.SVHN else found.targets)
    return pixels.astype(np.uint8, copy=False), labels.astype(np.int64)


def of_folder(root: Path, images: Images, classes: Sequence[str] | int) -> tuple[Pixels, Labels]:
    """ROOT/CLASS/picture, as ImageFolder reads it: uint8 (N, C, H, W) of the network's size, labels (N,).

    classes: the teacher's, by which the folders are found where all bear their names; else, or where only their number
    is known, the folders' alphabetical order is the teacher's, and there must be as many. A picture of another size is
    cropped around its middle (above 64 pixels a side to 7/8 of it) and resized. Raises DataError.
    """
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [
        (file, label)
        for folder, label in zip(folders, _labels(root, folders, classes), strict=True)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in ENDINGS and file.is_file()
    ]
    if not files:
        raise DataError(
            f"no pictures in the folders of {root}",
            code="E0348",
            why=f"looked for {', '.join(ENDINGS)} in {len(folders)} folders",
            fix="a folder per class, its pictures inside",
        )
    size_mb = len(files) * images.channels * images.height * images.width / 1e6
    if size_mb > LARGEST_MB:
        raise DataError(
            f"{len(files):,} pictures in {root} are too many for memory",
            code="E0348",
            why=f"{size_mb:,.0f} MB of pixels, {LARGEST_MB:,} at most",
            fix="take some of each class into another folder",
        )
    pixels = np.empty((len(files), images.channels, images.height, images.width), np.uint8)
    for place, (file, _) in zip(pixels, files, strict=True):
        place[:] = fitted(file, images)
    return pixels, np.array([label for _, label in files], np.int64)


def fitted(path: Path, images: Images) -> Pixels:
    """A picture as uint8 (C, H, W) of the network's size; see of_folder. Raises InputError."""
    picture, _ = decoded(path, images)
    size = (images.width, images.height)
    if picture.size != size:
        border = BORDER if min(size) > LARGE else 0.0
        picture = ImageOps.fit(picture, size, Image.Resampling.BILINEAR, bleed=border)
    return np.asarray(picture, np.uint8).reshape(*size[::-1], images.channels).transpose(2, 0, 1)


def _labels(root: Path, folders: Sequence[Path], classes: Sequence[str] | int) -> list[int]:
    """The class of each folder."""
    names = [] if isinstance(classes, int) else list(classes)
    if folders and all(folder.name in names for folder in folders):
        return [names.index(folder.name) for folder in folders]
    count = classes if isinstance(classes, int) else len(classes)
    if len(folders) != count:
        unknown = [folder.name for folder in folders if folder.name not in names]
        raise DataError(
            f"{root} has {len(folders)} folders for the teacher's {count} classes",
            code="E0348",
            why=f"no class is called {', '.join(map(repr, unknown[:3]))}" if unknown and names else "",
            fix="a folder per class, called as the classes are (edgekd inspect TEACHER), or one for each in order",
        )
    return list(range(count))
