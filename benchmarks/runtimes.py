"""ONNX Runtime, OpenVINO and LiteRT on this machine: the same networks, by the runner's own modules, in turns.

    python benchmarks/runtimes.py [--quick] [--runtimes onnxrt,openvino] [--note "beside other work"]
        [--out benchmarks/results/runtimes.json]

Two networks with random weights (latency does not depend on them), fp32 and INT8, batch 1, 1 and 2 threads. All
runtimes and graphs of a number of threads are measured in turns, so that a change of the machine's speed hits all
alike. p50 with its 95 % interval; "valid" says whether other work disturbed it. OpenVINO and LiteRT read their own
forms (.xml, .tflite), as a bundle has them; LiteRT's INT8 graph is quantised by its own tool, and making both needs the
extra litert. "same_answer" is the share of images on which a graph names the class that the fp32 graph names
by ONNX Runtime, and "difference" how far its logits are from that one's: RMS over the RMS by which those vary from
image to image. Answers of random weights lie close together, so that INT8 changes more of them than a trained
network's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from trt_api import runner  # the same modules of targets/ as the tests

from edgekd import Images, load_profile
from edgekd.bank import normalised
from edgekd.export import export, export_ir, export_tflite, quantise
from edgekd.families import named
from edgekd.measure import CLASSES
from edgekd.student import build_student

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {"resnet:1x16": 32, "mobilenetv2:0.35": 96}  # pixels a side
THREADS = (1, 2)
RUNTIMES = ("onnxrt", "openvino", "litert")
FORMS: dict[str, str] = runner("runtimes").FORMS
COMPARED = 256  # images that answers are compared on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="the runner's --quick")
    parser.add_argument("--runtimes", type=names, default=RUNTIMES, help="separated by commas; onnxrt is among them")
    parser.add_argument("--note", default="", help="circumstances, for the file")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "runtimes.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = compared(Path(temporary), arguments.runtimes, quick=arguments.quick)
    result["note"] = arguments.note
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in result["rows"]:
        low, high = row["interval95"] or (float("nan"),) * 2
        print(
            f"{row['network']:<17} {row['precision']:<5} {row['threads']} {row['runtime']:<9} "
            f"p50 {row['p50_ms']:8.3f} ms ({low:.3f} to {high:.3f})  "
            f"difference {row['difference']:.2g}, same answer {row['same_answer']:.4f}"
        )


def names(text: str) -> tuple[str, ...]:
    """Of RUNTIMES; the others are compared with onnxrt."""
    found = tuple(text.split(","))
    if "onnxrt" not in found or not set(found) <= set(RUNTIMES):
        raise argparse.ArgumentTypeError(f"onnxrt and some of {', '.join(RUNTIMES[1:])}")
    return found


def compared(folder: Path, runtimes: tuple[str, ...], *, quick: bool) -> dict[str, Any]:
    """Every graph by every runtime."""
    measuring, sensors = runner("measuring"), runner("sensors")
    opened = {name: runner("runtimes").opened(name) for name in runtimes}
    graphs = {network: exported(network, pixels, folder, runtimes) for network, pixels in NETWORKS.items()}
    rows: list[dict[str, Any]] = []
    runs: dict[str, Any] = {}
    for threads in THREADS:
        infers, facts, logits = {}, {}, {}
        for network, (files, pixels) in graphs.items():
            for precision, graph in files.items():
                for name, runtime in opened.items():
                    key = f"{network} {precision} {name}"
                    own = graph.with_suffix(FORMS.get(name, graph.suffix))
                    setting = runner("setting").Setting(pixels.shape[1:], 1, precision, threads, str(folder))
                    infer, facts[key] = runtime.load(str(own), setting, print)
                    logits[key] = infer(pixels)
                    one = pixels[:1]  # as the runner: the same image every time
                    infers[key] = lambda x, infer=infer, one=one: infer(one)
        protocol = measuring.QUICK if quick else measuring.FULL
        found = runner("harness").measure(infers, None, protocol, lambda line: print(line, flush=True))
        runs[str(threads)] = {
            k: found[k] for k in ("valid", "reasons", "foreign_cores", "foreign_cores_most", "steal_cores")
        }
        for key, latency in found["latency_ms"].items():
            network, precision, name = key.split(" ")
            wanted = logits[f"{network} fp32 onnxrt"]
            apart = np.square(logits[key] - wanted).mean() / np.square(wanted - wanted.mean(0)).mean()
            rows.append(
                {"network": network, "pixels": NETWORKS[network], "precision": precision, "threads": threads,
                 "runtime": name, "p50_ms": latency["p50"], "interval95": latency["interval95"]["p50"],
                 "p90_ms": latency["p90"], "p99_ms": latency["p99"], "rounds": latency["rounds"],
                 "same_answer": float((logits[key].argmax(1) == wanted.argmax(1)).mean()),
                 "difference": float(np.sqrt(apart)), "facts": facts[key]}
            )  # fmt: skip
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["python", "benchmarks/runtimes.py", *sys.argv[1:]]),
        "device": sensors.HERE.device(),
        "runtimes": {name: runtime.describe() for name, runtime in opened.items()},
        "clock": opened["onnxrt"].clock,  # all have the same
        "protocol": protocol,
        "runs_by_threads": runs,
        "rows": rows,
    }


def exported(
    network: str, pixels: int, folder: Path, runtimes: tuple[str, ...], *, weight_bits: int = 8
) -> tuple[dict[str, Path], NDArray[np.float32]]:
    """(precision -> ONNX file with the runtimes' own forms beside it, float32 images (COMPARED, 3, H, W) of 0..255).

    weight_bits: of the INT8 graph.
    """
    images = Images(3, pixels, pixels, (0.5,) * 3, (0.25,) * 3)
    spec = named(network, images, CLASSES)
    assert spec is not None
    own = folder / f"{network.replace(':', '-')}-{weight_bits}"
    own.mkdir()
    profile = load_profile("cpu")
    assert profile.runtime is not None
    profile = replace(profile, runtime=replace(profile.runtime, int8_weight_bits=weight_bits))
    squares = np.random.default_rng(0).integers(0, 256, (COMPARED, 3, 8, 8), dtype=np.uint8)
    drawn = np.kron(squares, np.ones((pixels // 8, pixels // 8), np.uint8))  # 8x8 squares: noise looks all alike
    model = sane(build_student(spec, seed=0), normalised(torch.from_numpy(drawn[:64]), images))
    files = export(model, images, CLASSES, profile, drawn[:64], own)
    if "openvino" in runtimes:
        for graph in files.values():
            export_ir(graph, graph.with_suffix(FORMS["openvino"]))
    if "litert" in runtimes:
        whole, integers = (files[precision].with_suffix(FORMS["litert"]) for precision in ("fp32", "int8"))
        export_tflite(model, images, whole)
        quantise(whole, integers, drawn[:64])
    return files, drawn.astype(np.float32)


def sane(model: nn.Module, x: Tensor) -> nn.Module:
    """The network with BatchNorm statistics of the images, so that its answers depend on them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval()


if __name__ == "__main__":
    main()
