"""A device that is measured: its coefficients are found, and what disturbs it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgekd import load_profile
from edgekd.__main__ import app
from edgekd.errors import MeasurementError, UsageError
from edgekd.families import named
from edgekd.latency import cost, predict
from edgekd.measure import CLASSES, PROBES, measure, probe_bundle, write_profile
from edgekd.profile import adjusted
from edgekd.student import build_student
from edgekd.types import Bundle, Images, Profile

NAMES = ("cnn:4", "resnet:1x4", "cnn:12", "lenet:6")
IMAGES = Images(3, 32, 32, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def profile() -> Profile:
    return adjusted(load_profile("cpu"), precision="fp32")


class Slow:
    """A device that takes a multiple of what a profile predicts, fewer threads longer."""

    def __init__(self, profile: Profile, factor: float, foreign: float = 0.0) -> None:
        self.profile, self.factor, self.foreign = profile, factor, foreign
        self.asked: list[tuple[int, list[str]]] = []

    def __call__(self, bundle: Bundle, threads: int) -> dict[str, Any]:
        self.asked.append((threads, list(bundle.manifest.graphs)))
        graphs = {}
        for key in bundle.manifest.graphs:
            spec = named(key.split(" ")[0], bundle.manifest.images, CLASSES)
            assert spec is not None and (bundle.folder / bundle.manifest.graphs[key]).is_file()
            of = cost(build_student(spec), bundle.manifest.images)
            ms = self.factor / threads * predict(of, self.profile, key.split(" ")[1], batch=1).latency_ms
            graphs[key] = {"latency_ms": {"p50": ms, "p90": 1.1 * ms}}
        about = {"device": {"name": "a slow one", "cores": 2}, "runtime": {"name": "onnxruntime", "version": "1"}}
        return {"graphs": graphs, "foreign_cores": self.foreign, "reasons": [], **about}


def test_coefficients_of_a_slower_device_are_found(profile: Profile, tmp_path: Path) -> None:
    device = Slow(profile, factor=3.0)
    found = measure(profile, device, threads=(1, 2), probes={32: NAMES})
    assert [threads for threads, _ in device.asked] == [1, 2] and len(found.rows) == 8
    assert max(map(abs, found.errors)) < 0.1
    unseen = named("resnet:1x8", IMAGES, CLASSES)
    assert unseen is not None
    of = cost(build_student(unseen), IMAGES)
    true_ms = predict(of, profile, "fp32", batch=1).latency_ms
    for threads in (1, 2):
        p = predict(of, found.profile, "fp32", threads=threads, batch=1)
        assert p.latency_ms == pytest.approx(3.0 / threads * true_ms, rel=0.25)
    ways = [way for way in found.profile.latency if way.threads in (1, 2) and way.precision == "fp32"]
    assert all(way.basis == "measured" and way.runtime == "onnxruntime" for way in ways)

    path = tmp_path / "profiles" / "mine.toml"
    write_profile(path, found, "measured\non a test")
    read = load_profile(path)
    assert read.latency == found.profile.latency and read.hardware == profile.hardware
    assert path.read_text(encoding="utf-8").startswith("# measured\n# on a test\n")


def test_disturbed_device_is_refused(profile: Profile) -> None:
    with pytest.raises(MeasurementError, match=r"0\.90 cores") as refused:
        measure(profile, Slow(profile, 1.0, foreign=0.9), threads=(1,), probes={32: NAMES[:1]})
    assert refused.value.exit_code == 5


def test_device_that_the_runner_does_not_drive_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be measured"):
        measure(load_profile("jetson"), Slow(load_profile("jetson"), 1.0), threads=(1,), probes={32: NAMES[:1]})


def test_probes_are_networks_of_every_family_that_suits_them() -> None:
    for pixels, names in PROBES.items():
        images = Images(3, pixels, pixels, (0.5,) * 3, (0.25,) * 3)
        assert len(set(names)) == len(names) and all(named(name, images, CLASSES) for name in names)


def test_probe_bundle_names_its_graphs_by_network_and_precision(profile: Profile, tmp_path: Path) -> None:
    spec = named("cnn:4", IMAGES, CLASSES)
    assert spec is not None
    bundle = probe_bundle({"one": build_student(spec, seed=0)}, IMAGES, CLASSES, profile, tmp_path)
    assert list(bundle.manifest.graphs) == ["one fp32"] and "measures a device" in bundle.manifest.data


def test_threads_that_are_no_numbers() -> None:
    done = CliRunner().invoke(app, ["profiles", "measure", "cpu", "--threads", "two"])
    assert done.exit_code == 2 and "--threads two" in done.output
