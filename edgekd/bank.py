"""Synthetic images kept for replay: uint8 pixels and the teacher's opinion of each, in a memory-mapped file."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import EnvironmentLacking, IntegrityError
from edgekd.ranks import one_after_the_first
from edgekd.types import Images


@lru_cache(maxsize=8)
def statistics(facts: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels in [0, 1], each (1, C, 1, 1). Kept: to copy them waits for a GPU."""
    mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (facts.mean, facts.std))
    return mean, std


def to_pixels(images: Tensor, facts: Images) -> Tensor:
    """Normalised images (N, C, H, W) as the uint8 pixels that come closest, clipped to 0..255."""
    mean, std = statistics(facts, images.device)
    return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def normalised(pixels: Tensor, facts: Images) -> Tensor:
    """uint8 pixels (N, C, H, W) as a network is fed them: (pixel / 255 - mean) / std, fp32, channels_last."""
    mean, std = statistics(facts, pixels.device)
    return pixels.float().div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


class Bank:
    """The last `capacity` images with their logits.

    The file is the memory: the system keeps it in RAM while there is room and on the disk of the output folder when
    there is not, and an interrupted run finds its images again. Processes that train together share it: each writes the
    same bytes before it reads them. Its space is reserved at the start, so that a full disk
    shows there and not in the middle of a training. pixels: uint8 (slots, C, H, W); logits: fp16 (slots, K).

    When the slots are used up, the oldest images are overwritten. A training that is killed goes on from a checkpoint
    made earlier, which must find its own `capacity` images: so a bank that is going to overflow has `spare` further
    slots, and `presses` for a checkpoint before half of them have been used since the last one.

    device: where images are drawn. A GPU holds a copy of them all where half of its free memory suffices: a batch then
    costs no wait for the host.
    """

    def __init__(
        self,
        path: Path,
        images: Images,
        *,
        capacity: int,
        classes: int,
        spare: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.path, self.images, self.capacity, self.added = path, images, capacity, 0
        self.slots, self.marked, self.largest = capacity + spare, 0, 0  # marked: `added` at the last checkpoint
        self.by_class, self.counted = torch.zeros(classes, dtype=torch.int64), 0  # of the first `counted` images
        self.weights: Tensor | None = None
        self.weighed = 0  # `added` when the weights were made
        shape = (self.slots, images.channels, images.height, images.width)
        sizes = (int(np.prod(shape)), self.slots * classes * 2)
        self.found = path.exists() and path.stat().st_size == sum(sizes)  # by an earlier run
        try:
            with one_after_the_first(), open(path, "r+b" if path.exists() else "w+b") as file:
                os.posix_fallocate(file.fileno(), 0, sum(sizes)) if hasattr(os, "posix_fallocate") else None
                file.truncate(sum(sizes))
        except OSError as error:
            raise EnvironmentLacking(
                f"no room for the image bank of {sum(sizes) / 1e6:,.0f} MB in {path.parent}",
                code="E0404",
                why=str(error),
                fix="free disk space, or name another output folder with -o DIR",
            ) from error
        self.maps = (
            np.memmap(path, np.uint8, "r+", 0, shape),
            np.memmap(path, np.float16, "r+", sizes[0], (self.slots, classes)),
        )
        self.pixels, self.logits = (torch.from_numpy(map_) for map_ in self.maps)
        self.near = self.pixels, self.logits  # what batches are drawn from
        if device and device.type == "cuda" and sum(sizes) < torch.cuda.mem_get_info(device)[0] / 2:
            self.near = self.pixels.to(device), self.logits.to(device)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, images: Tensor, answers: Callable[[Tensor], Tensor]) -> None:
        """Keeps normalised images (n, C, H, W) as pixels, and what `answers` says of those: logits (n, K).

        Images that were optimised go beyond what pixels can show; clipped they may be something else to the teacher.
        """
        pixels = to_pixels(images.detach(), self.images)
        self.add_pixels(pixels, answers(normalised(pixels, self.images)))

    def add_pixels(self, pixels: Tensor, logits: Tensor) -> None:
        """Keeps uint8 images (n, C, H, W) and the teacher's logits (n, K) of them."""
        slots, logits = torch.arange(self.added, self.added + len(pixels)) % self.slots, logits.detach().half()
        self.pixels[slots], self.logits[slots] = pixels.cpu(), logits.cpu()
        if (where := self.near[0].device).type != "cpu":
            self.near[0][slots.to(where)], self.near[1][slots.to(where)] = pixels.to(where), logits.to(where)
        self.added += len(pixels)
        self.largest = max(self.largest, len(pixels))

    def lacking(self, logits: Tensor) -> Tensor:
        """Which of further images, logits (n, K), to keep so that no class has more than its share: (n,) bool.

        A share of what fits, by the classes that have been seen: a source may show few of many. For a bank that is
        being filled: nothing may have been overwritten yet.
        """
        labels = logits.detach().cpu().half().argmax(dim=1)  # as they are going to be kept
        new = self.logits[self.counted : self.added].argmax(dim=1)
        self.by_class += new.bincount(minlength=len(self.by_class))
        self.counted = self.added
        counts = self.by_class + F.one_hot(labels, len(self.by_class)).cumsum(0)  # (n, K), with each image in turn
        share = -(-self.capacity // int((counts[-1] > 0).sum()))
        return counts.gather(1, labels[:, None])[:, 0] <= share

    def sample(self, n: int, rng: torch.Generator, *, balanced: bool = False) -> tuple[Tensor, Tensor]:
        """n images drawn with replacement, normalised fp32 (n, C, H, W), and their logits fp32 (n, K), where rng is.

        balanced: every class that the teacher sees in the bank is as likely as any other.
        """
        if balanced:
            drawn = torch.multinomial(self._weights(rng.device), n, replacement=True, generator=rng)
        else:
            drawn = torch.randint(len(self), (n,), generator=rng, device=rng.device)
            drawn = (drawn + self.added - len(self)) % self.slots
        pixels, logits = (kept[drawn.to(kept.device)].to(rng.device) for kept in self.near)
        return normalised(pixels, self.images), logits.float()

    def latest(self, n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The n images that came last, or all: uint8 (n, C, H, W), and the teacher's classes (n,)."""
        slots = torch.arange(self.added - min(n, len(self)), self.added) % self.slots
        return self.pixels[slots].numpy(), self.logits[slots].argmax(dim=1).numpy()

    def presses(self) -> bool:
        """Whether the next images could overwrite what the last two checkpoints count on, unless one is made now."""
        spare = self.slots - self.capacity
        return spare > 0 and self.added > self.capacity and self.added - self.marked + self.largest > spare // 2

    def saved(self) -> None:
        """Tells it that a checkpoint now holds its state."""
        self.marked = self.added

    def flush(self) -> None:
        """Waits until all images are on the disk."""
        for map_ in self.maps:
            map_.flush()

    def _weights(self, device: torch.device) -> Tensor:
        """(used slots,) one over how often the image's class occurs, by the teacher; 0 for what is no longer kept."""
        if self.weighed != self.added or self.weights is None:
            labels = self.logits[: min(self.added, self.slots)].argmax(dim=1)
            age = (self.added - 1 - torch.arange(len(labels))) % self.slots
            kept = age < self.capacity
            weights = labels[kept].bincount(minlength=self.logits.shape[1]).reciprocal()[labels]
            self.weights = weights.where(kept, weights.new_zeros(())).to(device)
            self.weighed = self.added
        return self.weights

    def state_dict(self) -> dict[str, Any]:
        return {"added": self.added, "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to an earlier state. Raises IntegrityError where the images that it counts on are gone."""
        if state["added"] and not self.found:
            raise IntegrityError(
                f"the images of the last checkpoint are not in {self.path}",
                code="E0712",
                why="the file was deleted or cut off",
                fix=f"delete the checkpoints beside it, and the training begins anew:  rm {self.path.parent}/*.ckpt",
            )
        self.added = self.marked = state["added"]
        self.largest, self.weighed, self.weights = state.get("largest", 0), 0, None
        self.by_class, self.counted = torch.zeros_like(self.by_class), 0
        self.near = self.pixels.to(self.near[0].device), self.logits.to(self.near[1].device)
