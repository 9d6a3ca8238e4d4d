"""Muon: orthogonal steps of convolutions, SGD's of all else; a state that can be saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgekd import compute
from edgekd.muon import SHARE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 27), (40, 12), (16, 16), (1, 9)])
def test_orthogonal_keeps_the_singular_vectors_and_brings_the_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(left.T @ found @ right.T)
    assert values.min() > 0.5 and values.max() < 1.35
    torch.testing.assert_close(left @ torch.diag(values) @ right, found, atol=1e-3, rtol=1e-3)


def test_orthogonal_of_zeros_is_zeros_and_of_any_scale_the_same() -> None:
    assert orthogonal(torch.zeros(3, 5)).eq(0).all()
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonal(1e-4 * matrix), orthogonal(1e4 * matrix))


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 2)
        )


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, first: int = 0) -> None:
    for step in range(first, first + steps):
        x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (1 - model(x)).square().mean().backward()
        optimizer.step()


def test_all_but_convolutions_step_as_by_sgd() -> None:
    """Both are given the same gradients; depthwise convolutions, whose rows are nine numbers, are SGD's too."""
    model, other = network(), network()
    ours = Muon(model.parameters(), 0.1)
    theirs = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        for mine, its in zip(model.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=rng)
            its.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, its, atol=1e-6) == (name != "0.weight"), name


def test_a_convolution_steps_by_the_same_length_whatever_the_gradient() -> None:
    def step(scale: float) -> Tensor:
        weight = nn.Parameter(torch.zeros(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
        weight.grad = scale * torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        Muon([weight], 0.2).step()
        return weight.detach()

    torch.testing.assert_close(step(1e-3), step(1e3))
    values = torch.linalg.svdvals(step(1.0).flatten(1)) / (0.2 * SHARE)
    assert values.min() > 0.5 and values.max() < 1.35


def test_a_saved_state_goes_on_as_if_nothing_had_been() -> None:
    whole, first = network(), network()
    learn(whole, Muon(whole.parameters(), 0.01), 6)
    optimizer = Muon(first.parameters(), 0.01)
    learn(first, optimizer, 3)
    second = network(1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again = Muon(second.parameters(), 1.0)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    learn(second, again, 3, first=3)
    for mine, its in zip(second.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=0.0, rtol=0.0)


def test_parameters_without_a_gradient_stay() -> None:
    weight = nn.Parameter(torch.ones(2, 2, 3, 3))
    Muon([weight], 0.1).step()
    assert weight.eq(1).all()


def test_students_with_batch_norm_learn_by_it() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))

    def kind(model: nn.Module, name: str | None = None) -> type:
        return type(compute.student_optimizer(model, name, None))

    assert kind(network()) is Muon and kind(plain) is torch.optim.Adam
    assert kind(network(), "sgd") is torch.optim.SGD and kind(plain, "muon") is Muon
    assert compute.student_optimizer(plain, "muon", None).param_groups[0]["lr"] == 0.1
