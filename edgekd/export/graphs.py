"""The graphs of a profile: from the network to one file per precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from edgekd.export.fp16 import export_fp16
from edgekd.export.fp32 import export_fp32
from edgekd.export.int8 import Scheme, export_int8, scheme
from edgekd.export.lint import check_runtime, parsed, runtime_of
from edgekd.export.network import Pixels
from edgekd.types import Images, Profile

RANGED = 256  # images that the ranges of an fp16 graph are measured on


def graph_path(folder: Path, precision: str) -> Path:
    """Where `export` writes the graph of a precision."""
    return folder / f"student.{precision}.onnx"


def export(
    student: nn.Module,
    images: Images,
    classes: Sequence[str],
    profile: Profile,
    calibration: Pixels,
    folder: Path,
    *,
    uint8: bool = False,
    teacher_sha256: str = "",
    write_int8: Callable[[Path, Path, Scheme], None] | None = None,
) -> dict[str, Path]:
    """Writes the graphs of `profile` into `folder`: precision -> path. The others are made from the fp32 graph.

    calibration: generated images (N, C, H, W), for the ranges of fp16 and INT8. uint8: the graphs take uint8 pixels.
    write_int8: writes the INT8 graph of an fp32 one as a scheme wants it; None: with the ranges' extremes.
    For vendors' converters (target "onnx") the batch is the profile's, else open. Raises ExportError where the network
    has no such form, and for what the profile's runtime would not take.
    """
    paths = {p: graph_path(folder, p) for p in ("fp32", *(q for q in profile.precisions if q != "fp32"))}
    batch = profile.batch if profile.target == "onnx" else None
    export_fp32(
        student, images, classes, paths["fp32"],
        opset=profile.opset, batch=batch, uint8=uint8, teacher_sha256=teacher_sha256,
    )  # fmt: skip
    if "fp16" in paths:
        export_fp16(paths["fp32"], paths["fp16"], calibration[:RANGED])
    if "int8" in paths:
        runtime = runtime_of(profile)
        wanted = scheme(profile.target, parsed(runtime.version), weight_bits=runtime.int8_weight_bits)
        if write_int8 is None:
            export_int8(paths["fp32"], paths["int8"], calibration, scheme=wanted)
        else:
            write_int8(paths["fp32"], paths["int8"], wanted)
    for path in paths.values():
        check_runtime(path, profile)
    return {p: path for p, path in paths.items() if p in profile.precisions}
