"""ONNX files as strangers make them: parsed in memory, held against what a classifier may be, before anything is made
of them. No other file is ever opened: external data are refused (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489,
CVE-2026-34447)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.files import from_dict
from edgekd.types import Images

FLOAT = "export the float network as one file:  torch.onnx.export(model.eval(), (example,), 'teacher.onnx')"
LARGEST_MB = 2047  # of a protobuf message
LARGEST_TEXT = 1_000_000  # characters of class names
BRANCHES = frozenset({"If", "Loop", "Scan", "SequenceMap"})
KINDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64", onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT64: "int64", onnx.TensorProto.INT32: "int32", onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.BOOL: "bool",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}  # fmt: skip


def parse(path: Path) -> onnx.ModelProto:
    """The model, checked. Raises TeacherError: E0326 for a damaged one, E0328 for external data, E0329 for a graph that
    is no plain float network."""
    size = path.stat().st_size
    if size > LARGEST_MB * 1_000_000:
        raise TeacherError(f"{path} is too large", code="E0326", why=f"protobuf ends at {LARGEST_MB} MB", fix=FLOAT)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, of a module that differs with its backend
        raise damaged(str(path), error) from error
    if not model.graph.node:
        raise damaged(str(path), ValueError("it has no nodes"))
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            wanted = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            raise TeacherError(
                f"{path} keeps weights in another file, which is not opened",
                code="E0328",
                why=f"the tensor {tensor.name!r} asks for {wanted[:200]!r}",
                fix="store them inside:  m = onnx.load(f); onnx.save(m, 'one.onnx', save_as_external_data=False)",
            )
    _plain(model, path)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's own error, or one of protobuf
        raise damaged(str(path), error) from error
    return model


def damaged(where: str, error: BaseException) -> TeacherError:
    line = (str(error).strip().splitlines() or [""])[0]
    return TeacherError(
        f"{where} is not a whole ONNX graph", code="E0326", why=f"{type(error).__name__}: {line}"[:300], fix=FLOAT
    )


def _plain(model: onnx.ModelProto, path: Path) -> None:
    """Refuses what is no plain float graph, by the name of its first such node."""
    if model.functions:
        raise TeacherError(
            f"{path} holds functions of its own: {model.functions[0].name}",
            code="E0329",
            why="only the operators of ONNX itself are run",
            fix="inline them:  onnx.save(onnx.inliner.inline_local_functions(onnx.load(f)), 'plain.onnx')",
        )
    for node in model.graph.node:
        if node.op_type in BRANCHES:
            raise TeacherError(
                f"{path} has branches or loops: {node.op_type} {node.name}",
                code="E0329",
                why="a classifier that can be distilled from is one fixed graph",
                fix="export it with the branch decided: model.eval(), a fixed image size",
            )
        if node.op_type.endswith(("QuantizeLinear", "Integer")) or node.op_type.startswith("QLinear"):
            raise TeacherError(
                f"{path} is quantised: {node.op_type} {node.name}",
                code="E0329",
                why="a quantised graph has no gradients to learn from",
                fix="name the float graph that it was made from",
            )
    if model.graph.sparse_initializer:
        raise TeacherError(f"{path} holds sparse weights", code="E0329", fix=FLOAT)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the file, those in attributes, branches and functions too."""
    waiting: list[onnx.GraphProto] = [model.graph, *(info.initialization for info in model.training_info),
                                      *(info.algorithm for info in model.training_info)]  # fmt: skip
    nodes = [node for function in model.functions for node in function.node]
    while waiting or nodes:
        if waiting:
            graph = waiting.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
        while nodes:
            for attribute in nodes.pop().attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                waiting.extend([attribute.g] if attribute.HasField("g") else [])
                waiting.extend(attribute.graphs)


def to_torch(tensor: onnx.TensorProto) -> Tensor:
    """A tensor of the file; floats in single precision. Raises TeacherError where its bytes do not fit its shape."""
    kind = KINDS.get(tensor.data_type)
    if kind is None:
        raise TeacherError(f"the tensor {tensor.name!r} has a type that is not known", code="E0326", fix=FLOAT)
    count = math.prod(tensor.dims)
    stored = max(len(f) for f in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data))
    itemsize = getattr(torch, kind).itemsize
    if min(tensor.dims, default=0) < 0 or (len(tensor.raw_data) != count * itemsize and stored != count):
        found = f"it holds {len(tensor.raw_data)} bytes or {stored} numbers"
        raise TeacherError(
            f"the tensor {tensor.name!r} is not of its shape {list(tensor.dims)}", code="E0326", why=found, fix=FLOAT
        )
    array = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor))
    if kind == "bfloat16":
        array = array.astype(np.float32)
    found_tensor = torch.from_numpy(array.copy()).reshape(tuple(tensor.dims))
    return found_tensor.float() if found_tensor.is_floating_point() else found_tensor


def class_names(facts: dict[str, str], *, path: Path, classes: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """Class names from the metadata, in the order of the logits, where there are as many as classes; and notes."""
    for key in ("edgekd.classes", "classes", "names", "labels", "class_names"):
        if (text := facts.get(key)) and len(text) <= LARGEST_TEXT:
            names = _names(text)
            if len(names) == classes:
                return tuple(names), []
            return None, [f"its metadata name {len(names)} {key} for {classes} logits; they were left aside"]
    return None, []


def _names(text: str) -> list[str]:
    """A JSON list or table, a list or table in Python's notation, or names with commas or line ends between them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        quoted = r"'((?:[^'\\]|\\.)*)'" + r'|"((?:[^"\\]|\\.)*)"'
        pairs = re.findall(rf"(\d+)\s*:\s*(?:{quoted})", text)
        if pairs:
            return [a or b for _, a, b in sorted(pairs, key=lambda p: int(p[0][:9]))]
        listed = re.findall(quoted, text)
        return [a or b for a, b in listed] or [n.strip() for n in re.split(r"[,\n]", text) if n.strip()]
    if isinstance(value, dict):
        if all(str(k).isdecimal() for k in value):
            value = [value[k] for k in sorted(value, key=int)]
        elif all(isinstance(v, int) for v in value.values()):
            value = sorted(value, key=lambda k: int(value[k]))
    return [str(v) for v in value] if isinstance(value, list) else []


def own_images(facts: dict[str, str], path: Path) -> Images | None:
    """What a graph that edgekd wrote says of its images."""
    if "edgekd.images" not in facts:
        return None
    try:
        return from_dict(Images, json.loads(facts["edgekd.images"]), where=str(path), error=TeacherError)
    except (ValueError, RecursionError) as error:
        raise damaged(str(path), error) from error
