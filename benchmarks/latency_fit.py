"""Fits the latency coefficients of profiles/ to published measurements and prints what goes into the TOML files.

    python benchmarks/latency_fit.py MEASUREMENTS.csv

The CSV has the columns device, model, precision, runtime, threads, latency_ms, statistic. Costs are counted on
torchvision's networks at 224x224. The coefficients are least squares on relative errors, compute not below 1 (nothing
is faster than its peak), the others not below 0. The run that the profiles quote: benchmarks/results/latency_fit.json.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import lsq_linear

from edgekd.latency import BYTES, cost
from edgekd.profile import load_profile
from edgekd.types import Cost, Images
from edgekd.vision import torchvision

MODELS = {
    "alexnet": "alexnet",
    "squeezenet": "squeezenet1_1",
    "squeezenet1_0": "squeezenet1_0",
    "squeezenet1_1": "squeezenet1_1",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "vgg16": "vgg16",
    "mobilenet_v2": "mobilenet_v2",
    "mnasnet": "mnasnet1_0",
    "shufflenet_v2": "shufflenet_v2_x1_0",
}
ROWS = {  # profile -> rows used: (device, start of runtime, threads, stored precision -> peak used)
    "jetson-orin-nano-8gb-super": ("TensorRT", "", {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}),
    "jetson-nano-4gb": ("TensorRT", "", {"fp16": "fp16"}),
    "rpi-4b": ("ncnn", "4", {"fp16/bf16 auto": "fp32"}),
}


def network_cost(name: str) -> Cost:
    images = Images(3, 224, 224, (0.0,) * 3, (1.0,) * 3)
    with torch.device("meta"):
        model = torchvision().models.get_model(name, weights=None).eval()
    return cost(model, images)


def main(path: str) -> None:
    rows = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    results = {}
    for name, (runtime, threads, precisions) in ROWS.items():
        hardware = load_profile(name).hardware
        terms, measured, labels = [], [], []
        for row in rows:
            usable = row["device"] == name and row["model"] in MODELS and row["precision"] in precisions
            if not usable or not row["runtime"].startswith(runtime) or (threads and row["threads"] != threads):
                continue
            of, precision = network_cost(MODELS[row["model"]]), precisions[row["precision"]]
            found = re.search(r"batch (\d+)|\bb(\d+)\b", row["statistic"])
            batch = int(found[1] or found[2]) if found else 1
            peak = hardware.peak_gflops[precision]
            terms.append(
                [
                    2 * of.macs * batch / (peak * 1e6),
                    of.traffic_elements * batch * BYTES[precision] / (hardware.bandwidth_gb_per_s * 1e6),
                    of.layers / 1e3,
                ]
            )
            measured.append(float(row["latency_ms"]))
            labels.append(f"{row['model']} {row['precision']} batch {batch}")
        a, t = np.array(terms), np.array(measured)
        coefficients = lsq_linear(a / t[:, None], np.ones(len(t)), bounds=([1, 0, 0], np.inf)).x
        errors = a @ coefficients / t - 1
        results[name] = {
            "compute": round(float(coefficients[0]), 3),
            "traffic": round(float(coefficients[1]), 3),
            "layer_us": round(float(coefficients[2]), 2),
            "mean_error": round(float(np.abs(errors).mean()), 3),
            "worst_error": round(float(np.abs(errors).max()), 3),
            "rows": {label: round(float(e), 3) for label, e in zip(labels, errors, strict=True)},
        }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(sys.argv[1])
