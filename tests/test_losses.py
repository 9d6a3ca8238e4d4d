from __future__ import annotations

import math

import pytest
import torch

from edgekd import losses


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
