"""Costs of fused layers, predicted milliseconds, and coefficients from measurements."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd import Images
from edgekd.errors import InputError, ProfileError, UsageError
from edgekd.export import export_fp32, export_int8, scheme
from edgekd.latency import cost, cost_of_graph, fitted, layers, memory_mb, model_mb, predict
from edgekd.latency.prediction import TERMS, quantities
from edgekd.networks import LeNet
from edgekd.profile import load_profile
from edgekd.student import build_student, named
from edgekd.types import Cost, Figure, Hardware, Latency, Layer, Limits, Profile
from edgekd.vision import torchvision

MNIST = Images(1, 32, 32, (0.1,), (0.3,))
TINY = Images(1, 8, 8, (0.0,), (1.0,))
COLOUR = Images(3, 64, 64, (0.5,) * 3, (0.25,) * 3)
NAMES = tuple(map(str, range(10)))


def figure(value: float) -> Figure:
    return Figure(value, "derived", "a test")


HARDWARE = Hardware(
    peak_gflops={"fp32": figure(1000.0), "int8": figure(4000.0)}, bandwidth_gb_per_s=figure(10.0), memory_gb=figure(1.0)
)
FP32 = {"conv_us_per_mmac": 3.0, "traffic_us_per_mb": 100.0, "layer_us": 7.0, "fixed_us": 20.0}


def way(precision: str = "fp32", threads: int = 1, runtime: str = "onnxruntime", **coefficients: float) -> Latency:
    return Latency(runtime, "cpu", precision, coefficients or FP32, 0.25, "measured", "a test", threads)


def profile(*ways: Latency, threads: int = 1) -> Profile:
    return Profile("board", "", "onnxrt", ("fp32",), Limits(), HARDWARE, ways, 18, threads=threads)


def test_cost_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    found = cost(model, TINY)
    conv, linear = 4 * 9 * 36, 4 * 36 * 5
    assert found.macs == conv + linear
    assert found.layers == 2
    assert found.parameters == (4 * 9 + 4) + 4 * 4 + (144 * 5 + 5)
    assert [op.operator for op in found.ops] == ["elementwise", "conv", "linear"]  # the first one normalises
    assert found.traffic_elements == (64 + 64) + (64 + 36 + 144) + (144 + 720 + 5)
    assert found.peak_elements == 64 + 144
    assert model.training and model[1].training and isinstance(model[1], nn.BatchNorm2d)  # looked at, not changed


def test_cost_is_the_same_on_meta() -> None:
    with torch.device("meta"):
        empty = LeNet(MNIST, 10)
    assert cost(empty, MNIST) == cost(LeNet(MNIST, 10), MNIST)
    assert hash(cost(empty, MNIST)) == hash(cost(LeNet(MNIST, 10), MNIST))


class Block(nn.Module):
    """Residual, squeeze-and-excitation, concatenation and shuffle in one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.gate, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = nn.functional.silu(self.a(x))
        b = self.b(a) + a
        b = b * self.gate(b.mean((2, 3), keepdim=True)).sigmoid()
        both = torch.cat([a, b], 1).view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)
        out: Tensor = self.c(both).relu().mean((2, 3))
        return out


def test_what_is_a_launch_and_what_is_fused() -> None:
    kinds = [op.operator for op in cost(Block(), TINY).ops]
    names = "elementwise conv depthwise pool pointwise elementwise concat copy pointwise pool"
    assert kinds == names.split()
    depthwise = cost(Block(), TINY).ops[2]
    assert depthwise.macs == 4 * 9 * 64 and depthwise.weights == 36
    assert depthwise.read_elements == 256 + 256  # its input, and the other part of the sum
    assert [layer.name for layer in layers(Block(), TINY)] == ["a", "b", "gate", "c"]


@pytest.mark.parametrize("name", ["resnet:1x8", "a block"])
def test_graph_and_module_give_the_same_layers(name: str, tmp_path: Path) -> None:
    images = TINY if name == "a block" else MNIST
    spec = named(name, images, NAMES)
    model = Block() if spec is None else build_student(spec).eval()
    export_fp32(model, images, NAMES, tmp_path / "graph.onnx", opset=18)
    of, graph = cost(model, images), cost_of_graph(tmp_path / "graph.onnx")
    assert of.ops == graph.ops
    assert (of.macs, of.layers, of.peak_elements) == (graph.macs, graph.layers, graph.peak_elements)
    assert graph.parameters <= of.parameters + 2 * images.channels  # BatchNorm folded; scale and shift of the pixels


def test_int8_graph_has_the_layers_of_the_fp32_graph(tmp_path: Path) -> None:
    model = LeNet(MNIST, 10).eval()
    export_fp32(model, MNIST, NAMES, tmp_path / "fp32.onnx", opset=13)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), dtype=np.uint8)
    export_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", pixels, scheme=scheme("onnxrt"))
    assert cost_of_graph(tmp_path / "int8.onnx").ops == cost(model, MNIST).ops


def test_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a whole ONNX graph"):
        cost_of_graph(tmp_path / "no.onnx")


def test_hundreds_of_candidates_in_seconds() -> None:
    with torch.device("meta"):
        model = torchvision().models.resnet18(weights=None)
    cost(model, COLOUR)
    start = time.process_time()
    for _ in range(10):
        cost(model, COLOUR)
    assert time.process_time() - start < 1.0


def conv_cost(count: int = 1, **changes: Any) -> Cost:
    """Layers of 16 to 16 channels, 3x3, on 10x10: 0.2304 million multiply-adds each."""
    layer = Layer(
        name="", operator="conv", output=(16, 10, 10), parameters=2304 + 16, macs=230_400, read_elements=1600,
        written_elements=1600, weights=2304, inputs=16, outputs=16, kernel=9,
    )  # fmt: skip
    ops = (dataclasses.replace(layer, **changes),) * count
    macs = sum(op.macs for op in ops)
    return Cost(
        parameters=2320 * count, macs=macs, layers=count, traffic_elements=5504 * count, peak_elements=3200, ops=ops
    )


def test_prediction_by_hand() -> None:
    of, board = conv_cost(10), profile(way())
    us = 10 * 0.2304 * 3.0 + 10 * 3200 * 4 / 1e6 * 100.0 + 10 * 7.0 + 20.0
    found = predict(of, board, "fp32")
    assert found.latency_ms == pytest.approx(us / 1e3)
    assert found.low_ms == pytest.approx(us / 1e3 / 1.25) and found.high_ms == pytest.approx(us / 1e3 * 1.25)
    batch = predict(of, board, "fp32", batch=4)
    assert batch.latency_ms == pytest.approx((4 * (10 * 0.2304 * 3.0 + 12.8) + 70.0 + 20.0) / 1e3)
    assert model_mb(of, "int8") == pytest.approx(0.0232) and model_mb(of, "fp32") == pytest.approx(4 * 0.0232)
    assert memory_mb(of, board) == pytest.approx((23_200 + 3200) * 4 / 1e6)


def test_roofline_coefficients_by_hand() -> None:
    board = profile(way(compute=2.0, traffic=3.0, layer_us=5.0))
    us = 2.0 * 2 * 2.304e6 / 1e12 * 1e6 + 3.0 * 55_040 * 4 / 10e9 * 1e6 + 50.0
    assert predict(conv_cost(10), board, "fp32").latency_ms == pytest.approx(us / 1e3)


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 1.0),
        ({"inputs": 3, "macs": 43_200}, 4 / 3),
        ({"inputs": 17, "outputs": 18}, 20 / 17 * 20 / 18),
        ({"operator": "depthwise", "inputs": 10, "outputs": 10, "groups": 10}, 12 / 10),
        ({"operator": "grouped", "groups": 8}, 4 / 2 * 4 / 2),
    ],
)
def test_channels_are_filled_up(changes: dict[str, Any], share: float) -> None:
    of = conv_cost(**changes)
    term = "depthwise_us_per_mmac" if changes.get("operator") == "depthwise" else "conv_us_per_mmac"
    assert quantities(of, "fp32", 1, 4)[term] == pytest.approx(of.macs / 1e6 * share)
    assert quantities(of, "fp32", 1, 1)[term] == pytest.approx(of.macs / 1e6)


def test_the_nearest_way_is_taken_and_said_to_be_less_sure() -> None:
    board = profile(way(), way(threads=4, conv_us_per_mmac=1.0), way(runtime="ncnn", conv_us_per_mmac=9.0), threads=4)
    of = conv_cost()
    assert predict(of, board, "fp32").latency_ms == pytest.approx(0.2304e-3)
    assert predict(of, board, "fp32", runtime="ncnn").latency_ms == pytest.approx(9 * 0.2304e-3)
    other = predict(of, board, "int8")  # no entry: fp32's, a quarter of the compute
    assert other.latency_ms == pytest.approx(0.2304e-3 / 4)
    assert other.high_ms / other.latency_ms == pytest.approx(1 + 0.25 * 1.5)
    with pytest.raises(UsageError, match="no latency figures"):
        predict(of, board, "fp32", threads=3)
    with pytest.raises(ProfileError, match="conv_us_per_mmac"):
        predict(of, profile(way(conv_us_per_mac=1.0)), "fp32")


def sizes(count: int, seed: int = 0) -> list[Cost]:
    """Networks of random layers."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ops = []
        for _ in range(int(rng.integers(4, 60))):
            channels, side = int(rng.integers(1, 33)) * 4, int(rng.integers(2, 15))
            kind = str(rng.choice(["conv", "pointwise", "depthwise", "linear", "pool"]))
            each = {"conv": 9 * channels, "pointwise": channels, "depthwise": 9, "linear": channels, "pool": 0}[kind]
            area = 1 if kind == "linear" else side * side
            ops.append(
                Layer(
                    name="", operator=kind, output=(channels, side, side), parameters=each * channels,
                    macs=each * channels * area, read_elements=channels * area, written_elements=channels * area,
                    weights=each * channels, inputs=channels, outputs=channels,
                    groups=channels if kind == "depthwise" else 1, kernel=9 if kind in ("conv", "depthwise") else 1,
                )
            )  # fmt: skip
        macs, numbers = sum(op.macs for op in ops), sum(op.weights for op in ops)
        found.append(Cost(numbers, macs, len(ops), 0, 0, tuple(ops)))
    return found


TRUE = dict(zip(TERMS, (4.0, 6.0, 40.0, 2.0, 60.0, 90.0, 8.0, 5.0, 30.0), strict=True))


def milliseconds(of: Cost, coefficients: dict[str, float] = TRUE) -> float:
    return sum(coefficients[name] * amount for name, amount in quantities(of, "fp32").items()) / 1e3


def test_fitted_finds_known_coefficients() -> None:
    seen, unseen = sizes(40), sizes(20, seed=1)
    rng = np.random.default_rng(2)
    rows = [(of, "fp32", milliseconds(of) * math.exp(rng.normal(0, 0.02))) for of in seen]
    (found,) = fitted(rows, HARDWARE, [way(channel_multiple=1.0)], source="a bench")
    assert (found.basis, found.source, found.runtime, found.threads) == ("measured", "a bench", "onnxruntime", 1)
    board = profile(found)
    errors = [predict(of, board, "fp32").latency_ms / milliseconds(of) - 1 for of in unseen]
    assert np.abs(errors).mean() < 0.03
    assert found.coefficients["conv_us_per_mmac"] == pytest.approx(TRUE["conv_us_per_mmac"], rel=0.15)
    assert found.coefficients["layer_us"] == pytest.approx(TRUE["layer_us"], rel=0.35)  # most of the time here
    held = [
        predict(of, board, "fp32").low_ms <= milliseconds(of) <= predict(of, board, "fp32").high_ms for of in unseen
    ]
    assert sum(held) >= 17


def test_fitted_is_not_led_astray_by_one_bad_row() -> None:
    rows = [(of, "fp32", milliseconds(of)) for of in sizes(30)]
    rows[3] = (rows[3][0], "fp32", rows[3][2] * 10)
    (found,) = fitted(rows, HARDWARE, [way(channel_multiple=1.0)])
    errors = [predict(of, profile(found), "fp32").latency_ms / milliseconds(of) - 1 for of in sizes(20, seed=1)]
    assert np.abs(errors).mean() < 0.05


def test_fitted_keeps_to_the_prior_where_the_rows_say_nothing() -> None:
    prior = [Latency("onnxruntime", "cpu", p, TRUE, 0.4, "derived", "a family", 2) for p in ("fp32", "int8")]
    only = conv_cost(20)
    found = fitted([(only, "fp32", milliseconds(only) * 1.3)], HARDWARE, prior)
    assert [way.precision for way in found] == ["fp32"]
    assert found[0].coefficients["depthwise_us_per_mmac"] == pytest.approx(TRUE["depthwise_us_per_mmac"], rel=0.01)
    assert predict(only, profile(found[0]), "fp32").latency_ms == pytest.approx(milliseconds(only) * 1.3, rel=0.02)
    assert found[0].error >= 0.4  # one row says nothing about the width


def test_fitted_refuses_what_it_cannot_use() -> None:
    of = conv_cost()
    for rows in ([], [(of, "fp32", 0.0)], [(of, "int8", 1.0)]):
        with pytest.raises(InputError) as refused:
            fitted(rows, HARDWARE, [way()])
        assert refused.value.code == "E0339"


def test_shipped_profiles_predict_a_network() -> None:
    with torch.device("meta"):
        model = torchvision().models.resnet18(weights=None)
    of = cost(model, Images(3, 224, 224, (0.5,) * 3, (0.25,) * 3))
    small = cost(LeNet(MNIST, 10), MNIST)
    for name in ("jetson-orin-nano-8gb-super", "rpi-4b", "rpi-5", "nvidia-t4", "cpu", "qcs8550"):
        board = load_profile(name)
        for precision in board.precisions:
            found = predict(of, board, precision)
            assert 0.05 < found.latency_ms < 500 and found.low_ms < found.latency_ms < found.high_ms
            assert predict(small, board, precision).latency_ms < found.latency_ms


def test_tokens_of_a_transformer_are_counted_whether_folded_into_the_batch_or_not() -> None:
    """Two encoder layers of 64 numbers on 16 patches and a class token, by hand."""
    images = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
    model = torchvision().models.VisionTransformer(32, 8, 2, 2, 64, 128, num_classes=10).eval()
    tokens, patches = 17, 16 * 64 * 3 * 64
    linear = 2 * tokens * (64 * 192 + 64 * 64 + 2 * 64 * 128) + 64 * 10
    attention = 2 * 2 * tokens * tokens * 64
    found = cost(model, images)
    counted = sum(layer.macs for layer in found.ops if layer.operator in ("conv", "linear"))
    assert counted == patches + linear
    assert counted <= found.macs <= counted + attention
