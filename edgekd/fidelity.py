"""How faithful a student is to its teacher, without data: how often both answer alike, and on which images.

All images are made here or by the method's sampler, after the training; none has a label. Agreement is what can be
known without data; what it says of accuracy: edgekd/agreement.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from edgekd.agreement import Expected, expected_accuracy
from edgekd.export import Logits, Pixels, torch_logits
from edgekd.prior import Source, collages, coloured_noise, open_prior, strokes
from edgekd.room import numbers, parts, per_drawing
from edgekd.types import Images

MOST = 500  # images of every set but the held-out ones
SURE = 0.25  # share of each class's held-out images that are the set "sure"
FEWEST = 10  # held-out images per class, below which nothing is said of accuracy
BINS = 15  # of the expected calibration error (Guo et al., ICML 2017)
Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval
NOISE, CONTRAST = 0.1, (0.6, 1.4)  # standard deviation in units of the pixel range; factors around the image's mean
SHIFT = 1 / 16  # of a side at most, one pixel at least
APART = 1_000_003  # between the seed of a training and that of these images


@dataclass(frozen=True)
class Agreement:
    """How often both choose the same class, in [0, 1], with Wilson's 95 % interval."""

    images: int
    share: float
    low: float
    high: float
    balanced: float  # mean over all classes of the share among the teacher's images of it; 0 where it never names one
    largest: float  # share of the images in the teacher's commonest class: where it is near 1, `share` says little


@dataclass(frozen=True)
class ByClass:
    """Agreement on the held-out images by the teacher's class; lists of one length, classes that it names only."""

    classes: tuple[int, ...]  # indices
    images: tuple[int, ...]
    share: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """How sure both are of the held-out images. Probabilities are softmax of the logits."""

    teacher: float  # mean of the largest probability
    student: float
    error: float  # expected calibration error of the student, with the teacher's class as the label


@dataclass(frozen=True)
class Fidelity:
    """What is known of a student without data."""

    sets: Mapping[str, Agreement]  # by the names of agreement.SETS
    other: str  # what the other source is, in words
    by_class: ByClass
    calibration: Calibration
    expected: Expected | None  # share of the teacher's top-1 that the student may have; None: not known


def fidelity(
    *,
    teacher: nn.Module,
    student: nn.Module,
    images: Images,
    held_out: Pixels,
    prior: str,
    seed: int,
    known: tuple[Logits, Logits] | None = None,
) -> Fidelity:
    """Compares student and teacher on the images of SETS. Same arguments, same result.

    held_out: of the training's own source, but not shown to the student. prior: of the training; the other source is
    not that. seed: of the training. known: the teacher's and the student's logits of `held_out`, where they are there.
    """
    rng = torch.Generator().manual_seed(APART + seed)
    few, (name, source) = held_out[: min(MOST, max(1, len(held_out) // 2))], other_source(prior, images)
    made = {
        "other": np.concatenate([source(n, rng).numpy() for n in parts(len(few), per_drawing(numbers(images)))]),
        "noise": noisy(few, rng),
        "shift": shifted(few, rng),
        "contrast": contrasted(few, rng),
        "pure_noise": pure_noise(len(few), images, rng),
    }
    wanted, given = known or (torch_logits(teacher, images, held_out), torch_logits(student, images, held_out))
    sets = {"held_out": agreement(teacher=wanted, student=given)}
    sure = surest(wanted)
    sets["sure"] = agreement(teacher=wanted[sure], student=given[sure])
    for kind, pixels in made.items():
        logits = [torch_logits(model, images, pixels) for model in (teacher, student)]
        sets[kind] = agreement(teacher=logits[0], student=logits[1])
    return Fidelity(
        sets=sets,
        other=name,
        by_class=by_class(teacher=wanted, student=given),
        calibration=calibration(teacher=wanted, student=given),
        expected=expected_accuracy(sets) if len(held_out) >= FEWEST * wanted.shape[1] else None,
    )


def unseen(teacher: Logits) -> str:
    """A warning where held-out images, logits (N, K), could show every class and do not; else empty."""
    named, classes = len(np.unique(teacher.argmax(1))), teacher.shape[1]
    if named == classes or len(teacher) < FEWEST * classes:
        return ""
    return (
        f"the generated images held out show {named} of {classes} classes: agreement, and the gate of INT8, say "
        "nothing of the others (a longer training or a --prior shows more)"
    )


def agreement(*, teacher: Logits, student: Logits) -> Agreement:
    """Top-1 agreement of two sets of logits (N, K), N >= 1."""
    classes = by_class(teacher=teacher, student=student)
    of, same = len(teacher), int((student.argmax(1) == teacher.argmax(1)).sum())
    low, high = wilson(same, of)
    balanced = sum(classes.share) / teacher.shape[1]
    return Agreement(of, same / of, low, high, balanced, max(classes.images) / of)


def surest(teacher: Logits) -> NDArray[np.intp]:
    """Which images the teacher is surest of: of each class that it names, a share SURE, one at least. teacher: (N, K).

    Images between classes are as often made as ones of a class, and seldom met. What a student makes of these says
    more of its accuracy (benchmarks/NOTES.md).
    """
    answers, sure = teacher.argmax(1), _sureness(teacher)
    found = []
    for k in np.unique(answers):
        of = np.flatnonzero(answers == k)
        found.append(of[np.argsort(-sure[of], kind="stable")][: math.ceil(SURE * len(of))])
    return np.sort(np.concatenate(found))


def wilson(hits: int, of: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share, in [0, 1] (Wilson, JASA 1927). of >= 1; z: normal quantile of one end."""
    share, spread = hits / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # not beside it by rounding


def by_class(*, teacher: Logits, student: Logits) -> ByClass:
    """Agreement of two sets of logits (N, K) by the class that the teacher names."""
    answers, classes = teacher.argmax(1), teacher.shape[1]
    images = np.bincount(answers, minlength=classes)
    hits = np.bincount(answers[student.argmax(1) == answers], minlength=classes)
    there = [int(k) for k in np.flatnonzero(images)]
    return ByClass(tuple(there), tuple(int(images[k]) for k in there), tuple(float(hits[k] / images[k]) for k in there))


def calibration(*, teacher: Logits, student: Logits) -> Calibration:
    """Of two sets of logits (N, K)."""
    sure, right = _sureness(student), student.argmax(1) == teacher.argmax(1)
    return Calibration(float(_sureness(teacher).mean()), float(sure.mean()), calibration_error(sure, right))


def _sureness(logits: Logits) -> NDArray[np.float64]:
    """The largest probability of each image (N,)."""
    largest: NDArray[np.float64] = F.softmax(torch.from_numpy(logits).double(), dim=1).amax(dim=1).numpy()
    return largest


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error in [0, 1]: mean |right - confidence| over bins of equal width, weighted by images.

    confidence: (N,) in [0, 1]; right: (N,). Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def other_source(prior: str, images: Images) -> tuple[str, Source]:
    """A source of images that a training with `prior` did not have, and what it is, in words."""
    if prior == "procedural" and images.channels == 3:
        found = open_prior("photo", images)
        assert found
        return "collages of photographs", found
    if prior == "procedural" and images.channels == 1:
        noise = lambda n, rng: coloured_noise(n, images, rng)  # noqa: E731
        return "collages of noise", lambda n, rng: collages(n, images, rng, noise)
    if images.channels == 3:
        found = open_prior("procedural", images)
        assert found
        return "collages of noise", found
    return "strokes", lambda n, rng: strokes(n, images, rng)


def noisy(pixels: Pixels, rng: torch.Generator) -> Pixels:
    """Pixels (N, C, H, W) with Gaussian noise of a tenth of their range."""
    x = torch.from_numpy(pixels).float()
    return _bytes(x + 255 * NOISE * torch.randn(x.shape, generator=rng))


def shifted(pixels: Pixels, rng: torch.Generator) -> Pixels:
    """Each image (C, H, W) moved by up to a sixteenth of its side, but moved; what comes in repeats the border."""
    x = torch.from_numpy(pixels).float()
    height, width = x.shape[2:]
    most = max(1, round(SHIFT * max(height, width)))
    moves = torch.randint(-most, most + 1, (len(x), 2), generator=rng)
    moves[(moves == 0).all(dim=1)] = most  # along the diagonal
    rows, columns = (torch.arange(side) + moves[:, axis, None] for axis, side in enumerate((height, width)))
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    moved = x[torch.arange(len(x))[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
    return _bytes(moved.permute(0, 3, 1, 2))


def contrasted(pixels: Pixels, rng: torch.Generator) -> Pixels:
    """Each image (C, H, W) around its mean, times a factor of its own from CONTRAST."""
    x = torch.from_numpy(pixels).float()
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    factor = CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * torch.rand(len(x), 1, 1, 1, generator=rng)
    return _bytes(mean + factor * (x - mean))


def pure_noise(n: int, images: Images, rng: torch.Generator) -> Pixels:
    """Gaussian noise, every pixel for itself, with the mean and deviation that the teacher's input is normalised by."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (images.mean, images.std))
    return _bytes(255 * (mean + std * torch.randn(n, images.channels, images.height, images.width, generator=rng)))


def _bytes(x: torch.Tensor) -> Pixels:
    found: Pixels = x.round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
    return found
