"""Runs `edgekd compress` as a user does and keeps its figures as one JSON line, with the circumstances."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch


def compress(pair: str, arguments: list[str], *, folder: Path, seed: int, out: Path) -> dict[str, Any]:
    """Runs it in `folder` and appends a line to `out`; gives the line. Raises CalledProcessError where it fails."""
    command = ["compress", *arguments, "--seed", str(seed), "--json"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "edgekd", *command], cwd=folder, stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - start
    result = json.loads(done.stdout)
    measured, sizing = result["measured"], result["sizing"]
    line = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pair": pair,
        "seed": seed,
        "top1": {name: graph["accuracy"] for name, graph in measured["graphs"].items()},
        "evaluated": measured["evaluated"],
        "agreement_generated": measured["graphs"]["fp32"]["agreement"],
        "parameters": {"teacher": sizing["teacher"]["parameters"], "student": sizing["student"]["parameters"]},
        "p50_ms": {name: graph["latency_ms"]["p50"] for name, graph in measured["graphs"].items()},
        "latency_valid": measured["valid"],
        "seconds": round(seconds, 1),
        "command": "edgekd " + " ".join(command),
        "machine": f"{measured['device']['name']}, {os.cpu_count()} cores, {platform.system()}",
        "torch": torch.__version__,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
    return line
