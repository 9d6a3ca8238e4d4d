"""What a person sees of a training: each figure, on terminals of all widths and without one."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from edgekd import console
from edgekd.checkpoint import NAME
from edgekd.progress import CHECKPOINT, Gauge, images_per_step, spoken


def settings(folder: Path) -> Path:
    """settings.json of a run that trains on 100 images a step and refines 50."""
    path = folder / "settings.json"
    path.write_text('{"recipe": {"config": {"batch": 100, "image_batch": 50}}}', encoding="utf-8")
    return path


class Clock:
    """Seconds that a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gauge(folder: Path, clock: Clock, *, compact: bool = False, everything: bool = False) -> Gauge:
    return Gauge(
        images_per_step(settings(folder)), folder / CHECKPOINT, compact=compact, everything=everything, clock=clock
    )


def test_speed_time_left_and_agreement(tmp_path: Path) -> None:
    clock = Clock()
    found = gauge(tmp_path, clock)
    first = found.read("images", 1, 401, {"loss": 2.0})
    assert (first.figures, first.speed, first.left, first.saved) == ("loss 2.000", "", "", "")
    clock.now += 10
    reading = found.read("images", 101, 401, {"loss": 1.0})
    assert reading.speed == "500 images/s" and reading.left == "30 s left"  # 100 steps of 50 in 10 s; 300 are left
    clock.now += 5
    assert found.read("student", 1, 200, {"loss": 0.5, "agreement": 0.9}).speed == ""
    clock.now += 20
    student = found.read("student", 101, 200, {"loss": 0.4, "agreement": 0.95})
    assert student.speed == "500 images/s" and student.figures == "loss 0.400  agreement 0.950"
    clock.now += 65  # back to the images: their speed is that of the stretches in which they were made
    back = found.read("images", 102, 401, {"loss": 1.0})
    assert back.speed == "500 images/s" and back.figures == "loss 1.000  agreement 0.950"
    assert back.left == "5 min left"  # 101 steps in 100 s, the student's among them; 299 are left
    assert found.read("images", 401, 401, {"loss": 1.0}).left == "took 2 min"


def test_a_training_that_goes_on_counts_from_where_it_does(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / CHECKPOINT).touch()
    found = gauge(tmp_path, clock)
    assert found.read("student", 801, 1001, {}).saved == "saved before"
    clock.now += 10
    reading = found.read("student", 901, 1001, {})
    assert reading.left == "10 s left" and reading.speed == "1,000 images/s"


def test_last_save(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / CHECKPOINT
    found = gauge(tmp_path, clock)
    assert found.read("student", 1, 9, {}).saved == "" and CHECKPOINT == NAME
    path.touch()
    assert found.saved() == "saved 0 s ago"
    clock.now += 7
    assert found.saved() == "saved 7 s ago"
    os.utime(path, ns=(1, 1))  # written again
    assert found.saved() == "saved 0 s ago"
    path.unlink()
    assert found.saved() == ""


def test_words(tmp_path: Path) -> None:
    assert [spoken(s) for s in (0.4, 89, 90, 3600, 6000)] == ["0 s", "89 s", "2 min", "60 min", "1 h 40"]
    images = images_per_step(settings(tmp_path))
    assert (images("images"), images("joint"), images("prior")) == (50, 100, 1)
    terms = {"authenticity": 0.25, "balance": -1.0}
    assert gauge(tmp_path, Clock()).read("images", 1, 2, terms).figures == "authenticity 0.250"
    everything = gauge(tmp_path, Clock(), everything=True).read("images", 1, 2, terms)
    assert everything.figures == "authenticity 0.250  balance -1.000"
    event = gauge(tmp_path, Clock()).read("collapse", 1, 3, {"spread": 0.1})
    assert event.line("collapse", 1, 3) == "collapse 1/3  spread 0.100"


def shown(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, width: int = 120, terminal: bool = True, quiet: bool = False,
    verbose: bool = False, no_progress: bool = False, as_json: bool = False,
) -> str:  # fmt: skip
    """What stands on stderr after a training of two phases, escapes taken out."""
    there = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=there, force_terminal=terminal, width=width, color_system=None))
    with console.Display(quiet, verbose, no_progress, as_json) as display:
        display.training(folder)
        settings(folder)  # a run writes it later
        display.log("images", 1, 40, loss=1.0, entropy=-1.0)
        (folder / CHECKPOINT).touch()
        for step in (21, 40):
            display.log("images", step, 40, loss=1.0, entropy=-1.0)
        display.log("held out", 1, 4, agreement=0.875)
        for step in (1, 2_001):
            display.log("student", step, 4_000, loss=0.25)
        display.progress.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", there.getvalue())


@pytest.mark.parametrize("width", [80, 100, 140])
def test_bar_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = shown(monkeypatch, tmp_path, width=width).splitlines()
    last = [line for line in lines if line.startswith("student")][-1]
    for words in ("2001/4000", "loss 0.250", "agree", "0.875", "/s", "left", "saved"):
        assert words in last, (words, last)
    assert len(last.rstrip()) <= width and ("━" in last) is (width == 140)
    assert not any(line.startswith("held out") for line in lines)
    assert "took" in [line for line in lines if line.startswith("images")][-1]


def test_without_a_bar_it_is_plain_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for at, form in enumerate(({"terminal": False}, {"no_progress": True}, {"as_json": True})):
        (folder := tmp_path / str(at)).mkdir()
        text = shown(monkeypatch, folder, **form)
        assert "images 1/40  loss 1.000\n" in text and "━" not in text and "\r" not in text
        assert re.search(r"images 40/40  loss 1.000  [\d,]+ images/s  took 0 s  saved 0 s ago", text)
        assert "entropy" not in text and "student 1/4000" not in text  # a line every five seconds at most


def test_quiet_and_verbose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shown(monkeypatch, tmp_path, quiet=True) == ""
    assert shown(monkeypatch, tmp_path, quiet=True, terminal=False) == ""
    assert "entropy -1.000" in shown(monkeypatch, tmp_path, verbose=True, terminal=False)


@pytest.mark.parametrize("terminal", [True, False])
def test_words_are_wrapped_on_a_terminal_only_and_paths_never(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    there = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=there, force_terminal=terminal, width=40, color_system=None))
    path = "/a/folder-of-many-parts/whose-name-is/longer-than-the-line"
    console.prose(f"report    written, and beside it lies [what] is told of it in {path}")
    lines = there.getvalue().splitlines()
    if not terminal:
        assert lines == [f"report    written, and beside it lies [what] is told of it in {path}"]
        return
    assert lines[0] == "report    written, and beside it lies"
    assert lines[1:] == ["          [what] is told of it in", "          " + path]
