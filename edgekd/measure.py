"""Measuring a device: probe networks run on it through the runner, and the coefficients of its latency are fitted."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

import edgekd
from edgekd.bundle import SCHEMA, write_bundle
from edgekd.errors import MeasurementError, UsageError
from edgekd.export import export
from edgekd.families import named
from edgekd.files import plain, written
from edgekd.latency import cost, fitted, predict
from edgekd.profile_toml import profile_toml
from edgekd.student import build_student
from edgekd.types import Bundle, Cost, Images, Latency, Manifest, Profile

CLASSES = tuple(map(str, range(10)))
PROBES: Mapping[int, tuple[str, ...]] = {  # pixels a side -> networks, by the names of students
    32: (
        "resnet:1x8", "resnet:2x16", "resnet:1x32", "resnet:3x24", "wrn16-1", "mobilenetv2:0.35", "mobilenetv3:0.35",
        "mcu:2x8", "cnn:8", "cnn:32", "lenet:6",
    ),
    96: ("resnet:1x16", "mobilenetv2:0.35", "mobilenetv3:0.5x0.5", "mcu:2x12"),
    224: ("resnet:1x16", "mobilenetv2:0.35", "mobilenetv3:0.35", "bottleneck:1x16"),
}  # fmt: skip
BUSY = 0.25  # cores that other processes may use while a device is measured

Run = Callable[[Bundle, int], dict[str, Any]]  # a bundle and a number of threads -> the runner's report


@dataclass(frozen=True)
class Row:
    """One probe network on the device."""

    network: str
    pixels: int  # a side
    precision: str
    threads: int
    latency_ms: float  # p50
    cost: Cost


@dataclass(frozen=True)
class Measured:
    """A device that was measured."""

    profile: Profile  # with fitted coefficients
    rows: tuple[Row, ...]
    errors: tuple[float, ...]  # of each row, predicted over measured - 1
    device: Mapping[str, Any]  # what the runner says of it
    runtime: Mapping[str, str]
    warnings: tuple[str, ...]


def measure(
    profile: Profile,
    run: Run,
    *,
    threads: Sequence[int],
    say: Callable[[str], None] = lambda line: None,
    probes: Mapping[int, tuple[str, ...]] | None = None,
) -> Measured:
    """Runs the probe networks on a device and fits the coefficients of `profile` to it.

    run: takes a bundle to the device and gives the runner's report. threads: CPU threads, measured one after another;
    0: all. Raises MeasurementError where other work disturbed the device, UsageError where edgekd cannot run there.
    """
    if profile.target != "onnxrt":
        raise UsageError(
            f"{profile.name} cannot be measured: its graphs are for {profile.target}",
            code="E0229",
            why="probe networks are fitted for ONNX Runtime only",
            fix="name a profile whose target is onnxrt",
        )
    rows: list[Row] = []
    warnings: list[str] = []
    report: dict[str, Any] = {}
    profile = dataclasses.replace(profile, batch=1)
    for pixels, names in (probes or PROBES).items():
        images = Images(3, pixels, pixels, (0.5,) * 3, (0.25,) * 3)
        networks = {name: _untrained(name, images) for name in names}
        costs = {name: cost(network, images) for name, network in networks.items()}
        with tempfile.TemporaryDirectory() as temporary:
            say(f"writing {len(names)} networks of {pixels} pixels")
            bundle = probe_bundle(networks, images, CLASSES, profile, Path(temporary))
            for count in threads:
                say(f"measuring {len(names)} networks of {pixels} pixels on {count or 'all'} threads")
                report = run(bundle, count)
                undisturbed(report)
                warnings += report["reasons"]
                for key, graph in report["graphs"].items():
                    name, precision = key.rsplit(" ", 1)
                    rows.append(Row(name, pixels, precision, count, graph["latency_ms"]["p50"], costs[name]))
    found = _fitted(profile, rows)
    predicted = [
        predict(r.cost, found, r.precision, runtime="onnxruntime", threads=r.threads, batch=1).latency_ms for r in rows
    ]
    errors = tuple(p / r.latency_ms - 1 for p, r in zip(predicted, rows, strict=True))
    return Measured(found, tuple(rows), errors, report["device"], report["runtime"], tuple(warnings))


def undisturbed(report: Mapping[str, Any]) -> None:
    """Raises MeasurementError where other work ran on the device beside the measurement."""
    foreign = report["foreign_cores"] or 0.0
    if foreign > BUSY:
        raise MeasurementError(
            f"other processes used {foreign:.2f} cores of the device",
            code="E0540",
            why="a latency beside other work is not the device's",
            fix="stop what else runs there and measure again; nothing was written",
        )


def _untrained(name: str, images: Images) -> nn.Module:
    spec = named(name, images, CLASSES)
    assert spec is not None
    return build_student(spec, seed=0)


def probe_bundle(
    networks: Mapping[str, nn.Module], images: Images, classes: Sequence[str], profile: Profile, folder: Path
) -> Bundle:
    """A bundle of untrained networks in every precision of the profile; its graphs are named "NETWORK PRECISION".

    Weights do not matter to a latency, so these are any, and their INT8 ranges are those of random pixels.
    """
    shape = (8, images.channels, images.height, images.width)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    graphs: dict[str, Path] = {}
    for number, (name, model) in enumerate(networks.items()):
        own = folder / str(number)
        own.mkdir()
        for precision, path in export(model.eval(), images, classes, profile, noise, own).items():
            graphs[f"{name} {precision}"] = path.rename(folder / f"{number}.{precision}.onnx")
    manifest = Manifest(
        schema=SCHEMA, target=profile.target, batch=profile.batch, threads=profile.threads, images=images,
        classes=tuple(classes), graphs={}, files={}, parity={}, student={}, teacher={}, method={},
        profile=plain(profile), data="untrained networks: this bundle measures a device",
        made_with={"edgekd": edgekd.__version__},
    )  # fmt: skip
    samples: dict[str, NDArray[Any]] = {"pixels": noise[:2], "teacher_logits": np.zeros((2, len(classes)), np.float32)}
    return write_bundle(folder / "bundle", manifest, graphs, samples)


def _fitted(profile: Profile, rows: Sequence[Row]) -> Profile:
    """The profile with coefficients for every precision and number of threads that was measured, before its own."""
    ways: list[Latency] = []
    for count in dict.fromkeys(row.threads for row in rows):
        those = [(row.cost, row.precision, row.latency_ms) for row in rows if row.threads == count]
        prior = [way for way in profile.latency if way.runtime == "onnxruntime"]
        ways += [
            dataclasses.replace(way, threads=count, runtime="onnxruntime", unit="cpu", basis="measured")
            for way in fitted(those, profile.hardware, prior)
        ]
    replaced = {(way.runtime, way.precision, way.threads) for way in ways}
    others = [way for way in profile.latency if (way.runtime, way.precision, way.threads) not in replaced]
    return dataclasses.replace(profile, latency=(*ways, *others))


def write_profile(path: Path, measured: Measured, comment: str) -> None:
    """Writes the profile that was measured as TOML, whole or not at all. comment: lines on top, of whoever reads it."""
    text = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as temporary:
        temporary.write_text(text + profile_toml(measured.profile, explained=False), encoding="utf-8")
