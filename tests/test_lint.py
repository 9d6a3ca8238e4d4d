"""Rules of the devices' parsers: each with a graph that keeps it and one that breaks it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from edgekd import load_profile
from edgekd.errors import ExportError
from edgekd.export import check_runtime, lint, rules_for
from edgekd.export.lint import parsed, runtime_of
from edgekd.export.tensorrt_rules import INTEGERS, OPERATORS, OPSETS, rules_version
from edgekd.types import Runtime


def graph(
    path: Path,
    nodes: list[NodeProto],
    *,
    opset: int = 13,
    kind: int = TensorProto.FLOAT,
    out: int = TensorProto.FLOAT,
    **constants: Any,
) -> Path:
    """A graph from x (n, 4, 8, 8) to y."""
    x = make_tensor_value_info("x", kind, ["n", 4, 8, 8])
    y = make_tensor_value_info("y", out, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = make_model(make_graph(nodes, "g", [x], [y], tensors), opset_imports=[make_opsetid("", opset)])
    model.ir_version = 7
    onnx.save_model(model, path)
    return path


SCALE, ZERO = np.float32(0.1), np.int8(0)


def pairs(scale: Any = SCALE, zero: Any = ZERO, *, inputs: int = 3) -> tuple[list[NodeProto], dict[str, Any]]:
    """A Q/DQ pair from x to y, and its constants."""
    names = ["scale", "zero"][: inputs - 1]
    nodes = [
        make_node("QuantizeLinear", ["x", *names], ["q"], "quantise"),
        make_node("DequantizeLinear", ["q", *names], ["y"], "dequantise"),
    ]
    return nodes, {"scale": scale, "zero": zero}


def rules(path: Path, version: str) -> list[str]:
    return [finding.rule for finding in lint(path, "tensorrt", version)]


def test_operator_comes_with_a_version(tmp_path: Path) -> None:
    swish = graph(tmp_path / "a.onnx", [make_node("HardSwish", ["x"], ["y"], "swish")], opset=14)
    (opset, operator) = lint(swish, "tensorrt", "8.2.1")
    assert (operator.node, operator.operator) == ("swish", "HardSwish") and "8.2-GA" in operator.source
    assert opset.rule == "opset 14 is newer than 13"
    for version in ("8.4", "8.6.1", "10.3", "11.1"):
        assert lint(swish, "tensorrt", version) == []
    norm = graph(
        tmp_path / "b.onnx",
        [make_node("LayerNormalization", ["x", "one"], ["y"])],
        opset=17,
        one=np.ones(8, np.float32),
    )
    assert len(lint(norm, "tensorrt", "8.5")) == 1 and lint(norm, "tensorrt", "8.6") == []


@pytest.mark.parametrize(
    ("version", "opset"), [("8.2", 13), ("8.4", 17), ("8.5", 17), ("8.6", 17), ("10.3", 20), ("10.7", 22), ("11.1", 24)]
)
def test_opset_ceilings(version: str, opset: int, tmp_path: Path) -> None:
    fine = graph(tmp_path / "a.onnx", [make_node("Relu", ["x"], ["y"])], opset=opset)
    assert lint(fine, "tensorrt", version) == []
    newer = graph(tmp_path / "b.onnx", [make_node("Relu", ["x"], ["y"])], opset=opset + 1)
    assert rules(newer, version) == [f"opset {opset + 1} is newer than {opset}"]


def test_the_nearest_older_rules_hold_and_it_is_said() -> None:
    assert rules_version((8, 6, 1)) == (8, 6) and rules_version((10, 3)) == (10, 1) and rules_version((12,)) == (11, 5)
    assert rules_version((7, 2)) == (8, 2) and rules_version(()) == (8, 2)
    assert rules_for("tensorrt", "8.5.2") == "TensorRT 8.5"
    assert rules_for("tensorrt", "10.3") == "TensorRT 10.1, the nearest older to 10.3"
    assert rules_for("tensorrt", "7.1") == "TensorRT 8.2, the nearest newer to 7.1"
    assert "not known" in rules_for("tensorrt", "") and "no operators" in rules_for("rknn", "2.3")
    assert parsed("8.2.1 or later") == (8, 2, 1) and parsed("JetPack") == ()


def test_pairs_that_are_fine(tmp_path: Path) -> None:
    nodes, constants = pairs()
    for version in ("8.2", "8.5", "8.6", "10.3", "11.1"):
        assert lint(graph(tmp_path / "a.onnx", nodes, **constants), "tensorrt", version) == []


@pytest.mark.parametrize(
    ("scale", "zero", "rule"),
    [
        (np.float32(0.1), np.int8(3), "zero point must be 0"),
        (np.float32(0.1), np.uint8(0), "must be int8, not uint8"),
        (np.float32(-0.1), np.int8(0), "above 0"),
        (np.full(4, 0.1, np.float32), np.zeros(4, np.int8), "weights alone"),
        (np.float32(0.1), np.zeros(4, np.int8), "one size"),
    ],
)
def test_pairs_that_are_not(scale: Any, zero: Any, rule: str, tmp_path: Path) -> None:
    nodes, constants = pairs(scale, zero)
    path = graph(tmp_path / "a.onnx", nodes, **constants)
    for version in ("8.2", "8.6", "10.3", "11.1"):
        assert any(rule in found for found in rules(path, version)), version


def test_zero_point_may_be_left_out_late(tmp_path: Path) -> None:
    nodes, constants = pairs(inputs=2)
    del constants["zero"]
    nodes[1].input[0] = "x"  # alone, QuantizeLinear without a zero point would be uint8
    path = graph(tmp_path / "a.onnx", nodes[1:], kind=TensorProto.INT8, **constants)
    for version in ("8.2", "8.5", "8.6"):
        assert rules(path, version) == ["it wants three inputs, the zero point too"]
    assert rules(path, "10.3") == []


def test_weights_by_channel(tmp_path: Path) -> None:
    def convolution(axis: int, *, stored: bool) -> Path:
        scales: dict[str, Any] = {
            "ws": np.full(6 if axis == 0 else 4, 0.1, np.float32),
            "wz": np.zeros(6 if axis == 0 else 4, np.int8),
        }
        weight = np.zeros((6, 4, 3, 3), np.int8 if stored else np.float32)
        quantise = [] if stored else [make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=axis)]
        nodes = [
            *quantise,
            make_node("DequantizeLinear", ["w" if stored else "wq", "ws", "wz"], ["wd"], "dequantise", axis=axis),
            make_node("Conv", ["x", "wd"], ["y"], "conv", kernel_shape=[3, 3]),
        ]
        return graph(tmp_path / f"{axis}{stored}.onnx", nodes, w=weight, **scales)

    for version in ("8.2", "8.6", "10.3", "11.1"):
        assert rules(convolution(0, stored=False), version) == []
        assert rules(convolution(1, stored=False), version)[-1] == "weights of a convolution have scales along axis 0"
    assert rules(convolution(0, stored=True), "10.3") == []
    assert rules(convolution(0, stored=True), "8.6") == ["constants must be fp32 with a QuantizeLinear behind them"]


def test_a_bias_stays_in_floats(tmp_path: Path) -> None:
    nodes = [
        make_node("DequantizeLinear", ["b", "s", "z"], ["bias"], "bias"),
        make_node("Conv", ["x", "w", "bias"], ["y"], "conv"),
    ]
    path = graph(
        tmp_path / "a.onnx", nodes, b=np.zeros(6, np.int32), s=np.float32(0.1), z=np.int32(0),
        w=np.zeros((6, 4, 3, 3), np.float32),
    )  # fmt: skip
    assert rules(path, "10.3") == ["it must be int8, not int32, a bias stays in floats"]


def test_uint8_goes_in_from_8_5(tmp_path: Path) -> None:
    cast = graph(
        tmp_path / "a.onnx", [make_node("Cast", ["x"], ["y"], "cast", to=TensorProto.FLOAT)], kind=TensorProto.UINT8
    )
    assert rules(cast, "8.4") == ["uint8 is no type of an input before 8.5"]
    assert rules(cast, "8.5") == rules(cast, "11.1") == []
    whole = [make_node("Cast", ["x"], ["i"], "cast", to=TensorProto.INT32), make_node("Cast", ["i"], ["y"], to=1)]
    assert rules(graph(tmp_path / "b.onnx", whole, kind=TensorProto.UINT8), "8.6") == ["uint8 is cast to floats alone"]
    between = [make_node("Cast", ["x"], ["u"], "down", to=TensorProto.UINT8), make_node("Cast", ["u"], ["y"], to=1)]
    assert rules(graph(tmp_path / "c.onnx", between), "10.3") == ["uint8 is for inputs and outputs alone"]


def test_int64_that_int32_does_not_hold(tmp_path: Path) -> None:
    nodes = [
        make_node("Cast", ["x"], ["i"], to=7),
        make_node("Add", ["i", "c"], ["j"]),
        make_node("Cast", ["j"], ["y"], to=1),
    ]
    path = graph(tmp_path / "a.onnx", nodes, c=np.int64(2**40))
    assert rules(path, "8.6") == ["int64 is clamped to int32 and does not fit"] and rules(path, "10.3") == []
    end = graph(
        tmp_path / "b.onnx", [make_node("Slice", ["x", "a", "b", "c"], ["y"])],
        a=np.array([0]), b=np.array([2**63 - 1]), c=np.array([1]),
    )  # fmt: skip
    assert rules(end, "8.2") == []


@pytest.mark.parametrize(
    ("node", "version", "breach"),
    [
        (make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), "8.2", ""),
        (make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]), "10.3", "dilations must be ones"),
        (make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2]), "8.5", "the output of indices is not given"),
        (make_node("Resize", ["x", "", "s"], ["y"], mode="linear"), "8.2", ""),
        (make_node("Resize", ["x", "", "s"], ["y"], mode="cubic"), "8.2", "mode 'cubic' is not known"),
        (make_node("Relu", ["x"], ["y"]), "8.2", ""),
        (make_node("Det", ["x"], ["y"]), "11.1", "the parser does not have this operator"),
    ],
)
def test_attributes(node: NodeProto, version: str, breach: str, tmp_path: Path) -> None:
    path = graph(tmp_path / "a.onnx", [node], s=np.ones(4, np.float32))
    assert rules(path, version) == ([breach] if breach else [])


def test_integers_where_floats_belong(tmp_path: Path) -> None:
    nodes = [make_node("Relu", ["x"], ["y"], "relu")]
    path = graph(tmp_path / "a.onnx", nodes, opset=14, kind=TensorProto.INT32, out=TensorProto.INT32)
    assert "integers" in rules(path, "8.6")[0] and rules(path, "10.3") == []


def test_other_runtimes_and_the_form_of_the_file(tmp_path: Path) -> None:
    fine = graph(tmp_path / "a.onnx", [make_node("Relu", ["x"], ["y"])])
    assert lint(fine, "onnxruntime", "1.20") == lint(fine, "rknn", "2.3") == []
    broken = graph(tmp_path / "b.onnx", [make_node("Relu", ["nothing"], ["y"])])
    assert "does not load" in lint(broken, "onnxruntime", "1.20")[0].rule
    custom = graph(tmp_path / "c.onnx", [make_node("Gelu", ["x"], ["y"], "gelu", domain="com.microsoft")])
    assert "com.microsoft" in lint(custom, "rknn", "")[0].rule


def test_export_stops_at_the_profiles_runtime(tmp_path: Path) -> None:
    board = load_profile("jetson-orin-nano-8gb-super")
    swish = graph(tmp_path / "a.onnx", [make_node("HardSwish", ["x"], ["y"], "swish")], opset=14)
    check_runtime(swish, dataclasses.replace(board, runtime=Runtime("tensorrt", "10.3"), opset=14))
    with pytest.raises(ExportError) as refused:
        check_runtime(swish, dataclasses.replace(board, runtime=Runtime("tensorrt", "8.2.1"), opset=13))
    assert (refused.value.code, refused.value.exit_code) == ("E0612", 6)
    assert all(word in refused.value.why for word in ("opset 14", "8.2-GA", "1 more", "TensorRT 8.2"))
    ceiling = Runtime("rknn", "2", opset_max=13, ir_max=6, source="its manual")
    with pytest.raises(ExportError, match=r"rknn 2 would not take a\.onnx") as refused:
        check_runtime(swish, dataclasses.replace(board, target="onnx", runtime=ceiling))
    assert "its manual" in refused.value.why


def test_runtime_of_a_profile_that_names_none() -> None:
    board = dataclasses.replace(load_profile("jetson-orin-nano-8gb-super"), runtime=None)
    assert runtime_of(dataclasses.replace(board, opset=13)) == Runtime("tensorrt", "8.2")
    assert runtime_of(dataclasses.replace(board, opset=18)) == Runtime("tensorrt", "9.3")
    assert runtime_of(dataclasses.replace(board, target="onnxrt")).name == "onnxruntime"


def test_tables_name_operators_that_exist() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    for table in (OPERATORS, INTEGERS):
        names = " ".join(table.values()).split()
        assert len(names) == len(set(names)) and set(names) - known == set()
        assert table.keys() <= OPSETS.keys()
