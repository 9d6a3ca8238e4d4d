from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from edgekd.grid import GAP, write_grid


def test_a_row_per_class_that_occurs(tmp_path: Path) -> None:
    labels = np.array([3, 1, 3, 3])
    pixels = np.stack([np.full((1, 8, 6), 10 * (i + 1), dtype=np.uint8) for i in range(4)])
    write_grid(pixels, labels, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    zoom = 48 // 8
    assert picture.shape == ((2 * 8 + GAP) * zoom, (12 * (6 + GAP) - GAP) * zoom, 3)
    rows, columns = ((4 + row * (8 + GAP)) * zoom for row in (0, 1)), [(3 + k * (6 + GAP)) * zoom for k in range(4)]
    at = [picture[row, column, 0] for row in rows for column in columns]
    assert json.loads(Image.open(tmp_path / "grid.png").info["classes"]) == [1, 3]
    assert at == [20, 128, 128, 128, 10, 30, 40, 128]  # class 1 has one image, class 3 three in their order
