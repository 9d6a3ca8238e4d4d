"""A picture classified by the graph of a bundle, on this machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from edgekd.errors import InputError, UsageError
from edgekd.export import Pixels, onnx_logits
from edgekd.files import parsed
from edgekd.types import Bundle, Images

CHANNELS = {1: "L", 3: "RGB"}  # Pillow's names


@dataclass(frozen=True)
class Answers:
    """What a graph says of a picture."""

    graph: Path
    precision: str
    chosen_by: str  # why this precision
    notes: tuple[str, ...]  # what was done to the picture
    answers: tuple[tuple[str, float], ...]  # class name, probability in [0, 1]; the surest first


def classify(bundle: Bundle, path: Path, *, precision: str | None = None, top: int = 5) -> Answers:
    """The `top` surest classes of the picture at `path`, by the fastest graph or that of `precision`.

    Raises UsageError for a precision that the bundle has not, InputError for what cannot be read as a picture.
    """
    precision, why = _fastest(bundle) if precision is None else (precision, "asked for")
    name = bundle.manifest.graphs.get(precision)
    if name is None:
        raise UsageError(
            f"{bundle.folder} has no {precision} graph",
            code="E0248",
            fix=f"--precision {' or '.join(bundle.manifest.graphs)}, or leave it out",
        )
    pixels, notes = read_picture(path, bundle.manifest.images)
    logits = onnx_logits(bundle.folder / name, pixels)[0].astype(np.float64)  # (K,)
    weights = np.exp(logits - logits.max())
    shares = weights / weights.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    answers = tuple((bundle.manifest.classes[index], float(shares[index])) for index in order)
    return Answers(bundle.folder / name, precision, why, notes, answers)


def read_picture(path: Path, images: Images) -> tuple[Pixels, tuple[str, ...]]:
    """A picture of any format of Pillow as uint8 (1, C, H, W), and what was done to it. Raises InputError."""
    picture, notes = decoded(path, images)
    wanted = (images.width, images.height)
    if picture.size != wanted:
        shape = (
            "" if math.isclose(picture.width * wanted[1], picture.height * wanted[0], rel_tol=0.02) else ", stretched"
        )
        notes.append(f"resized from {picture.width}x{picture.height} to {images.width}x{images.height}{shape}")
        picture = picture.resize(wanted, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8).reshape(images.height, images.width, images.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]), tuple(notes)


def decoded(path: Path, images: Images) -> tuple[Image.Image, list[str]]:
    """A picture with the network's channels, upright, in its own size; and what was done to it. Raises InputError."""
    mode = CHANNELS.get(images.channels)
    if mode is None:
        raise InputError(f"a picture has no {images.channels} channels", code="E0347", why="gray has 1, colour 3")
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is not a picture that can be read",
            code="E0346",
            why=str(error).strip() or type(error).__name__,
            fix="correct the path, or save it as PNG or JPEG",
        ) from error
    notes = []
    if picture.mode.startswith("I;16"):  # Pillow would cut off at 255 instead of scaling
        picture = Image.fromarray((np.asarray(picture, np.uint32) // 257).astype(np.uint8))
        notes.append("16 bits a pixel made 8")
    if picture.mode != mode:
        notes.append(f"{picture.mode} made {mode}")
        picture = picture.convert(mode)
    return picture, notes


def _fastest(bundle: Bundle) -> tuple[str, str]:
    """The precision of the lowest p50 that was measured, else of the smallest file; and which of the two it was."""
    graphs = bundle.manifest.graphs
    report = bundle.folder / "report.json"
    if report.is_file():
        try:
            measured = parsed(report.read_text(encoding="utf-8"))["graphs"]
            return min(graphs, key=lambda name: float(measured[name]["latency_ms"]["p50"])), "the fastest as measured"
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{report} is not a report of the runner",
                code="E0372",
                why=f"{type(error).__name__}: {error}",
                fix=f"measure again:  edgekd bench {bundle.folder}",
            ) from error
    return min(graphs, key=lambda name: (bundle.folder / graphs[name]).stat().st_size), "the smallest; not measured yet"
