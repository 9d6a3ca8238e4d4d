"""Output folders for the tests of reports: a real bundle, graphs that nobody runs, a report of made-up figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.agreement import SETS
from edgekd.bundle import read_bundle, write_bundle
from edgekd.files import plain, write_json
from edgekd.grid import write_grid
from edgekd.profile import load_profile
from edgekd.types import Cost, Images, Manifest, Prediction, Sizing, StudentSpec

FACTS = Images(1, 8, 8, (0.5,), (0.25,))
SIZES = {"fp32": 4000, "int8": 1500, "teacher": 9000}  # bytes
P50_MS = {"fp32": 0.2, "int8": 0.3, "teacher": 0.9}


def graph(name: str, classes: int, scale: float, evaluated: bool) -> dict[str, Any]:
    p50 = scale * P50_MS[name]
    latency: dict[str, Any] = {"p50": p50, "p90": 1.1 * p50, "p95": 1.2 * p50, "p99": 1.4 * p50, "mean": 1.01 * p50}
    latency |= {"std": 0.1 * p50, "min": 0.9 * p50, "max": 2 * p50, "rounds": 1200}
    edges = np.linspace(0.9 * p50, 1.42 * p50, 61).tolist()
    latency["histogram"] = {"edges_ms": edges, "counts": [20] * 59 + [8], "above": 12}
    every = {"class": list(range(classes)), "images": [8] * classes, "note": ""}
    confusion = [[7 if i == j else int(j == (i + 1) % classes) for j in range(classes)] for i in range(classes)]
    by_class = every | {"share": [0.875] * classes}
    evaluation = {"top1": 0.875, "top5": None, "by_class": by_class, "confusion": confusion} if evaluated else None
    return {
        "file": f"{name}.onnx", "mb": SIZES[name] / 1e6, "load_ms": 12.5, "first_ms": 1.25, "latency_ms": latency,
        "agreement": 1.0 if name == "teacher" else 0.9375, "max_abs_from_host": None if name == "teacher" else 1.5e-6,
        "agreement_by_class": every | {"share": [0.9375] * classes},
        "accuracy": 0.875 if evaluated else None, "evaluation": evaluation,
    }  # fmt: skip


def report(classes: int, *, scale: float = 1.0, evaluated: bool = True, valid: bool = True) -> dict[str, Any]:
    return {
        "schema": 1, "made": "2026-01-02T03:04:05Z", "target": "onnxrt", "clock": "host array in, host array out",
        "runtime": {"name": "onnxruntime", "version": "1.23.0"}, "batch": 1, "valid": valid,
        "device": {"name": "Some CPU", "machine": "x86_64", "cores": 2, "clock_mhz": 2400.5, "power_mode": None},
        "protocol": {"warmup_s": 0.5, "seconds": 2.0}, "reasons": [] if valid else ["other processes were busy"],
        "foreign_cores": 0.01, "peak_memory_mb": 81.5, "samples": 64, "evaluated": 64 if evaluated else 0,
        "graphs": {name: graph(name, classes, scale, evaluated) for name in SIZES},
        **({"evaluation": {"name": "test.npz", "sha256": "e" * 64}} if evaluated else {}),
    }  # fmt: skip


def sizing(classes: tuple[str, ...]) -> Sizing:
    spec = StudentSpec("resnet", 1, 8, FACTS, classes)
    predicted = {"fp32": Prediction(0.25, 0.2, 0.3), "int8": Prediction(0.35, 0.3, 0.4)}
    slower = {name: Prediction(1.0, 0.8, 1.2) for name in predicted}
    return Sizing(
        spec, Cost(1000, 50_000, 5, 9000, 700), Cost(8000, 400_000, 9, 30_000, 2800), predicted, slower, 40, "x"
    )


def output_folder(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog", "owl"), *, scale: float = 1.0, evaluated: bool = True,
    valid: bool = True, seed: int = 0, broken: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """OUT of compress for the profile cpu, as it is when finished; folder: made."""
    folder.mkdir(parents=True)
    size, profile = sizing(classes), load_profile("cpu")
    graphs = {name: folder / f"student.{name}.onnx" for name in ("fp32", "int8")}
    for name, path in graphs.items():
        path.write_bytes(b"x" * SIZES[name])
    config = {"batch": 32, "student_lr": 0.002, "prior": "none"}
    recipe = {"name": "rdskd", "budget": "fast", "config": config, "seed": seed}
    manifest = Manifest(
        1, "onnxrt", 1, 1, FACTS, classes, {}, {}, {"fp32": {"max_abs": 1e-6}}, plain(size.spec) | plain(size.student),
        {"sha256": "a" * 64, "architecture": "resnet20"} | plain(size.teacher), recipe, plain(profile),
        "prior none: made from the teacher alone", {"edgekd": "0.1", "torch": "2.10"}, {}, fidelity(len(classes)),
    )  # fmt: skip
    write_bundle(folder / "bundle", manifest, graphs, {"pixels": np.zeros((4, 1, 8, 8), np.uint8)})
    write_json(folder / "bundle" / "report.json", report(len(classes), scale=scale, evaluated=evaluated, valid=valid))
    write_json(folder / "settings.json", {
        "teacher": "a" * 64, "profile": profile, "student": size.spec, "edgekd": "0.1",
        "recipe": {"method": "rdskd", "budget": "fast", "config": config, "seed": seed},
    })  # fmt: skip
    write_json(folder / "result.json", {
        "schema": 1, "edgekd": "0.1", "command": "edgekd compress 'a teacher.pt'", "seconds": 61.5, "sizing": size,
        "report_made": "2026-01-02T03:04:05Z", "student": "resnet:1x8",
        "deployable": not broken, "broken_limits": broken,
        "evaluation": None,
        "deployed": {"precision": "fp32", "basis": "measured", "latency_ms": {}, "broken": broken, "slower": []},
    })  # fmt: skip
    lines = [
        {"time_s": 2.0 * n, "phase": "student", "step": n, "loss": 3.0 / n, "agreement": n / 12} for n in range(1, 11)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rng = np.random.default_rng(0)
    labels = np.arange(24) % len(classes)
    write_grid(rng.integers(0, 256, (24, 1, 8, 8), dtype=np.uint8), labels, folder / "images.png")
    write_json(folder / "plan.json", plan())
    assert read_bundle(folder / "bundle").manifest.classes == classes
    return folder


def fidelity(classes: int) -> dict[str, Any]:
    """As edgekd/fidelity.py's fidelity gives it."""
    share = {"images": 64, "share": 0.90625, "low": 0.81, "high": 0.956, "balanced": 0.75, "largest": 0.5}
    by_class = {"classes": list(range(classes)), "images": [8] * classes, "share": [0.9375] * classes}
    expected = {"low": 0.58, "middle": 0.88, "high": 0.97, "level": 0.9, "pairs": 40, "data_sets": ["digits", "mnist"]}
    return {
        "sets": dict.fromkeys(SETS, share),
        "other": "strokes", "by_class": by_class, "calibration": {"teacher": 0.97, "student": 0.91, "error": 0.04},
        "expected": expected | {"covered_pairs": 0.925, "covered_data_sets": 0.83},
    }  # fmt: skip


def plan() -> dict[str, Any]:
    def row(name: str, ms: float, expected: float, broken: list[str]) -> dict[str, Any]:
        predicted = {p: {"latency_ms": ms, "low_ms": 0.8 * ms, "high_ms": 1.2 * ms} for p in ("fp32", "int8")}
        cost = {"parameters": round(4000 * ms), "macs": round(200_000 * ms), "layers": 5}
        return {"student": name, "predicted_ms": predicted, "expected": expected, "memory_mb": 0.25, "cost": cost,
                "broken_limits": broken}  # fmt: skip

    rows = [
        row("lenet:3", 0.1, 0.5, []),
        row("resnet:1x8", 0.25, 0.8, []),
        row("resnet:2x8", 0.5, 0.9, ["0.5 ms over 0.4"]),
    ]
    return {
        "chosen": rows[1],
        "front": rows,
        "candidates": rows,
        "bound_by": "0.5 ms over 0.4",
        "expected_from": "capacity",
    }
