"""fp16 graphs: what stays fp32 and why, and that the host rounds as a device does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekd import Images
from edgekd.export import export_fp16, export_fp32, graph_facts, onnx_logits, torch_logits
from edgekd.export.fp16 import ROUNDING, Range, islands, measure_ranges
from edgekd.networks import ResNet

FACTS = Images(3, 16, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)


class Bulging(torch.nn.Module):
    """Two linear layers; between them the numbers grow by a factor and come back, which changes nothing in fp32."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.one, self.two, self.factor = torch.nn.Linear(768, 8), torch.nn.Linear(8, 5), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.two(self.one(x.flatten(1)) * self.factor / self.factor)
        return logits


def bulging(factor: float, path: Path) -> Bulging:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Bulging(factor).eval()
    export_fp32(model, FACTS, list("abcde"), path, opset=17)
    return model


def test_fp16_of_a_network_that_it_holds(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(FACTS, 5, depth=1, width=8, large_stem=False).eval()
    export_fp32(model, FACTS, list("abcde"), tmp_path / "a.onnx", opset=13)
    assert export_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx", PIXELS) == ()
    half = onnx.load(tmp_path / "b.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds.values()
    assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert half.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert half.opset_import[0].version == 13 and half.ir_version == 7
    assert graph_facts(tmp_path / "b.onnx").precision == "fp16"
    assert (tmp_path / "b.onnx").stat().st_size < 0.65 * (tmp_path / "a.onnx").stat().st_size
    expected = torch_logits(model, FACTS, PIXELS)
    gap = np.abs(onnx_logits(tmp_path / "b.onnx", PIXELS) - expected).max()
    assert 0 < gap < 5e-3 * np.abs(expected).max()


def test_what_overflows_stays_fp32(tmp_path: Path) -> None:
    model = bulging(1e6, tmp_path / "a.onnx")
    kept = export_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx", PIXELS)
    source = onnx.load(tmp_path / "a.onnx")
    assert {node.op_type for node in source.graph.node if node.name in kept} == {"Mul", "Div"}
    assert len(kept) == 2
    expected = torch_logits(model, FACTS, PIXELS)
    assert np.abs(onnx_logits(tmp_path / "b.onnx", PIXELS) - expected).max() < 5e-3 * np.abs(expected).max()


def test_the_host_shows_an_overflow_that_onnx_runtime_hides(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    bulging(3e4, tmp_path / "a.onnx")
    careless = convert_float_to_float16(onnx.load(tmp_path / "a.onnx"), keep_io_types=True)
    onnx.save_model(careless, tmp_path / "b.onnx")
    assert not np.isfinite(onnx_logits(tmp_path / "b.onnx", PIXELS)).all()


def test_ranges_by_hand() -> None:
    helper = onnx.helper
    scale = onnx.numpy_helper.from_array(np.array([2.0, 300.0], np.float32), "scale")
    node = helper.make_node("Mul", ["pixels", "scale"], ["logits"], "mul")
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 2]) for n in ("pixels", "logits")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pixels = np.array([[1, 2], [3, 255]], dtype=np.uint8)
    found = measure_ranges(model, pixels)
    assert found["logits"] == Range(largest=76500.0, rounding=0.0, elements=2)  # 76500 is no fp16 number: infinite
    assert found["scale"] == Range(largest=300.0, rounding=0.0, elements=2)
    assert islands(model, found) == ("mul",)


@pytest.mark.parametrize(
    ("largest", "rounding", "stays"), [(32_000.0, 0.0, False), (33_000.0, 0.0, True), (1e-6, 2 * ROUNDING, True)]
)
def test_islands(largest: float, rounding: float, stays: bool) -> None:
    nodes = [
        onnx.helper.make_node("Relu", ["a"], ["b"], "one"),
        onnx.helper.make_node("Relu", ["b"], ["c"], "two"),
        onnx.helper.make_node("Relu", ["c"], ["d"], "three"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    fine = Range(1.0, 0.0, 4)
    ranges = {"a": fine, "b": fine, "c": Range(largest, rounding, 4), "d": fine}
    assert islands(model, ranges) == (("two", "three") if stays else ())


def test_a_mean_over_many_pixels_is_a_sum_first() -> None:
    node = onnx.helper.make_node("ReduceMean", ["a", "axes"], ["b"], "mean")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    for pixels, stays in ((49, False), (112 * 112, True)):
        ranges = {"a": Range(9.0, 0.0, 8 * pixels), "b": Range(5.0, 0.0, 8)}
        assert bool(islands(model, ranges)) == stays


def test_small_numbers_lose_more_than_rounding() -> None:
    x = np.array([[1e-6, 2.13e-7]], np.float32)
    from edgekd.export.fp16 import _lost, _relative

    half = x.astype(np.float16).astype(np.float64)
    expected = np.linalg.norm(half - x) / np.linalg.norm(x.astype(np.float64))
    assert _relative(*_lost(x)) == pytest.approx(expected) and expected > ROUNDING
    assert _relative(*_lost(np.full((1, 4), 1 / 3, np.float32))) < 5e-4
