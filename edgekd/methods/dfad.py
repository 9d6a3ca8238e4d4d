"""DFAD: the generator looks for images on which student and teacher differ, and the student learns to agree on them.

Fang, Song, Shen, Wang, Chen, Song: Data-Free Adversarial Distillation, 2019, arXiv 1912.11006.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekd import losses
from edgekd.checkpoint import Checkpoint
from edgekd.collapse import renewed
from edgekd.compute import adam, descend, logits_of
from edgekd.generator import images_from, new_generator, sampler_of
from edgekd.types import Run, Sampler, Teacher


@dataclass(frozen=True)
class Config:
    """The released code's settings. None: the value published for MNIST (grayscale images) or for CIFAR-10 (colour)."""

    batch: int | None = None  # images per step; 512 or 256
    latent: int | None = None  # length of z; 100 or 256
    generator_width: int = 128  # channels of the generator
    generator_steps: int | None = None  # 40 epochs of 50 or 500 of 50
    generator_lr: float = 1e-3  # Adam
    student_per_generator: int = 5  # student steps before each generator step
    student_lr: float | None = None  # SGD with momentum 0.9; 0.01 or 0.1
    student_weight_decay: float | None = None  # 1e-4 or 5e-4
    decay_at: tuple[float, ...] | None = None  # fractions after which both rates fall to a tenth; none, or 0.2 and 0.4


PUBLISHED: Mapping[str, tuple[Any, Any]] = {  # for MNIST, for CIFAR-10
    "batch": (512, 256),
    "latent": (100, 256),
    "generator_steps": (40 * 50, 500 * 50),
    "student_lr": (0.01, 0.1),
    "student_weight_decay": (1e-4, 5e-4),
    "decay_at": ((), (0.2, 0.4)),
}

BUDGETS: Mapping[str, Config] = {
    # three eighths of MNIST's steps with half the images and half the width: minutes for LeNet-5 on two CPU cores
    "fast": Config(batch=256, generator_width=64, generator_steps=750),
    "paper": Config(),
}


def derived(config: Config, teacher: Teacher) -> Config:
    """The same settings with those filled in that follow from the teacher's images."""
    colour = teacher.images.channels != 1
    return replace(config, **{name: both[colour] for name, both in PUBLISHED.items() if getattr(config, name) is None})


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place against a generator; gives the generator's sampler back.

    Both losses are the same mean absolute difference of the logits, with opposite signs. Nothing bounds the generator:
    a student that has learnt can be led away from the teacher's own images again. The student's last state counts.
    Same run.seed, same result, on one device type.
    """
    config = derived(config, teacher)
    assert config.batch and config.latent and config.generator_steps and config.student_lr
    assert config.student_weight_decay is not None and config.decay_at is not None
    batch, latent = config.batch, config.latent
    rng = torch.Generator(run.device).manual_seed(run.seed)

    def fresh(further: int = 0) -> nn.Module:
        seed, width = run.seed + 1_000_000 * further, config.generator_width
        return new_generator(teacher.images, latent=latent, width=width, seed=seed, device=run.device)

    generator = fresh()
    optim_g = adam(generator.parameters(), lr=config.generator_lr)
    optim_s = torch.optim.SGD(
        student.parameters(), lr=config.student_lr, momentum=0.9, weight_decay=config.student_weight_decay
    )
    parts = {"generator": generator, "optim_g": optim_g, "student": student, "optim_s": optim_s, "rng": rng}
    checkpoint = Checkpoint(run.folder / "distillation.ckpt", **parts)
    at = checkpoint.restore({"joint": 0})

    def images() -> Tensor:
        return images_from(generator, torch.randn(batch, latent, generator=rng, device=run.device))

    generator.train()
    student.train()
    for step in range(at["joint"], config.generator_steps):
        rate = 0.1 ** sum(step >= part * config.generator_steps for part in config.decay_at)
        optim_g.param_groups[0]["lr"] = config.generator_lr * rate
        optim_s.param_groups[0]["lr"] = config.student_lr * rate
        for _ in range(config.student_per_generator):
            with torch.no_grad():
                x = images()
                target = logits_of(teacher.model, x)
            guess = logits_of(student, x)
            loss_s = descend(losses.l1(student=guess, teacher=target), optim_s)

        student.requires_grad_(False)  # its gradient is not needed here
        x = images()
        loss_g = -losses.l1(student=logits_of(student, x), teacher=logits_of(teacher.model, x))
        descend(loss_g, optim_g)
        student.requires_grad_(True)
        if step % 20 == 0 or step == config.generator_steps - 1:
            agreement = (guess.argmax(dim=1) == target.argmax(dim=1)).float().mean()
            run.log("joint", step + 1, config.generator_steps, loss=loss_s.item(), agreement=agreement.item(),
                    generator=loss_g.item())  # fmt: skip
        renewed(at, step, target, generator, optim_g, fresh, run)
        at |= {"joint": step + 1}
        checkpoint.keep(at)
    student.eval()
    return sampler_of(generator, latent=latent, batch=batch, rng=rng)
