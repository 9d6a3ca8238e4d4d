"""MSKD: DAFL with the mode-seeking regulariser of MSGAN, which asks for images as different as their latent vectors.

RDSKD's paper (arXiv 2011.03749) compares itself with "MSKD". What is here is inferred from that name: DAFL's losses and
settings, and the regulariser of Mao, Lee, Tseng, Ma, Yang: Mode Seeking Generative Adversarial Networks for Diverse
Image Synthesis, CVPR 2019, arXiv 1903.05628, with the weight of its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from edgekd.methods import dafl
from edgekd.types import Run, Sampler, Teacher


@dataclass(frozen=True)
class Config(dafl.Config):
    """DAFL's settings, and the regulariser."""

    mode_seeking: float = 1.0  # weight of MSGAN's regulariser


BUDGETS: Mapping[str, Config] = {
    "fast": Config(batch=256, generator_width=64, joint_steps=2_000),  # as DAFL's
    "paper": Config(),
}

derived = dafl.derived


def distill(teacher: Teacher, student: nn.Module, config: Config, run: Run) -> Sampler:
    """Trains `student` in place: DAFL's loop, with config.mode_seeking above 0. See dafl.distill."""
    return dafl.distill(teacher, student, config, run)
