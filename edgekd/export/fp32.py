"""A network to an fp32 ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn

from edgekd.errors import ExportError
from edgekd.export.metadata import describe
from edgekd.export.network import Deployed, weights_sha256
from edgekd.export.opset import DYNAMO_OPSET, lower, tidy
from edgekd.files import written
from edgekd.types import Images


def export_fp32(
    model: nn.Module,
    images: Images,
    classes: Sequence[str],
    path: Path,
    *,
    opset: int,
    batch: int | None = None,
    uint8: bool = False,
    teacher_sha256: str = "",
) -> None:
    """Writes the fp32 graph: one file, normalisation inside, BatchNorm folded into the convolution before it.

    batch: images that the graph takes; None: any number. DLA and many vendors' converters want a number. uint8: the
    input is uint8, with a Cast behind it; else float32, the same numbers. Class names, images and checksums are in its
    metadata. Its IR version is the oldest that has the opset. Raises ExportError where torch or onnx cannot express the
    network at this opset.
    """
    deployed = Deployed(model, images).cpu().eval()
    deployed.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload] # else Shape and Reshape nodes stay
    kind = torch.uint8 if uint8 else torch.float32
    # two images where the batch is open: the tracer takes one for a constant
    example = torch.zeros(batch or 2, images.channels, images.height, images.width, dtype=kind)
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    try:
        with quiet():
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["pixels"],
                output_names=["logits"],
                opset_version=max(opset, DYNAMO_OPSET),
                verbose=False,
            )
        assert program is not None
        graph = program.model_proto
        del program  # it has another copy of the weights
        if opset < DYNAMO_OPSET:
            lower(graph, opset)
    except Exception as error:  # both exporters raise many kinds; all mean the same to the user
        raise _refused(opset, error) from error
    tidy(graph)
    sums = {"weights_sha256": weights_sha256(model), "teacher_sha256": teacher_sha256}
    describe(graph, images, classes, kind="uint8" if uint8 else "float32", **sums)
    with written(path) as temporary:
        onnx.save_model(graph, temporary)
        try:
            onnx.checker.check_model(str(temporary), full_check=True)  # of the file: half the memory
        except Exception as error:
            raise _refused(opset, error) from error


def _refused(opset: int, error: Exception) -> ExportError:
    return ExportError(
        f"the network cannot be written as ONNX opset {opset}",
        code="E0610",
        why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
        fix="choose a profile with another opset, or another --student",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """The exporters log and warn about their own insides; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
