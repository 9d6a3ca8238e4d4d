"""How many images there is room for: in the banks of RDSKD+, known before it begins, and in one pass of a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekd.types import Images

if TYPE_CHECKING:
    from edgekd.methods.rdskd_plus import Config

LARGEST, LARGEST_MB = 100_000, 2_000  # of each bank: images, and 10**6 bytes
WATCHED, FEWEST, WATCHED_NUMBERS = 512, 64, 16_000_000  # images held out: most, fewest, and numbers that they have
CHUNK, CHUNK_NUMBERS = 1_000, 4_000_000  # of a prior drawn at once: images, and numbers that they have
PASS, PASS_NUMBERS = 256, 2_000_000  # images at once through a network that keeps nothing, and numbers that they have


def capacities(config: Config, images: Images) -> dict[str, tuple[int, int]]:
    """Bank -> (images that it has room for, further slots where it is going to overflow; see Bank).

    Of the prior, of the made images and of the lessons. config: a derived one.
    """
    drawn = 0 if config.prior == "none" else config.prior_images or 0
    made, lessons = _images_made(config), (config.lesson_steps or 0) * config.batch
    return {
        "prior": (max(1, drawn), 0),
        "made": _held(made, config.image_batch, images),
        "lessons": _held(lessons, config.batch, images),
    }


def _held(wanted: int, added: int, images: Images) -> tuple[int, int]:
    """Of a bank that gets `wanted` images, `added` at a time."""
    most = _most(images)
    return max(1, min(most, wanted)), max(most // 4, 4 * added) if wanted > most else 0


def _images_made(config: Config) -> int:
    """In all rounds together, at most."""
    rounds, iterations = config.image_rounds(), config.batch_iterations or 1
    kept = (config.image_steps or 0) // rounds  # steps of a round that give images, each batch by `iterations` of them
    if not config.generated:
        return rounds * config.image_batch
    return rounds * (-(-kept // iterations) if iterations > 1 else -(-kept // 2)) * config.image_batch


def _most(images: Images) -> int:
    return min(LARGEST, LARGEST_MB * 10**6 // numbers(images))


def numbers(images: Images) -> int:
    """How many numbers, and as pixels bytes, one image has."""
    return images.channels * images.height * images.width


def per_pass(numbers_of_one: int) -> int:
    """How many images of so many numbers a network gets at once where it keeps nothing for a backward pass, 1 to PASS.

    What it holds of them is a few dozen times the images: 256 photographs of 224 pixels would take several GB.
    """
    return max(1, min(PASS, PASS_NUMBERS // numbers_of_one))


def watched_images(images: Images) -> int:
    """On how many images held out a training watches its agreement: of large ones fewer, each costs two networks."""
    return max(FEWEST, min(WATCHED, WATCHED_NUMBERS // numbers(images)))


def per_drawing(numbers_of_one: int) -> int:
    """How many images of so many numbers a prior draws at once, 1 to CHUNK."""
    return max(1, min(CHUNK, CHUNK_NUMBERS // numbers_of_one))


def parts(n: int, most: int) -> Iterator[int]:
    """n as numbers of `most`, and the rest."""
    for begin in range(0, n, most):
        yield min(most, n - begin)
