"""What a graph says of itself: images, class names, precision and checksums, in its metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgekd.errors import InputError
from edgekd.files import from_dict, parsed, plain
from edgekd.types import Images


@dataclass(frozen=True)
class GraphFacts:
    """What the metadata of a graph that edgekd wrote say of it."""

    images: Images
    classes: tuple[str, ...]
    precision: str
    opset: int
    nodes: int
    weights_sha256: str = ""  # of the network that was exported; empty: an older edgekd wrote the graph
    teacher_sha256: str = ""  # of the teacher's file; empty: not said


def graph_facts(path: Path) -> GraphFacts:
    """Reads them. Raises InputError for a file that is no ONNX graph or not one of edgekd's."""
    if not path.is_file():
        raise InputError(f"{path} is not there", code="E0350")
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds for damaged files
        raise InputError(f"{path} is not a whole ONNX graph", code="E0351", why=str(error).strip()) from error
    facts = {p.key: p.value for p in graph.metadata_props}
    try:
        images = from_dict(Images, parsed(facts["edgekd.images"]), where=str(path))
        classes, precision = tuple(parsed(facts["edgekd.classes"])), facts["edgekd.precision"]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} was not written by edgekd",
            code="E0352",
            why=f"its metadata lack {error}",
            fix="name the teacher's checkpoint or a graph of a bundle",
        ) from error
    sums = (facts.get(f"edgekd.{whose}_sha256", "") for whose in ("weights", "teacher"))
    return GraphFacts(images, classes, precision, graph.opset_import[0].version, len(graph.graph.node), *sums)


def describe(
    graph: onnx.ModelProto,
    images: Images,
    classes: Sequence[str],
    *,
    kind: str,
    weights_sha256: str,
    teacher_sha256: str,
) -> None:
    """Writes the metadata of an fp32 graph. kind: of its input, "float32" or "uint8"."""
    facts = {
        "edgekd.classes": json.dumps(list(classes), ensure_ascii=False),
        "edgekd.input": f"{kind} pixels 0..255, NCHW, RGB or gray; normalisation is inside the graph",
        "edgekd.images": json.dumps(plain(images)),
        "edgekd.precision": "fp32",
        "edgekd.weights_sha256": weights_sha256,
    }
    if teacher_sha256:
        facts["edgekd.teacher_sha256"] = teacher_sha256
    onnx.helper.set_model_props(graph, facts)


def describe_like(graph: onnx.ModelProto, fp32: onnx.ModelProto, precision: str) -> None:
    """Writes the metadata of the fp32 graph that this one was made from, with its own precision."""
    facts = {p.key: p.value for p in fp32.metadata_props} | {"edgekd.precision": precision}
    onnx.helper.set_model_props(graph, facts)
