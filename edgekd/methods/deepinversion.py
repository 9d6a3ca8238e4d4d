"""DeepInversion: images are optimised, pixel by pixel, until their statistics are those that BatchNorm learnt.

Yin, Molchanov, Li, Alvarez, Mallya, Hoiem, Jha, Kautz: Dreaming to Distill: Data-free Knowledge Transfer via
DeepInversion, CVPR 2020, arXiv 1912.08795. With config.adaptive above 0 it is Adaptive DeepInversion (ADI).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgekd import losses
from edgekd.checkpoint import Checkpoint
from edgekd.compute import adam, descend, log_student, logits_of
from edgekd.errors import UsageError
from edgekd.held_out import banks, each_once, share_out
from edgekd.observe import Observed, look
from edgekd.ranks import average
from edgekd.types import Run, Sampler, Teacher


@dataclass(frozen=True)
class Config:
    """The images' settings are those that the released code names as the paper's for CIFAR-10.

    That code trains no student. Its settings here are edgekd's reading of the paper's text on ResNet-34 and ResNet-18:
    250 epochs of 195 steps, in each of which images are made twice. Of these the student never sees one in eight, 6,000
    at most, which the sampler gives.
    """

    batch: int = 256  # images that are optimised together, and images per student step
    synthesis_steps: int = 500  # batches of images, spread evenly over the student's steps
    iterations: int = 2_000  # Adam steps per batch of images
    image_lr: float = 0.05  # Adam, on normalised pixels
    jitter: int = 2  # pixels; each iteration sees the images rolled by up to as many
    batch_norm: float = 10.0  # weight of the distance to BatchNorm's statistics
    one_hot: float = 1.0  # weight of the cross entropy with the class wanted
    total_variation: float = 2.5e-5  # weight of the image prior
    l2: float = 0.0  # weight of the images' norm
    adaptive: float = 0.0  # weight of 1 - JS(teacher, student), ADI's term; its code names 0.2 for ImageNet
    adaptive_temperature: float = 3.0  # of JS
    student_steps: int = 48_750  # 250 epochs of 195
    student_lr: float = 0.1  # SGD with momentum 0.9, a tenth after 40 % and 80 % of the steps
    student_weight_decay: float = 1e-4
    temperature: float = 3.0  # of the distillation loss


BUDGETS: Mapping[str, Config] = {
    # 40 batches, half as large, in a tenth of the iterations with twice the rate, and a tenth of the student's steps:
    # minutes for a small ResNet and 8x8 digits on two CPU cores (LeNet-5 has no BatchNorm)
    "fast": Config(batch=128, synthesis_steps=40, iterations=200, image_lr=0.1, student_steps=4_800),
    "paper": Config(),
}


def derived(config: Config, teacher: Teacher) -> Config:
    """The same settings; a batch more where the only one had a single image, as one is held out.

    Raises UsageError where the teacher has no BatchNorm to take statistics from.
    """
    if not look(teacher).batch_norms:
        raise UsageError(
            "DeepInversion cannot serve this teacher",
            code="E0223",
            why="it matches the statistics that BatchNorm layers learnt, and this teacher has none",
            fix="use --method rdskd, which needs the logits only",
        )
    return config if config.batch > 1 else replace(config, synthesis_steps=max(2, config.synthesis_steps))


def inverting(
    x: Tensor, teacher: Teacher, student: nn.Module, config: Config, drawn: torch.Generator
) -> Iterator[Tensor]:
    """Optimises images x (N, C, H, W), normalised, in place; gives the loss of each iteration. drawn: on the CPU.

    Each class is wanted as often as any other; the images stay in the range of pixels.
    """
    mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (teacher.images.mean, teacher.images.std))
    wanted = torch.arange(len(x), device=x.device) % len(teacher.classes)
    optim_x = adam([x.requires_grad_()], lr=config.image_lr)
    for _ in range(config.iterations):
        down, right = torch.randint(-config.jitter, config.jitter + 1, (2,), generator=drawn).tolist()
        rolled = x.roll((down, right), dims=(2, 3))
        target = logits_of(teacher.model, rolled, observed := Observed())
        loss = (
            config.batch_norm * losses.batch_norm_distance(observed.batch_norms)
            + config.one_hot * losses.cross_entropy(target, wanted)
            + average(  # of several processes each has all of x, where the other terms come from its own rows
                config.total_variation * losses.total_variation(rolled) + config.l2 * torch.linalg.vector_norm(x)
            )
        )
        if config.adaptive:
            guess = logits_of(student, rolled)
            apart = losses.jensen_shannon(student=guess, teacher=target, temperature=config.adaptive_temperature)
            loss = loss + config.adaptive * (1 - apart)
        loss = descend(loss, optim_x)
        with torch.no_grad():
            x.clamp_((0 - mean) / std, (1 - mean) / std)
        yield loss


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place on images optimised for `teacher`: new ones are added while it learns.

    Some of every batch are held out: the student never learns on them, and the sampler gives each of them once before
    any comes again, as new ones would cost as much. The student's last state counts. Same run.seed, same result, on
    one device type.
    """
    config = derived(config, teacher)
    facts, total = teacher.images, config.synthesis_steps * config.iterations
    rng = torch.Generator(run.device).manual_seed(run.seed)
    seeds = torch.randint(2**31, (config.synthesis_steps,), generator=rng, device=run.device).tolist()
    bank, held_out = banks(config.synthesis_steps * config.batch, teacher, run)
    optim_s = torch.optim.SGD(
        student.parameters(), lr=config.student_lr, momentum=0.9, weight_decay=config.student_weight_decay
    )
    parts = {"student": student, "optim_s": optim_s, "rng": rng, "bank": bank, "held_out": held_out}
    checkpoint = Checkpoint(run.folder / "distillation.ckpt", **parts)
    at = checkpoint.restore({"images": 0, "student": 0})

    for index in range(config.synthesis_steps):
        if index >= at["images"]:  # a batch that was interrupted is made again, the same
            student.eval().requires_grad_(False)
            drawn = torch.Generator().manual_seed(seeds[index])
            x = torch.randn(config.batch, facts.channels, facts.height, facts.width, generator=drawn).to(run.device)
            for step, loss_x in enumerate(inverting(x, teacher, student, config, drawn)):
                if step % 20 == 0 or step == config.iterations - 1:
                    run.log("images", index * config.iterations + step + 1, total, loss=loss_x.item())
                checkpoint.keep(at, unfinished=True)
            share_out(x, teacher, bank, held_out, drawn)
            at |= {"images": index + 1}
            checkpoint.keep(at)

        student.train().requires_grad_(True)
        until = config.student_steps * (index + 1) // config.synthesis_steps
        for step in range(at["student"], until):
            passed = sum(step >= part * config.student_steps for part in (0.4, 0.8))
            optim_s.param_groups[0]["lr"] = config.student_lr * 0.1**passed
            x, target = bank.sample(config.batch, rng)
            guess = logits_of(student, x)
            loss = descend(losses.distillation(student=guess, teacher=target, temperature=config.temperature), optim_s)
            log_student(run, step, config.student_steps, loss=loss, guess=guess, target=target)
            at |= {"student": step + 1}
            checkpoint.keep(at)
    student.eval()
    return each_once(held_out, rng)
