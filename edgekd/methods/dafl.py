"""DAFL: generator and student learn in the same step, the generator from the fixed teacher's opinion alone.

Chen, Wang, Xu, Yang, Liu, Shi, Xu, Xu, Tian: Data-Free Learning of Student Networks, ICCV 2019, arXiv 1904.01186.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgekd import losses
from edgekd.checkpoint import Checkpoint
from edgekd.collapse import renewed
from edgekd.compute import adam, descend, logits_of
from edgekd.errors import UsageError
from edgekd.generator import images_from, new_generator, sampler_of
from edgekd.observe import Observed, look
from edgekd.types import Run, Sampler, Teacher


@dataclass(frozen=True)
class Config:
    """The released code's settings. None: the value published for MNIST (grayscale images) or for CIFAR-10 (colour)."""

    batch: int | None = None  # images per step; 512 or 1024
    latent: int | None = None  # length of z; 100 or 1000
    generator_width: int = 128  # channels of the generator
    joint_steps: int | None = None  # of generator and student; 200 epochs of 120 or 2000 of 120
    generator_lr: float | None = None  # Adam; 0.2 or 0.02
    one_hot: float | None = None  # weight of OH; 1 or 0.05
    information_entropy: float = 5.0  # weight of IE in decimal logarithms
    activation: float | None = None  # weight of ACT; 0.1 or 0.01
    mode_seeking: float = 0.0  # weight of MSGAN's regulariser; 0: DAFL as published, above: see mskd
    student_sgd: bool | None = None  # Adam; or SGD, momentum 0.9, decay 5e-4, the rate a tenth after 40 % and 80 %
    student_lr: float | None = None  # 2e-3 or 0.1
    temperature: float = 1.0  # of the distillation loss


PUBLISHED: Mapping[str, tuple[Any, Any]] = {  # for MNIST, for CIFAR-10
    "batch": (512, 1024),
    "latent": (100, 1000),
    "joint_steps": (200 * 120, 2000 * 120),
    "generator_lr": (0.2, 0.02),
    "one_hot": (1.0, 0.05),
    "activation": (0.1, 0.01),
    "student_sgd": (False, True),
    "student_lr": (2e-3, 0.1),
}

BUDGETS: Mapping[str, Config] = {
    # a twelfth of MNIST's steps with half the images and half the width: minutes for LeNet-5 on two CPU cores
    "fast": Config(batch=256, generator_width=64, joint_steps=2_000),
    "paper": Config(),
}


def derived(config: Config, teacher: Teacher) -> Config:
    """The same settings with those filled in that follow from the teacher's images.

    Raises UsageError where ACT has no features to strengthen.
    """
    colour = teacher.images.channels != 1
    missing = {name: both[colour] for name, both in PUBLISHED.items() if getattr(config, name) is None}
    config = replace(config, **missing)
    if config.activation and look(teacher).classifier is None:
        raise UsageError(
            "DAFL's activation term cannot see this teacher's features",
            code="E0223",
            why="it looks at what is fed to the last linear layer, and this teacher has none",
            fix="switch the term off with --set activation=0, or use --method rdskd",
        )
    return config


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place on images that a generator makes for `teacher`; gives the generator's sampler back.

    The student learns on each batch as the generator made it, before the generator's own step; no gradient of its loss
    reaches the generator. ACT is taken of the inputs of the last linear layer (the released LeNet-5: of the last
    convolution). The student's last state counts. Same run.seed, same result, on one device type.
    """
    config = derived(config, teacher)
    assert config.batch and config.latent and config.joint_steps and config.generator_lr and config.student_lr
    assert config.one_hot is not None and config.activation is not None
    rng = torch.Generator(run.device).manual_seed(run.seed)
    latent, width = config.latent, config.generator_width

    def fresh(further: int = 0) -> nn.Module:
        seed = run.seed + 1_000_000 * further
        return new_generator(teacher.images, latent=latent, width=width, seed=seed, device=run.device)

    generator = fresh()
    optim_g = adam(generator.parameters(), lr=config.generator_lr)
    optim_s: torch.optim.Optimizer = adam(student.parameters(), lr=config.student_lr)
    if config.student_sgd:
        optim_s = torch.optim.SGD(student.parameters(), lr=config.student_lr, momentum=0.9, weight_decay=5e-4)
    parts = {"generator": generator, "optim_g": optim_g, "student": student, "optim_s": optim_s, "rng": rng}
    checkpoint = Checkpoint(run.folder / "distillation.ckpt", **parts)
    at = checkpoint.restore({"joint": 0})

    generator.train()
    student.train()
    for step in range(at["joint"], config.joint_steps):
        if config.student_sgd:
            passed = sum(step >= part * config.joint_steps for part in (0.4, 0.8))
            optim_s.param_groups[0]["lr"] = config.student_lr * 0.1**passed
        z = torch.randn(config.batch, config.latent, generator=rng, device=run.device)
        x = images_from(generator, z)
        target = logits_of(teacher.model, x, observed := Observed())
        oh, ie = losses.one_hot(target), losses.information_entropy(target) / math.log(10)
        loss_g = config.one_hot * oh + config.information_entropy * ie
        if config.activation and observed.classifier:
            loss_g = loss_g + config.activation * losses.activation(observed.classifier.features)
        if config.mode_seeking:
            loss_g = loss_g + config.mode_seeking * losses.mode_seeking(x, z)
        descend(loss_g, optim_g)

        guess = logits_of(student, x.detach())
        loss_s = losses.distillation(student=guess, teacher=target.detach(), temperature=config.temperature)
        descend(loss_s, optim_s)
        if step % 20 == 0 or step == config.joint_steps - 1:
            agreement = (guess.argmax(dim=1) == target.argmax(dim=1)).float().mean()
            run.log("joint", step + 1, config.joint_steps, loss=loss_s.item(), agreement=agreement.item(),
                    generator=loss_g.item(), one_hot=oh.item(), entropy=ie.item())  # fmt: skip
        renewed(at, step, target, generator, optim_g, fresh, run)
        at |= {"joint": step + 1}
        checkpoint.keep(at)
    student.eval()
    return sampler_of(generator, latent=config.latent, batch=config.batch, rng=rng)
