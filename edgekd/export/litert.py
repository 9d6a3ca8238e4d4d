"""LiteRT's form of a network (.tflite), made by litert-torch from torch and held against it at the same gates.

LiteRT does not read ONNX, so this starts from the network; its INT8 graph is quantised anew, by ai-edge-quantizer.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.errors import ExportError
from edgekd.export.fp32 import quiet
from edgekd.export.network import Deployed, Logits, Pixels
from edgekd.export.parity import Gate, own_gates
from edgekd.files import written
from edgekd.types import Images

CALIBRATION = 256  # images that the ranges of INT8 are measured on
# what stays fp32: by names of tensors, which say the module that they are from, and operators
KEPT = {".*": ("INPUT", "OUTPUT"), rf"^{re.escape(Deployed.__module__)}\.{Deployed.__name__};": ("MUL", "ADD")}
ABSENT = (
    "litert-torch is not installed here: the bundle has the ONNX graphs alone, which LiteRT does not read and ONNX "
    "Runtime runs; for LiteRT's own form:  pip install 'edgekd[litert]'"
)


@dataclass(frozen=True)
class Source:
    """What LiteRT's form is made of."""

    network: nn.Module
    images: Images
    batch: int  # images that a graph takes at once
    calibration: Pixels  # generated images (N, C, H, W), for the ranges of INT8; never noise


def installed() -> bool:
    """Whether litert-torch, which brings the quantiser and the interpreter, is there; importing it takes seconds."""
    return importlib.util.find_spec("litert_torch") is not None


def export_tflite(network: nn.Module, images: Images, path: Path, *, batch: int = 1) -> None:
    """Writes the network as .tflite, fp32, normalisation inside: pixels 0..255 as float32 (batch, C, H, W) -> logits.

    The same network gives the same file. Raises ExportError where litert-torch cannot express it.
    """
    deployed = Deployed(network, images).cpu().eval()
    deployed.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload] # as for ONNX
    example = torch.zeros(batch, images.channels, images.height, images.width)
    with _silent():
        import litert_torch

        litert_torch.config.show_progress = False  # it prints to stdout
        try:
            made = litert_torch.convert(deployed, (example,)).model_content()
        except Exception as error:  # torch, jax and the converter raise many kinds; all mean the same to the user
            raise ExportError(
                f"the network has no LiteRT form by litert-torch {litert_torch.__version__}",
                code="E0613",
                why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                fix="choose another --student, or a profile whose target is onnxrt",
            ) from error
    with written(path) as temporary:
        temporary.write_bytes(made)


def quantise(fp32: Path, path: Path, calibration: Pixels) -> None:
    """Writes the INT8 graph of an fp32 .tflite: int8 weights per channel, int8 activations, pixels and logits float32.

    calibration: generated images (N, C, H, W); ranges are the extremes over CALIBRATION of them. The quantiser itself
    would take moving averages of each image's extremes, which clip (benchmarks/NOTES.md). Normalisation stays fp32.
    Raises ExportError where the quantiser does not take the graph.
    """
    chosen = calibration[np.random.default_rng(0).permutation(len(calibration))[:CALIBRATION]]
    with _silent():
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
        from ai_edge_quantizer.calibrator import Calibrator
        from ai_edge_quantizer.qtyping import TFLOperationName as Operator
        from ai_edge_quantizer.quantizer import Quantizer
        from ai_edge_quantizer.recipe_manager import RecipeManager
        from ai_edge_quantizer.utils.qsv_utils import min_max_update

        interpreter = opened(fp32)
        ((signature, ends),) = interpreter.get_signature_list().items()
        (name,), size = ends["inputs"], interpreter.get_input_details()[0]["shape"][0]
        recipe = RecipeManager()
        recipe.add_static_config(".*", Operator.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
        for where, operators in KEPT.items():
            for operator in operators:
                recipe.add_quantization_config(where, Operator(operator), algorithm_key=AlgorithmName.NO_QUANTIZE)
        try:
            ranges = Calibrator(str(fp32), num_threads=torch.get_num_threads(), qsv_update_func=min_max_update)
            ranges.calibrate({signature: [{name: part} for part, _ in _parts(chosen, size)]}, recipe)
            work = Quantizer(str(fp32), recipe.get_quantization_recipe())
            made = work.quantize(ranges.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False)
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                "LiteRT's quantiser does not take the network",
                code="E0613",
                why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                fix="choose another --student, or --precision fp32",
            ) from error
    with written(path) as temporary:
        temporary.write_bytes(made.quantized_model)


def describe_as(path: Path, graph: Path) -> None:
    """Gives a .tflite the metadata of an ONNX graph: class names, images, checksums, under the same keys."""
    with _silent():
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(path))
        schema = flatbuffer_utils.schema_fb
        for fact in onnx.load(graph, load_external_data=False).metadata_props:
            entry, content = schema.MetadataT(), schema.BufferT()
            content.data = np.frombuffer(fact.value.encode(), np.uint8)
            entry.name, entry.buffer = fact.key, len(model.buffers)
            model.buffers.append(content)
            model.metadata.append(entry)
        with written(path) as temporary:
            temporary.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def tflite_logits(path: Path, pixels: Pixels) -> Logits:
    """Logits (N, K) of a .tflite by LiteRT on the CPU."""
    with _silent():
        interpreter = opened(path)
    entry, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    answers = []
    for part, count in _parts(pixels, entry["shape"][0]):
        interpreter.set_tensor(entry["index"], part)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(made["index"])[:count])
    logits: Logits = np.concatenate(answers)
    return logits


def litert_gates(
    graphs: Mapping[str, Path], fp32: Path, pixels: Pixels, torch_: Logits, source: Source
) -> tuple[list[Path], dict[str, Gate], dict[str, Logits]]:
    """(files to pack, precision -> gate, precision -> logits) of LiteRT's form of each ONNX graph, written beside it.

    graphs: precision -> ONNX file, whose metadata its own form gets; fp32: the fp32 one, packed or not. pixels:
    generated images (N, C, H, W); torch_: the network's own logits on them. A refused graph has no file. Raises
    ExportError where there is no such form, ParityError where fp32 fails, or every graph does.
    """
    whole = fp32.with_suffix(".tflite")
    export_tflite(source.network, source.images, whole, batch=source.batch)
    files = {precision: graph.with_suffix(".tflite") for precision, graph in graphs.items()}
    if "int8" in files:
        quantise(whole, files["int8"], source.calibration)
    for precision, path in files.items():
        describe_as(path, graphs[precision])
    logits = {precision: tflite_logits(path, pixels) for precision, path in files.items()}
    found = own_gates(logits, torch_)
    return [path for precision, path in files.items() if found[precision].refused is None], found, logits


def opened(path: Path) -> Any:
    """LiteRT's interpreter of a graph, with as many threads as torch."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=torch.get_num_threads())
    interpreter.allocate_tensors()
    return interpreter


def _parts(pixels: Pixels, size: int) -> Iterator[tuple[NDArray[np.float32], int]]:
    """`size` images at a time as float32, and how many of them count: the last may lack some, and repeats its own."""
    for at in range(0, len(pixels), size):
        part = pixels[at : at + size]
        yield part[np.resize(np.arange(len(part)), size)].astype(np.float32), len(part)


@contextmanager
def _silent() -> Iterator[None]:
    """Its packages log, print and draw bars; errors still come as exceptions."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its libraries read it when they are loaded
    with quiet(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
