"""What channels are worth to a teacher's answers, and students that lose those that are worth least."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd import Images, load_profile, pruning
from edgekd.latency import cost
from edgekd.networks import LeNet, ResNet
from edgekd.pruning import pruned, prunings
from edgekd.saliency import Reader, looked_at, saliency, shown_by
from edgekd.sizing import search, size_student
from edgekd.student import first_student
from edgekd.types import StudentSpec, Teacher

FACTS = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)


def as_teacher(model: nn.Module, images: Images = FACTS) -> Teacher:
    return Teacher(model.eval(), images, tuple(map(str, range(10))), "0", "named")


def resnet(depth: int = 2, width: int = 16) -> ResNet:
    torch.manual_seed(1)
    return ResNet(FACTS, 10, depth=depth, width=width, large_stem=False, option="A").eval()


def widths(model: nn.Module, stage: str) -> list[int]:
    found = model.get_submodule(stage)
    return [m.out_channels for name, m in found.named_modules() if name.endswith("conv1") and isinstance(m, nn.Conv2d)]


def test_scores_of_a_linear_network_by_hand() -> None:
    """Logits z = W a: without channel j they move by W's column j, less its mean, times a's distance from its mean."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 5, 1)
    with torch.no_grad():
        first.weight[2] = 0  # a constant
    model, x = nn.Sequential(first, second, nn.Flatten()).eval(), torch.randn(4_000, 1, 1, 1)
    with torch.no_grad():
        a, w = first(x).flatten(1), second.weight.flatten(1)
    wanted = (a - a.mean(0)).square().mean(0) * (w - w.mean(0)).square().sum(0)
    found = saliency(model, {"0": [Reader(second, torch.arange(3)[:, None])]}, [x])["0"]
    assert found.dtype == torch.float64 and found[2] < 1e-9
    assert torch.allclose(found[:2].float(), wanted[:2], rtol=0.1)  # four random directions per image
    assert not model[0]._forward_pre_hooks and not second._forward_pre_hooks


def test_a_channel_that_is_read_at_many_places_counts_as_one() -> None:
    """Behind Flatten: its places move the logits together, so opposite effects cancel out."""
    conv, linear = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        linear.weight.zero_()
        linear.weight[0] = torch.tensor([1.0, -1, 1, -1, 1, 1, 1, 1])
    flat = torch.randn(64, 1, 1, 1).expand(64, 1, 2, 2)  # the same at all four places
    readers = {"0": [Reader(linear, torch.arange(8).view(2, 4))]}
    found = saliency(nn.Sequential(conv, nn.Flatten(), linear).eval(), readers, list(flat.split(32)))["0"]
    assert found[0] < 1e-9 and found[1] > 1


def test_tokens_and_a_layer_that_overwrites_what_it_was_fed() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x.flatten(2).transpose(1, 2))  # (N, tokens, 4)
            out = self.second(hidden)
            hidden.zero_()
            pooled: torch.Tensor = out.mean(1)
            return pooled

    torch.manual_seed(0)
    model = Tokens().eval()
    readers = {"first": [Reader(model.second, torch.arange(4)[:, None])]}
    assert (saliency(model, readers, [torch.randn(8, 3, 4, 4)])["first"] > 0).all()


def test_what_the_answers_do_not_need_goes_first() -> None:
    teacher = as_teacher(resnet())
    with torch.no_grad():
        for block in (0, 1):  # of the first stage: hardly heard
            norm = teacher.model.get_submodule(f"layer1.{block}.bn2")
            assert isinstance(norm, nn.BatchNorm2d)
            norm.weight.mul_(1e-3)
    small, even = pruned(teacher, share=0.6, prior="photo"), pruned(teacher, share=0.6)
    assert max(widths(small, "layer1")) < min(widths(even, "layer1"))
    assert sum(widths(small, "layer3")) > sum(widths(even, "layer3"))
    whole = cost(teacher.model, FACTS).macs
    assert 0.55 * whole < cost(small, FACTS).macs <= 0.6 * whole
    assert all(w >= 0.25 * full for stage, full in zip(("layer1", "layer2", "layer3"), (16, 32, 64), strict=True)
               for w in widths(small, stage))  # fmt: skip
    again = pruned(teacher, share=0.6, prior="photo")
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("align", [1, 8])
def test_the_listed_ones_are_what_is_built(align: int) -> None:
    teacher = as_teacher(resnet(width=32))
    whole, seen = cost(teacher.model, FACTS).macs, 0
    for share, empty in prunings(teacher, (0.8, 0.5, 0.25), align=align, prior="procedural"):
        built = pruned(teacher, share=share, align=align, prior="procedural")
        assert cost(built, FACTS) == cost(empty, FACTS) and cost(built, FACTS).macs <= share * whole
        assert all(m.out_channels % align == 0 for m in built.modules() if isinstance(m, nn.Conv2d))
        seen += 1
    assert seen == 3


def test_the_kept_channels_are_the_ones_that_are_worth_most() -> None:
    torch.manual_seed(0)
    gray = Images(1, 28, 28, (0.1,), (0.3,))
    teacher = as_teacher(LeNet(gray, 10), gray)
    small = pruned(teacher, share=0.5, prior="procedural")
    assert small(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    scores = pruning._scores[teacher.model]["procedural"]
    there = {name: getattr(m, pruning.KEPT) for name, m in small.named_modules() if hasattr(m, pruning.KEPT)}
    assert there
    for name, kept in there.items():
        gone = torch.ones(len(scores[name]), dtype=torch.bool).index_fill(0, kept, False)
        assert scores[name][kept].min() >= scores[name][gone].max()


def test_without_scores_for_every_layer_all_lose_the_same_share(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = as_teacher(resnet())
    monkeypatch.setattr(pruning, "readers_of", lambda *_: [])
    sizing = size_student(teacher, load_profile("cpu"), family="pruned:0.5", prior="photo")
    assert sizing.spec.channels_by == ""  # nobody is told otherwise
    assert widths(first_student(sizing.spec, teacher, seed=0)[0], "layer1") == [8, 8]


def test_whose_images_are_looked_at() -> None:
    gray = Images(1, 28, 28, (0.1,), (0.3,))
    assert [shown_by(p, FACTS) for p in ("none", "photo", "procedural", "/a/b.png")] == [
        "",
        "photo",
        "procedural",
        "photo",
    ]
    assert shown_by("own.png", gray) == "procedural"
    batches = looked_at("photo", FACTS)
    assert sum(map(len, batches)) == 512 and batches[0].shape[1:] == (3, 32, 32)
    large = Images(3, 224, 224, (0.5,) * 3, (0.5,) * 3)
    assert sum(map(len, looked_at("photo", large))) == 16
    with pytest.raises(ValueError, match="no images"):
        looked_at("none", FACTS)


def test_the_size_search_and_the_student_agree(tmp_path: Path) -> None:
    teacher, cpu = as_teacher(resnet()), load_profile("cpu")
    named = size_student(teacher, cpu, family="pruned:0.5", prior=str(tmp_path / "own.png"))
    assert named.spec == StudentSpec("pruned", 1, 50, FACTS, teacher.classes, "photo")
    assert named.student == cost(first_student(named.spec, teacher, seed=3)[0], FACTS)
    every = search(teacher, cpu, family="pruned", prior="photo").candidates
    assert {c.spec.channels_by for c in every} == {"photo"}
    assert size_student(teacher, cpu, family="pruned:0.5").spec.channels_by == ""
