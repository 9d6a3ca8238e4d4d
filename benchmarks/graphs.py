"""Exports networks for every TensorRT and for ONNX Runtime, lints the graphs, and holds them against torch.

    python benchmarks/graphs.py [--data ../shared/data] [--teachers ../shared/teachers] [--networks resnet18 ...]
        [--images 512] > benchmarks/results/graphs.json

resnet20_cifar10 is a published checkpoint, held against torch on CIFAR-10's test images. torchvision's networks at 224
pixels have random weights: their BatchNorm statistics are taken on crops of photographs of flowers, and their last
layer is fitted to the five kinds of flower by least squares, so that answers have margins. Agreement of such a network
is harder to keep than a trained one's. Calibration and parity use different crops.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from teachers import labelled
from torch import nn

from edgekd import Images, load_profile, load_teacher
from edgekd.bank import normalised
from edgekd.export import (
    AGREEMENT,
    ParityError,
    check_parity,
    compare_layers,
    export,
    lint,
    onnx_logits,
    parting,
    rules_for,
    torch_logits,
    worst,
)  # fmt: skip
from edgekd.export.parity import APART
from edgekd.types import Profile, Runtime
from edgekd.vision import torchvision

SHARED = Path(__file__).resolve().parents[2] / "shared"
TENSORRT = {"8.2": (13, ("8.2",)), "8.5": (17, ("8.5", "8.6")), "10.3": (20, ("10.3", "11.1"))}  # opset, linted for
CALIBRATION, COMPARED = 128, 16  # images
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--teachers", type=Path, default=SHARED / "teachers")
    parser.add_argument(
        "--networks", nargs="+", default=["resnet20_cifar10", "resnet18", "mobilenet_v3_small"], metavar="NAME"
    )
    parser.add_argument("--images", type=int, default=512, help="for parity, at 224 pixels; 2,000 at 32")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "networks": {}}
    for name in arguments.networks:
        if name.endswith("_cifar10"):
            images = Images(3, 32, 32, MEAN, STD)
            published = arguments.teachers / f"{name}.th"
            model = load_teacher(published, arch=name.removesuffix("_cifar10"), images=images).model
            pixels = labelled(arguments.data, "cifar10", "test")[0][: CALIBRATION + 2000].transpose(0, 3, 1, 2)
        else:
            images = Images(3, 224, 224, MEAN, STD)
            pixels, labels = flowers(arguments.data / "flowers.zip", CALIBRATION + arguments.images)
            model = sane(getattr(torchvision().models, name), pixels, labels, images)
        result["networks"][name] = figures(model, images, pixels)
        print(json.dumps(result, indent=2) if name == arguments.networks[-1] else "", end="")


def figures(model: nn.Module, images: Images, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Every target's graphs of a network: what the lint finds, parity, sizes."""
    calibration, held_out = pixels[:CALIBRATION], pixels[CALIBRATION:]
    reference = torch_logits(model, images, held_out)
    classes = [str(k) for k in range(reference.shape[1])]
    found: dict[str, Any] = {"images": len(held_out), "classes_answered": len(set(reference.argmax(1).tolist()))}
    for profile, versions in targets():
        assert profile.runtime
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            graphs = export(model, images, classes, profile, calibration, Path(folder))
            seconds = time.perf_counter() - begun
            rows = {precision: row(precision, path, held_out, reference) for precision, path in graphs.items()}
            for precision, path in graphs.items():
                for version in versions:
                    breaches = [dataclasses.asdict(f) for f in lint(path, profile.runtime.name, version)]
                    rows[precision]["lint"][rules_for(profile.runtime.name, version)] = breaches
        print(f"{profile.name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        found[profile.name] = {"opset": profile.opset, "export_seconds": round(seconds, 1), "graphs": rows}
    return found


def row(precision: str, path: Path, held_out: NDArray[np.uint8], reference: NDArray[np.float32]) -> dict[str, Any]:
    """One graph's size, parity with torch, and for fp16 and int8 its distance from the fp32 graph beside it."""
    logits = onnx_logits(path, held_out)
    found: dict[str, Any] = {"mb": round(path.stat().st_size / 1e6, 2), "asked": AGREEMENT[precision], "lint": {}}
    try:
        found |= check_parity(precision, logits, reference)
    except ParityError as refused:
        found |= {**refused.figures, "gate": refused.problem}
    if precision != "fp32":
        layers = compare_layers(path.with_name("student.fp32.onnx"), path, held_out[:COMPARED])
        first = parting(layers, APART[precision])
        found |= {
            "layers_compared": len(layers),
            "parts_at": dataclasses.asdict(first) if first else None,
            "worst_layers": [dataclasses.asdict(layer) for layer in worst(layers, 3)],
        }
    return found


def targets() -> list[tuple[Profile, tuple[str, ...]]]:
    """A profile for each form of graph that a version of TensorRT wants, with the versions, and ONNX Runtime on x86."""
    board, here = load_profile("jetson-orin-nano-8gb-super"), load_profile("cpu")
    precisions = ("fp32", "fp16", "int8")
    found = []
    for version, (opset, versions) in TENSORRT.items():
        runtime = Runtime("tensorrt", version, opset_max=opset)
        name = f"tensorrt {version}"
        changed = dataclasses.replace(board, name=name, runtime=runtime, opset=opset, precisions=precisions)
        found.append((changed, versions))
    plain = dataclasses.replace(here, name="onnxruntime", runtime=Runtime("onnxruntime"), precisions=precisions)
    return [*found, (plain, (onnxruntime.__version__,))]


def flowers(path: Path, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Random crops (count, 3, 224, 224) of the photographs, and which of the five kinds each is."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        kinds = sorted({name.split("/")[-2] for name in names})
        pixels, labels = [], []
        for name in rng.permutation(np.resize(names, count)):
            picture = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            side = int(min(picture.size) * rng.uniform(0.6, 1.0))
            left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
            crop = picture.resize((224, 224), box=(left, top, left + side, top + side))
            pixels.append(np.asarray(crop).transpose(2, 0, 1))
            labels.append(kinds.index(name.split("/")[-2]))
    return np.stack(pixels), np.array(labels)


def sane(make: Any, pixels: NDArray[np.uint8], labels: NDArray[np.int64], images: Images) -> nn.Module:
    """A network of torchvision with random weights; its BatchNorm knows the images, its last layer fits the labels."""
    torch.manual_seed(0)
    model: nn.Module = make(num_classes=int(labels.max()) + 1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over all batches
        norm.reset_running_stats()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    features: list[torch.Tensor] = []
    with torch.no_grad():
        for part in torch.from_numpy(pixels[:CALIBRATION]).split(32):
            model.train()(normalised(part, images))
        model.eval()
        hook = head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        for part in torch.from_numpy(pixels).split(32):
            model(normalised(part, images))
        hook.remove()
        x = torch.cat(features)
        x, wanted = x - x.mean(0), torch.nn.functional.one_hot(torch.from_numpy(labels)).float() - 0.2
        scale = x.var(0).mean() * len(x) * 0.1
        weight = torch.linalg.solve(x.T @ x + scale * torch.eye(x.shape[1]), x.T @ wanted)
        head.weight.copy_(weight.T)
        head.bias.copy_(-torch.cat(features).mean(0) @ weight)
    return model


if __name__ == "__main__":
    main()
