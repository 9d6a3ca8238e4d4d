"""How many synthetic images RDSKD+ keeps: room of its banks, known before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.types import Images

if TYPE_CHECKING:
    from edgekd.methods.rdskd_plus import Config

LARGEST, LARGEST_MB = 100_000, 2_000  # of each bank: images, and 10**6 bytes


def capacities(config: Config, images: Images) -> tuple[int, int]:
    """How many images the banks of the prior and of the made ones have room for. config: a derived one."""
    drawn = 0 if config.prior == "none" else config.prior_images or 0
    return max(1, drawn), max(1, min(_most(images), _images_made(config)))


def spare(config: Config, images: Images) -> int:
    """Further slots of the bank of made images where it is going to overflow; see Bank. config: a derived one."""
    overflows = _images_made(config) > _most(images)
    return max(_most(images) // 4, 4 * config.image_batch) if overflows else 0


def _images_made(config: Config) -> int:
    """In all rounds together."""
    rounds = config.rounds or 1
    kept = 1 if config.prior != "none" else -(-((config.image_steps or 0) // rounds) // 2)  # batches of a round
    return rounds * kept * config.image_batch


def _most(images: Images) -> int:
    return min(LARGEST, LARGEST_MB * 10**6 // numbers(images))


def numbers(images: Images) -> int:
    """How many numbers, and as pixels bytes, one image has."""
    return images.channels * images.height * images.width
