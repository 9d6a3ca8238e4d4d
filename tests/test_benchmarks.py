"""The benchmarks' own arithmetic: decoding, which runs are skipped, what the tables say. Nothing is trained here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekd
from edgekd import Images
from edgekd.arguments import settings
from edgekd.methods import METHODS, configure
from edgekd.student import build_student, named
from edgekd.types import Teacher

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
CIFAR_TEST = "27f7d008727f5b9a8f5b01f61503d2f52d3ba7f5ffb2c331b5b82775de2e2d72"  # of the decoded bytes


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def line(seed: int, top1: float, **changes: Any) -> dict[str, Any]:
    """A line as methods.py writes it, made by hand."""
    return {
        "pair": "mnist", "seed": seed, "options": [], "top1": {"fp32": top1, "teacher": 0.99}, "seconds": 60.0 + seed,
        "peak_mb": 700, "command": "edgekd compress teacher.pt", "machine": "a machine", "device": "cpu",
        "method": "dafl", "budget": "fast", "prior": "none", "settings": {"batch": 4}, "samples": 500_000,
        "curve": [[1.0, 0.5], [2.0, 0.75]], "edgekd": edgekd.__version__,
    } | changes  # fmt: skip


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return path


def test_cifar_decodes_what_was_encoded() -> None:
    from teachers import decode

    rgb = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    r, g, b = rgb.transpose(3, 0, 1, 2)
    planes = np.stack([r - g, g, b - g])
    deltas = np.diff(np.diff(planes, axis=2, prepend=np.uint8(0)), axis=3, prepend=np.uint8(0))
    assert deltas.dtype == np.uint8
    assert np.array_equal(decode(deltas), rgb)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the CIFAR-10 test set in ../shared")
def test_cifar_decodes_to_the_documented_bytes() -> None:
    from teachers import decode

    with np.load(SHARED / "data" / "cifar10_test.npz") as coded:
        images = decode(coded["images_delta"])
    assert images.shape == (10_000, 32, 32, 3) and hashlib.sha256(images.tobytes()).hexdigest() == CIFAR_TEST


def test_a_run_that_is_there_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import methods

    for name in ("mnist.npz", "work"):  # neither is opened
        (tmp_path / name).touch()
    out = write(tmp_path / "out.jsonl", [line(0, 0.9), line(1, 0.9)])
    before = out.read_text(encoding="utf-8")
    asked = ["--pairs", "mnist", "--methods", "dafl", "--seeds", "0", "1", "--data", str(tmp_path)]
    assert methods.main([*asked, "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("there already") == 2 and out.read_text(encoding="utf-8") == before


def test_a_run_is_another_one_by_each_part_of_its_key(tmp_path: Path) -> None:
    from pairs import Task, key, recorded

    there = recorded(write(tmp_path / "out.jsonl", [line(0, 0.9, options=["--set=batch=4"])]))
    assert key(Task("mnist", "dafl", "fast", ("--set=batch=4",), 0)) in there
    others = [
        Task("svhn_mini", "dafl", "fast", ("--set=batch=4",), 0),
        Task("mnist", "mskd", "fast", ("--set=batch=4",), 0),
        Task("mnist", "dafl", "paper", ("--set=batch=4",), 0),
        Task("mnist", "dafl", "fast", (), 0),
        Task("mnist", "dafl", "fast", ("--set=batch=4",), 1),
    ]
    assert not {key(task) for task in others} & there
    assert key(others[-1]) not in recorded(write(tmp_path / "old.jsonl", [line(1, 0.9, edgekd="0.0.1")]))


def test_damaged_line_is_named(tmp_path: Path) -> None:
    from record import lines

    path = write(tmp_path / "out.jsonl", [line(0, 0.9)])
    path.write_text(path.read_text(encoding="utf-8") + '{"pair": "mn', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        lines(path)
    assert lines(tmp_path / "none.jsonl") == []


def test_pairs_that_cannot_be_run_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import methods
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = ["--pairs", "svhn", "cifar10-resnet34", "cifar10-resnet20", "mnist", "--data", str(tmp_path)]
    assert methods.main([*asked, "--teachers", str(tmp_path), "--out", str(tmp_path / "out.jsonl")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and "teacher-svhn-wrn40-2.json" in said[0] and all("CUDA" in text for text in said[:3])
    assert "mnist.npz is not there" in said[3] and not (tmp_path / "out.jsonl").exists()


def test_what_a_finished_folder_says(tmp_path: Path) -> None:
    from record import training

    config = {"batch": 256, "student_batch": 64, "student_per_generator": 5, "prior": "/a/picture.jpg"}
    manifest = {
        "method": {"name": "dfad", "budget": "fast", "config": config, "seed": 0},
        "teacher": {"sha256": "0"},
        "made_with": {"edgekd": "0.1.0", "device": "cpu"},
    }
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    log = [{"time_s": 0.5, "phase": "prior", "step": 9}]
    log += [
        {"time_s": float(step), "phase": "joint", "step": step, "agreement": step / 1000} for step in range(1, 1001)
    ]
    log.append({"time_s": 1001.0, "phase": "held out", "step": 1, "agreement": 0.5})  # another measure
    write(tmp_path / "log.jsonl", log)
    found = training(tmp_path)
    assert found["samples"] == 1000 * 5 * 64 and found["prior"] == "picture" and found["train_seconds"] == 1001
    assert len(found["curve"]) == 50 and found["curve"][0] == [1.0, 0.001] and found["curve"][-1] == [1000.0, 1.0]


def test_seconds_of_a_run_that_was_gone_on_with() -> None:
    from record import on_one_clock

    log = [{"time_s": time_s, "step": step} for step, time_s in enumerate((1.0, 4.0, 0.5, 2.0, 2.0, 1.0))]
    assert [line["time_s"] for line in on_one_clock(log)] == [1.0, 4.0, 4.5, 6.0, 6.0, 7.0]


def test_memory_of_a_command(tmp_path: Path) -> None:
    from record import run

    output, peak_mb = run([sys.executable, "-c", "print(len(b'x' * 200_000_000))"], tmp_path)
    assert output == "200000000\n" and peak_mb > 200
    missed = "print('{}'); raise SystemExit(1)"  # a limit of the profile
    assert run([sys.executable, "-c", missed], tmp_path)[0] == "{}\n"
    for failing in ("raise SystemExit(1)", "print('{}'); raise SystemExit(3)"):
        with pytest.raises(subprocess.CalledProcessError):
            run([sys.executable, "-c", failing], tmp_path)


def test_table_of_hand_made_lines() -> None:
    from table import methods

    found = [line(0, 0.80), line(1, 0.90), line(2, 0.94), line(0, 0.95, prior="procedural", settings={"batch": 5})]
    found += [line(2, 0.91), line(0, 0.1, cell="as set", grid="dafl"), {"pair": "digits", "seed": 0}]
    heads, rows = methods(found)
    none, prior = (dict(zip(heads, row, strict=True)) for row in rows)
    assert none["prior"] == "none" and none["seeds"] == "3" and none["seconds"] == "61" and none["samples"] == "0.5 M"
    assert none["top-1"] == "87.00 ± 6.08" and none["teacher"] == "99.00"  # 0.80, 0.90 and the later 0.91
    assert prior["prior"] == "procedural" and prior["seeds"] == "1" and prior["top-1"] == "95.00"


def test_other_settings_and_versions_are_other_rows() -> None:
    from table import methods

    found = [line(0, 0.8), line(1, 0.9, settings={"batch": 8}, command="edgekd compress --set=batch=8 --seed 1")]
    found += [line(2, 0.7, edgekd="0.0.1")]
    rows = methods(found)[1]
    assert sorted((row[3], row[6]) for row in rows) == [("fast", "70.00"), ("fast", "80.00"), ("fast batch=8", "90.00")]


def test_seeds_of_one_plan_are_a_row_whatever_steps_it_had_for_each() -> None:
    from table import methods

    plans = [{"batch": 4, "student_steps": 700, "rounds": 3}, {"batch": 4, "student_steps": 800, "rounds": 4}]
    found = [line(seed, 0.8 + seed / 10, budget="8 minutes", settings=plan) for seed, plan in enumerate(plans)]
    other = [*found, line(2, 0.7, budget="8 minutes", settings={"batch": 8})]
    assert [(row[5], row[6]) for row in methods(other)[1]] == [("2", "85.00 ± 7.07"), ("1", "70.00")]
    named = [one | {"budget": "fast"} for one in found]  # by a person: settings like any others
    assert [row[5] for row in methods(named)[1]] == ["1", "1"]


def test_robustness_of_hand_made_lines() -> None:
    from table import robustness

    cells = {"as set": 0.96, "student_lr x2": 0.90, "batch x2": 0.93}
    found = [line(0, top1, grid="dafl", cell=cell, around="fast") for cell, top1 in cells.items()] + [line(0, 0.1)]
    heads, rows = robustness(found)
    figures = dict(zip(heads, rows[0], strict=True))
    assert len(rows) == 1 and figures["cells"] == "3" and figures["mean"] == "93.00" and figures["min"] == "90.00"
    assert figures["max - min"] == "6.00" and figures["std"] == "3.00" and figures["worst cell"] == "student_lr x2"


def test_shown_as_markdown_and_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import table

    out = write(tmp_path / "out.jsonl", [line(0, 0.8), {"pair": "digits"}])
    assert table.main([str(out), "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert "| mnist | 99.00 | dafl | fast | none | 1 | 80.00 |" in shown and "1 lines without a method" in shown
    assert table.main([str(out)]) == 0
    assert "80.00" in capsys.readouterr().out


def test_plots_or_a_line_about_matplotlib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import table

    out = write(tmp_path / "out.jsonl", [line(0, 0.8)])
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
        assert table.main([str(out), "--plots", str(tmp_path / "plots")]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    assert table.plot([line(0, 0.8), line(1, 0.9)], tmp_path / "plots", "svg") == [tmp_path / "plots" / "mnist.svg"]
    assert "agreement" in (tmp_path / "plots" / "mnist.svg").read_text(encoding="utf-8")


def test_grids_name_settings_that_exist_and_are_on() -> None:
    from robustness import GRIDS, cells, chosen_of

    for name, grid in GRIDS.items():
        known = {field.name for field in fields(METHODS[grid.method].Config)}
        names = {*grid.weights, *grid.rates, *grid.batches}
        assert names <= known, name
        config: dict[str, Any] = {n: 256 if "batch" in n else 1.5 for n in names}
        single = 1 + 2 * (len(grid.weights) + len(grid.rates) + 1)
        found = cells(grid, config)
        assert len(found) == single and len(cells(grid, config, corners=True)) == single + 4
        assert found["as set"] == {} and found["student_lr x0.5"] == {"student_lr": 0.75}
        assert set(found["batch x2"].values()) == {512}
        if grid.method == "rdskd_plus":  # whose learning rate is open until the student is known
            assert len(cells(grid, vars(METHODS[grid.method].BUDGETS["fast"]))) == single
        assert chosen_of(found, []) == found
        assert list(chosen_of(found, ["batch x2", "as set", "one_hot x9"])) == ["as set", "batch x2"]
        with pytest.raises(SystemExit, match="as set, "):
            chosen_of(found, ["one_hot x9"])


def test_what_an_ablation_takes_away_is_in_the_whole() -> None:
    """An option that changed no setting would count the whole as if something were missing."""
    from ablation import BY_NAME, WITHOUT

    lenet, resnet = teacher_of("lenet:6", channels=1), teacher_of("resnet8", channels=3)
    nowhere = {"nothing", "early end", "inheritance"}  # of every training, or by the student
    gray = {"increments", "balance", "diversity", "adversarial", "replay", "rounds", "tones"}
    colour = {*WITHOUT} - nowhere - {"adversarial", "tones"}
    for teacher, prior, parts in ((lenet, "none", gray), (resnet, "photo", colour)):
        whole = configure("rdskd_plus", "fast", {"prior": prior}, teacher)
        for name in parts:
            taken = settings([option.removeprefix("--set=") for option in WITHOUT[name]])
            assert configure("rdskd_plus", "fast", {"prior": prior, **taken}, teacher) != whole, name
    assert {*BY_NAME} <= {*WITHOUT} and not {*BY_NAME} & gray


def teacher_of(name: str, *, channels: int) -> Teacher:
    images = Images(channels, 32, 32, (0.5,) * channels, (0.25,) * channels)
    spec = named(name, images, tuple("0123456789"))
    assert spec
    return Teacher(build_student(spec).eval(), images, spec.classes, "", "x")


THEIR_LENET = """
import torch.nn as nn
class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Conv2d(16, 120, 5)
        self.fc1, self.fc2 = nn.Linear(120, 84), nn.Linear(84, 10)
    def forward(self, x):
        f = nn.functional
        x = f.max_pool2d(f.relu(self.conv1(x)), 2)
        x = f.max_pool2d(f.relu(self.conv2(x)), 2)
        return self.fc2(f.relu(self.fc1(f.relu(self.conv3(x)).flatten(1))))
"""
THEIR_TRAINING = """
import argparse, torch
from torch.utils.data import DataLoader
from torchvision.datasets.mnist import MNIST
parser = argparse.ArgumentParser()
parser.add_argument("--teacher_dir"), parser.add_argument("--output_dir")
given = parser.parse_args()
teacher = torch.load(given.teacher_dir + "teacher").cuda()
while True:
    teacher(torch.ones(1, 1, 32, 32)).sum().backward()
    loader = DataLoader(MNIST("nowhere", train=False), batch_size=5, num_workers=1)
    right = sum((teacher(x.cuda()).argmax(1) == y.cuda()).sum().item() for x, y in loader)
    print("Test Avg. Loss: 0.5, Accuracy: %f" % (right / 20))
    torch.save(teacher, given.output_dir + "student")
    if ENDS:
        break
"""


@pytest.mark.parametrize("ends", [True, False])
def test_released_code_runs_as_it_is_on_our_teacher_and_in_its_time(ends: bool, tmp_path: Path) -> None:
    """Code of their kind: pickles, .cuda() and torchvision's MNIST, none of which is there."""
    import mnist
    import released
    import torch

    from edgekd import load_teacher, save_teacher
    from edgekd.evaluation import EvalData
    from edgekd.networks import LeNet

    torch.manual_seed(0)
    save_teacher(LeNet(mnist.FACTS, 10), tmp_path / "teacher.pt", images=mnist.FACTS, classes=list("0123456789"))
    teacher = load_teacher(tmp_path / "teacher.pt")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 1, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        labels = teacher.model((torch.from_numpy(pixels).float() / 255 - 0.1307) / 0.3081).argmax(1).numpy()
    labels[:5] = (labels[:5] + 1) % 10
    (clone := tmp_path / "clone").mkdir()
    (clone / "lenet.py").write_text(THEIR_LENET)
    (clone / "DAFL-train.py").write_text(THEIR_TRAINING.replace("ENDS", str(ends)))
    before = torch.load, torch.Tensor.backward, sys.stdout, list(sys.path)
    found = released.theirs("dafl", clone, teacher, EvalData(pixels, labels, "test", "0"), 1.0 if ends else 0.02)
    assert found["best"] == 0.75 and found["ended"] is ends and found["curve"][0][1] == 0.75
    assert found["steps"] == 1 if ends else found["steps"] >= 1
    assert found["tests_s"] > 0 and found["curve"][-1][0] <= found["seconds"] + 0.1
    assert (torch.load, torch.Tensor.backward, sys.stdout, sys.path) == before and "lenet" not in sys.modules
    assert not (clone / "student").exists()
