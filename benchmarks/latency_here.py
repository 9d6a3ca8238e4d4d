"""This machine as a device: probe networks fit its coefficients, then networks it has not seen are predicted.

    python benchmarks/latency_here.py [--networks 30] [--seed 0] [--out benchmarks/results/latency_here.json]

The first part is what `edgekd profiles measure cpu` does. Then random networks of every family are exported, run by
the runner (p50; fp32 and INT8; 1 and 2 threads) and held against the prediction: mean error and rank correlation, by
precision and threads. Nothing else may run meanwhile: a disturbed measurement ends it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from edgekd import Images, load_profile
from edgekd.device import run_bundle
from edgekd.families import FAMILIES, members, name_of
from edgekd.latency import cost, predict
from edgekd.measure import CLASSES, PROBES, measure, probe_bundle, undisturbed
from edgekd.student import build_student
from edgekd.types import Bundle, Profile

SIZES = (32, 32, 64, 96, 224)  # pixels a side, drawn from
THREADS = (1, 2)
TOGETHER = 10  # networks in one bundle
TRIES = 3  # of a measurement that was disturbed


def run(bundle: Bundle, threads: int) -> dict[str, Any]:
    """The runner on this machine, again where other work disturbed it."""
    for attempt in range(TRIES):
        report = run_bundle(bundle, quick=True, threads=threads)
        if (report["foreign_cores"] or 0.0) <= 0.25 or attempt == TRIES - 1:
            return report
        print(f"disturbed by {report['foreign_cores']:.2f} cores; again", flush=True)
        time.sleep(20)
    raise AssertionError


def drawn(count: int, seed: int) -> dict[int, list[str]]:
    """Random networks by size, a family after the other, none of them a probe."""
    rng, found = random.Random(seed), dict[int, list[str]]()
    families = [family for family in FAMILIES if family != "pruned"]
    while sum(map(len, found.values())) < count:
        family = families[sum(map(len, found.values())) % len(families)]
        pixels = rng.choice(SIZES)
        images = Images(3, pixels, pixels, (0.5,) * 3, (0.25,) * 3)
        listed = [spec for row in members(family, images, CLASSES) for spec in row]
        names = {name_of(spec) for spec in listed} - set(PROBES.get(pixels, ())) - set(found.get(pixels, ()))
        if names and (pixels < 224 or family != "cnn"):
            found.setdefault(pixels, []).append(rng.choice(sorted(names)))
    return found


def held_against(profile: Profile, names: dict[int, list[str]], run: Callable[[Bundle, int], dict[str, Any]]) -> Any:
    """A row per network, precision and number of threads."""
    rows = []
    for pixels, those in names.items():
        images = Images(3, pixels, pixels, (0.5,) * 3, (0.25,) * 3)
        for at in range(0, len(those), TOGETHER):
            part = those[at : at + TOGETHER]
            specs = {name_of(s): s for f in FAMILIES for row in members(f, images, CLASSES) for s in row}
            networks = {name: build_student(specs[name], seed=1) for name in part}
            costs = {name: cost(network, images) for name, network in networks.items()}
            with tempfile.TemporaryDirectory() as temporary:
                bundle = probe_bundle(networks, images, CLASSES, profile, Path(temporary))
                for threads in THREADS:
                    report = run(bundle, threads)
                    undisturbed(report)
                    for key, graph in report["graphs"].items():
                        name, precision = key.rsplit(" ", 1)
                        way = {"runtime": "onnxruntime", "threads": threads, "batch": 1}
                        p = predict(costs[name], profile, precision, **way)  # type: ignore[arg-type]
                        rows.append({
                            "network": name, "pixels": pixels, "precision": precision, "threads": threads,
                            "measured_ms": graph["latency_ms"]["p50"], "predicted_ms": p.latency_ms,
                            "low_ms": p.low_ms, "high_ms": p.high_ms,
                        })  # fmt: skip
                        print(f"{name} {pixels} {precision} {threads}: {rows[-1]}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors and rank correlation by precision and threads, and of all."""

    def of(part: list[dict[str, Any]]) -> dict[str, float]:
        measured, predicted = (np.array([row[k] for row in part]) for k in ("measured_ms", "predicted_ms"))
        errors = predicted / measured - 1
        covered = [row["low_ms"] <= row["measured_ms"] <= row["high_ms"] for row in part]
        return {
            "networks": len(part), "mean_error": round(float(np.abs(errors).mean()), 4),
            "worst_error": round(float(errors[np.abs(errors).argmax()]), 4),
            "rank_correlation": round(float(spearmanr(measured, predicted)[0]), 4),
            "covered": round(float(np.mean(covered)), 4),
        }  # fmt: skip

    groups = {f"{p}, {t} threads": [r for r in rows if (r["precision"], r["threads"]) == (p, t)]
              for p in ("fp32", "int8") for t in THREADS}  # fmt: skip
    return {name: of(part) for name, part in {**groups, "all": rows}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latency_here.json")
    given = parser.parse_args()
    start = time.monotonic()
    found = measure(load_profile("cpu"), run, threads=THREADS, say=lambda line: print(line, flush=True))
    errors = np.abs(found.errors)
    print(f"fitted to {len(errors)} rows: mean error {errors.mean():.1%}, worst {errors.max():.1%}", flush=True)
    rows = held_against(found.profile, drawn(given.networks, given.seed), run)
    result = {
        "date": time.strftime("%Y-%m-%d"), "seed": given.seed, "machine": found.device["name"],
        "cores": found.device["cores"], "runtime": found.runtime, "python": platform.python_version(),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "probes": {"rows": len(errors), "mean_error": round(float(errors.mean()), 4)},
        "unseen": summary(rows), "rows": rows,
        "probe_rows": [
            {"network": r.network, "pixels": r.pixels, "precision": r.precision, "threads": r.threads,
             "measured_ms": r.latency_ms, "error": round(e, 4)} for r, e in zip(found.rows, found.errors, strict=True)
        ],
    }  # fmt: skip
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["unseen"], indent=2))


if __name__ == "__main__":
    main()
