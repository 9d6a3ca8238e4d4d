"""Where Q/DQ pairs stand for each runtime, and of which type."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, numpy_helper

from edgekd import Images, load_profile
from edgekd.export import export, export_fp32, export_int8, lint, onnx_logits, scheme
from edgekd.export.int8 import REDUCED, TENSORRT, TENSORRT_8, UNSIGNED
from edgekd.export.ranges import METHODS
from edgekd.networks import ResNet

FACTS = Images(3, 16, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 3, 16, 16), dtype=np.uint8)
WEIGHTED = ("Conv", "Gemm")


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(FACTS, 5, depth=1, width=8, large_stem=False).train()
        model(torch.randn(64, 3, 16, 16))
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    export_fp32(model, FACTS, list("abcde"), path, opset=13)
    return path


class Graph:
    """An INT8 graph, asked for its pairs."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.nodes = list(self.model.graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}

    def of(self, *kinds: str) -> list[NodeProto]:
        return [node for node in self.nodes if node.op_type in kinds]

    def behind_pair(self, name: str) -> bool:
        return name in self.maker and self.maker[name].op_type == "DequantizeLinear"

    def readers(self, name: str) -> list[str]:
        return [node.op_type for node in self.nodes if name in node.input]


def test_which_scheme() -> None:
    assert scheme("onnxrt") is scheme("onnx") is UNSIGNED
    assert scheme("onnxrt", weight_bits=7) is scheme("openvino") is REDUCED
    assert scheme("tensorrt", (8, 2, 1)) is scheme("tensorrt", (8, 6)) is TENSORRT_8
    assert scheme("tensorrt", (10, 3)) is scheme("tensorrt", (11,)) is scheme("tensorrt") is TENSORRT


def test_weights_of_seven_bits(fp32: Path, tmp_path: Path) -> None:
    """Two products with uint8 activations then fit into 16 bits: 2 * 255 * 64 < 2**15."""
    board = load_profile("cpu")
    assert board.runtime is not None
    for bits, most in ((7, 64), (8, 127)):
        runtime = dataclasses.replace(board.runtime, int8_weight_bits=bits)
        folder = tmp_path / str(bits)
        folder.mkdir()
        model = ResNet(FACTS, 5, depth=1, width=8, large_stem=False).eval()
        files = export(model, FACTS, list("abcde"), dataclasses.replace(board, runtime=runtime), PIXELS, folder)
        weights = [
            array for array in Graph(files["int8"]).constants.values() if array.dtype == np.int8 and array.ndim == 4
        ]
        assert weights and max(int(np.abs(array.astype(int)).max()) for array in weights) == most


@pytest.mark.parametrize("version", ["8.2", "10.3"])
def test_tensorrt(version: str, fp32: Path, tmp_path: Path) -> None:
    wanted = scheme("tensorrt", tuple(map(int, version.split("."))))
    export_int8(fp32, tmp_path / "int8.onnx", PIXELS, scheme=wanted)
    graph = Graph(tmp_path / "int8.onnx")
    weighted = graph.of(*WEIGHTED)
    assert len(weighted) == 10
    for node in weighted:
        assert graph.behind_pair(node.input[0]) and graph.behind_pair(node.input[1])
        assert node.input[2] in graph.constants and graph.constants[node.input[2]].dtype == np.float32  # bias
        assert "QuantizeLinear" not in graph.readers(node.output[0]) or node.op_type == "Conv"
        pair = graph.maker[node.input[1]]
        scales = graph.constants[pair.input[1]]
        value = graph.constants.get(pair.input[0])
        stored = value is not None and value.dtype == np.int8
        assert stored == wanted.stored_weights
        weights = value if value is not None else graph.constants[graph.maker[pair.input[0]].input[0]]
        assert scales.shape == (weights.shape[0 if node.op_type == "Conv" else pair.attribute[0].i],)
        if stored:
            assert np.abs(weights.astype(int)).max() <= 127
    pairs = graph.of("QuantizeLinear", "DequantizeLinear")
    assert all(graph.constants[node.input[2]].dtype == np.int8 for node in pairs)
    assert not any(graph.constants[node.input[2]].any() for node in pairs)
    sums = [node for node in graph.of("Add") if not set(node.input) & graph.constants.keys()]
    assert len(sums) == 3
    for node in sums:  # the convolution's own output as it is, the skip connection by a pair
        assert sorted(map(graph.behind_pair, node.input)) == [False, True]
        (plain,) = (name for name in node.input if not graph.behind_pair(name))
        assert graph.maker[plain].op_type == "Conv" and graph.readers(plain) == ["Add"]
    assert not any(graph.behind_pair(name) for node in graph.of("Mul", "Relu") for name in node.input)
    read = {name for node in graph.nodes for name in node.input}
    assert graph.constants.keys() <= read
    assert lint(tmp_path / "int8.onnx", "tensorrt", version) == []


def test_onnx_runtime_wants_uint8_everywhere(fp32: Path, tmp_path: Path) -> None:
    export_int8(fp32, tmp_path / "int8.onnx", PIXELS, scheme=scheme("onnxrt"))
    graph = Graph(tmp_path / "int8.onnx")
    points = [graph.constants[node.input[2]] for node in graph.of("QuantizeLinear")]
    assert points and all(point.dtype == np.uint8 for point in points)
    sums = [node for node in graph.of("Add") if not set(node.input) & graph.constants.keys()]
    assert all(graph.behind_pair(name) for node in sums for name in node.input)
    weights = [graph.constants[graph.maker[node.input[1]].input[0]] for node in graph.of(*WEIGHTED)]
    assert all(weight.dtype == np.int8 for weight in weights)
    first = graph.of("Mul")[0]
    assert first.input[0] == "pixels"  # normalisation stays fp32: two roundings less
    assert len(lint(tmp_path / "int8.onnx", "tensorrt", "10.3")) > 0
    assert lint(tmp_path / "int8.onnx", "onnxruntime", "") == []


def test_first_and_last_layer(fp32: Path, tmp_path: Path) -> None:
    for keep, expected in (((), 0), (("first",), 1), (("first", "last"), 2)):
        export_int8(fp32, tmp_path / "int8.onnx", PIXELS, scheme=scheme("tensorrt"), keep=keep)
        graph = Graph(tmp_path / "int8.onnx")
        floats = [node for node in graph.of(*WEIGHTED) if not graph.behind_pair(node.input[1])]
        assert len(floats) == expected
        if keep:
            assert floats[0] == graph.of("Conv")[0]


def test_methods(fp32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scales, reference = {}, onnx_logits(fp32, PIXELS)
    for method in METHODS:
        path = tmp_path / f"{method}.onnx"
        export_int8(fp32, path, PIXELS, scheme=scheme("tensorrt"), method=method, percentile=99)
        graph = Graph(path)
        scales[method] = [float(graph.constants[node.input[1]]) for node in graph.of("QuantizeLinear")]
        assert np.abs(onnx_logits(path, PIXELS) - reference).max() < 0.3 * np.abs(reference).max()
    assert all(p < m for p, m in zip(scales["percentile"], scales["minmax"], strict=True))
    assert all(e <= m * 1.001 for e, m in zip(scales["entropy"], scales["minmax"], strict=True))
    assert capsys.readouterr().out == ""  # --json has stdout for itself


def test_minmax_scale_by_hand(fp32: Path, tmp_path: Path) -> None:
    from edgekd.export.running import runner

    export_int8(fp32, tmp_path / "int8.onnx", PIXELS, scheme=scheme("tensorrt"))
    graph = Graph(tmp_path / "int8.onnx")
    first = graph.maker[graph.maker[graph.of("Conv")[0].input[0]].input[0]]
    largest = np.abs(runner(onnx.load(fp32), [first.input[0]])(PIXELS)[first.input[0]]).max()
    assert graph.constants[first.input[1]] == pytest.approx(largest / 127, rel=0.01)
