"""Labelled images from folders and from sets as torchvision lays them out."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from edgekd import Images
from edgekd.datasets import is_set
from edgekd.errors import DataError, InputError
from edgekd.evaluation import load_eval_data
from edgekd.vision import torchvision

COLOUR, GRAY = Images(3, 8, 8, (0.5,) * 3, (0.5,) * 3), Images(1, 28, 28, (0.5,), (0.5,))
CIFAR = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
RNG = np.random.default_rng(0)


def photographs(root: Path, counts: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
    """Pictures of one colour, which is the number of its folder times 20."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, (20 * number, 0, 255)).save(root / name / f"{index}.png")
    return root


def test_folders_are_found_by_the_classes_names(tmp_path: Path) -> None:
    root = photographs(tmp_path / "photos", {"zebra": 2, "ant": 1})
    data = load_eval_data(root, COLOUR, ["zebra", "ant", "bee"])
    assert sorted(zip(data.labels.tolist(), data.pixels[:, 0, 0, 0].tolist(), strict=True)) == [(0, 0), (0, 0), (1, 20)]
    assert data.name == "photos" and data.pixels.shape == (3, 3, 8, 8)
    again = load_eval_data(root, COLOUR, ["zebra", "ant", "bee"])
    assert data.sha256 == again.sha256 != load_eval_data(root, COLOUR, ["ant", "zebra", "bee"]).sha256


def test_folders_of_other_names_are_the_classes_in_order(tmp_path: Path) -> None:
    root = photographs(tmp_path / "photos", {"n02": 1, "n01": 1})
    for classes in (2, ["cat", "dog"]):
        data = load_eval_data(root, COLOUR, classes)
        assert data.labels.tolist() == [0, 1] and data.pixels[:, 0, 0, 0].tolist() == [20, 0]  # n01 comes first
    with pytest.raises(DataError) as refused:
        load_eval_data(root, COLOUR, ["cat", "dog", "n02"])
    assert refused.value.code == "E0348" and "'n01'" in refused.value.why


def test_large_pictures_lose_an_eighth_and_small_ones_nothing(tmp_path: Path) -> None:
    """A stripe at the edge: 1/16 of a side is left out of what is brought to more than 64 pixels."""
    stripe = np.zeros((256, 512, 3), np.uint8)
    stripe[:, 128:140] = 255  # the left edge of the middle square; 12 of 256 pixels are less than 1/16
    (tmp_path / "photos" / "a").mkdir(parents=True)
    Image.fromarray(stripe).save(tmp_path / "photos" / "a" / "x.png")
    large, small = Images(3, 224, 224, (0.5,) * 3, (0.5,) * 3), CIFAR
    assert load_eval_data(tmp_path / "photos", large, 1).pixels.max() == 0
    assert load_eval_data(tmp_path / "photos", small, 1).pixels[0, 0, :, 0].min() > 100


@pytest.mark.parametrize("kind", ["empty", "no folders", "not a picture"])
def test_folders_without_pictures_are_refused(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    if kind != "empty":
        (root / "a").mkdir()
        (root / "a" / ("x.txt" if kind == "no folders" else "x.png")).write_text("no picture", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load_eval_data(root, COLOUR, 1)
    assert refused.value.code == ("E0346" if kind == "not a picture" else "E0348")
    if kind == "not a picture":
        assert "x.png" in refused.value.what


def test_too_many_pictures_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.datasets.LARGEST_MB", 3 * 8 * 8 / 1e6)
    root = photographs(tmp_path / "photos", {"a": 2})
    with pytest.raises(DataError, match="too many"):
        load_eval_data(root, COLOUR, 1)


@pytest.mark.parametrize("name", ["mnist", "FashionMNIST"])
def test_mnist_as_torchvision_keeps_it(name: str, tmp_path: Path) -> None:
    raw = tmp_path / {"mnist": "MNIST"}.get(name, name) / "raw"
    raw.mkdir(parents=True)
    pixels, labels = RNG.integers(0, 256, (5, 28, 28), np.uint8), np.array([3, 1, 4, 1, 5], np.uint8)
    for half in ("train", "t10k"):
        (raw / f"{half}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 5, 28, 28) + pixels.tobytes())
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 5) + labels.tobytes())
    data = load_eval_data(f"{name}:{tmp_path}", GRAY, 10)
    assert np.array_equal(data.pixels[:, 0], pixels) and data.labels.tolist() == [3, 1, 4, 1, 5]
    with pytest.raises(DataError) as refused:  # of another size: how it is brought there changes the accuracy
        load_eval_data(f"{name}:{tmp_path}", Images(1, 32, 32, (0.5,), (0.5,)), 10)
    assert refused.value.code == "E0342"


def test_svhn_and_cifar_as_torchvision_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": [[10], [1], [9], [2]]})
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    flat = pixels.transpose(0, 3, 1, 2).reshape(4, -1)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": flat, "labels": [7, 0, 2, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for text in (f"svhn:{tmp_path}", f"cifar10:{tmp_path}", f"cifar100:{tmp_path}"):  # not the published files
        with pytest.raises(DataError) as refused:
            load_eval_data(text, CIFAR, 10)
        assert refused.value.code == "E0349" and "download=True)" in refused.value.fix
    datasets = torchvision().datasets
    for kind in (datasets.SVHN, datasets.CIFAR10):  # as if their hashes were these
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    house, thing = (load_eval_data(f"{name}:{tmp_path}", CIFAR, 10) for name in ("svhn", "cifar10"))
    assert (house.name, thing.name) == ("svhn", "cifar10")
    assert house.labels.tolist() == [0, 1, 9, 2] and thing.labels.tolist() == [7, 0, 2, 9]
    for data in (house, thing):
        assert np.array_equal(data.pixels, pixels.transpose(0, 3, 1, 2))


def test_a_file_that_is_called_like_a_set_is_none() -> None:
    assert is_set("CIFAR10:/data") and not is_set("cifar10") and not is_set("cifar10:") and not is_set("c:data.npz")
