"""Losses of data-free distillation, one function each. All are computed in fp32, whatever the networks ran in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(logits: Tensor) -> Tensor:
    """Authenticity (OH): cross entropy of the teacher's logits (N, K) with their own argmax, in [0, ln K].

    Low when the teacher is sure of every image. RDSKD (arXiv 2011.03749), eq. 2; first in DAFL.
    """
    logits = logits.float()
    return F.cross_entropy(logits, logits.detach().argmax(dim=1))


def information_entropy(logits: Tensor) -> Tensor:
    """Class diversity (IE): negative entropy of the batch's mean prediction, in [-ln K, 0]. logits: (N, K).

    Low when all classes occur equally often. RDSKD, eq. 3; natural logarithm, as in the released code.
    """
    mean = logits.float().softmax(dim=1).mean(dim=0)  # (K,)
    return (mean * mean.clamp_min(1e-12).log()).sum()


def diversity_seeking(images: Tensor, logits: Tensor) -> Tensor:
    """Inter-class diversity (DS), > 0: 1 / (|X2 - X1| / |P2 - P1|), Frobenius norms over the two halves of the batch.

    images: (N, C, H, W), logits: (N, K), N even; P are softmax probabilities. Low when images differ more than the
    teacher's opinions of them. RDSKD, eq. 4; the 1e-20 is the released code's.
    """
    first, second = images.float().chunk(2)
    p1, p2 = logits.float().softmax(dim=1).chunk(2)
    ratio = torch.linalg.vector_norm(second - first) / torch.linalg.vector_norm(p2 - p1)
    return 1 / (ratio + 1e-20)


def exponential_increment(loss: Tensor, reference: Tensor) -> Tensor:
    """RDSKD's multi-objective rule: exp(loss - reference), > 0, reference detached.

    Its gradient is that of the loss times e^(increase since the reference): 1 when flat, more when the loss has risen,
    less when it has fallen, so that no weight has to be tuned by hand. RDSKD, eq. 6.
    """
    increment: Tensor = loss - reference.detach()
    return increment.exp()


def distillation(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation: T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, >= 0.

    student, teacher: logits (N, K). The T^2 keeps the gradient's size over temperatures (Hinton et al., 2015, sec. 2).
    """
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
