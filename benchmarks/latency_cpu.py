"""Fits the latency coefficients of profiles/cpu.toml to this machine and prints them.

    python benchmarks/latency_cpu.py > benchmarks/results/latency_cpu.json

Untrained students of both families at 32, 64 and 224 pixels are exported in fp32 and INT8 and timed by ONNX Runtime
with the profile's threads, in turns; the coefficients are least squares on relative errors of the medians. The weights
do not matter to a latency.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from scipy.optimize import lsq_linear

from edgekd import Images, load_profile
from edgekd.export import export
from edgekd.latency import BYTES, cost
from edgekd.student import build_student, named

STUDENTS = {
    32: ("resnet:1x8", "resnet:1x16", "resnet:2x24", "resnet:3x16", "resnet:5x32", "lenet:3", "lenet:6", "lenet:12"),
    64: ("resnet:1x16", "resnet:3x24"),
    224: ("resnet:1x16", "resnet:2x32", "resnet:2x64"),
}
ROUNDS, TURNS = 30, 5


def main() -> None:
    profile = load_profile("cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.threads
    rows, sessions = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for size, names in STUDENTS.items():
            images = Images(3, size, size, (0.5,) * 3, (0.25,) * 3)
            pixels = np.random.default_rng(0).integers(0, 256, (16, 3, size, size), dtype=np.uint8)
            for name in names:
                spec = named(name, images, tuple(map(str, range(10))))
                assert spec is not None
                model = build_student(spec, seed=0).eval()
                for precision, path in export(model, images, spec.classes, profile, pixels, Path(temporary)).items():
                    of = cost(model, images)
                    terms = [
                        2 * of.macs / (profile.hardware.peak_gflops[precision] * 1e6),
                        of.traffic_elements * BYTES[precision] / (profile.hardware.bandwidth_gb_per_s * 1e6),
                        of.layers / 1e3,
                    ]
                    rows.append((f"{name} {size} {precision}", terms))
                    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                    sessions.append((session, pixels[:1].astype(np.float32)))
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(TURNS + 1):  # the first warms up
        for found, (session, x) in zip(times, sessions, strict=True):
            for _ in range(ROUNDS):
                start = time.perf_counter_ns()
                session.run(None, {"pixels": x})
                if turn:
                    found.append((time.perf_counter_ns() - start) / 1e6)
    measured = np.array([np.median(found) for found in times])
    a = np.array([terms for _, terms in rows])
    fit = lsq_linear(a / measured[:, None], np.ones(len(rows)), bounds=([1, 0, 0], np.inf)).x
    errors = a @ fit / measured - 1
    result = {
        "compute": round(float(fit[0]), 3),
        "traffic": round(float(fit[1]), 3),
        "layer_us": round(float(fit[2]), 2),
        "mean_error": round(float(np.abs(errors).mean()), 3),
        "worst_error": round(float(np.abs(errors).max()), 3),
        "rows": {
            label: {"p50_ms": round(float(t), 4), "error": round(float(e), 3)}
            for (label, _), t, e in zip(rows, measured, errors, strict=True)
        },
        "onnxruntime": onnxruntime.__version__,
        "threads": profile.threads,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
