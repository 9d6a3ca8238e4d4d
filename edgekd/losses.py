"""Losses of data-free distillation, one function each. All are computed in fp32, whatever the networks ran in."""

from __future__ import annotations

from collections.abc import Sequence

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
    loss: Tensor = 1 / (ratio + 1e-20)
    return loss


def batch_norm(seen: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """How far the images' statistics are from those that BatchNorm learnt, >= 0; 0 without BatchNorm layers.

    seen: input (N, C, ...), running mean and running variance (C,) of each layer. Per layer the squared difference of
    the means in units of the running variance, and that of the logarithms of the variances, averaged over channels;
    then the mean over layers. DeepInversion (Yin et al., CVPR 2020, eq. 4) matches the same statistics by their norms;
    relative ones weigh every layer alike.
    """
    if not seen:
        return torch.zeros(())
    terms = []
    for inputs, running_mean, running_var in seen:
        x = inputs.float().transpose(0, 1).flatten(1)  # (C, N * ...)
        var, running = x.var(dim=1, correction=0), running_var.float()
        means = (x.mean(dim=1) - running_mean).square() / (running + 1e-5)
        variances = (torch.log(var + 1e-5) - torch.log(running + 1e-5)).square()
        terms.append(means.mean() + variances.mean())
    return torch.stack(terms).mean()


def exponential_increment(loss: Tensor, reference: Tensor) -> Tensor:
    """RDSKD's multi-objective rule: exp(loss - reference), > 0, reference detached.

    Its gradient is that of the loss times e^(increase since the reference): 1 when flat, more when the loss has risen,
    less when it has fallen, so that no weight has to be tuned by hand. RDSKD, eq. 6.
    """
    return torch.exp(loss.sub(reference.detach()))


def distillation(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation: T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, >= 0.

    student, teacher: logits (N, K). The T^2 keeps the gradient's size over temperatures (Hinton et al., 2015, sec. 2).
    """
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
