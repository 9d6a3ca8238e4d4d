"""Pictures of what a student is shown: a row of images per class, as the teacher sees them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edgekd.files import written

COLUMNS, ROWS = 12, 20  # images per class; classes shown at most
CLASSES = "classes"  # text of the PNG: the class of each row, a JSON list
GAP, SIDE = 2, 48  # pixels between images; images smaller than this are enlarged by whole factors


def write_grid(pixels: NDArray[np.uint8], labels: NDArray[np.int64], path: Path) -> None:
    """Writes a PNG with the first 12 images of each class, one row per class that occurs, at most the first 20.

    Which classes these are stands in the file, as CLASSES.
    pixels: uint8 (N, C, H, W); of more than three channels the first is shown. labels: (N,).
    """
    _, channels, height, width = pixels.shape
    shown = pixels[:, :3] if channels >= 3 else pixels[:, :1].repeat(3, axis=1)
    found = np.unique(labels)[:ROWS]
    zoom = max(1, SIDE // max(height, width))
    sheet = np.full((len(found) * (height + GAP) - GAP, COLUMNS * (width + GAP) - GAP, 3), 128, dtype=np.uint8)
    for row, label in enumerate(found):
        for column, image in enumerate(shown[labels == label][:COLUMNS]):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet).resize((sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST)
    text = PngInfo()
    text.add_text(CLASSES, json.dumps(found.tolist()))
    with written(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=text)
