"""Runs `edgekd compress` as a user does and keeps its figures as one JSON line, with the circumstances.

No command of its own: benchmarks/demo.py, mnist.py, methods.py and robustness.py write their results through it.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd.export.running import onnx_logits

POINTS = 50  # of a learning curve in the results
LEARNING = ("student", "joint")  # phases of a log in which the student learns
RSS_BYTES = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss


def compress(
    pair: str,
    arguments: list[str],
    *,
    folder: Path,
    seed: int,
    out: Path,
    extra: Mapping[str, Any] | None = None,
    earlier_s: float = 0.0,
) -> dict[str, Any]:
    """Runs it in `folder` and appends a line to `out`; gives the line. Raises CalledProcessError where it fails.

    extra: further entries of the line. earlier_s: seconds of calls that were stopped before. Top-1 is that of the last
    model, read once after the training.
    """
    command = ["compress", *arguments, "--seed", str(seed), "--json"]
    start = time.perf_counter()
    output, peak_mb = run([sys.executable, "-m", "edgekd", *command], folder)
    seconds = earlier_s + time.perf_counter() - start
    result = json.loads(output)
    measured, sizing = result["measured"], result["sizing"]
    line = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pair": pair,
        "seed": seed,
        **(extra or {}),
        "top1": {name: graph["accuracy"] for name, graph in measured["graphs"].items()},
        "evaluated": measured["evaluated"],
        "agreement_generated": measured["graphs"]["fp32"]["agreement"],
        "agreement_test": agreement_test((folder / result["bundle"]).parent),
        "parameters": {"teacher": sizing["teacher"]["parameters"], "student": sizing["student"]["parameters"]},
        "p50_ms": {name: graph["latency_ms"]["p50"] for name, graph in measured["graphs"].items()},
        "latency_valid": measured["valid"],
        "seconds": round(seconds, 1),
        "peak_mb": round(peak_mb),
        "command": "edgekd " + " ".join(command),
        "machine": f"{measured['device']['name']}, {os.cpu_count()} cores, {platform.system()}",
        "torch": torch.__version__,
        **training((folder / result["bundle"]).parent),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
    return line


def agreement_test(folder: Path) -> float | None:
    """On what share of the evaluation data the teacher's graph and the student's name the same class."""
    pixels, graphs = folder / "evaluation.npz", [folder / "teacher.onnx", folder / "student.fp32.onnx"]
    if not all(path.is_file() for path in (pixels, *graphs)):
        return None
    with np.load(pixels, allow_pickle=False) as kept:
        teacher, student = (onnx_logits(graph, kept["images"]).argmax(1) for graph in graphs)
    return round(float((teacher == student).mean()), 4)


def run(command: list[str], folder: Path) -> tuple[str, float]:
    """Runs a command in `folder`: its stdout, and its peak resident memory in MB (10**6 bytes).

    Exit code 1 with a document is a result (a limit of the profile is missed); CalledProcessError for any other but 0.
    Linux counts what this process held when it started the child as the child's, so train and decode in another one.
    """
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, encoding="utf-8") as child:
        assert child.stdout
        try:
            output = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # Ctrl-C that reached this process alone would leave the child running
            child.terminate()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 1) or not output:
        raise subprocess.CalledProcessError(child.returncode, command, output)
    return output, usage.ru_maxrss * RSS_BYTES / 1e6


def training(folder: Path) -> dict[str, Any]:
    """What the output folder of a finished run says of its training.

    samples: images that the student learnt from, repetitions counted. curve: [seconds, agreement of student and teacher
    on the training batch], thinned. The student is the last model in every method.
    """
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    recipe, config = manifest["method"], manifest["method"]["config"]
    log = on_one_clock(lines(folder / "log.jsonl"))
    learnt = [line for line in log if line["phase"] in LEARNING]
    steps = learnt[-1]["step"] * config.get("student_per_generator", 1)  # DFAD counts its generator's
    prior = config.get("prior", "none")
    return {
        "method": recipe["name"],
        "budget": recipe["budget"],
        "prior": prior if prior in ("none", "procedural", "photo") else "picture",
        "settings": config,
        "model": "last",
        "samples": steps * (config.get("student_batch") or config["batch"]),
        "train_seconds": log[-1]["time_s"],
        "curve": thinned([[line["time_s"], round(line["agreement"], 4)] for line in learnt]),
        "teacher_sha256": manifest["teacher"]["sha256"],
        "edgekd": manifest["made_with"]["edgekd"],
        "device": manifest["made_with"]["device"],
    }


def on_one_clock(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a log with seconds since the first call; a run that was gone on with has begun at 0 each time."""
    found: list[dict[str, Any]] = []
    before = last = 0.0
    for line in log:
        if line["time_s"] < last:
            before += last
        last = line["time_s"]
        found.append(line | {"time_s": round(before + last, 2)})
    return found


def thinned(points: list[list[float]], *, most: int = POINTS) -> list[list[float]]:
    """At most `most` of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[index * (len(points) - 1) // (most - 1)] for index in range(most)]


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file; none where there is no file. Raises ValueError that names a damaged line."""
    found = []
    if path.exists():
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                found.append(json.loads(text))
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: delete it, its run is made again") from error
    return found
