"""Fits the latency coefficients of profiles/ to published measurements and says how far off they are.

    python benchmarks/latency_fit.py MEASUREMENTS.csv                  errors; benchmarks/results/latency_fit.json
    python benchmarks/latency_fit.py MEASUREMENTS.csv --write          and the [[latency]] part of every profile
    python benchmarks/latency_fit.py MEASUREMENTS.csv --score ROWS.csv errors of the profiles as they are on other rows

The CSV has the columns device, model, precision, runtime, unit, threads, latency_ms, statistic, source, note. The model
and its priors: latency_model.py. Every error is of rows that the fit in question had not seen, but for "fitted".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency_entries import entries, row_profile, write_entries
from latency_errors import coverage, grouped, in_ten, left_out, logs, mean, roofline_ms, stack, widths
from latency_hardware import silicon
from latency_model import MULTIPLES, Array, Fit, fit_family
from latency_rows import Row, read_rows

from edgekd.errors import EdgekdError
from edgekd.files import data_dir
from edgekd.latency import cost, fitted, predict
from edgekd.profile import aliases, load_profile
from edgekd.student import build_student, named
from edgekd.types import Images, Latency

RESULTS = Path(__file__).parent / "results" / "latency_fit.json"
CPU_ROWS = RESULTS.with_name("latency_cpu.json")  # of profiles/cpu.toml, which no published row is about
FIGURES = ("fitted", "tenth left out", "model left out", "device left out", "roofline")


def fit_all(
    rows: list[Row],
) -> tuple[dict[str, Fit], list[Row], dict[str, Array], dict[str, float], dict[str, float]]:
    """(family -> fit, the rows family by family, figure -> logarithmic error of each, widths seen and unseen)."""
    fits: dict[str, Fit] = {}
    seen: dict[str, float] = {}
    unseen: dict[str, float] = {}
    ordered: list[Row] = []
    errors: dict[str, list[Any]] = {figure: [] for figure in (*FIGURES, "covered")}
    for family in dict.fromkeys(row.family for row in rows):
        mine = [row for row in rows if row.family == family]
        fit = fits[family] = fit_family(mine, MULTIPLES[family])
        tenth = left_out(mine, fit, in_ten(mine))
        device = left_out(mine, fit, lambda row: row.device)
        errors["fitted"].append(logs(fit, mine))
        errors["tenth left out"].append(tenth)
        errors["model left out"].append(left_out(mine, fit, lambda row: (row.of.macs, row.of.parameters)))
        errors["device left out"].append(device)
        errors["roofline"].append(np.array([np.log(roofline_ms(row) / row.latency_ms) for row in mine]))
        errors["covered"].append(coverage(mine, tenth))
        seen |= widths(mine, tenth)
        unseen |= widths(mine, device)
        ordered += mine
    return fits, ordered, {name: np.concatenate(parts) for name, parts in errors.items()}, seen, unseen


def own_machine() -> list[Latency]:
    """profiles/cpu.toml from latency_cpu.json, measured on 2026-11-23 by what profiles measure has replaced."""
    profile, rows = load_profile(data_dir("profiles") / "cpu.toml"), []
    measured = json.loads(CPU_ROWS.read_text(encoding="utf-8"))
    for label, row in measured["rows"].items():
        name, size, precision = label.split()
        images = Images(3, int(size), int(size), (0.5,) * 3, (0.25,) * 3)
        spec = named(name, images, tuple(map(str, range(10))))
        assert spec is not None, name
        with torch.device("meta"):
            model = build_student(spec)
        rows.append((cost(model, images), precision, float(row["p50_ms"])))
    prior = [
        Latency("onnxruntime", "cpu", precision, {"channel_multiple": 8}, 1.0, "derived", "none", measured["threads"])
        for precision in profile.precisions
    ]
    source = (
        f"benchmarks/latency_fit.py: {len(rows)} graphs (benchmarks/results/latency_cpu.json) on 2 threads of an AMD "
        f"EPYC (Zen 4), ONNX Runtime {measured['onnxruntime']}"
    )
    return list(fitted(rows, profile.hardware, prior, source=source))


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    print(f"\n{title:34}" + "".join(f"{figure:>17}" for figure in ("rows", *FIGURES)))
    for name, line in table.items():
        print(f"{name:34}{line['rows']:17d}" + "".join(f"{line[figure]:17.1%}" for figure in FIGURES))


def score(path: Path) -> None:
    """Predictions of the profiles as they are on the rows of a table: errors, coverage, and what has none."""
    rows, lost = read_rows(path)
    found: list[tuple[Row, float, bool]] = []
    for row in rows:
        name, runtime = row_profile(row)
        try:
            profile = load_profile(name)
            ms = predict(
                row.of, profile, row.precision, batch=row.batch, runtime=runtime, unit=row.unit, threads=row.threads
            )
        except EdgekdError as error:
            print(f"no prediction: {row.label}: {error.what}")
            continue
        found.append((row, np.log(ms.latency_ms / row.latency_ms), ms.low_ms <= row.latency_ms <= ms.high_ms))
    for one in lost:
        print(f"left out: {one.label}: {one.why}")
    for family in ("", *dict.fromkeys(row.family for row, _, _ in found)):
        mine = [(e, held) for row, e, held in found if family in ("", row.family)]
        errors = np.array([e for e, _ in mine])
        held = np.mean([h for _, h in mine])
        print(f"{family or 'all':10} {len(mine):4d} rows, mean error {mean(errors):6.1%}, in the interval {held:6.1%}")
    print("worst:")
    for row, e, _ in sorted(found, key=lambda one: -abs(one[1]))[:10]:
        print(f"  {np.expm1(e):+7.0%}  {row.latency_ms:9.3f} ms  {row.label}")


def tables_of(rows: list[Row], figures: dict[str, Array]) -> dict[str, dict[str, dict[str, float]]]:
    """Grouping -> group -> mean errors."""
    return {
        "family": grouped(rows, lambda row: row.family, figures),
        "stack": grouped(rows, stack, figures),
        "device": grouped(rows, lambda row: row.device, figures),
        "silicon": grouped(rows, lambda row: silicon(row.device, row.unit), figures),
        "model": grouped(rows, lambda row: row.model, figures),
        "all": grouped(rows, lambda row: "all", figures),
    }


def line_of(row: Row, errors: dict[str, float]) -> dict[str, Any]:
    """A row with its errors, as it goes into the results."""
    known = {name: round(float(np.expm1(e)), 3) if np.isfinite(e) else None for name, e in errors.items()}
    return {"row": row.label, "ms": row.latency_ms} | known


def write_profiles(rows: list[Row], fits: dict[str, Fit], seen: dict[str, float], unseen: dict[str, float]) -> None:
    folder = data_dir("profiles")
    for name in sorted({path.stem for path in folder.glob("*.toml")} - aliases().keys()):
        path = folder / f"{name}.toml"
        ways = own_machine() if name == "cpu" else entries(load_profile(path), rows, fits, seen, unseen)
        if not ways:
            print(f"nothing to write for {name}")
            continue
        write_entries(path, ways)
        measured = sum(way.basis == "measured" for way in ways)
        print(f"{name}: {measured} ways measured, {len(ways) - measured} derived")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fits the latency coefficients of profiles/.")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the [[latency]] part of each profile")
    parser.add_argument("--score", type=Path, help="rows to predict with the profiles as they are")
    asked = parser.parse_args()
    if asked.score and not asked.write:
        score(asked.score)
        return
    rows, lost = read_rows(asked.csv)
    fits, rows, errors, seen, unseen = fit_all(rows)
    figures = {name: errors[name] for name in FIGURES}
    tables = tables_of(rows, figures)
    for title, table in tables.items():
        show(title, table)
    covered, tenth = float(errors["covered"].mean()), errors["tenth left out"]
    print(f"\nin an interval whose width other rows gave: {covered:.1%} of rows left out by tenths")
    print("worst of the rows left out by tenths:")
    for i in np.argsort(-np.abs(tenth))[:15].tolist():
        print(f"  {np.expm1(tenth[i]):+7.0%}  {rows[i].latency_ms:9.3f} ms  {rows[i].label}")
    for one in lost:
        print(f"left out: {one.label}: {one.why}")
    result = {
        "tables": tables,
        "covered": round(covered, 3),
        "half_width": {"device with rows": seen, "device without": unseen},
        "left_out": {one.label: one.why for one in lost},
        "rows": [line_of(row, {name: values[i] for name, values in figures.items()}) for i, row in enumerate(rows)],
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if asked.write:
        write_profiles(rows, fits, seen, unseen)
    if asked.score:
        score(asked.score)


if __name__ == "__main__":
    main()
