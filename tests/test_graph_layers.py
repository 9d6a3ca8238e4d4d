"""Graphs compared layer by layer: a fault is found where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgekd import Images
from edgekd.export import compare_layers, export_fp16, export_fp32, export_int8, parting, scheme, worst
from edgekd.networks import ResNet

FACTS = Images(3, 16, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 3, 16, 16), dtype=np.uint8)
LIMIT = 0.1


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(FACTS, 5, depth=1, width=8, large_stem=False).train()
        model(torch.randn(64, 3, 16, 16))  # statistics of BatchNorm, so that activations keep their size
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    export_fp32(model, FACTS, list("abcde"), path, opset=17)
    return path


def sabotaged(path: Path, out: Path, name: str, factor: float) -> Path:
    model = onnx.load(path)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    value = (numpy_helper.to_array(tensor) * np.float32(factor)).astype(numpy_helper.to_array(tensor).dtype)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    onnx.save_model(model, out)
    return out


def convolutions(path: Path) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]


def test_equal_graphs_part_nowhere(fp32: Path) -> None:
    found = compare_layers(fp32, fp32, PIXELS)
    nodes = onnx.load(fp32).graph.node
    assert [layer.node for layer in found] == [node.name for node in nodes]
    assert found[-1].tensor == "logits"
    assert all(layer.relative == 0 and layer.largest == 0 for layer in found)
    assert all(layer.cosine == pytest.approx(1) for layer in found)
    assert parting(found, LIMIT) is None


@pytest.mark.parametrize("place", range(9))
def test_a_changed_weight_is_found_at_its_layer(place: int, fp32: Path, tmp_path: Path) -> None:
    node = convolutions(fp32)[place]
    other = sabotaged(fp32, tmp_path / "other.onnx", node.input[1], 1.5)
    first = parting(compare_layers(fp32, other, PIXELS), LIMIT)
    assert first is not None and (first.node, first.operator, first.tensor) == (node.name, "Conv", node.output[0])


def test_difference_by_hand(fp32: Path, tmp_path: Path) -> None:
    last = next(node for node in reversed(onnx.load(fp32).graph.node) if node.op_type == "Gemm")
    other = sabotaged(fp32, tmp_path / "one.onnx", last.input[1], 3.0)
    other = sabotaged(other, tmp_path / "two.onnx", last.input[2], 3.0)
    layer = compare_layers(fp32, other, PIXELS)[-1]
    assert layer.relative == pytest.approx(2.0, rel=1e-5) and layer.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("target", ["onnxrt", "tensorrt"])
def test_a_wrong_scale_of_int8_is_found_where_it_is_read(target: str, fp32: Path, tmp_path: Path) -> None:
    export_int8(fp32, tmp_path / "int8.onnx", PIXELS, scheme=scheme(target))
    honest = compare_layers(fp32, tmp_path / "int8.onnx", PIXELS)
    assert max(layer.relative for layer in honest) < LIMIT
    assert honest[-1].tensor == "logits"
    model = onnx.load(tmp_path / "int8.onnx")
    pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in ("pixels", "add")]
    middle = pairs[len(pairs) // 2]
    other = sabotaged(tmp_path / "int8.onnx", tmp_path / "other.onnx", middle.input[1], 0.2)  # clips at a fifth
    first = parting(compare_layers(fp32, other, PIXELS), LIMIT)
    assert first is not None and first.operator == "QuantizeLinear"
    maker = next(node for node in model.graph.node if middle.input[0] in node.output)
    assert first.node == maker.name


def test_a_wrong_weight_scale_of_int8_is_found_at_its_layer(fp32: Path, tmp_path: Path) -> None:
    export_int8(fp32, tmp_path / "int8.onnx", PIXELS, scheme=scheme("tensorrt"))
    node = convolutions(fp32)[4]
    other = sabotaged(tmp_path / "int8.onnx", tmp_path / "other.onnx", f"{node.input[1]}_scale", 1.6)
    first = parting(compare_layers(fp32, other, PIXELS), LIMIT)
    assert first is not None and first.node == node.name


def test_fp16_shares_every_layer(fp32: Path, tmp_path: Path) -> None:
    export_fp16(fp32, tmp_path / "fp16.onnx", PIXELS)
    found = compare_layers(fp32, tmp_path / "fp16.onnx", PIXELS)
    assert [layer.node for layer in found] == [node.name for node in onnx.load(fp32).graph.node]
    assert 0 < max(layer.relative for layer in found) < 0.01


def test_infinite_and_none(fp32: Path, tmp_path: Path) -> None:
    node = convolutions(fp32)[1]
    other = sabotaged(fp32, tmp_path / "other.onnx", node.input[1], np.inf)
    found = compare_layers(fp32, other, PIXELS)
    first = parting(found, LIMIT)
    assert first is not None and first.node == node.name and first.relative == np.inf
    assert worst(found, 2)[0].relative == np.inf and len(worst(found, 2)) == 2
    assert parting([], LIMIT) is None
