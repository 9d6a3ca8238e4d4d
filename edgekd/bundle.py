"""The bundle: a folder with graphs, samples, the runner's source and a manifest that hashes them all."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import IntegrityError
from edgekd.files import data_dir, from_dict, parsed, sha256, write_json
from edgekd.types import Bundle, Manifest

SCHEMA = 1
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"  # as model-signing calls it
LEFT_BY_MEASURING = ("report.json", "report.html", "raw_latency.npz", "engines/*")
HOW_TO_RUN = """This folder is an edgekd bundle: an image classifier for {target}.

On the device, in this folder, with {needs}:
    python3 -m runner            measures latency, compares with the teacher's samples, writes report.json
    python3 -m runner.doctor     what the device has and lacks
    python3 -m runner --help

The graphs take pixels 0..255, NCHW; normalisation is inside. Class names are in their metadata.
"""
NEEDS = {
    "onnxrt": "Python 3.8 or later, numpy and onnxruntime",
    "tensorrt": "Python 3.6 or later, numpy and the board's TensorRT (its Python package or trtexec)",
    "openvino": "Python 3.8 or later, numpy and openvino",
    "litert": "Python 3.9 or later, numpy and ai-edge-litert",
}
FOR_A_CONVERTER = """This folder is an edgekd bundle: an image classifier for {target}.

That device runs what its vendor's tools make of the ONNX graphs here. edgekd does not do this step:
{converter}

The graphs take float32 pixels 0..255 of shape {batch}x{shape}; normalisation is inside. Class names are in their
metadata. samples.npz holds generated images ("pixels", uint8 NCHW) that also serve to calibrate a converter.

On a computer, in this folder, with Python 3.8 or later, numpy and onnxruntime:
    python3 -m runner            compares the graphs with the teacher's samples; its latency is that computer's
"""


def write_bundle(
    folder: Path,
    manifest: Manifest,
    graphs: Mapping[str, Path],
    samples: Mapping[str, NDArray[Any]],
    texts: Mapping[str, str] = MappingProxyType({}),
    files: Sequence[Path] = (),
) -> Bundle:
    """Packs a bundle at `folder`, whole or not at all. `manifest` comes without files and graphs; they are filled in.

    samples: "pixels" uint8 (N, C, H, W), "teacher_logits" (N, K) and "<precision>_logits" (N, K) of each graph.
    texts: name -> content of further files; files: further files, packed under their own names.
    """
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        shutil.copytree(data_dir("targets"), building / "runner", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (*graphs.values(), *files):
            shutil.copyfile(path, building / path.name)
        with open(building / "samples.npz", "wb") as handle:
            np.savez(handle, **samples)  # type: ignore[arg-type]
        for name, text in texts.items():
            (building / name).write_text(text, encoding="utf-8")
        (building / "README.txt").write_text(_how_to_run(manifest), encoding="utf-8")
        listed = sorted(p for p in building.rglob("*") if p.is_file())
        values = vars(manifest) | {
            "graphs": {precision: path.name for precision, path in graphs.items()},
            "files": {p.relative_to(building).as_posix(): sha256(p) for p in listed},
        }
        whole = Manifest(**values)
        write_json(building / MANIFEST, whole)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Bundle(folder, whole)


def _how_to_run(manifest: Manifest) -> str:
    images, summary = manifest.images, manifest.profile["summary"]
    shape = f"{images.channels}x{images.height}x{images.width}"
    if converter := manifest.profile.get("converter"):
        lines = textwrap.fill(converter, 116, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        return FOR_A_CONVERTER.format(target=summary, converter=lines, batch=manifest.batch, shape=shape)
    return HOW_TO_RUN.format(target=summary, needs=NEEDS.get(manifest.target, NEEDS["onnxrt"]))


def read_bundle(folder: Path) -> Bundle:
    """Reads and verifies a bundle. Raises IntegrityError naming the first file that is missing or changed."""
    try:
        values = parsed((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{folder} is not a bundle: {MANIFEST} cannot be read",
            code="E0701",
            why=str(error),
            fix="name the folder 'bundle' inside the output folder of edgekd compress",
        ) from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise IntegrityError(f"{folder / MANIFEST} is of another schema than {SCHEMA}", code="E0702")
    manifest = from_dict(Manifest, values, where=str(folder / MANIFEST), error=IntegrityError)
    for name, wanted in sorted(manifest.files.items()):
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise IntegrityError(f"{folder / MANIFEST} lists a file outside the bundle: {name}", code="E0703")
        if not path.is_file():
            raise IntegrityError(f"{path} is missing", code="E0703", fix="copy the bundle again")
        if sha256(path) != wanted:
            raise IntegrityError(
                f"{path} is not the file that was packed",
                code="E0703",
                why="its sha256 differs from the manifest's",
                fix="copy the bundle again",
            )
    return Bundle(folder, manifest)


def beside(bundle: Bundle) -> list[str]:
    """Files that measuring left beside what was packed, sorted. Nothing vouches for them, and the runner trusts none.

    Raises IntegrityError for any other file, and for links: python3 -m runner would import a module that lies in the
    bundle's folder, or compiled code in runner/__pycache__, in place of what was packed.
    """
    packed, found = {*bundle.manifest.files, MANIFEST, SIGNATURE}, list[str]()
    for path in sorted(bundle.folder.rglob("*")):
        name = path.relative_to(bundle.folder).as_posix()
        if path.is_symlink():
            raise IntegrityError(f"{path} is a link", code="E0704", why="a bundle has none", fix="delete it")
        if path.is_dir() or name in packed:
            continue
        if any(fnmatchcase(name, pattern) for pattern in LEFT_BY_MEASURING):
            found.append(name)
            continue
        compiled = "Python compiled it when the runner ran, or somebody put it there"
        raise IntegrityError(
            f"{path} was not packed",
            code="E0704",
            why=compiled if "__pycache__" in name else f"{MANIFEST} does not list it",
            fix="delete it" + (" (python3 -B -m runner leaves none)" if "__pycache__" in name else ""),
        )
    return found
