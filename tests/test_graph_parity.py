"""The gates of the bundle: what a graph that is not the student leads to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from schemas import some_of

from edgekd import Images, compress, load_profile, load_teacher
from edgekd.export import (
    AGREEMENT,
    Gate,
    LayerDifference,
    Logits,
    ParityError,
    export_fp32,
    export_int8,
    gates,
    parity,
    recovery,
    scheme,
    torch_logits,
)
from edgekd.export.layers import against_the_standard
from edgekd.export.parity import leads, measured, shut
from edgekd.networks import ResNet

FACTS = Images(3, 16, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def student() -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(FACTS, 5, depth=1, width=8, large_stem=False).train()
        model(torch.randn(64, 3, 16, 16))
    logits = torch_logits(model, FACTS, PIXELS)
    with torch.no_grad():
        model.linear.bias.sub_(torch.from_numpy(logits.mean(0)))  # so that all classes are answered
    return model.eval()


@pytest.fixture(scope="module")
def fp32(student: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    export_fp32(student, FACTS, list("abcde"), path, opset=13)
    return path


def spoilt(path: Path, out: Path) -> str:
    """Turns the signs of a convolution's weights around; the node's name."""
    model = onnx.load(path)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    source = next(node for node in model.graph.node if convolutions[3].input[1] in node.output).input[0]
    (tensor,) = (t for t in model.graph.initializer if t.name == source)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), source))
    onnx.save_model(model, out)
    return str(convolutions[3].name)


def test_a_spoilt_graph_is_refused_at_its_layer(student: ResNet, fp32: Path, tmp_path: Path) -> None:
    export_int8(fp32, tmp_path / "good.onnx", PIXELS, scheme=scheme("tensorrt"))
    layer = spoilt(tmp_path / "good.onnx", tmp_path / "bad.onnx")
    torch_ = torch_logits(student, FACTS, PIXELS)
    found, logits = gates({"fp32": fp32, "int8": tmp_path / "bad.onnx"}, fp32, PIXELS, torch_)
    refused = found["int8"].refused
    assert refused is not None and found["fp32"].refused is None
    assert set(logits) == {"fp32", "int8"} and logits["int8"].shape == (64, 5)
    assert f"at Conv {layer!r}" in refused.why and "98.0% is asked" in refused.why
    assert refused.why.count("cosine") == 5  # the worst layers
    assert (refused.code, refused.exit_code) == ("E0611", 6)
    document = found["int8"].document()
    assert document["refused"] == refused.problem and document["agreement"] < AGREEMENT["int8"]
    assert [layer["relative"] for layer in document["worst_layers"]] == sorted(
        (layer["relative"] for layer in document["worst_layers"]), reverse=True
    )
    shares = {"agreement", "decided", "agreement_decided"}
    assert found["fp32"].document().keys() == {"max_abs", "relative", "images"} | shares
    with pytest.raises(ParityError) as alone:  # nothing would be left
        gates({"int8": tmp_path / "bad.onnx"}, fp32, PIXELS, torch_)
    assert alone.value.layers and f"at Conv {layer!r}" in alone.value.why


def test_leads_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.45, 0.45], [0.9, 0.05, 0.05]], np.float32)) + 7
    assert leads(logits) == pytest.approx([0.2, 0.0, 0.85], abs=1e-6)


def undecided(of: int, turned: int, wrong: int) -> tuple[Logits, Logits]:
    """(graph, torch) of 1,000 images: on `of` torch is as good as even, of which `turned` turn over; `wrong` others."""
    torch_ = np.tile(np.array([4, 0, 0], np.float32), (1_000, 1))
    torch_[:of] = [0.01, 0, -9]
    graph = torch_.copy()
    graph[:turned] = [0, 0.01, -9]
    graph[of : of + wrong] = [0, 4, 0]
    return graph, torch_


@pytest.mark.parametrize(
    ("of", "turned", "wrong", "opens"),
    [
        (0, 0, 20, True),  # 98 % of all
        (0, 0, 21, False),
        (100, 60, 9, True),  # 99 % of the decided
        (100, 60, 10, False),
        (501, 60, 0, False),  # too few are decided
        (500, 60, 5, True),
    ],
)
def test_answers_that_were_even_may_turn_over_in_int8(of: int, turned: int, wrong: int, opens: bool) -> None:
    figures = measured(*undecided(of, turned, wrong))
    assert figures["agreement"] == pytest.approx(1 - (turned + wrong) / 1_000)
    assert figures["decided"] == 1 - of / 1_000
    assert figures["agreement_decided"] == pytest.approx(1 - wrong / (1_000 - of))
    assert (shut("int8", figures) == "") is opens
    assert shut("fp16", figures).endswith("99.5% is asked")
    assert not some_of("Parity", {"int8": figures})


def test_none_decided_and_no_numbers() -> None:
    even = np.zeros((4, 3), np.float32)
    assert measured(even, even)["decided"] == 0.0 and shut("int8", measured(even, even)) == ""
    assert shut("int8", measured(even * np.nan, even)) == "it gives NaN or Inf"


def test_an_fp32_graph_that_is_another_network_ends_it(student: ResNet, fp32: Path, tmp_path: Path) -> None:
    export_int8(fp32, tmp_path / "int8.onnx", PIXELS, scheme=scheme("onnxrt"))
    other = torch_logits(student, FACTS, PIXELS) * 1.01
    for graphs in ({"fp32": fp32, "int8": tmp_path / "int8.onnx"}, {"int8": tmp_path / "int8.onnx"}):
        with pytest.raises(ParityError, match="fp32 graph is not the student") as refused:
            gates(graphs, fp32, PIXELS, other)
        assert "the export changed it" in refused.value.why and refused.value.layers  # both compute its layers alike


def test_where_onnx_runtime_leaves_the_standard_is_named() -> None:
    layers = [LayerDifference(name, f"node {name}", "Conv", far, 1.0, far) for name, far in (("a", 1e-6), ("b", 0.5))]
    error = ParityError("fp32", "a logit differs", figures={}, layers=layers)
    assert "leaves what ONNX's reference implementation computes at Conv 'node b'" in error.why


def test_layers_against_the_standard(fp32: Path) -> None:
    found = against_the_standard(fp32, PIXELS[:2])
    assert {"Conv", "Gemm"} <= {layer.operator for layer in found} and found[-1].tensor == "logits"
    assert max(layer.relative for layer in found) < 1e-4


def test_compress_goes_on_without_the_graph(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick: dict[str, Any] = {
        "method": "rdskd",
        "family": "cnn:4",
        "settings": {"batch": 32, "latent": 8, "generator_width": 8, "generator_steps": 2, "student_steps": 4},
    }
    monkeypatch.setitem(AGREEMENT, "int8", 1.01)  # no graph reaches it
    monkeypatch.setattr(parity, "DECIDED", 1.01)
    monkeypatch.setattr(recovery, "MOST", recovery.FEWEST)
    teacher, profile = load_teacher(teacher_file), load_profile("cpu")
    warned: list[str] = []
    result = compress(teacher, profile, tmp_path / "run", **quick, warn=warned.append)
    assert "student.int8.onnx" not in result.bundle.manifest.files
    assert set(result.bundle.manifest.graphs) == {"fp32"}
    assert "101.0% is asked" in result.bundle.manifest.parity["int8"]["refused"]
    tried = result.bundle.manifest.parity["int8"]["recovery"]
    assert [attempt["name"] for attempt in tried] == [
        "bias correction", "fine-tune towards the student", "fine-tune towards the teacher",
    ]  # fmt: skip
    assert tried[1]["note"].startswith(f"{recovery.FEWEST} steps")
    assert [line for line in result.broken if "no int8 graph" in line]
    assert [line for line in warned if "the int8 graph is not packed" in line and "Furthest apart" in line]
    assert "int8" not in result.report["graphs"]
    again = compress(teacher, profile, tmp_path / "run", **quick)
    assert again.broken == result.broken
    only = dataclasses.replace(profile, precisions=("int8",))
    with pytest.raises(ParityError) as refused:
        compress(teacher, only, tmp_path / "only", **quick)
    assert refused.value.exit_code == 6 and not (tmp_path / "only" / "bundle").exists()


def test_manifest_has_no_infinite_numbers() -> None:
    """JSON has none: null stands for them, and the schema takes it."""
    apart = LayerDifference("x", "conv", "Conv", relative=float("inf"), cosine=float("nan"), largest=0.5)
    figures = {"max_abs": float("inf"), "relative": float("inf"), "agreement": 0.25}
    refused = ParityError("int8", "NaN or Inf", figures=figures, layers=[apart])
    document = Gate(figures, refused).document()
    assert document["max_abs"] is None and document["worst_layers"][0]["cosine"] is None
    assert json.loads(json.dumps(document, allow_nan=False)) == document and not some_of("Parity", {"int8": document})
    assert Gate({"max_abs": 0.5, "relative": 0.1, "agreement": 1.0}).document()["max_abs"] == 0.5
