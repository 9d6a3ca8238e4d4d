"""INT8 graphs in torch, biases corrected by hand, and a fine-tune that never leaves a worse graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from test_calibration import classifier, images

from edgekd.export import onnx_logits, recovery, scheme
from edgekd.export.calibration import calibrate
from edgekd.export.fake import FakeQuantised, fake_quantised, with_constants
from edgekd.export.int8 import quantised
from edgekd.export.ranges import histograms, ranges
from edgekd.export.recovery import Lessons, bias_corrected, fine_tuned, recover
from edgekd.export.running import runner

POOL, JUDGES = images(200, seed=1), images(400, seed=2)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    weight, last = rng.normal(size=(6, 2, 1, 1)), 20 * rng.normal(size=(4, 6))
    path = classifier(tmp_path / "fp32.onnx", weight=weight, last=last)
    mean = onnx_logits(path, POOL).mean(0)  # so that all classes are answered
    return classifier(path, weight=weight, last=last, shift=-mean.astype(np.float64))


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def lessons(path: Path, **more: float) -> Lessons:
    logits = onnx_logits(path, POOL)
    return dataclasses.replace(Lessons(POOL, {"student": logits}), **more)  # type: ignore[arg-type]


def test_fake_quantisation_by_hand() -> None:
    x = torch.tensor([-1.0, 0.24, 0.26, 0.5, 200.0], requires_grad=True)
    y = fake_quantised(x, torch.tensor(0.5), torch.tensor(1, dtype=torch.uint8))
    assert y.tolist() == [-0.5, 0.0, 0.5, 0.5, 127.0]  # integers 0..255 stand for -0.5..127
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]  # straight through, but where it clips


@pytest.mark.parametrize(("target", "version"), [("onnxrt", ()), ("tensorrt", (8, 2)), ("tensorrt", (10, 3))])
def test_torch_rounds_as_the_graph(target: str, version: tuple[int, ...], graph: Path) -> None:
    fp32, wanted = onnx.load(graph), scheme(target, version)
    int8 = quantised(fp32, ranges(histograms(fp32, POOL), "mse", symmetric=wanted.symmetric), scheme=wanted)
    model = FakeQuantised(fp32, int8)
    with torch.no_grad():
        here = model(torch.from_numpy(JUDGES).float()).numpy()
    there = runner(int8, ["logits"])(JUDGES)["logits"]
    assert np.abs(here - there).max() < 1e-6 * np.abs(there).max()
    assert set(model.names) == {"weight", "bias", "last", "shift"}
    model(torch.from_numpy(POOL).float()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_unknown_operator(graph: Path) -> None:
    model = onnx.load(graph)
    model.graph.node[2].op_type = "Det"
    with pytest.raises(ValueError, match="Det"):
        FakeQuantised(model, model)


def test_bias_correction_by_hand(graph: Path) -> None:
    fp32 = onnx.load(graph)
    wanted = scheme("tensorrt")
    found = ranges(histograms(fp32, POOL), "minmax", symmetric=True)
    held = constants(fp32)
    off = np.array([0.1, -0.2, 0.3, 0, 0, 0.05], np.float32)
    source = with_constants(fp32, {"bias": held["bias"] + off})  # the graph that rounds has other means in its channels
    int8 = quantised(source, found, scheme=wanted)
    corrected, note = bias_corrected(source, int8, fp32, POOL)
    exact, rounded = (runner(m, ["y"])(POOL)["y"].mean(axis=(0, 2, 3)) for m in (fp32, int8))
    assert constants(corrected)["bias"] == pytest.approx(held["bias"] + off + exact - rounded, abs=1e-5)
    assert np.abs(exact - rounded + off).max() < 0.02  # the rest is rounding
    after = quantised(corrected, found, scheme=wanted)
    assert runner(after, ["y"])(POOL)["y"].mean(axis=(0, 2, 3)) == pytest.approx(exact, abs=1e-5)
    logits = [runner(m, ["logits"])(POOL)["logits"].mean(0) for m in (fp32, after)]
    assert logits[0] == pytest.approx(logits[1], abs=1e-3)  # the last layer too, behind the first
    assert note == "2 of 2 operators have a bias"
    assert np.array_equal(constants(corrected)["weight"], held["weight"])


def test_fine_tuning_learns_through_the_rounding_and_repeats(graph: Path) -> None:
    fp32, wanted = onnx.load(graph), scheme("tensorrt")
    found = ranges(histograms(fp32, POOL), "minmax", symmetric=True)
    spoilt = with_constants(fp32, {"last": constants(fp32)["last"] * 0.99})
    int8, of = quantised(spoilt, found, scheme=wanted), lessons(graph)
    first, note = fine_tuned(spoilt, int8, of, "student", steps=30)
    again, _ = fine_tuned(spoilt, int8, of, "student", steps=30)
    assert first is not None and again is not None and note == "30 steps of 64 images"
    assert first.SerializeToString() == again.SerializeToString()

    def distance(model: onnx.ModelProto) -> float:
        return float(
            np.square(
                runner(quantised(model, found, scheme=wanted), ["logits"])(POOL)["logits"] - of.targets["student"]
            ).mean()
        )

    assert distance(first) < distance(spoilt)


def test_steps_are_what_fits_into_the_time(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32, wanted = onnx.load(graph), scheme("tensorrt")
    int8 = quantised(fp32, ranges(histograms(fp32, POOL), "minmax", symmetric=True), scheme=wanted)
    for seconds, expected in ((3.0, None), (75.0, 25), (1e9, 30)):  # the probe of 3 steps takes 9 seconds
        ticks = iter((0.0, 9.0)).__next__
        monkeypatch.setattr(recovery, "MOST", 30)
        of = dataclasses.replace(lessons(graph), within_s=seconds, clock=ticks)
        found, note = fine_tuned(fp32, int8, of, "student")
        assert (found is None) == (expected is None)
        assert note.startswith("not tried: 1 steps" if expected is None else f"{expected} steps")


def test_what_does_not_help_is_not_kept(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = scheme("onnxrt")
    monkeypatch.setattr(recovery, "MOST", recovery.FEWEST)
    found = calibrate(graph, {"generated": POOL}, JUDGES, scheme=wanted)
    for rate in (recovery.RATE, 10.0):  # the second ruins every weight
        monkeypatch.setattr(recovery, "RATE", rate)
        after = recover(graph, found, POOL, JUDGES, lessons(graph), scheme=wanted)
        bias, tuned = after.attempts
        assert (bias.name, tuned.name) == ("bias correction", "fine-tune towards the student")
        assert bias.before == found.chosen.agreement and tuned.before == (bias.after if bias.kept else bias.before)
        for one in after.attempts:
            assert one.kept == ((one.after or 0.0) > (one.before or 0.0))
        if not any(one.kept for one in after.attempts):
            assert after.graph is found.graph
        final = (
            runner(after.graph, ["logits"], optimise=True)(JUDGES)["logits"].argmax(1)
            == onnx_logits(graph, JUDGES).argmax(1)
        ).mean()
        assert final >= (found.chosen.agreement or 0.0)
    assert not tuned.kept and tuned.after is not None


def test_recovery_says_what_it_cannot_do(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = scheme("onnxrt")
    found = calibrate(graph, {"generated": POOL}, JUDGES, scheme=wanted)
    monkeypatch.setattr("edgekd.export.fake.KNOWN", {})
    after = recover(graph, found, POOL, JUDGES, lessons(graph), scheme=wanted)
    assert after.graph is found.graph
    assert all(not one.kept and one.after is None and "is not known" in one.note for one in after.attempts)
