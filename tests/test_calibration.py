"""Ranges of INT8: each method by hand, balanced images, and the graph that agrees most is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import DataError
from edgekd.evaluation import load_real_images
from edgekd.export import calibration, scheme
from edgekd.export.calibration import balanced, calibrate, count_for
from edgekd.export.ranges import BINS, METHODS, Histogram, histograms, mse, ranges
from edgekd.files import write_json
from edgekd.integers import calibration_line, document, evenly, parted
from edgekd.report.tables import calibrations
from edgekd.types import Images

RNG = np.random.default_rng(0)


def classifier(
    path: Path, *, weight: NDArray[np.float64], last: NDArray[np.float64], shift: NDArray[np.float64] | None = None
) -> Path:
    """pixels / 255 -> 1x1 convolution -> ReLU -> mean -> linear: a graph of edgekd in the small, written by hand."""
    constants = {
        "scale": np.full((1, 1, 1, 1), 1 / 255), "weight": weight, "bias": np.zeros(len(weight)),
        "last": last, "shift": np.zeros(len(last)) if shift is None else shift,
    }  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["pixels", "scale"], ["x"], "mul"),
        helper.make_node("Conv", ["x", "weight", "bias"], ["y"], "conv", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
        helper.make_node("ReduceMean", ["z"], ["m"], "mean", axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "last", "shift"], ["logits"], "gemm", transB=1),
    ]
    entry = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", weight.shape[1], 4, 4])
    end = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(last)])
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [entry], [end], held), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save_model(model, path)
    return path


def sharp(path: Path, outlier: float) -> Path:
    """Two classes: whether the second input channel is bright on the whole. The first, times `outlier`, is ignored."""
    weight = np.array([[0.0, 1.0], [outlier, 0.0]])[:, :, None, None]
    return classifier(path, weight=weight, last=np.array([[9.0, 0.0], [-9.0, 0.0]]), shift=np.array([-4.5, 4.5]))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    weight = RNG.normal(size=(6, 2, 1, 1))
    return classifier(tmp_path / "fp32.onnx", weight=weight, last=RNG.normal(size=(4, 6)))


def images(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 4, 4), dtype=np.uint8)


def histogram(values: NDArray[np.float64]) -> Histogram:
    most = float(np.abs(values).max())
    return Histogram(np.histogram(values, BINS, (-most, most))[0], float(values.min()), float(values.max()))


def test_balanced_classes_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    assert balanced(labels, 3).tolist() == [0, 4, 6]  # one of each
    assert balanced(labels, 5).tolist() == [0, 1, 4, 5, 6]  # the third class has no more
    assert balanced(labels, 99).tolist() == list(range(7))
    drawn = RNG.integers(0, 10, 5_000)
    chosen = balanced(drawn, 500)
    assert np.bincount(drawn[chosen]).tolist() == [50] * 10
    assert np.array_equal(chosen, balanced(drawn, 500))


def test_histograms_by_hand(graph: Path) -> None:
    pixels = images(40, seed=1)
    found = histograms(onnx.load(graph), pixels)
    x = pixels / 255
    assert found["x"].counts.sum() == x.size and found["x"].highest == pytest.approx(x.max())
    weight = next(numpy_helper.to_array(t) for t in onnx.load(graph).graph.initializer if t.name == "weight")
    y = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x)
    assert [found["y"].lowest, found["y"].highest] == pytest.approx([float(y.min()), float(y.max())])
    assert found["z"].lowest == 0.0 and list(found) == ["x", "y", "z", "m", "logits"]


def test_ranges_of_methods() -> None:
    values = np.abs(RNG.normal(size=200_000))
    values[0] = 1_000.0  # one outlier: with the extremes a step is 4, and everything else is 0 or 4
    found = {"z": histogram(values)}
    for symmetric in (False, True):
        high = {method: ranges(found, method, symmetric=symmetric)["z"][1] for method in METHODS}
        assert high["minmax"] == 1_000.0
        assert high["percentile"] < 10  # 99.99 % of the values
        assert all(ranges(found, method, symmetric=symmetric)["z"][0] <= 0 for method in METHODS)
    low, high_ = ranges({"z": histogram(np.full(10, 3.0))}, "mse", symmetric=False)["z"]
    assert low == 0.0 and high_ == pytest.approx(3.0, rel=1e-6)
    empty = Histogram(np.zeros(BINS, np.int64), 0.0, 0.0)
    assert all(ranges({"z": empty}, method, symmetric=True)["z"] == (0.0, 0.0) for method in METHODS)


def test_mse_by_hand() -> None:
    # 255 values at 0.7 of one that is 1 with weight w. Clipping at 0.7 costs w * 0.3^2 and nothing else, as every k/255
    # of 0.7 is then met; the whole range costs each of them up to (1/510)^2.
    grid = 0.7 * np.arange(256) / 255
    for weight, clips in ((1, False), (0, True)):
        values = np.concatenate([np.repeat(grid, 100), np.full(weight, 1.0)])
        most = 1.0
        found = Histogram(np.histogram(values, BINS, (-most, most))[0], 0.0, most)
        whole = float(np.square(np.round(values * 255) / 255 - values).sum())
        clipped = weight * 0.3**2
        assert (clipped < whole) == clips  # by hand
        low, high = mse(found, symmetric=False)
        assert low == 0.0 and (high < 0.75) == clips


def test_the_graph_that_agrees_most_is_kept(tmp_path: Path) -> None:
    # A channel that lies far above the other, in one place of one image: by the extremes the other is lost.
    path = sharp(tmp_path / "fp32.onnx", outlier=60.0)
    pixels, held_out = images(300, seed=1), images(400, seed=2)
    pixels[:, 0], held_out[:, 0] = 0, 0
    pixels[0, 0, 0, 0] = 255
    found = calibrate(path, {"generated": pixels}, held_out, scheme=scheme("onnxrt"))
    share = {one.method: one.agreement or 0.0 for one in found.tried}
    assert list(share) == list(METHODS)
    assert found.chosen.agreement == max(share.values()) > share["minmax"]
    assert share["percentile"] > share["minmax"] and found.chosen.method in ("percentile", "entropy")
    again = calibrate(path, {"generated": pixels}, held_out, scheme=scheme("onnxrt"))
    assert again.tried == found.tried and again.ranges == found.ranges
    assert again.graph.SerializeToString() == found.graph.SerializeToString()


def test_ties_go_to_the_earlier_and_real_images_count(tmp_path: Path) -> None:
    graph = sharp(tmp_path / "fp32.onnx", outlier=0.0)
    pixels, dark = images(200, seed=1), np.zeros((20, 2, 4, 4), np.uint8)
    dark[:, 1, 0, 0] = 30
    found = calibrate(graph, {"generated": pixels, "real": pixels[::-1]}, images(300, 2), scheme=scheme("onnxrt"))
    best = max(one.agreement or 0.0 for one in found.tried)
    assert found.chosen == next(one for one in found.tried if one.agreement == best)
    assert [(one.method, one.images) for one in found.tried[:3]] == [
        ("minmax", "generated"), ("minmax", "real"), ("entropy", "generated"),
    ]  # fmt: skip
    one_sided = calibrate(
        graph, {"generated": dark, "real": pixels}, images(300, 2), scheme=scheme("onnxrt"), within_s=0
    )
    assert [one.agreement is None for one in one_sided.tried] == [False, False, *[True] * 6]
    assert one_sided.chosen.images == "real"  # ranges of dark images cut the others off


def test_no_time_left(graph: Path) -> None:
    ticks = iter(range(0, 1_000, 100))
    pixels = images(100, seed=1)
    found = calibrate(
        graph, {"generated": pixels}, pixels, scheme=scheme("tensorrt"), within_s=150, clock=lambda: next(ticks)
    )
    assert [one.agreement is None for one in found.tried] == [False, False, True, True]
    assert "150 seconds were over" in found.tried[-1].note and "150 seconds" in calibration_line(found)


def test_a_graph_without_numbers_has_no_agreement(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.name == "shift":
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), "shift"))
    onnx.save_model(model, tmp_path / "nan.onnx")
    pixels = images(100, seed=1)
    found = calibrate(tmp_path / "nan.onnx", {"generated": pixels}, pixels, scheme=scheme("tensorrt"))
    assert all(one.agreement is None and "NaN" in one.note for one in found.tried)
    assert found.chosen.method == "minmax"
    write_json(tmp_path / "a.json", {"parity": {"int8": {"agreement": float("nan"), "calibration": document(found)}}})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "NaN" not in text.replace("NaN or Inf", "") and json.loads(text)["parity"]["int8"]["agreement"] is None


def test_the_page_shows_what_was_tried(graph: Path) -> None:
    pixels = images(100, seed=1)
    found = calibrate(graph, {"generated": pixels}, pixels, scheme=scheme("onnxrt"))
    recovery = [{"name": "fine-tune", "before": 0.5, "after": None, "kept": False, "note": "not tried"}]
    documents = {"manifest": {"parity": {"int8": {"calibration": document(found), "recovery": recovery}}}}
    table = calibrations(documents)
    assert table is not None and len(table.rows) == len(METHODS) + 1
    kept = [row for row in table.rows if row[3] == "kept"]
    assert [row[0] for row in kept] == [f"{found.chosen.method}, generated images"]
    assert f"{100 * (found.chosen.agreement or 0):.2f} %" in kept[0][2]
    assert "50.00 %" in table.rows[-1][1] and table.rows[-1][3] == "not kept: not tried"
    assert "on 100 generated images" in table.note
    assert calibrations({"manifest": {"parity": {"int8": {"agreement": 1.0}}}}) is None


def test_how_many_images(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_for(graph, images(1, 0)) == 512
    monkeypatch.setattr(calibration, "MEASURED", 10_000)
    assert count_for(graph, images(1, 0)) == 100
    assert evenly(10, 4).tolist() == [0, 3, 6, 9] and evenly(3, 9).tolist() == [0, 1, 2]
    parts = parted(np.arange(5512, dtype=np.int64).reshape(-1, 1, 1, 1), 2_000)  # type: ignore[arg-type]
    assert (len(parts.pool), len(parts.judges), len(parts.samples)) == (2341, 1171, 2000)
    assert parts.samples[0, 0, 0, 0] == 3512


def test_real_images_need_no_labels(tmp_path: Path) -> None:
    facts = Images(2, 4, 4, (0.5, 0.5), (0.5, 0.5))
    np.savez(tmp_path / "a.npz", images=images(5, 0).transpose(0, 2, 3, 1))
    found = load_real_images(tmp_path / "a.npz", facts)
    assert np.array_equal(found.pixels, images(5, 0)) and found.name == "a.npz" and len(found.sha256) == 64
    np.savez(tmp_path / "b.npz", labels=np.zeros(3))
    with pytest.raises(DataError) as refused:
        load_real_images(tmp_path / "b.npz", facts)
    assert refused.value.code == "E0341"
