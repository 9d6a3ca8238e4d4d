from __future__ import annotations

import math

import pytest
import torch

from edgekd import losses
from edgekd.history import no_history, remember
from edgekd.observe import look
from edgekd.types import Teacher


def test_one_hot_by_hand() -> None:
    logits = torch.log(torch.tensor([[3.0, 1.0], [1.0, 1.0]]))  # p = (3/4, 1/4) and (1/2, 1/2)
    assert losses.one_hot(logits).item() == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2)


def test_information_entropy_by_hand_and_at_its_ends() -> None:
    logits = torch.log(torch.tensor([[3.0, 1.0], [1.0, 1.0]]))  # mean p = (5/8, 3/8)
    expected = 0.625 * math.log(0.625) + 0.375 * math.log(0.375)
    assert losses.information_entropy(logits).item() == pytest.approx(expected)
    assert losses.information_entropy(torch.zeros(4, 10)).item() == pytest.approx(-math.log(10))
    one_class = torch.full((4, 10), -1e4).index_fill(1, torch.tensor([3]), 0.0)
    assert losses.information_entropy(one_class).item() == pytest.approx(0.0, abs=1e-9)


def test_diversity_seeking_by_hand() -> None:
    images = torch.zeros(4, 1, 1, 2)
    images[2, 0, 0] = torch.tensor([3.0, 0.0])  # the halves differ by (3, 0) and (0, 4): norm 5
    images[3, 0, 0] = torch.tensor([0.0, 4.0])
    logits = torch.log(torch.tensor([[1.0, 1.0], [1.0, 1.0], [3.0, 1.0], [1.0, 3.0]]))
    # probabilities differ by (1/4, -1/4) and (-1/4, 1/4): norm 1/2
    assert losses.diversity_seeking(images, logits).item() == pytest.approx(0.5 / 5)


def test_diversity_seeking_falls_when_images_move_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    images, logits = torch.randn(8, 1, 4, 4, generator=rng), torch.randn(8, 3, generator=rng)
    assert losses.diversity_seeking(2 * images, logits) < losses.diversity_seeking(images, logits)


@pytest.mark.parametrize("increase", [-1.0, 0.0, 1.0])
def test_exponential_increment_weighs_the_gradient_by_e_to_the_increase(increase: float) -> None:
    loss = torch.tensor(0.7, requires_grad=True)
    reference = torch.tensor(0.7 - increase, requires_grad=True)
    value = losses.exponential_increment(loss, reference)
    value.backward()
    assert value.item() == pytest.approx(math.exp(increase))
    assert loss.grad is not None and loss.grad.item() == pytest.approx(math.exp(increase))
    assert reference.grad is None  # detached


def test_batch_norm_by_hand() -> None:
    x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)  # mean 2, variance 1
    matching = (x, torch.tensor([2.0]), torch.tensor([1.0]))
    other = (x, torch.tensor([0.0]), torch.tensor([4.0]))  # (2 - 0)^2 / 4 and (ln 1 - ln 4)^2
    assert losses.batch_norm([matching]).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.batch_norm([other]).item() == pytest.approx(1 + math.log(4) ** 2, rel=1e-4)
    assert losses.batch_norm([matching, other]).item() == pytest.approx((1 + math.log(4) ** 2) / 2, rel=1e-4)
    assert losses.batch_norm([]).item() == 0.0


def test_distillation_by_hand() -> None:
    teacher, student = torch.log(torch.tensor([[3.0, 1.0]])), torch.zeros(1, 2)  # p = (3/4, 1/4), q = (1/2, 1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    found = losses.distillation(student=student, teacher=teacher, temperature=1.0)
    assert found.item() == pytest.approx(expected)
    softened = losses.distillation(student=2 * student, teacher=2 * teacher, temperature=2.0)
    assert softened.item() == pytest.approx(4 * expected)  # T^2 times the same divergence


def test_distillation_is_zero_where_both_agree() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert losses.distillation(student=logits, teacher=logits + 3, temperature=4.0).item() == pytest.approx(0, abs=1e-6)


def test_losses_are_computed_in_fp32() -> None:
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    for value in (losses.one_hot(logits), losses.information_entropy(logits)):
        assert value.dtype == torch.float32


def test_cross_entropies_by_hand() -> None:
    logits = torch.log(torch.tensor([[3.0, 1.0], [1.0, 1.0]]))  # p = (3/4, 1/4) and (1/2, 1/2)
    expected = (-math.log(0.25) - math.log(0.5)) / 2
    assert losses.cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)
    target = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    softened = losses.soft_cross_entropy(20 * logits, target, temperature=20.0)
    assert softened.item() == pytest.approx((-math.log(0.25) - math.log(0.5)) / 2)


def test_soft_cross_entropy_is_lowest_at_its_target() -> None:
    target = torch.tensor([[0.7, 0.2, 0.1]])
    entropy = -(target * target.log()).sum().item()
    assert losses.soft_cross_entropy(target.log(), target, temperature=1.0).item() == pytest.approx(entropy)
    for index in range(3):
        moved = target.log() + 0.1 * torch.eye(3)[index]
        assert losses.soft_cross_entropy(moved, target, temperature=1.0).item() > entropy


def test_activation_by_hand() -> None:
    features = torch.tensor([[1.0, -3.0], [0.0, 4.0]])
    assert losses.activation(features).item() == pytest.approx(-2.0)
    assert losses.activation(torch.zeros(2, 3)).item() == 0.0
    assert losses.activation(-features) == losses.activation(features)


def test_mode_seeking_by_hand_and_at_its_end() -> None:
    images = torch.tensor([0.0, 0.0, 3.0, 1.0]).view(4, 1, 1, 1)  # |X2 - X1| = (3, 1): mean 2
    z = torch.tensor([[0.0], [0.0], [0.5], [0.5]])  # mean 1/2
    assert losses.mode_seeking(images, z).item() == pytest.approx(1 / (4 + 1e-5))
    assert losses.mode_seeking(2 * images, z) < losses.mode_seeking(images, z) < losses.mode_seeking(images, 2 * z)
    assert losses.mode_seeking(torch.zeros(4, 1, 1, 1), z).item() == pytest.approx(1e5)


def test_batch_norm_distance_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])  # means (2, 0), variances (1, 0)
    matching = (x, torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]))
    other = (x, torch.tensor([-1.0, 4.0]), torch.tensor([4.0, 4.0]))  # |(3, -4)| and |(-3, -4)|
    assert losses.batch_norm_distance([matching]).item() == 0.0
    assert losses.batch_norm_distance([other]).item() == pytest.approx(5 + 5)
    assert losses.batch_norm_distance([other, other, matching]).item() == pytest.approx(20)
    assert losses.batch_norm_distance([]).item() == 0.0


def test_batch_norm_distance_with_earlier_batches() -> None:
    x = torch.tensor([[1.0], [3.0]])  # mean 2, variance 1
    seen = [(x, torch.tensor([0.0]), torch.tensor([0.0]))]
    history = [torch.tensor([10.0]), torch.tensor([5.0])]
    found = losses.batch_norm_distance(seen, history, momentum=0.75)
    assert found.item() == pytest.approx((0.25 * 2 + 0.75 * 10) + (0.25 * 1 + 0.75 * 5))
    assert losses.batch_norm_distance(seen, history, momentum=0.0).item() == pytest.approx(2 + 1)


def test_batch_norm_with_earlier_batches() -> None:
    x = torch.tensor([[1.0], [3.0]])  # mean 2, variance 1
    seen = [(x, torch.tensor([4.0]), torch.tensor([4.0]))]
    history = [torch.tensor([10.0]), torch.tensor([5.0])]
    found = losses.batch_norm(seen, history, momentum=0.75)  # mean 8, variance 4
    assert found.item() == pytest.approx(4**2 / 4, rel=1e-4)
    assert losses.batch_norm(seen, history, momentum=0.0).item() == losses.batch_norm(seen).item()


def test_history_is_what_the_batches_so_far_show(teacher: Teacher) -> None:
    history = no_history(teacher)
    assert len(history) == 2 * len(look(teacher).batch_norms) and not any(tensor.any() for tensor in history)
    layers = [(mean, var) for _, mean, var in look(teacher).batch_norms]
    first, second = (
        [(torch.randn(16, len(mean), generator=torch.Generator().manual_seed(seed)), mean, var) for mean, var in layers]
        for seed in (1, 2)
    )
    remember(history, first, momentum=0.0)
    remember(history, second, momentum=0.9)
    for (x, _, _), (y, _, _), mean, var in zip(first, second, history[::2], history[1::2], strict=True):
        assert torch.allclose(mean, 0.9 * x.mean(0) + 0.1 * y.mean(0), atol=1e-6)
        assert torch.allclose(var, 0.9 * x.var(0, correction=0) + 0.1 * y.var(0, correction=0), atol=1e-5)


def test_moments_are_those_of_batch_norm() -> None:
    x = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
    norm = torch.nn.BatchNorm2d(3, momentum=1.0).train()
    norm(x)
    mean, var = losses.moments(x)
    assert norm.running_mean is not None and norm.running_var is not None
    assert torch.allclose(mean, norm.running_mean, atol=1e-6)
    assert torch.allclose(var * 120 / 119, norm.running_var)  # BatchNorm keeps the unbiased one, of 6 * 4 * 5 values


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[1.0, 2.0], [4.0, 0.0]]).view(1, 1, 2, 2)
    right, below = math.hypot(2 - 1, 0 - 4), math.hypot(4 - 1, 0 - 2)
    expected = right + below + abs(4 - 2) + abs(0 - 1)
    assert losses.total_variation(image).item() == pytest.approx(expected)
    assert losses.total_variation(image.flip(3)).item() == pytest.approx(expected)  # the diagonals change places
    assert losses.total_variation(torch.full((2, 3, 4, 4), 0.7)).item() == 0.0
    twice = image.repeat(2, 1, 1, 1)
    assert losses.total_variation(twice).item() == pytest.approx(math.sqrt(2) * expected, rel=1e-5)


def test_jensen_shannon_by_hand_and_at_its_ends() -> None:
    teacher, student = torch.log(torch.tensor([[3.0, 1.0]])), torch.zeros(1, 2)  # (3/4, 1/4), (1/2, 1/2): (5/8, 3/8)
    from_teacher = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    from_student = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    found = losses.jensen_shannon(student=3 * student, teacher=3 * teacher, temperature=3.0)
    assert found.item() == pytest.approx((from_teacher + from_student) / 2, rel=1e-5)
    turned = losses.jensen_shannon(student=3 * teacher, teacher=3 * student, temperature=3.0)
    assert turned.item() == pytest.approx(found.item())  # symmetric
    assert losses.jensen_shannon(student=teacher, teacher=teacher + 1, temperature=1.0).item() == pytest.approx(
        0, abs=1e-6
    )
    far = torch.tensor([[100.0, 0.0]])
    apart = losses.jensen_shannon(student=far, teacher=far.flip(1), temperature=1.0)
    assert apart.item() == pytest.approx(math.log(2), rel=1e-5)


def test_l1_by_hand() -> None:
    one, other = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, -5.0]])
    assert losses.l1(student=one, teacher=other).item() == pytest.approx((1 + 2 + 0 + 5) / 4)
    assert losses.l1(student=one, teacher=one).item() == 0.0


def test_masked_adversarial_by_hand() -> None:
    teacher = torch.log(torch.tensor([[3.0, 1.0], [3.0, 1.0]]))
    student = torch.log(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))  # the second chooses another class
    divergence = 0.75 * math.log(0.75 / (2 / 3)) + 0.25 * math.log(0.25 / (1 / 3))
    found = losses.masked_adversarial(student=student, teacher=teacher)
    assert found.item() == pytest.approx(-divergence / 2, rel=1e-4)
    assert losses.masked_adversarial(student=student[1:], teacher=teacher[1:]).item() == 0.0
    assert losses.masked_adversarial(student=teacher, teacher=teacher).item() == pytest.approx(0.0, abs=1e-7)


def test_peers_losses_are_computed_in_fp32() -> None:
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    images = logits.view(64, 1, 2, 5)
    for value in (
        losses.cross_entropy(logits, logits.argmax(dim=1)),
        losses.soft_cross_entropy(logits, logits.softmax(dim=1), temperature=2.0),
        losses.activation(logits),
        losses.mode_seeking(images, logits),
        losses.batch_norm_distance([(images, torch.zeros(1), torch.ones(1))]),
        losses.total_variation(images),
        losses.jensen_shannon(student=logits, teacher=logits.flip(1), temperature=2.0),
        losses.l1(student=logits, teacher=logits.flip(1)),
        losses.masked_adversarial(student=logits, teacher=logits),
    ):
        assert value.dtype == torch.float32


def test_bounded_increment_by_hand_and_within_the_bound_as_published() -> None:
    loss, reference = torch.tensor(1.5, requires_grad=True), torch.tensor(1.0)
    value = losses.bounded_increment(loss, reference, scale=0.5)  # u = 1: weight e, value e * 3
    assert value.item() == pytest.approx(3 * math.e)
    value.backward()
    assert loss.grad is not None and loss.grad.item() == pytest.approx(2 * math.e)
    published = torch.tensor(1.5, requires_grad=True)
    losses.exponential_increment(published, reference).backward()
    own = torch.tensor(1.5, requires_grad=True)
    losses.bounded_increment(own, reference).backward()
    assert own.grad is not None and published.grad is not None
    assert own.grad.item() == pytest.approx(published.grad.item())


def test_bounded_increment_neither_vanishes_nor_drowns() -> None:
    for change, weight in ((50.0, math.exp(2)), (-50.0, math.exp(-2))):
        loss = torch.tensor(change, requires_grad=True)
        losses.bounded_increment(loss, torch.tensor(0.0)).backward()
        assert loss.grad is not None and loss.grad.item() == pytest.approx(weight)


def test_bounded_ratio_by_hand_in_any_unit_and_bounded() -> None:
    for unit in (1.0, 100.0):
        loss, reference = torch.tensor(3.0 * unit, requires_grad=True), torch.tensor(2.0 * unit)
        value = losses.bounded_ratio(loss, reference, scale=0.5 * unit)
        assert value.item() == pytest.approx(1.5 * 6)
        value.backward()
        assert loss.grad is not None and loss.grad.item() * unit == pytest.approx(1.5 * 2)
    for change, weight in ((0.0, math.exp(-2)), (50.0, math.exp(2))):
        loss = torch.tensor(change, requires_grad=True)
        losses.bounded_ratio(loss, torch.tensor(1.0)).backward()
        assert loss.grad is not None and loss.grad.item() == pytest.approx(weight)


def test_pair_diversity_by_hand() -> None:
    images = torch.zeros(4, 1, 1, 2)
    images[2, 0, 0] = torch.tensor([1.0, 3.0])  # pairs (0, 2) and (1, 3): mean absolute differences 2 and 0
    one_class, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    both_same = torch.stack([one_class, other, one_class, other])
    assert losses.pair_diversity(images, both_same).item() == pytest.approx((math.exp(-2) + 1) / 2)
    first_same = torch.stack([one_class, other, one_class, one_class])
    assert losses.pair_diversity(images, first_same).item() == pytest.approx(math.exp(-2))
    none_same = torch.stack([one_class, other, other, one_class])
    assert losses.pair_diversity(images, none_same).item() == 0


def test_pair_diversity_drives_images_of_a_class_apart() -> None:
    images = torch.randn(8, 1, 4, 4, requires_grad=True)
    before = losses.pair_diversity(images, torch.zeros(8, 3))
    (grad,) = torch.autograd.grad(before, images)
    assert losses.pair_diversity(images - grad, torch.zeros(8, 3)) < before


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5, 4)])
def test_moments_and_their_gradient_are_those_of_var_mean(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(shape, generator=generator) + 7).requires_grad_()
    to_mean, to_var = torch.randn(2, 3, generator=generator)
    mean, var = losses.moments(x)
    (grad,) = torch.autograd.grad((mean * to_mean + var * to_var).sum(), x)
    dims = [d for d in range(len(shape)) if d != 1]
    other_var, other_mean = torch.var_mean(x, dim=dims, correction=0)
    (other,) = torch.autograd.grad((other_mean * to_mean + other_var * to_var).sum(), x)
    assert torch.allclose(mean, other_mean, atol=1e-5) and torch.allclose(var, other_var, rtol=1e-4)
    assert torch.allclose(grad, other, atol=1e-5)


def test_feature_distance_by_hand() -> None:
    wanted = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)  # variance 2
    other = torch.tensor([0.0, 2.0, 4.0]).view(1, 3, 1, 1)  # variance 4
    student = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1).requires_grad_()
    distance = losses.feature_distance(student=[student, other + 1], teacher=[wanted, other])
    assert distance.item() == pytest.approx((1 + 4) / 2 / 2 + 1 / 4)
    distance.backward()
    assert student.grad is not None
    with pytest.raises(ValueError):
        losses.feature_distance(student=[other], teacher=[])
