from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import Images
from edgekd.errors import DataError
from edgekd.evaluation import load_eval_data, top1, write_eval_data

GRAY, COLOUR = Images(1, 8, 8, (0.5,), (0.5,)), Images(3, 8, 6, (0.5,) * 3, (0.5,) * 3)
RNG = np.random.default_rng(0)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_layouts_and_names_give_the_same_pixels(tmp_path: Path) -> None:
    chw = RNG.integers(0, 256, (5, 3, 8, 6), dtype=np.uint8)
    labels = np.array([0, 1, 2, 1, 0], dtype=np.uint8)
    hwc = saved(tmp_path / "a.npz", images=chw.transpose(0, 2, 3, 1), labels=labels)
    as_is = saved(tmp_path / "b.npz", x_test=chw, y_test=labels)
    for path in (hwc, as_is):
        data = load_eval_data(path, COLOUR, 3)
        assert np.array_equal(data.pixels, chw) and data.labels.tolist() == [0, 1, 2, 1, 0]
    gray = saved(tmp_path / "c.npz", x=chw[:, 0, :, :1].repeat(8, axis=2), y=labels)
    assert load_eval_data(gray, GRAY, 3).pixels.shape == (5, 1, 8, 8)
    write_eval_data(load_eval_data(hwc, COLOUR, 3), tmp_path / "d.npz")
    assert np.array_equal(np.load(tmp_path / "d.npz")["images"], chw)


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "E0341"),
        ({"images": np.zeros((2, 9, 8), np.uint8), "labels": np.zeros(2, int)}, "E0342"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.zeros(2, int)}, "E0342"),
        ({"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros(0, int)}, "E0342"),
        ({"images": np.zeros((2, 8, 8)), "labels": np.zeros(2, int)}, "E0343"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, int)}, "E0344"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2)}, "E0344"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, 4])}, "E0345"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, -1])}, "E0345"),
        ({"images": np.array([object()]), "labels": np.array([0])}, "E0340"),
    ],
)
def test_refused_data(arrays: dict[str, Any], code: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        load_eval_data(saved(tmp_path / "data.npz", **arrays), GRAY, 4)
    assert refused.value.code == code and refused.value.exit_code == 3


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04broken"])
def test_files_that_are_no_data(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        load_eval_data(path, GRAY, 4)
    assert refused.value.code == "E0340"


def test_top1_by_hand(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.array([0, 1, 1, 0]))
    logits = np.array([[1, 0], [1, 0], [0, 1], [2, 1]], np.float32)
    assert top1(logits, load_eval_data(path, GRAY, 2)) == 0.75
