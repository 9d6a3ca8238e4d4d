"""Losses of data-free distillation, one function each. All are computed in fp32, whatever the networks ran in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.ranks import average, whole

EPS = 1e-10  # of a variance


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


def batch_norm(
    seen: Sequence[tuple[Tensor, Tensor, Tensor]], history: Sequence[Tensor] = (), *, momentum: float = 0.0
) -> Tensor:
    """How far the images' statistics are from those that BatchNorm learnt, >= 0; 0 without BatchNorm layers.

    seen: input (N, C, ...), running mean and running variance (C,) of each layer. Per layer the squared difference of
    the means in units of the running variance, and that of the logarithms of the variances, averaged over channels;
    then the mean over layers. DeepInversion (Yin et al., CVPR 2020, eq. 4) matches the same statistics by their norms;
    relative ones weigh every layer alike. history, momentum: as in `batch_norm_distance`.
    """
    if not seen:
        return torch.zeros(())
    terms = []
    for (_, running_mean, running_var), (mean, var) in zip(seen, so_far(seen, history, momentum), strict=True):
        running = running_var.float()
        means = (mean - running_mean).square() / (running + 1e-5)
        variances = (torch.log(var + 1e-5) - torch.log(running + 1e-5)).square()
        terms.append(means.mean() + variances.mean())
    return torch.stack(terms).mean()


def exponential_increment(loss: Tensor, reference: Tensor) -> Tensor:
    """RDSKD's multi-objective rule: exp(loss - reference), > 0, reference detached.

    Its gradient is that of the loss times e^(increase since the reference): 1 when flat, more when the loss has risen,
    less when it has fallen, so that no weight has to be tuned by hand. RDSKD, eq. 6.
    """
    return torch.exp(loss.sub(reference.detach()))


def bounded_increment(loss: Tensor, reference: Tensor, *, scale: float = 1.0, bound: float = 2.0) -> Tensor:
    """RDSKD's rule for any term: the loss in units of `scale`, weighted by exp(increase since the reference).

    The weight is detached and lies in [e^-bound, e^bound], so that a term never vanishes and never drowns the others.
    With scale 1 and within the bound its gradient is that of `exponential_increment`.
    """
    increase = (loss.detach() - reference.detach()) / scale
    return increase.clamp(-bound, bound).exp() * loss / scale


def bounded_ratio(loss: Tensor, reference: Tensor, *, scale: float = 1.0, bound: float = 2.0) -> Tensor:
    """The same rule for a distance > 0 that has no natural unit: what counts is the increase of its logarithm.

    The loss in units of `scale`, weighted by loss / reference, which is detached and lies in [e^-bound, e^bound]: twice
    the reference weighs 2, whatever the teacher's size makes of the distance itself.
    """
    weight = (loss.detach() / reference.detach().clamp_min(1e-12)).clamp(math.exp(-bound), math.exp(bound))
    return weight * loss / scale


def pair_diversity(images: Tensor, logits: Tensor) -> Tensor:
    """Diversity within classes, in (0, 1]: mean exp(-d) over the pairs of the batch's halves that share a class.

    images: (N, C, H, W), logits: (N, K), N even. d: mean absolute difference of the two images, in units of their
    standard deviations. Only pairs that the teacher puts into one class count: the classes keep the others apart.
    0 where no pair does. The generator of RDSKD pins the whole batch's spread by its BatchNorm, pairs it does not.
    """
    first, second = images.float().chunk(2)
    same = (logits.chunk(2)[0].argmax(dim=1) == logits.chunk(2)[1].argmax(dim=1)).float()
    apart = (first - second).abs().flatten(1).mean(dim=1)
    return ((-apart).exp() * same).sum() / same.sum().clamp_min(1)


def distillation(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation: T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, >= 0.

    student, teacher: logits (N, K). The T^2 keeps the gradient's size over temperatures (Hinton et al., 2015, sec. 2).
    """
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits (N, K) with the classes wanted, labels (N,) in 0..K-1; mean over the batch, >= 0."""
    return F.cross_entropy(logits.float(), labels)


def soft_cross_entropy(logits: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy of softmax(logits / T) with the distributions `target` (N, K), mean over the batch.

    At least the targets' entropy, which it has where both agree. ZSKD (Nayak et al., ICML 2019).
    """
    log_q = F.log_softmax(logits.float() / temperature, dim=1)
    return -(target.float() * log_q).sum(dim=1).mean()


def activation(features: Tensor) -> Tensor:
    """Negative mean of |features| (N, D), <= 0: low when the classifier is fed strong features (ACT).

    DAFL (Chen et al., ICCV 2019).
    """
    return -average(features.float().abs().mean())


def mode_seeking(images: Tensor, z: Tensor) -> Tensor:
    """1 / (mean |X2 - X1| / mean |Z2 - Z1| + 1e-5) over the two halves of the batch, in (0, 1e5].

    images: (N, C, H, W), z: their latent vectors (N, L), N even. Low when images differ as their vectors do.
    MSGAN (Mao et al., CVPR 2019), inverted and with the 1e-5 of its code.
    """
    first, second = images.float().chunk(2)
    z1, z2 = z.float().chunk(2)
    ratio = (second - first).abs().mean() / (z2 - z1).abs().mean()
    loss: Tensor = 1 / (ratio + 1e-5)
    return loss


class _Moments(torch.autograd.Function):
    """Mean and variance per channel by the BatchNorm kernel, which is 3 to 5 times faster here than var_mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        _, mean, inverse = torch.native_batch_norm(x.float(), None, None, None, None, True, 0.0, EPS)
        ctx.save_for_backward(x, mean)
        return mean, inverse.pow(-2) - EPS

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x, mean), (by_mean, by_var) = ctx.saved_tensors, grads
        count, shape = x.numel() / x.shape[1], (1, -1, *[1] * (x.dim() - 2))
        slope, offset = 2 * by_var / count, (by_mean - 2 * by_var * mean) / count
        return torch.addcmul(offset.to(x.dtype).view(shape), x, slope.to(x.dtype).view(shape))


def moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (uncorrected) variance of each channel over batch and pixels, (C,) each, fp32. inputs: (N, C, ...)."""
    mean, var = _Moments.apply(inputs)  # type: ignore[no-untyped-call]
    whole_mean = average(mean)
    return whole_mean, var if whole_mean is mean else average(var + mean.square()) - whole_mean.square()


def so_far(
    seen: Sequence[tuple[Tensor, Tensor, Tensor]], history: Sequence[Tensor], momentum: float
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance (C,) of each BatchNorm's inputs: the batch's own, with those of earlier batches in `history`.

    history: mean and variance of layer after layer, which count by `momentum`; with a momentum of 0 not looked at.
    """
    own = [moments(inputs) for inputs, _, _ in seen]
    if not momentum:
        return own
    earlier = zip(history[::2], history[1::2], strict=True)
    return [
        (torch.lerp(mean, before, momentum), torch.lerp(var, spread, momentum))
        for (mean, var), (before, spread) in zip(own, earlier, strict=True)
    ]


def batch_norm_distance(
    seen: Sequence[tuple[Tensor, Tensor, Tensor]], history: Sequence[Tensor] = (), *, momentum: float = 0.0
) -> Tensor:
    """Sum over BatchNorm layers of |mean - running mean| + |variance - running variance|, Euclidean norms, >= 0.

    seen: input (N, C, ...), running mean and running variance (C,) of each layer; 0 without layers. DeepInversion
    (Yin et al., CVPR 2020). history: mean and variance (C,) of layer after layer from earlier batches; the
    batch's own then count by 1 - momentum and these by momentum (Fast-DFKD's released code).
    """
    total, norm = torch.zeros(()), torch.linalg.vector_norm
    for (_, running_mean, running_var), (mean, var) in zip(seen, so_far(seen, history, momentum), strict=True):
        total = total + norm(mean - running_mean.float()) + norm(var - running_var.float())
    return total


def feature_distance(*, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of feature maps (N, C, H, W), pair by pair, in the teacher's variance, summed, >= 0.

    FitNets' hints (Romero et al., ICLR 2015) without a regressor, for students as wide: see observe.common_maps. Raises
    ValueError where one has more maps than the other.
    """
    total = torch.zeros(())
    for seen, wanted in zip(student, teacher, strict=True):
        target = whole(wanted.detach()).float()
        total = total + F.mse_loss(whole(seen).float(), target) / target.var().clamp_min(1e-6)
    return total


def total_variation(images: Tensor) -> Tensor:
    """Sum of the Frobenius norms of the differences to the neighbour on the right, below and on both diagonals, >= 0.

    images: (N, C, H, W), each norm over the whole batch; 0 for images of one colour. DeepInversion's image prior.
    """
    x = images.float()
    differences = (
        x[:, :, :, 1:] - x[:, :, :, :-1],
        x[:, :, 1:, :] - x[:, :, :-1, :],
        x[:, :, 1:, :-1] - x[:, :, :-1, 1:],
        x[:, :, 1:, 1:] - x[:, :, :-1, :-1],
    )
    return torch.stack([torch.linalg.vector_norm(d) for d in differences]).sum()


def jensen_shannon(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Jensen-Shannon divergence of softmax(student / T) and softmax(teacher / T), mean over the batch, in [0, ln 2].

    student, teacher: logits (N, K). Adaptive DeepInversion (Yin et al., CVPR 2020); its code takes the divergences
    from the middle instead of to it, and clips them.
    """
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    to_middle = [F.kl_div(middle, side, reduction="batchmean", log_target=True) for side in (log_p, log_q)]
    return (to_middle[0] + to_middle[1]) / 2


def l1(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the logits (N, K), >= 0. DFAD (Fang et al., arXiv 1912.11006)."""
    return F.l1_loss(student.float(), teacher.float())


def masked_adversarial(*, student: Tensor, teacher: Tensor) -> Tensor:
    """-KL(softmax(teacher) || softmax(student)), <= 0, 0 for images where the two choose different classes.

    student, teacher: logits (N, K); mean over the whole batch. Low where they agree on the class and differ in the
    rest, so that images stay ones of a class. CMI (Fang et al., arXiv 2105.08584), Fast-DFKD.
    """
    log_q, log_p = F.log_softmax(student.float(), dim=1), F.log_softmax(teacher.float(), dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)  # (N,)
    agree = student.argmax(dim=1) == teacher.argmax(dim=1)
    return -(divergence * agree).mean()
