"""RDSKD+'s settings, its budgets, and what follows for a teacher from what is left open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgekd.compute import RATES, choose_device
from edgekd.errors import UsageError
from edgekd.observe import look
from edgekd.prior import open_prior
from edgekd.room import LARGEST_MB, numbers, watched_images
from edgekd.types import Teacher


@dataclass(frozen=True)
class Config:
    """Every term can be switched off by a weight of 0; none needs another weight than its own."""

    prior: str | None = None  # none, procedural, photo or the path of pictures; None: by the teacher's images
    prior_images: int | None = None  # kept at most, drawn at the start; None: 40,000, refined ones in colour 100,000
    prior_drawn: int | None = None  # in all; what a class has enough of is not kept; None: by prior_images and steps
    rounds: int | None = None  # of the student's learning, before each of which images are made; None: by prior
    image_steps: int | None = None  # of the generators or of the refinement, in all; None: by prior
    generated: bool | None = None  # images by a generator beside a prior, too, instead of refined ones; None: by size
    batch_iterations: int | None = None  # image steps on one batch, whose z learn; above 1, "iterated" below, all first
    image_batch: int = 0  # images per step; 0: by their size, see BATCHES
    epoch: int = 60  # image steps between two refreshes of the references
    generator_width: int = 0  # channels; 0: 64 if iterated, else 32, without BatchNorm 16
    latent: int = 0  # length of z; 0: 256 if iterated, else 100
    tones: bool | None = None  # generated images as bright and contrasty as normalised; None: without BatchNorm
    image_lr: float = 0.05  # Adam, of refined pixels
    generator_lr: float | None = None  # Adam, of the generator; None: 3e-3 if iterated, else 1e-3
    latent_lr: float = 0.01  # Adam, of the latent vectors
    authenticity: float = 1.0  # OH, or the cross entropy with a balanced label where images are refined
    balance: float = 1.0  # IE
    diversity: float = 1.0  # within classes, of the generator's images
    batch_norm: float | None = None  # the teacher's statistics; None: 20 if iterated, of other generators 3, else 1
    adversarial: float | None = None  # hard images, after a third of the rounds; None: 1, if iterated 0
    shift: int | None = None  # pixels by which images are moved, and mirrored, while made; None: 4 if iterated, else 0
    batch_norm_momentum: float | None = None  # share of earlier batches in those; None: 0.9 if iterated, else 0
    increments: bool = True  # the exponential rule; without it plain sums
    lesson_steps: int | None = None  # batches labelled beforehand, each shown again; 0: every step labels its own
    student_steps: int = 4_000
    batch: int = 0  # images per student step; 0: likewise
    made_share: float | None = None  # of a student's batch from the made images; None: by prior and maker
    optimizer: str | None = None  # adam, muon, sgd (momentum 0.9, weight decay 1e-4); None: by student
    student_lr: float | None = None  # at its highest; one cycle; None: 4e-3 for adam, else 0.1
    temperature: float = 0.0  # of the distillation loss; 0: 2 without a prior, if not iterated, else 4
    warp: float | None = None  # strength of turning, scaling, shifting; 0: none; None: 1 for colour
    held_out: int | None = None  # images on which agreement is watched; None: 512, of large ones fewer
    patience: int = 4  # rounds that gave no more than as many before, after which the end is near; 0: none
    mixed: float | None = None  # share of the steps with images blended in pairs; None: all for colour
    features: float | None = None  # on maps in common with the teacher; None: 1, if pruned 10
    hints: int | None = None  # steps of the student, its first, with them; None: HINTS, or all if `features` is set
    inherit: bool = True  # the teacher's weights where the student's shape allows it, at the start; else all are drawn

    def image_rounds(self) -> int:
        """In how many rounds images are made: in the first where one generator makes all of them, else in each."""
        return 1 if (self.batch_iterations or 1) > 1 else self.rounds or 1

    def drawings(self) -> int:
        """`prior_drawn`, or what follows: one for SEEN images that the student is shown, within reason.

        Some classes are rare in what is drawn, and a long training would show the same few of theirs again and again.
        """
        if self.prior_drawn is not None:
            return max(1, self.prior_drawn)
        kept = self.prior_images or 0
        return max(kept, min(MOST_DRAWN * kept, self.student_steps * self.batch // SEEN))

    def enough(self) -> dict[str, int]:
        """Fields, each with the number of steps beyond which further ones taught the student no more (NOTES.md)."""
        beside = self.prior not in (None, "none") and (self.batch_iterations or 1) > 1
        return {"image_steps": ENOUGH} if beside else {}

    def unbounded(self) -> Config:
        """The same with those fields in the proportion to the student's steps that short trainings have."""
        return replace(self, image_steps=self.student_steps // EACH) if self.enough() else self


BUDGETS: Mapping[str, Config] = {
    "fast": Config(),
    "good": Config(student_steps=16_000),
    "best": Config(student_steps=64_000),
}
SCALES = {"authenticity": 1.0, "balance": 1.0, "diversity": 3.0, "batch_norm": 0.1, "adversarial": 1.0}  # rises of e
DISTANT = 2.0  # the unit of losses.batch_norm_distance, of a generator that makes a batch in several steps
BESIDE = 64  # pixels a side up to which a generator makes images beside a prior; beyond 32 not measured
BATCHES = ((16, 128), (64, 256), (math.inf, 64))  # pixels a side at most, and the batches that are usual then
IN_COLOUR = 128  # at most, but on a GPU, which they would not fill: twice the steps of half the images teach more
SHOWN = 4  # times that the student sees a lesson, about; each of its own costs the teacher as much as itself
SEEN, MOST_DRAWN = 10, 4  # images shown per image drawn; drawn per image kept, at most
EACH = 4  # student steps per image step of most generators
ENOUGH = 400  # image steps of a generator beside a prior that makes all images first; 800 and more taught no more
HINTS = 800  # student steps; feature maps lead well at first, and then cost twice the time (NOTES.md)


def derived(config: Config, teacher: Teacher) -> Config:
    """The same settings with the prior chosen and what follows from it, without what the teacher does not have.

    The prior, unless named: none up to 16 pixels, where strokes are no digits; strokes for gray images; collages of
    photographs for colour, of noise for other channels than red, green and blue. Where there is BatchNorm one generator
    makes colour images above 16 pixels, in 5 steps per batch, beside a prior up to 64 pixels; other priors' pixels are
    refined. All else without a prior is from many.
    """
    facts, statistics = teacher.images, bool(look(teacher).batch_norms)
    by_images = "photo" if facts.channels == 3 else "procedural"
    tiny = (side := max(facts.height, facts.width)) <= 16
    prior = config.prior or ("none" if tiny else by_images)
    open_prior(prior, facts)  # says now what is missing
    colour = facts.channels > 1  # gray ones gain nothing by a warp, and the teacher's logits stay true without
    by_batch = statistics and colour and not tiny
    generated = prior == "none" or (by_batch and side <= BESIDE if config.generated is None else config.generated)
    iterations = config.batch_iterations or (5 if generated and by_batch else 1)
    own = 2 if statistics and not tiny and iterations == 1 else EACH
    of = own if generated else 8 * statistics  # student steps per image step
    makes = replace(config, prior=prior, batch_iterations=iterations)
    usual = min(config.student_steps // of if of else 0, makes.enough().get("image_steps", config.student_steps))
    steps = usual if config.image_steps is None else config.image_steps
    rounds = config.rounds or (4 if prior == "none" and statistics and iterations == 1 else 12)
    if config.adversarial and iterations > 1:
        raise UsageError(
            "images cannot be made to be hard for a student that has not learnt yet",
            code="E0233",
            why=f"a generator with {iterations} steps on each batch makes all images before the student begins",
            fix="--set adversarial=0, or --set batch_iterations=1",
        )
    makers = replace(makes, rounds=rounds).image_rounds()
    if prior == "none" and steps < makers:
        raise UsageError(
            f"{steps} image steps in {makers} rounds make no images",
            code="E0224",
            why="without a prior every image comes from a generator that each round trains",
            fix="--set image_steps=480, fewer rounds, or a --prior",
        )
    if config.optimizer not in (None, *RATES):
        raise UsageError(f"no optimizer {config.optimizer!r}", code="E0225", fix=f"one of {', '.join(RATES)}")
    by_maker = 20.0 if iterations > 1 else 3.0 if generated else 1.0
    momentum = 0.9 if iterations > 1 else 0.0
    share = 1.0 if prior == "none" and iterations > 1 else 0.5 if generated else 0.25
    images_at_once = next(images for pixels, images in BATCHES if side <= pixels)
    if colour and choose_device().type == "cpu":
        images_at_once = min(images_at_once, IN_COLOUR)
    enough = 100_000 if colour and not generated else 40_000
    warp, mixed = (float(colour) if given is None else given for given in (config.warp, config.mixed))
    lessons = config.student_steps // SHOWN * bool(warp or mixed or prior == "none")  # else there is nothing to save
    with_images = replace(
        config,
        prior=prior,
        prior_images=min(config.prior_images or enough, LARGEST_MB * 10**6 // numbers(facts)),
        batch=config.batch or images_at_once,
    )
    return replace(
        with_images,
        prior_drawn=with_images.drawings(),
        image_batch=config.image_batch or images_at_once,
        latent=config.latent or (256 if iterations > 1 else 100),
        adversarial=float(iterations == 1) if config.adversarial is None else config.adversarial,
        generated=generated,
        batch_iterations=iterations,
        generator_lr=config.generator_lr or (3e-3 if iterations > 1 else 1e-3),
        generator_width=config.generator_width or (64 if iterations > 1 else 32 if statistics else 16),
        tones=not statistics if config.tones is None else config.tones,  # which says so itself
        rounds=rounds,
        image_steps=steps,
        held_out=watched_images(facts) if config.held_out is None else max(1, config.held_out),
        batch_norm=statistics * (by_maker if config.batch_norm is None else config.batch_norm),
        shift=4 * (iterations > 1) if config.shift is None else config.shift,
        batch_norm_momentum=momentum if config.batch_norm_momentum is None else config.batch_norm_momentum,
        made_share=share if config.made_share is None else config.made_share,
        temperature=config.temperature or (2.0 if prior == "none" and iterations == 1 else 4.0),
        hints=HINTS if config.features is None and config.hints is None else config.hints,
        warp=warp,
        mixed=mixed,
        lesson_steps=lessons if config.lesson_steps is None else config.lesson_steps,
    )
