"""How far a training is, in words: its figures, images a second, the time left and the last save. Prints nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

EVENTS = ("memory", "rate", "collapse", "held out")  # phases of the log that are no stretch of work
SHOWN = ("loss", "agreement")  # figures, unless all are asked for
CHECKPOINT = "distillation.ckpt"  # of edgekd/checkpoint.py, which needs torch


@dataclass(frozen=True)
class Reading:
    """Where a phase stands. What is not known yet is empty."""

    figures: str  # "loss 0.312  agreement 0.941"
    speed: str  # "1,530 images/s"
    left: str  # "12 min left" of the phase; at its end "took 14 min"
    saved: str  # "saved 3 s ago"

    def line(self, phase: str, step: int, steps: int) -> str:
        """All of it in a line."""
        parts = (f"{phase} {step}/{steps}", self.figures, self.speed, self.left, self.saved)
        return "  ".join(part for part in parts if part)


def images_per_step(settings: Path) -> Callable[[str], int]:
    """Phase -> images that go through the networks in one of its steps.

    settings: the run's settings.json, which is there once it trains; what was asked for may differ from it.
    """

    @cache
    def sizes() -> dict[str, int]:
        config = json.loads(settings.read_text(encoding="utf-8"))["recipe"]["config"]
        batch: int = config["batch"]
        student, images = config.get("student_batch", batch), config.get("image_batch", batch)
        return {"": batch, "prior": 1, "student": student, "images": images}

    return lambda phase: sizes().get(phase, sizes()[""])


def spoken(seconds: float) -> str:
    """A time as a person says it: 42 s, 12 min, 1 h 40."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02}"


class Gauge:
    """Follows a training by what it logs. Phases may alternate; a training that goes on begins at a later step.

    images: images per step of a phase; None: not known. checkpoint: the file whose saves are told; None: none.
    compact: shorter words. everything: all figures. clock: seconds that only grow.
    """

    def __init__(
        self,
        images: Callable[[str], int] | None = None,
        checkpoint: Path | None = None,
        *,
        compact: bool = False,
        everything: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.images, self.checkpoint, self.clock = images, checkpoint, clock
        self.compact, self.everything = compact, everything
        self.began: dict[str, tuple[float, int]] = {}  # phase -> when it was first seen, and at which step
        self.entered = ("", 0.0, 0)  # the phase that is at work, since when, and from which step on
        self.speeds: dict[str, float] = {}  # phase -> images/s when it was last at work
        self.agreement: float | None = None
        self.save: tuple[int, float | None] | None = None  # the file's time, and when it was seen to change

    def read(self, phase: str, step: int, steps: int, figures: Mapping[str, float]) -> Reading:
        """Where the phase stands after `step` of `steps`."""
        now, saved = self.clock(), self.saved()
        self.agreement = figures.get("agreement", self.agreement)
        began, first = self.began.setdefault(phase, (now, step))
        if self.entered[0] != phase:
            self.entered = (phase, now, step)
        _, since, start = self.entered
        if self.images and step > start and now > since:
            self.speeds[phase] = (step - start) * self.images(phase) / (now - since)
        speed, unit = self.speeds.get(phase), "img/s" if self.compact else "images/s"
        return Reading(
            self._figures(figures),
            "" if speed is None or phase in EVENTS else f"{speed:,.0f} {unit}",
            "" if phase in EVENTS else self._left(step, steps, first, now - began),
            saved,
        )

    def saved(self) -> str:
        """When the checkpoint was last written; empty where there is none."""
        try:
            written = 0 if self.checkpoint is None else self.checkpoint.stat().st_mtime_ns
        except OSError:  # not yet, or no longer
            written = 0
        if not written:
            return ""
        if self.save is None or self.save[0] != written:
            earlier = self.save is None and not self.began  # it was there before this training began
            self.save = (written, None if earlier else self.clock())
        at = self.save[1]
        if at is None:
            return "saved before"
        return f"saved {spoken(self.clock() - at)}" + ("" if self.compact else " ago")

    def _figures(self, figures: Mapping[str, float]) -> str:
        known = dict(figures)
        if not self.everything:
            known = {n: v for n, v in figures.items() if n in SHOWN} or dict(list(figures.items())[:1])
        if self.agreement is not None:
            known.setdefault("agreement", self.agreement)
        words = {"agreement": "agree" if self.compact else "agreement"}
        return "  ".join(f"{words.get(name, name)} {value:.3f}" for name, value in known.items())

    @staticmethod
    def _left(step: int, steps: int, first: int, spent: float) -> str:
        if step >= steps:
            return f"took {spoken(spent)}"
        return f"{spoken((steps - step) * spent / (step - first))} left" if step > first and spent > 0 else ""
