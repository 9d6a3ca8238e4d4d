from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgekd import Images, load_profile
from edgekd.bank import to_pixels
from edgekd.errors import ExportError, InputError
from edgekd.export import (
    Deployed,
    Logits,
    check_parity,
    export,
    export_fp16,
    export_fp32,
    export_int8,
    graph_facts,
    onnx_logits,
    scheme,
    torch_logits,
    weights_sha256,
)
from edgekd.networks import LeNet, ResNet

FACTS = Images(3, 16, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def student() -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet(FACTS, 5, depth=1, width=8, large_stem=False).eval()


def test_normalisation_is_inside_by_hand() -> None:
    deployed = Deployed(torch.nn.Identity(), FACTS)
    pixels = torch.full((1, 3, 1, 1), 51.0)  # 0.2
    expected = [(0.2 - m) / s for m, s in zip(FACTS.mean, FACTS.std, strict=True)]
    assert deployed(pixels).flatten().tolist() == pytest.approx(expected)


def test_pixels_survive_the_way_there_and_back() -> None:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (FACTS.mean, FACTS.std))
    images = (torch.from_numpy(PIXELS).float() / 255 - mean) / std
    assert np.array_equal(to_pixels(images, FACTS).numpy(), PIXELS)
    assert to_pixels(torch.full((1, 3, 2, 2), 99.0), FACTS).max() == 255
    assert to_pixels(torch.full((1, 3, 2, 2), -99.0), FACTS).max() == 0


@pytest.mark.parametrize("name", ["jetson", "rpi-4b", "jetson-nano-4gb"])
def test_graphs_equal_torch(name: str, student: ResNet, tmp_path: Path) -> None:
    profile = load_profile(name)
    graphs = export(student, FACTS, list("abcde"), profile, PIXELS, tmp_path)
    assert list(graphs) == list(profile.precisions)
    reference = torch_logits(student, FACTS, PIXELS)
    assert check_parity("fp32", onnx_logits(graphs["fp32"], PIXELS), reference)["relative"] < 1e-5
    for precision, path in graphs.items():
        graph = onnx.load(path)
        assert graph.opset_import[0].version == profile.opset
        facts = graph_facts(path)
        assert (facts.images, facts.classes, facts.precision) == (FACTS, tuple("abcde"), precision)
        assert json.loads({p.key: p.value for p in graph.metadata_props}["edgekd.classes"]) == list("abcde")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for batch in (1, 2, 7):
            assert session.run(None, {"pixels": PIXELS[:batch].astype(np.float32)})[0].shape == (batch, 5)
    if "int8" in graphs:
        int8 = onnx.load(graphs["int8"])
        assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in int8.graph.node}
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
        points = [weights[n.input[2]] for n in int8.graph.node if n.op_type == "QuantizeLinear"]
        wanted = np.int8 if profile.target == "tensorrt" else np.uint8
        assert points and all(p.dtype == wanted for p in points)
        if profile.target == "tensorrt":
            assert not any(p.any() for p in points)  # symmetric
        assert np.abs(onnx_logits(graphs["int8"], PIXELS) - reference).max() < 0.1 * np.abs(reference).max()
    assert {p.suffix for p in tmp_path.iterdir()} == {".onnx"}  # nothing half-made beside them


def test_graph_does_not_depend_on_the_memory_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ResNet(FACTS, 5, depth=1, width=8, large_stem=False).eval()
    nodes = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        export_fp32(model, FACTS, list("abcde"), tmp_path / "a.onnx", opset=13)
        nodes.append([node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node])
    assert nodes[0] == nodes[1] and "Shape" not in nodes[0]


def test_old_opset_of_lenet_and_option_a(tmp_path: Path) -> None:
    images = Images(1, 32, 32, (0.1,), (0.3,))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), dtype=np.uint8)
    lenet = LeNet(images, 10, width=3).eval()
    export_fp32(lenet, images, list("0123456789"), tmp_path / "lenet.onnx", opset=13)
    check_parity("fp32", onnx_logits(tmp_path / "lenet.onnx", pixels), torch_logits(lenet, images, pixels))
    assert onnx.load(tmp_path / "lenet.onnx").ir_version <= 8


@pytest.mark.parametrize("opset", [13, 18])
def test_batch_norms_are_folded_and_nothing_dangles(opset: int, student: ResNet, tmp_path: Path) -> None:
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in student.modules())
    export_fp32(student, FACTS, list("abcde"), tmp_path / "a.onnx", opset=opset)
    model = onnx.load(tmp_path / "a.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert model.ir_version == {13: 7, 18: 8}[opset]  # of the release that brought the opset
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)  # they name source files
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_fixed_batch_uint8_and_checksums(student: ResNet, tmp_path: Path) -> None:
    expected = torch_logits(student, FACTS, PIXELS[:7])
    for batch, uint8 in ((4, False), (None, True)):
        path, integers = tmp_path / f"{batch} {uint8}.onnx", tmp_path / "int8.onnx"
        export_fp32(
            student, FACTS, list("abcde"), path, opset=13, batch=batch, uint8=uint8, teacher_sha256="f" * 64
        )  # fmt: skip
        entry = onnx.load(path).graph.input[0].type.tensor_type
        assert entry.shape.dim[0].dim_value == (batch or 0)
        assert entry.elem_type == (onnx.TensorProto.UINT8 if uint8 else onnx.TensorProto.FLOAT)
        assert np.allclose(onnx_logits(path, PIXELS[:7]), expected, atol=1e-5)  # 7 images do not fill batches of 4
        export_int8(path, integers, PIXELS[:16], scheme=scheme("onnxrt"))
        export_fp16(path, tmp_path / "fp16.onnx", PIXELS[:16])
        for made in (integers, tmp_path / "fp16.onnx"):
            assert np.abs(onnx_logits(made, PIXELS[:7]) - expected).max() < 0.1 * np.abs(expected).max()
            facts = graph_facts(made)
            assert (facts.weights_sha256, facts.teacher_sha256) == (weights_sha256(student), "f" * 64)
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.linear.bias[0] += 1e-3
    assert weights_sha256(other) != weights_sha256(student)


def test_hard_swish_before_it_was_an_operator(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Hardswish(), torch.nn.Flatten(), torch.nn.LazyLinear(5)).eval()
    model(torch.zeros(1, 3, 16, 16))
    export_fp32(model, FACTS, list("abcde"), tmp_path / "a.onnx", opset=13)
    assert "HardSigmoid" in {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    assert np.allclose(onnx_logits(tmp_path / "a.onnx", PIXELS), torch_logits(model, FACTS, PIXELS), atol=1e-5)


def test_network_that_onnx_cannot_express(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :5] if x.sum() > 0 else x.flatten(1)[:, 5:10]

    with pytest.raises(ExportError) as refused:
        export_fp32(Odd(), FACTS, list("abcde"), tmp_path / "odd.onnx", opset=18)
    assert refused.value.exit_code == 6 and not list(tmp_path.iterdir())


def flipped(logits: Logits, count: int) -> Logits:
    """The same, with another answer to the first images."""
    other = logits.copy()
    other[:count] = -other[:count]
    return other


def test_parity_gates() -> None:
    good = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    figures = check_parity("fp32", good.copy(), good)
    assert 0.5 < figures.pop("decided") < 1
    assert figures == {
        "max_abs": 0.0, "relative": 0.0, "agreement": 1.0, "agreement_decided": 1.0, "images": 100,
    }  # fmt: skip
    for precision, other in (
        ("fp32", good + 0.01),
        ("int8", np.roll(good, 1, axis=0)),
        ("int8", flipped(good, 3)),
        ("fp16", flipped(good, 1)),
        ("fp16", np.where(good > 2, np.inf, good).astype(np.float32)),
        ("int8", np.where(good > 2, np.nan, good).astype(np.float32)),
    ):
        with pytest.raises(ExportError) as refused:
            check_parity(precision, other, good)
        assert (refused.value.code, refused.value.exit_code) == ("E0611", 6)
    assert check_parity("int8", flipped(good, 2), good)["agreement"] == 0.98


def test_graph_facts_of_other_files(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    for content, code in ((None, "E0350"), (b"junk", "E0351")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError) as refused:
            graph_facts(path)
        assert refused.value.code == code
    onnx.save_model(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), path)
    with pytest.raises(InputError) as refused:
        graph_facts(path)
    assert refused.value.code == "E0352"
