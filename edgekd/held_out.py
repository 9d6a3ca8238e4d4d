"""Images that cost hundreds of steps each: most are learnt from, some held out for what is asked of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd.bank import Bank, normalised, to_pixels
from edgekd.compute import answers_of
from edgekd.types import Run, Sampler, Teacher

ASIDE, MOST_ASIDE = 8, 6_000  # one image in so many is held out, at most as many: a run keeps 5,512 or fewer


def banks(made: int, teacher: Teacher, run: Run) -> tuple[Bank, Bank]:
    """Room for all images that are going to be made, two at least: those to learn from, and those held out."""
    aside, classes = max(1, min(MOST_ASIDE, made // ASIDE)), len(teacher.classes)
    return (
        Bank(run.folder / "bank.u8", teacher.images, capacity=made - aside, classes=classes),
        Bank(run.folder / "held_out.u8", teacher.images, capacity=aside, classes=classes),
    )


def share_out(x: Tensor, teacher: Teacher, bank: Bank, held_out: Bank, drawn: torch.Generator) -> None:
    """Adds a batch of normalised images (N, C, H, W) to the two banks, so that both are full at the same time.

    Which image goes where is drawn, on the CPU: their order tells their classes.
    """
    pixels, order = to_pixels(x.detach(), teacher.images), torch.randperm(len(x), generator=drawn)
    logits = answers_of(teacher.model, normalised(pixels, teacher.images))
    made = bank.added + held_out.added + len(x)
    aside = made * held_out.capacity // (bank.capacity + held_out.capacity) - held_out.added
    held_out.add_pixels(pixels[order[:aside]], logits[order[:aside]])
    bank.add_pixels(pixels[order[aside:]], logits[order[aside:]])


def each_once(bank: Bank, rng: torch.Generator) -> Sampler:
    """Gives every image of the bank once, then all again, each time in another order."""
    waiting: list[int] = []

    def sample(n: int) -> Tensor:
        while len(waiting) < n:
            waiting.extend(torch.randperm(len(bank), generator=rng, device=rng.device).tolist())
        drawn = [waiting.pop(0) for _ in range(n)]
        return normalised(bank.pixels[drawn].to(rng.device), bank.images)

    return sample
