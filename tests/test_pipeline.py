"""compress from end to end on the tiny teacher: the bundle, its runner, resume and refusal."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import compress, load_profile, load_teacher, pace, pipeline, stages
from edgekd.agreement import SETS
from edgekd.bundle import read_bundle
from edgekd.errors import EnvironmentLacking, IntegrityError, Interrupted, MeasurementError, UsageError
from edgekd.evaluation import EvalData
from edgekd.export import onnx_logits
from edgekd.files import sha256
from edgekd.methods import configure, gentle
from edgekd.pipeline import Result
from edgekd.rdskd_plus_settings import HINTS
from edgekd.types import StudentSpec, Teacher

QUICK: dict[str, Any] = {
    "method": "rdskd",
    "family": "cnn:8",
    "settings": {"batch": 64, "latent": 16, "generator_width": 16, "generator_steps": 20, "student_steps": 60},
}


@pytest.fixture(scope="module")
def finished(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("out") / "run"
    profile = dataclasses.replace(load_profile("cpu"), limits=load_profile("jetson-nano-4gb").limits)
    return compress(load_teacher(teacher_file), profile, folder, **QUICK)


def runner(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-B", "-m", "runner", "--quick", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_bundle_holds_what_the_manifest_says(finished: Result) -> None:
    folder = finished.bundle.folder
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    listed = set(manifest["files"])
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == listed | {"manifest.json", "report.json", "raw_latency.npz"}
    assert {"student.fp32.onnx", "student.int8.onnx", "samples.npz", "README.txt", "runner/__main__.py"} <= listed
    assert all(sha256(folder / name) == digest for name, digest in manifest["files"].items())
    assert manifest["parity"]["fp32"]["relative"] < 1e-4 and manifest["parity"]["int8"]["agreement"] > 0.9
    assert manifest["teacher"]["sha256"] == load_teacher_hash(finished)
    assert read_bundle(folder).manifest == finished.bundle.manifest


def load_teacher_hash(finished: Result) -> str:
    settings = json.loads((finished.folder / "settings.json").read_text(encoding="utf-8"))
    return str(settings["teacher"])


def test_agreement_is_what_samples_and_graph_give(finished: Result) -> None:
    folder = finished.bundle.folder
    samples = np.load(folder / "samples.npz")
    logits = onnx_logits(folder / "student.fp32.onnx", samples["pixels"])
    expected = (logits.argmax(1) == samples["teacher_logits"].argmax(1)).mean()
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["graphs"]["fp32"]["agreement"] == pytest.approx(expected)
    assert report["graphs"]["fp32"]["max_abs_from_host"] < 1e-3
    assert report["graphs"]["teacher"]["agreement"] == 1.0
    for graph in report["graphs"].values():
        t = graph["latency_ms"]
        assert 0 < t["min"] <= t["p50"] <= t["p90"] <= t["p99"] <= t["max"] and t["rounds"] >= 200
    assert report["runtime"]["name"] == "onnxruntime" and report["device"]["python"]
    assert isinstance(report["valid"], bool) and report["valid"] == (not report["reasons"])


def test_fidelity_is_that_of_samples_and_graph(finished: Result) -> None:
    folder, found = finished.bundle.folder, finished.bundle.manifest.fidelity
    samples = np.load(folder / "samples.npz")
    answers, wanted = (samples[f"{name}_logits"].argmax(1) for name in ("fp32", "teacher"))
    held_out = found["sets"]["held_out"]
    assert held_out["share"] == pytest.approx((answers == wanted).mean(), abs=2 / len(wanted))
    assert held_out["images"] == len(wanted) and set(found["sets"]) == set(SETS)
    assert sum(found["by_class"]["images"]) == len(wanted) and found["other"] == "strokes"
    assert all(0 <= one["low"] <= one["share"] <= one["high"] <= 1 for one in found["sets"].values())


def test_evaluation_data_reach_the_report_only(finished: Result, eval_data: EvalData, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    before = sha256(folder / "student.pt"), sha256(folder / "bundle" / "manifest.json")
    data = tmp_path / "data.npz"
    np.savez(data, images=eval_data.pixels, labels=eval_data.labels)
    report = pipeline.bench(folder / "bundle", quick=True, eval_data=data, reference=folder / "teacher.onnx")
    assert report["evaluated"] == 256
    assert report["graphs"]["teacher"]["accuracy"] > 0.95
    logits = onnx_logits(folder / "bundle" / "student.int8.onnx", eval_data.pixels)
    expected = (logits.argmax(1) == eval_data.labels).mean()
    assert report["graphs"]["int8"]["accuracy"] == pytest.approx(expected, abs=0.01)
    assert before == (sha256(folder / "student.pt"), sha256(folder / "bundle" / "manifest.json"))


def test_same_call_again_does_nothing_twice(finished: Result, teacher: Teacher) -> None:
    said: list[str] = []
    of_the_call = {"result.json", "report.html"}  # they say how long this call took
    files = [p for p in finished.folder.rglob("*") if p.is_file() and p.name not in of_the_call]
    times = {p: p.stat().st_mtime_ns for p in files}
    again = compress(teacher, finished.profile, finished.folder, **QUICK, say=said.append)
    assert again.report == finished.report
    assert {"student distilled already", "bundle packed already", "measured already"} <= set(said)
    assert times == {p: p.stat().st_mtime_ns for p in files}
    assert {p.name for p in finished.folder.iterdir()} >= of_the_call


@pytest.mark.parametrize("lost", ["bundle", "teacher.onnx", "bundle/report.json"])
def test_goes_on_from_the_last_finished_stage(lost: str, finished: Result, teacher: Teacher, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    if (folder / lost).is_dir():
        shutil.rmtree(folder / lost)
    else:
        (folder / lost).unlink()
    student = sha256(folder / "student.pt")
    result = compress(teacher, finished.profile, folder, **QUICK)
    assert sha256(folder / "student.pt") == student
    assert result.bundle.manifest.files.keys() == finished.bundle.manifest.files.keys()
    assert set(result.report["graphs"]) == {"fp32", "int8", "teacher"}


def test_interrupted_and_resumed_gives_the_same_student(finished: Result, teacher: Teacher, tmp_path: Path) -> None:
    def stop(phase: str, step: int, steps: int, **figures: float) -> None:
        if phase == "student" and 20 <= step < 60:
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        compress(teacher, finished.profile, folder, **QUICK, log=stop)
    assert not (folder / "student.pt").exists() and (folder / "distillation.ckpt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    compress(teacher, finished.profile, folder, **QUICK)
    one, other = (torch.load(f / "student.pt", weights_only=True)["state"] for f in (folder, finished.folder))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (folder / "distillation.ckpt").exists()
    assert not [p for p in folder.rglob("*") if p.name.endswith(".tmp")]


def test_other_settings_in_the_same_folder_are_refused(finished: Result, teacher: Teacher) -> None:
    changed = QUICK | {"settings": QUICK["settings"] | {"student_steps": 61}}
    with pytest.raises(UsageError) as refused:
        compress(teacher, finished.profile, finished.folder, **changed)
    assert "recipe" in refused.value.why
    with pytest.raises(UsageError, match="other settings"):
        compress(teacher, finished.profile, finished.folder, **QUICK, seed=1)


def test_folder_that_cannot_be_written(teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(EnvironmentLacking) as refused:
        compress(teacher, load_profile("cpu"), tmp_path / "file" / "out", **QUICK)
    assert refused.value.exit_code == 4


def test_full_disk_leaves_no_half_file(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            compress(teacher, load_profile("jetson-nano-4gb"), tmp_path / "run", **QUICK)
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert left <= {"settings.json", "plan.json", "log.jsonl", "distillation.ckpt"}
    assert compress(teacher, load_profile("jetson-nano-4gb"), tmp_path / "run", **QUICK).bundle.folder.is_dir()


def test_a_long_budget_is_timed_once_and_its_student_is_the_same(
    finished: Result, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LONG_S", 0.0)
    first, again = list[str](), list[str]()
    for said in (first, again):
        compress(teacher, load_profile("cpu"), tmp_path / "run", **QUICK, say=said.append)
    plans = [line for line in first if line.startswith("plan: generator_steps 20, student_steps 60; ")]
    assert len(plans) == 1 and first.index("timing a few steps") < first.index(plans[0])
    assert not any(line.startswith("plan: ") for line in again)
    graphs = (folder / "student.fp32.onnx" for folder in (finished.folder, tmp_path / "run"))
    assert len({sha256(graph) for graph in graphs}) == 1


def test_changed_file_is_found_by_host_and_runner(finished: Result, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(finished.bundle.folder, folder)
    content = bytearray((folder / "student.fp32.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "student.fp32.onnx").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"student\.fp32\.onnx") as refused:
        read_bundle(folder)
    assert refused.value.exit_code == 7
    ran = runner(folder)
    assert ran.returncode == 7 and "student.fp32.onnx" in ran.stderr and "Traceback" not in ran.stderr
    (folder / "student.fp32.onnx").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        read_bundle(folder)
    assert runner(folder).returncode == 7
    with pytest.raises(IntegrityError, match="not a bundle"):
        read_bundle(tmp_path)


def test_manifest_cannot_reach_outside(finished: Result, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(finished.bundle.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../../etc/passwd"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(IntegrityError, match="outside"):
        read_bundle(folder)


def test_runner_stands_alone_and_refuses_wrong_data(finished: Result, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(finished.bundle.folder, folder)
    (folder / "report.json").unlink()
    ran = runner(folder, "--threads", "1")
    assert ran.returncode == 0, ran.stderr
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert set(report["graphs"]) == {"fp32", "int8"} and report["graphs"]["fp32"]["threads"] == 1
    np.savez(tmp_path / "wrong.npz", images=np.zeros((2, 1, 9, 9), np.uint8), labels=np.zeros(2, int))
    for wrong in ("wrong.npz", "missing.npz"):
        ran = runner(folder, "--eval-data", str(tmp_path / wrong))
        assert ran.returncode == 3 and "Traceback" not in ran.stderr


def test_runner_that_dies_is_a_measurement_error(finished: Result, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError):
        pipeline.bench(finished.bundle.folder, quick=True, reference=finished.folder / "settings.json")


def test_samples_are_fewer_where_images_are_large() -> None:
    assert stages.LARGEST_SAMPLES // (3 * 224 * 224) < stages.SAMPLES < stages.LARGEST_SAMPLES // (3 * 32 * 32)


def test_a_pruned_student_learns_gently(teacher: Teacher) -> None:
    pruned = StudentSpec("pruned", 1, 50, teacher.images, teacher.classes)

    def settled(**settings: Any) -> Any:
        return gentle(configure("rdskd_plus", "fast", settings, teacher), pruned, settings)

    config = configure("rdskd_plus", "good", {"batch": 256}, teacher)
    assert (config.optimizer, config.student_lr, config.features) == (None, None, None)
    found = gentle(config, pruned, {})
    assert (found.optimizer, found.student_lr, found.features) == ("sgd", pytest.approx(0.015), 10)
    assert found.hints is None and config.hints == HINTS  # all of them
    assert (found.batch, found.student_steps) == (128, 2 * config.student_steps)  # as many images
    assert found.lesson_steps == 2 * config.lesson_steps and found.image_steps == config.image_steps
    assert (settled(optimizer="adam").optimizer, settled(optimizer="adam").student_lr) == ("adam", pytest.approx(6e-4))
    own = {"student_lr": 0.05, "features": 2.0, "optimizer": "muon", "batch": 512, "student_steps": 400}
    assert {name: getattr(settled(**own), name) for name in own} == own
    other = configure("rdskd", "fast", {}, teacher)
    assert gentle(other, pruned, {}) is other
    assert gentle(config, dataclasses.replace(pruned, family="resnet"), {}) is config
