"""The INT8 graph of a bundle: ranges chosen by agreement, and recovered where it misses its gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgekd.evaluation import RealImages
from edgekd.export import Pixels, Scheme, onnx_logits, torch_logits
from edgekd.export.calibration import IMAGES, WITHIN_S, Calibrated, balanced, calibrate, count_for
from edgekd.export.int8 import save
from edgekd.export.parity import measured, shut
from edgekd.export.recovery import TEMPERATURE, Lessons, Recovered, recover
from edgekd.export.recovery import WITHIN_S as TUNED_WITHIN_S
from edgekd.files import plain
from edgekd.types import Images, Teacher


@dataclass(frozen=True)
class Generated:
    """The generated images of a run, uint8 (N, C, H, W), none of which the student was trained on."""

    pool: Pixels  # for calibration and recovery
    judges: Pixels  # that choose between calibrations, and between attempts to recover
    samples: Pixels  # of the gates and of the bundle: nothing is chosen by them


def parted(pixels: Pixels, samples: int) -> Generated:
    """The images that a run keeps: the last `samples`, and of those before two thirds as the pool."""
    before = pixels[:-samples]
    pool = 2 * len(before) // 3
    return Generated(before[:pool], before[pool:], pixels[-samples:])


@dataclass
class Integers:
    """Writes the INT8 graph, and keeps what is to be told of it. Called by `export` as its `write_int8`."""

    teacher: Teacher
    student: nn.Module
    images: Generated
    real: RealImages | None = None  # of the customer, for ranges alone
    temperature: float = TEMPERATURE  # that the student was distilled at
    seed: int = 0
    say: Callable[[str], None] = lambda line: None
    told: dict[str, Any] = field(default_factory=dict)  # for the manifest, beside the figures of the gate
    data: str = ""  # what real images were used for, in words; empty: there were none

    def __call__(self, fp32: Path, path: Path, scheme: Scheme) -> None:
        facts = self.teacher.images
        count = count_for(fp32, self.images.pool)
        labels = torch_logits(self.teacher.model, facts, self.images.pool[: 2 * IMAGES[1]]).argmax(1)
        sets = {"generated": self.images.pool[balanced(labels, count)]}
        if self.real is not None:
            sets["real"] = self.real.pixels[evenly(len(self.real.pixels), count)]
        found = calibrate(fp32, sets, self.images.judges, scheme=scheme)
        self.say(calibration_line(found))
        save(found.graph, path)
        self.told |= {"calibration": document(found)}
        if self.real is not None:
            kept = found.chosen.images == "real"
            self.data = real_statement(found.counts["real"], self.real.name, kept=kept)
        self._recover(fp32, path, scheme, found, sets[found.chosen.images], facts)

    def _recover(
        self, fp32: Path, path: Path, scheme: Scheme, found: Calibrated, calibration: Pixels, facts: Images
    ) -> None:
        samples = self.images.samples
        reached = measured(onnx_logits(path, samples), torch_logits(self.student, facts, samples))
        problem = shut("int8", reached)
        if not problem or not math.isfinite(reached["agreement"]):  # NaN is no matter of rounding
            return
        self.say(f"the INT8 graph: {problem}. Correcting biases, tuning weights")
        pool = self.images.pool
        networks = {"student": self.student, "teacher": self.teacher.model}
        targets = {name: torch_logits(network, facts, pool) for name, network in networks.items()}
        lessons = Lessons(pool, targets, temperature=self.temperature, seed=self.seed)
        after = recover(fp32, found, calibration, self.images.judges, lessons, scheme=scheme)
        save(after.graph, path)
        self.say(recovery_line(after))
        self.told |= {"recovery": plain(after.attempts)}


def evenly(of: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`count` places of `of`, or all, at even distances."""
    return np.unique(np.linspace(0, of - 1, min(of, count)).astype(np.int64))


def document(found: Calibrated) -> dict[str, Any]:
    """For the manifest: every calibration that was tried, and the one that was kept."""
    return {
        "images": dict(found.counts),
        "held_out": found.held_out,
        "within_s": WITHIN_S,
        "recovery_within_s": TUNED_WITHIN_S,
        "chosen": {"images": found.chosen.images, "method": found.chosen.method},
        "tried": plain(found.tried),
    }


def calibration_line(found: Calibrated) -> str:
    """The table of calibrations in a line for people."""
    parts = []
    for name in found.counts:
        shares = [f"{one.method} {_share(one.agreement) or one.note}" for one in found.tried if one.images == name]
        parts.append(f"on {found.counts[name]} {name} images {', '.join(shares)}")
    return (
        f"INT8 agrees with fp32, on {found.held_out:,} generated images held out, by calibration: {'; '.join(parts)}. "
        f"Kept: {found.chosen.method}, {found.chosen.images} images"
    )


def recovery_line(found: Recovered) -> str:
    """What was tried to recover the graph, in a line for people."""
    parts = []
    for one in found.attempts:
        after = f"{_share(one.before)} to {_share(one.after)}" if one.after is not None else "no figure"
        parts.append(f"{one.name} {after}, {'kept' if one.kept else 'not kept'}{f' ({one.note})' if one.note else ''}")
    return "INT8 recovery: " + "; ".join(parts)


def real_statement(count: int, name: str, *, kept: bool) -> str:
    """What real images were used for, for the manifest's statement on data."""
    if kept:
        return (
            f"the ranges of the INT8 graph were measured on {count} real images of {name}, which nothing was trained on"
        )
    return f"{count} real images of {name} were tried for the ranges of the INT8 graph; generated ones were kept"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
