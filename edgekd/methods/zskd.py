"""ZSKD: images are optimised, pixel by pixel, until the teacher's opinions are those that were drawn.

Nayak, Mopuri, Shaj, Babu, Chakraborty: Zero-Shot Knowledge Distillation in Deep Networks, ICML 2019, arXiv 1905.08114.
The released code names 0.3 of a cross entropy for the student and small rotations and scales for the images in the
making, but multiplies the one by a loss of 0 and feeds the others to placeholders that nothing reads: neither is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd import losses
from edgekd.checkpoint import Checkpoint
from edgekd.compute import adam, descend, log_student, logits_of
from edgekd.errors import UsageError
from edgekd.held_out import banks, each_once, share_out
from edgekd.observe import look
from edgekd.types import Run, Sampler, Teacher

ZOOMS = torch.tensor([1.0, 0.9, 0.75, 0.6])  # parts of an image that fill the whole, as in the released augmentation


@dataclass(frozen=True)
class Config:
    """The released code's settings, which are for CIFAR-10; for grayscale images re-implementations make fewer.

    Of the images made the student never sees one in eight, 6,000 at most, which the sampler gives.
    """

    batch: int = 100  # images that are optimised together, all around one class
    synthesis_steps: int | None = None  # batches of images; None: 240 for grayscale (24,000 images), 400 for colour
    iterations: int = 1_500  # Adam steps per batch of images
    image_lr: float = 1e-3  # Adam, on pixels in 0..1
    betas: tuple[float, ...] = (1.0, 0.1)  # scales of the concentration, in turn
    student_batch: int = 64  # images per student step
    student_steps: int = 312_500  # 500 epochs of 40,000 images
    student_lr: float = 1e-3  # Adam
    augment: bool = True  # zoom, shift, rotation and mirror, one or two of them; the teacher judges the result
    cross_entropy: float = 0.0  # weight of the teacher's class as a label; named 0.3 and left out by the released code
    temperature: float = 20.0  # of the opinions wanted and of the distillation loss


BUDGETS: Mapping[str, Config] = {
    # a third of the images, each in a tenth of the iterations with ten times the rate, and a sixtieth of the student's
    # steps with twice the images: minutes for LeNet-5 on two CPU cores
    "fast": Config(synthesis_steps=80, iterations=150, image_lr=1e-2, student_batch=128, student_steps=5_000),
    "paper": Config(),
}


def derived(config: Config, teacher: Teacher) -> Config:
    """The same settings with those filled in that follow from the teacher's images.

    A batch more where the only one had a single image, as one is held out. Raises UsageError where the teacher has no
    classifier to read class similarities from.
    """
    classifier = look(teacher).classifier
    if classifier is None or len(classifier.weight) != len(teacher.classes):
        raise UsageError(
            "ZSKD finds no classifier in this teacher",
            code="E0223",
            why="it reads the classes' similarities from the last linear layer, which must have one row per class",
            fix="use --method rdskd, which needs the logits only",
        )
    steps = config.synthesis_steps or (240 if teacher.images.channels == 1 else 400)
    return replace(config, synthesis_steps=steps if config.batch > 1 else max(2, steps))


def class_similarity(weight: Tensor) -> Tensor:
    """Cosines between the classifier's rows, weight (K, D): (K, K) in [-1, 1], ones on the diagonal."""
    rows = F.normalize(weight.float(), dim=1)
    return rows @ rows.T


def concentration(similarity: Tensor, *, beta: float) -> Tensor:
    """Dirichlet concentrations around one class from its row (K,) of similarities: beta * (0 to 1) + 1e-4, each > 0.

    The class most alike (itself) gets beta, the least alike none. The 1e-4 is the released code's, which scales by 0.1
    before it brings the row to 0..1 and so uses beta = 1 throughout; the paper uses both.
    """
    low, high = similarity.min(), similarity.max()
    return beta * (similarity - low) / (high - low).clamp_min(1e-12) + 1e-4


def augmented(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) mirrored or not, and two of: zoomed, shifted (a fifth), rotated (up to 90 degrees).

    The released code makes a hundred of each image in this way; here each is drawn anew whenever it is used.
    """
    n, device = len(images), images.device
    left_out = torch.randint(3, (n,), generator=rng, device=device)
    zoom = ZOOMS.to(device)[torch.randint(len(ZOOMS), (n,), generator=rng, device=device)]
    zoom = torch.where(left_out == 0, 1.0, zoom)
    shift = 0.4 * torch.randint(-1, 2, (2, n), generator=rng, device=device) * (left_out != 1)  # images are 2 wide
    angle = (torch.rand(n, generator=rng, device=device) - 0.5) * torch.pi * (left_out != 2)
    mirror = 1 - 2 * torch.randint(2, (n,), generator=rng, device=device)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = torch.stack([mirror * cos, -sin, shift[0], mirror * sin, cos, shift[1]], dim=1).view(n, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def impressing(pixels: Tensor, target: Tensor, teacher: Teacher, config: Config) -> Iterator[Tensor]:
    """Optimises pixels (N, C, H, W) in 0..1, in place, towards the opinions `target` (N, K); gives every loss.

    After every step the pixels of the batch are stretched to 0..1, as released.
    """
    optim_x = adam([pixels.requires_grad_()], lr=config.image_lr)
    for _ in range(config.iterations):
        logits = logits_of(teacher.model, normalised(pixels, teacher))
        loss = descend(losses.soft_cross_entropy(logits, target, temperature=config.temperature), optim_x)
        with torch.no_grad():
            low, high = pixels.aminmax()
            pixels.sub_(low).div_(high - low)
        yield loss


def normalised(pixels: Tensor, teacher: Teacher) -> Tensor:
    """Pixels (N, C, H, W) in 0..1 as `teacher` is fed them."""
    facts = teacher.images
    mean, std = (torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (facts.mean, facts.std))
    return (pixels - mean) / std


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place on images optimised for `teacher`, all made before the student's first step.

    Each batch of images starts from its own noise. Some of every batch are held out: the student never learns on them,
    and the sampler gives each of them once before any comes again, as new ones would cost as much. The student's last
    state counts. Same run.seed, same result, on one device type.
    """
    config = derived(config, teacher)
    classifier = look(teacher).classifier
    assert config.synthesis_steps and classifier
    facts, total = teacher.images, config.synthesis_steps * config.iterations
    similarity = class_similarity(classifier.weight).cpu()
    rng = torch.Generator(run.device).manual_seed(run.seed)
    seeds = torch.randint(2**31, (config.synthesis_steps,), generator=rng, device=run.device).tolist()
    bank, held_out = banks(config.synthesis_steps * config.batch, teacher, run)
    optim_s = adam(student.parameters(), lr=config.student_lr)
    parts = {"student": student, "optim_s": optim_s, "rng": rng, "bank": bank, "held_out": held_out}
    checkpoint = Checkpoint(run.folder / "distillation.ckpt", **parts)
    at = checkpoint.restore({"images": 0, "student": 0})

    for index in range(at["images"], config.synthesis_steps):  # a batch that was interrupted is made again, the same
        turn, wanted = divmod(index, len(teacher.classes))
        alpha = concentration(similarity[wanted], beta=config.betas[turn % len(config.betas)])
        opinions = np.random.default_rng(seeds[index]).dirichlet(alpha.double().numpy(), config.batch)
        target = torch.from_numpy(opinions).float().to(run.device)
        drawn = torch.Generator().manual_seed(seeds[index])
        x = torch.rand(config.batch, facts.channels, facts.height, facts.width, generator=drawn).to(run.device)
        for step, loss_x in enumerate(impressing(x, target, teacher, config)):
            if step % 20 == 0 or step == config.iterations - 1:
                run.log("images", index * config.iterations + step + 1, total, loss=loss_x.item())
            checkpoint.keep(at, unfinished=True)
        with torch.no_grad():
            x = normalised(x, teacher)
        share_out(x, teacher, bank, held_out, drawn)
        at |= {"images": index + 1}
        checkpoint.keep(at)

    student.train()
    for step in range(at["student"], config.student_steps):
        x, target = bank.sample(config.student_batch, rng)
        if config.augment:
            x = augmented(x, rng)
            with torch.no_grad():
                target = logits_of(teacher.model, x)
        guess = logits_of(student, x)
        loss_s = losses.distillation(student=guess, teacher=target, temperature=config.temperature)
        if config.cross_entropy:
            loss_s = loss_s + config.cross_entropy * losses.cross_entropy(guess, target.argmax(dim=1))
        descend(loss_s, optim_s)
        log_student(run, step, config.student_steps, loss=loss_s, guess=guess, target=target)
        at |= {"student": step + 1}
        checkpoint.keep(at)
    student.eval()
    return each_once(held_out, rng)
