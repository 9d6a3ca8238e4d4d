"""Fast-DFKD: a few steps of a generator that has learnt to be adapted make each batch of images; all are kept.

Fang, Mo, Wang, Song, Bei, Zhang, Song: Up to 100x Faster Data-Free Knowledge Distillation, AAAI 2022, arXiv 2112.06253.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import losses
from edgekd.augment import moved
from edgekd.bank import Bank
from edgekd.checkpoint import Checkpoint
from edgekd.compute import adam, answers_of, descend, log_student, logits_of
from edgekd.divergence import paced
from edgekd.generator import images_from, new_generator
from edgekd.history import no_history, remember
from edgekd.observe import Observed
from edgekd.types import Run, Sampler, Teacher


@dataclass(frozen=True)
class Config:
    """The released settings of Fast-10 for CIFAR, ResNet-34 to ResNet-18."""

    batch: int = 256  # images per batch and per student step
    latent: int = 256  # length of z
    generator_width: int = 128  # channels of the generator
    synthesis_steps: int = 220  # batches of images, each a step of the meta-learnt generator
    warmup_steps: int = 20  # of these, before the student's first step; the last of them has the adversarial term
    reset_steps: int = 140  # the one of these, counted from 1, that begins with the generator's first layer drawn anew
    iterations: int = 10  # Adam steps from the meta-learnt generator to one that makes a batch
    generator_lr: float = 2e-3  # Adam; the meta-learnt generator's is `iterations` times as high
    latent_lr: float = 0.01  # Adam, on z
    batch_norm: float = 10.0  # weight of the distance to BatchNorm's statistics; nothing where there is none
    batch_norm_momentum: float = 0.9  # share of earlier batches in those statistics
    one_hot: float = 0.5  # weight of the cross entropy with the class wanted
    adversarial: float = 1.33  # weight of the masked disagreement of student and teacher
    shift: int | None = None  # pixels by which images are moved at most; 0 for grayscale, 4 for colour (CIFAR)
    mirror: bool | None = None  # whether half of the images are mirrored; not grayscale, colour (CIFAR)
    student_steps: int = 80_000  # 400 after each batch of images behind the warm-up
    student_lr: float = 0.2  # SGD with momentum 0.9, cosine down to 2e-4
    student_weight_decay: float = 1e-4
    temperature: float = 20.0  # of the distillation loss


BUDGETS: Mapping[str, Config] = {
    # half of the batches, half as large and in half of the iterations, half the width, and 50 student steps after each:
    # minutes for LeNet-5 on two CPU cores
    "fast": Config(
        batch=128, generator_width=64, synthesis_steps=110, warmup_steps=10, reset_steps=70, iterations=5,
        generator_lr=3e-3, student_steps=5_000,
    ),
    "paper": Config(),
}  # fmt: skip


def derived(config: Config, teacher: Teacher) -> Config:
    """The same settings with those filled in that follow from the teacher's images; the warm-up ends before the end."""
    colour = teacher.images.channels != 1
    return replace(
        config,
        warmup_steps=min(config.warmup_steps, config.synthesis_steps - 1),
        shift=4 * colour if config.shift is None else config.shift,
        mirror=colour if config.mirror is None else config.mirror,
    )


def synthesised(
    meta: nn.Module,
    history: nn.ParameterList,
    teacher: Teacher,
    student: nn.Module,
    config: Config,
    rng: torch.Generator,
    *,
    adversarial: float,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    """A batch of images (N, C, H, W), those of the iteration with the lowest loss, and that loss.

    A copy of the generator `meta` is adapted; meta.grad collects the copy's gradients (first-order MAML). history: mean
    and variance of each BatchNorm's inputs over the batches so far, which is brought up to date.
    """
    device = rng.device
    generator = copy.deepcopy(meta)
    z = torch.randn(config.batch, config.latent, generator=rng, device=device).requires_grad_()
    wanted = torch.randint(len(teacher.classes), (config.batch,), generator=rng, device=device)
    groups: list[dict[str, Any]] = [{"params": generator.parameters()}, {"params": [z], "lr": config.latent_lr}]
    optimizer = adam(groups, lr=config.generator_lr, betas=(0.5, 0.999))
    best, least = torch.zeros((), device=device), torch.full((), math.inf, device=device)
    for _ in range(config.iterations):
        x = images_from(generator, z)
        seen = moved(x, teacher.images, rng, shift=config.shift or 0, mirror=bool(config.mirror))
        target = logits_of(teacher.model, seen, observed := Observed())
        distance = losses.batch_norm_distance(observed.batch_norms, list(history), momentum=momentum)
        loss = config.batch_norm * distance + config.one_hot * losses.cross_entropy(target, wanted)
        if adversarial:
            guess = logits_of(student, seen)
            loss = loss + adversarial * losses.masked_adversarial(student=guess, teacher=target)
        best = torch.where(loss.detach() < least, x.detach(), best)
        least = torch.minimum(loss.detach(), least)
        descend(loss, optimizer)
        for ours, adapted in zip(meta.parameters(), generator.parameters(), strict=True):
            assert adapted.grad is not None
            ours.grad = adapted.grad.clone() if ours.grad is None else ours.grad + adapted.grad
    remember(history, observed.batch_norms, momentum=momentum)
    return best, least


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place on a growing bank of images; gives a sampler of new ones, made in the same way.

    The generator is edgekd's own, which ends in tanh and BatchNorm where the released one ends in a sigmoid. The
    student's last state counts. Same run.seed, same result, on one device type.
    """
    config = derived(config, teacher)
    rng = torch.Generator(run.device).manual_seed(run.seed)
    meta = new_generator(
        teacher.images, latent=config.latent, width=config.generator_width, seed=run.seed, device=run.device
    )
    meta_lr = config.generator_lr * config.iterations
    optim_g = adam(meta.parameters(), lr=meta_lr, betas=(0.5, 0.999))
    history = no_history(teacher)
    capacity = config.synthesis_steps * config.batch
    bank = Bank(run.folder / "bank.u8", teacher.images, capacity=capacity, classes=len(teacher.classes))
    optim_s = torch.optim.SGD(
        student.parameters(), lr=config.student_lr, momentum=0.9, weight_decay=config.student_weight_decay
    )
    parts = {"generator": meta, "optim_g": optim_g, "history": history, "student": student, "optim_s": optim_s}
    checkpoint = Checkpoint(run.folder / "distillation.ckpt", **parts, rng=rng, bank=bank)
    at = checkpoint.restore({"images": 0, "student": 0})

    meta.train()
    student.train()
    for nth in range(1, config.synthesis_steps + 1):  # the released code counts from 1
        if nth > at["images"]:
            if nth == config.reset_steps:
                nn.init.normal_(meta.project.weight, 0.0, 0.02, generator=rng)
                nn.init.zeros_(meta.project.bias)
            student.eval().requires_grad_(False)
            optim_g.zero_grad()
            x, loss_x = synthesised(meta, history, teacher, student, config, rng,
                                    adversarial=config.adversarial * (nth >= config.warmup_steps),
                                    momentum=config.batch_norm_momentum * (nth > 1))  # fmt: skip
            with paced(optim_g):
                optim_g.step()
            student.train().requires_grad_(True)
            bank.add(x, lambda kept: answers_of(teacher.model, kept))
            run.log("images", nth, config.synthesis_steps, loss=loss_x.item())
            at |= {"images": nth}
            checkpoint.keep(at)

        after_warmup = max(0, nth - config.warmup_steps)
        until = config.student_steps * after_warmup // (config.synthesis_steps - config.warmup_steps)
        for step in range(at["student"], until):
            cosine = (1 + math.cos(math.pi * step / config.student_steps)) / 2
            optim_s.param_groups[0]["lr"] = 2e-4 + (config.student_lr - 2e-4) * cosine
            x, target = bank.sample(config.batch, rng)
            if config.shift or config.mirror:
                x = moved(x, teacher.images, rng, shift=config.shift or 0, mirror=bool(config.mirror))
                with torch.no_grad():
                    target = logits_of(teacher.model, x)
            guess = logits_of(student, x)
            loss = descend(losses.distillation(student=guess, teacher=target, temperature=config.temperature), optim_s)
            log_student(run, step, config.student_steps, loss=loss, guess=guess, target=target)
            at |= {"student": step + 1}
            checkpoint.keep(at)

    def sample(n: int) -> Tensor:
        student.requires_grad_(False)
        batches = [
            synthesised(meta, history, teacher, student, config, rng,
                        adversarial=config.adversarial, momentum=config.batch_norm_momentum)[0]
            for _ in range(-(-n // config.batch))
        ]  # fmt: skip
        student.requires_grad_(True)
        return torch.cat(batches)[:n]

    student.eval()
    return sample
