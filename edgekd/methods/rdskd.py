"""RDSKD as published: a generator is trained alone against the teacher, then frozen; the student learns on its images.

Han, Park, Wang, Liu: Robustness and Diversity Seeking Data-Free Knowledge Distillation, ICASSP 2021, arXiv 2011.03749.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgekd import losses
from edgekd.checkpoint import Checkpoint
from edgekd.collapse import renewed
from edgekd.compute import adam, descend, log_student, logits_of
from edgekd.generator import images_from, new_generator
from edgekd.observe import Observed
from edgekd.types import Run, Sampler, Teacher


@dataclass(frozen=True)
class Config:
    """The released code's settings, and one term that it has not: batch_norm, off as published."""

    batch: int = 512  # images per step, even: DS compares its two halves
    latent: int | None = None  # length of z; None: 100 for grayscale (MNIST), 1000 for colour (SVHN, CIFAR-10)
    generator_width: int = 128  # channels of the generator
    generator_steps: int = 2_400  # 20 epochs of 120
    generator_lr: float = 1e-3  # Adam
    epoch: int = 120  # generator steps between two refreshes of the references
    one_hot: float = 1.0  # weight of exp(OH - reference)
    information_entropy: float = 1.0  # weight of exp(IE - reference)
    diversity: float = 1.0  # weight of DS
    batch_norm: float = 0.0  # weight of the teacher's BatchNorm statistics; not in the paper, 0: as published
    student_steps: int = 120_000  # 1000 epochs of 120
    student_lr: float = 2e-3  # Adam, no weight decay
    student_decay_at: float | None = None  # share of the steps, then a tenth of the rate; None: 1 gray, 0.8 colour
    temperature: float = 10.0  # of the distillation loss


BUDGETS: Mapping[str, Config] = {
    "fast": Config(
        batch=256, generator_width=64, generator_steps=480, student_steps=2_000, temperature=4.0, batch_norm=10.0,
        student_decay_at=0.8,
    ),
    "paper": Config(),
}  # fmt: skip


def derived(config: Config, teacher: Teacher) -> Config:
    """The same settings with those filled in that follow from the teacher's images.

    The released code lowers the student's rate for CIFAR-10 alone, at epoch 800 of 1000: so it is here for colour. For
    grayscale (MNIST) the rate stays, 1.0; so it did for SVHN, whose colour images nothing tells from CIFAR-10's.
    """
    gray = teacher.images.channels == 1
    decay_at = config.student_decay_at
    return replace(
        config,
        latent=config.latent or (100 if gray else 1000),
        student_decay_at=(1.0 if gray else 0.8) if decay_at is None else decay_at,
    )


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place on images that a generator makes for `teacher`; gives the generator's sampler back.

    The student's last state counts; nothing here can open a data set. Same run.seed, same result, on one device type.
    """
    config = derived(config, teacher)
    assert config.latent and config.student_decay_at is not None
    rng = torch.Generator(run.device).manual_seed(run.seed)
    latent, decay_from = config.latent, config.student_decay_at * config.student_steps

    def fresh(further: int = 0) -> nn.Module:
        seed, width = run.seed + 1_000_000 * further, config.generator_width
        return new_generator(teacher.images, latent=latent, width=width, seed=seed, device=run.device)

    generator = fresh()
    optim_g = adam(generator.parameters(), lr=config.generator_lr)
    optim_s = adam(student.parameters(), lr=config.student_lr)
    checkpoint = Checkpoint(
        run.folder / "distillation.ckpt",
        generator=generator,
        optim_g=optim_g,
        student=student,
        optim_s=optim_s,
        rng=rng,
    )
    at = checkpoint.restore({"generator": 0, "student": 0, "reference_oh": 0.0, "reference_ie": 0.0})

    def images(n: int) -> Tensor:
        return images_from(generator, torch.randn(n, latent, generator=rng, device=run.device))

    generator.train()
    reference_oh = torch.tensor(at["reference_oh"], device=run.device)
    reference_ie = torch.tensor(at["reference_ie"], device=run.device)
    for step in range(at["generator"], config.generator_steps):
        x = images(config.batch)
        logits = logits_of(teacher.model, x, observed := Observed())
        oh, ie = losses.one_hot(logits), losses.information_entropy(logits)
        ds = losses.diversity_seeking(x, logits)
        loss_g = (
            config.one_hot * losses.exponential_increment(oh, reference_oh)
            + config.information_entropy * losses.exponential_increment(ie, reference_ie)
            + config.diversity * ds
        )
        if config.batch_norm:
            loss_g = loss_g + config.batch_norm * losses.batch_norm(observed.batch_norms)
        descend(loss_g, optim_g)
        if step % config.epoch == 1:  # the second step of an epoch, as released
            reference_oh, reference_ie = oh.detach(), ie.detach()
            at |= {"reference_oh": oh.item(), "reference_ie": ie.item()}
        if step % 20 == 0 or step == config.generator_steps - 1:
            run.log("generator", step + 1, config.generator_steps, loss=loss_g.item(), one_hot=oh.item(),
                    entropy=ie.item(), diversity=ds.item())  # fmt: skip
        renewed(at, step, logits, generator, optim_g, fresh, run)
        at |= {"generator": step + 1}
        checkpoint.keep(at)

    generator.eval()
    student.train()
    for step in range(at["student"], config.student_steps):
        rate = 0.1 if step >= decay_from else 1.0
        optim_s.param_groups[0]["lr"] = config.student_lr * rate
        with torch.no_grad():
            x = images(config.batch)
            target = logits_of(teacher.model, x)
        guess = logits_of(student, x)
        loss_s = losses.distillation(student=guess, teacher=target, temperature=config.temperature)
        loss_s = descend(loss_s, optim_s)
        log_student(run, step, config.student_steps, loss=loss_s, guess=guess, target=target)
        at |= {"student": step + 1}
        checkpoint.keep(at)
    student.eval()

    def sample(n: int) -> Tensor:
        with torch.no_grad():
            return images(n)

    return sample
