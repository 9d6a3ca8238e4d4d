"""Accuracy on a user's labelled images. Nothing that distils imports this module; a test holds it to that."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.datasets import is_set, of_folder, of_set
from edgekd.errors import DataError
from edgekd.export import Logits, Pixels
from edgekd.files import sha256, written
from edgekd.types import Images

NAMES = (("images", "labels"), ("x", "y"), ("test_images", "test_labels"), ("x_test", "y_test"))


@dataclass(frozen=True)
class EvalData:
    pixels: Pixels  # (N, C, H, W)
    labels: NDArray[np.int64]  # (N,)
    name: str
    sha256: str  # of the file; of what is no single file, of the bytes of pixels and labels


@dataclass(frozen=True)
class RealImages:
    """Images of the customer that nothing is trained on: for the ranges of an INT8 graph."""

    pixels: Pixels  # (N, C, H, W)
    name: str
    sha256: str


def load_real_images(path: str | Path, images: Images) -> RealImages:
    """Reads an npz of uint8 images, (N, H, W), (N, H, W, C) or (N, C, H, W); labels in it are not looked at.

    Raises DataError where the file is none, or its shape does not fit the network.
    """
    path = Path(path)
    arrays = _arrays(path)
    name = next((first for first, _ in NAMES if first in arrays), None)
    if name is None:
        raise DataError(
            f"{path} has no images",
            code="E0341",
            why=f"it holds: {', '.join(arrays) or 'nothing'}",
            fix="numpy.savez('data.npz', images=uint8 array (N, H, W, C))",
        )
    return RealImages(_pixels(path, arrays[name], images), path.name, sha256(path))


def load_eval_data(path: str | Path, images: Images, classes: Sequence[str] | int) -> EvalData:
    """Labelled images from an npz, a folder with a folder of pictures per class, or NAME:ROOT, a set of torchvision's.

    An npz holds uint8 images, (N, H, W), (N, H, W, C) or (N, C, H, W), and integer labels 0..K-1 (N,). classes: the
    teacher's names, or how many; folders are matched with names. Raises DataError where there are none, or shape or
    labels do not fit the network.
    """
    path = Path(path)
    if is_set(str(path)):
        given, labels = of_set(str(path))
        pixels, digest = _pixels(path, given, images), None
    elif path.is_dir():
        pixels, labels = of_folder(path, images, classes)
        digest = None
    else:
        pixels, labels = _of_npz(path, images)
        digest = sha256(path)
    count = classes if isinstance(classes, int) else len(classes)
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise DataError(
            f"{path}: labels run from {labels.min()} to {labels.max()}",
            code="E0345",
            why=f"the teacher has {count} classes, 0 to {count - 1}",
        )
    labels = labels.astype(np.int64)
    digest = digest or hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    name = str(path).partition(":")[0] if is_set(str(path)) else path.resolve().name
    return EvalData(pixels, labels, name, digest)


def _of_npz(path: Path, images: Images) -> tuple[Pixels, NDArray[Any]]:
    arrays = _arrays(path)
    names = next((pair for pair in NAMES if set(pair) <= set(arrays)), None)
    if names is None:
        raise DataError(
            f"{path} has no images and labels",
            code="E0341",
            why=f"it holds: {', '.join(arrays) or 'nothing'}",
            fix="numpy.savez('data.npz', images=uint8 array (N, H, W, C), labels=integers (N,))",
        )
    pixels, labels = _pixels(path, arrays[names[0]], images), arrays[names[1]]
    if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels must be {len(pixels)} integers, one per image",
            code="E0344",
            why=f"found {labels.dtype} of shape {labels.shape}",
        )
    return pixels, labels


def _pixels(path: Path, pixels: NDArray[Any], images: Images) -> Pixels:
    """uint8 (N, C, H, W) of an array that has its channels where it likes."""
    wanted = (images.channels, images.height, images.width)
    found = pixels.shape[1:]
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1:] != wanted:
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.shape[1:] != wanted or not len(pixels):
        raise DataError(
            f"{path}: images of shape {'x'.join(map(str, found))} do not fit the teacher",
            code="E0342",
            why=f"it takes {images.height}x{images.width} with {images.channels} channel(s)",
            fix="resize them as they were for the teacher's training",
        )
    if pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: images are {pixels.dtype}, not uint8",
            code="E0343",
            why="edgekd normalises pixels 0..255 itself, with the teacher's mean and std",
            fix="save the raw pixels",
        )
    return np.ascontiguousarray(pixels)


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"{path} is not there" if not path.exists() else f"{path} is not a file", code="E0340")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an npz archive")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise DataError(
            f"{path} is not a whole npz file of plain arrays",
            code="E0340",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="numpy.savez('data.npz', images=uint8 array (N, H, W, C), labels=integers (N,))",
        ) from error


def write_eval_data(data: EvalData, path: Path) -> None:
    """The one form that the device's runner reads: uint8 (N, C, H, W) and labels."""
    with written(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, images=data.pixels, labels=data.labels)


def top1(logits: Logits, data: EvalData) -> float:
    """Share of images whose largest logit is the label's, in [0, 1]."""
    return float((logits.argmax(1) == data.labels).mean())
