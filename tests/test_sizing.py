"""Choosing a student: limits, the front, memory, what is said when nothing fits."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekd import Images
from edgekd.arguments import count, megabytes
from edgekd.capacity import capacity
from edgekd.errors import UsageError
from edgekd.families import FAMILIES, MCU_ACTIVATIONS, MCU_WEIGHTS, name_of, named
from edgekd.latency import cost, model_mb
from edgekd.limits import deployed, fastest, limits, memory_mb, predictions, upwards
from edgekd.liveness import cost_and_peak, most_alive
from edgekd.networks import ResNet
from edgekd.profile import adjusted, load_profile
from edgekd.sizing import counted, next_better, pareto, search, size_student
from edgekd.student import first_student
from edgekd.types import Candidate, Cost, Layer, Prediction, Profile, Teacher

SMALL = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
CLASSES = tuple("0123456789")


@pytest.fixture(scope="module")
def resnet20() -> Teacher:
    torch.manual_seed(0)
    model = ResNet(SMALL, 10, depth=3, width=16, large_stem=False, option="A").eval()
    return Teacher(model, SMALL, CLASSES, "", "resnet20")


def limited(**most: Any) -> Profile:
    return adjusted(load_profile("cpu"), **most)


def test_auto_looks_at_every_family_and_takes_the_pruned_teacher(resnet20: Teacher) -> None:
    begun = time.process_time()
    found = search(resnet20, load_profile("cpu"))
    assert time.process_time() - begun < 30
    assert {c.spec.family for c in found.candidates} == set(FAMILIES) - {"bottleneck", "lenet"}
    assert found.chosen.spec.family == "pruned" and not found.chosen.broken
    assert found.chosen.expected == max(c.expected for c in found.candidates if not c.broken)
    assert search(resnet20, load_profile("cpu")) == found
    student, given = first_student(found.chosen.spec, resnet20, seed=0)
    assert cost(student, SMALL) == found.chosen.cost and given == sum(p.numel() for p in student.parameters())


def test_front_is_what_nothing_faster_is_expected_to_beat(resnet20: Teacher) -> None:
    found = search(resnet20, load_profile("cpu"))

    def ms(c: Candidate) -> float:
        return c.predicted[c.precision].latency_ms

    assert list(found.front) == pareto(list(found.candidates))
    for candidate in found.candidates:
        others = [c for c in found.candidates if c is not candidate]
        beaten = any(c.expected >= candidate.expected and ms(c) <= ms(candidate) for c in others)
        assert beaten or candidate in found.front
    assert [ms(c) for c in found.front] == sorted(ms(c) for c in found.front)


@pytest.mark.parametrize("bound", ["latency", "parameters", "graph size", "memory", "all"])
def test_limits_hold_all_at_once_and_the_next_size_up_breaks_one(bound: str, resnet20: Teacher) -> None:
    free = search(resnet20, load_profile("cpu")).chosen
    deployed = free.precision
    most: dict[str, dict[str, float]] = {
        "latency": {"latency_ms": 0.6 * free.predicted[deployed].high_ms},
        "parameters": {"parameters": free.cost.parameters // 2},
        "graph size": {"model_mb": 0.5 * model_mb(free.cost, deployed)},
        "memory": {"memory_mb": 0.5 * free.memory_mb},
    }
    most["all"] = {name: value for limit in most.values() for name, value in limit.items()}
    found = search(resnet20, limited(**most[bound]))
    chosen, precision = found.chosen, found.chosen.precision
    for name, value in {
        "latency_ms": chosen.predicted[precision].high_ms,
        "parameters": chosen.cost.parameters,
        "model_mb": model_mb(chosen.cost, precision),
        "memory_mb": chosen.memory_mb,
    }.items():
        assert value <= most[bound].get(name, float("inf"))
    larger = next_better(chosen, list(found.candidates))
    assert larger is not None and larger.broken and larger.expected >= chosen.expected
    assert found.bound_by == f"{name_of(larger.spec)}: {'; '.join(larger.broken)}"
    assert bound == "all" or any(bound in c.broken[0] for c in found.candidates if c.broken)


def test_like_teacher_is_a_share_of_its_latency(resnet20: Teacher) -> None:
    profile = load_profile("rpi-4b")
    whole = predictions(cost(resnet20.model, SMALL), profile)
    teacher_ms = whole[fastest(whole)].latency_ms
    for share in (0.8, 0.3):
        chosen = search(resnet20, profile, like_teacher=share).chosen
        assert chosen.predicted[chosen.precision].latency_ms <= share * teacher_ms
    larger = search(resnet20, profile, like_teacher=1).chosen
    assert larger.cost.macs > search(resnet20, profile).chosen.cost.macs
    with pytest.raises(UsageError, match="no share"):
        search(resnet20, profile, like_teacher=1.5)


def test_nothing_fits_says_what_would(resnet20: Teacher) -> None:
    with pytest.raises(UsageError) as refused:
        search(resnet20, limited(latency_ms=0.001, memory_mb=0.001))
    assert "latency" in refused.value.why and "memory" in refused.value.why
    options = dict(zip(refused.value.fix.split()[1::2], refused.value.fix.split()[2::2], strict=False))
    wider = limited(
        latency_ms=float(options["--latency"].removesuffix("ms")),
        memory_mb=float(options["--max-memory"].removesuffix("MB")),
    )
    assert name_of(search(resnet20, wider).chosen.spec) in refused.value.why
    with pytest.raises(UsageError) as refused:
        search(resnet20, load_profile("cpu"), family="resnet:5x64")
    assert "100% of the teacher's" in refused.value.why and "--like-teacher" not in refused.value.fix
    with pytest.raises(UsageError, match="not one"):
        search(resnet20, load_profile("cpu"), family="resnext")


def test_families_one_by_one(resnet20: Teacher) -> None:
    for family in ("resnet", "wrn", "mobilenetv2", "mobilenetv3", "mcu", "cnn", "lenet", "pruned"):
        found = search(resnet20, load_profile("cpu"), family=family)
        assert {c.spec.family for c in found.candidates} == {family}
    assert name_of(search(resnet20, load_profile("cpu"), family="mcu:2x8").chosen.spec) == "mcu:2x8"
    with pytest.raises(UsageError, match="bottleneck"):
        search(resnet20, load_profile("cpu"), family="bottleneck")


def test_a_teacher_that_is_a_graph_has_pruned_students_too(teacher: Teacher) -> None:
    assert {c.spec.family for c in search(teacher, load_profile("cpu")).candidates} == {"cnn"}  # 8 pixels
    large = dataclasses.replace(teacher, images=Images(1, 24, 24, (0.5,), (0.5,)))
    found = search(large, load_profile("cpu"))
    assert any(c.spec.family == "pruned" for c in found.candidates)
    assert search(teacher, load_profile("cpu"), family="pruned").chosen.spec.family == "pruned"


def test_a_teacher_that_cannot_be_pruned_has_other_students(resnet20: Teacher) -> None:
    layers = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AvgPool2d(7), nn.Unflatten(1, (8, 8))]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))
    found = search(dataclasses.replace(resnet20, model=model.eval()), load_profile("cpu"))
    assert "number of channels" in found.basis and not any(c.spec.family == "pruned" for c in found.candidates)


def test_pruned_widths_are_what_the_device_likes(resnet20: Teacher) -> None:
    pruned = [c.spec for c in search(resnet20, load_profile("cpu")).candidates if c.spec.family == "pruned"]
    liked = [spec for spec in pruned if spec.depth == load_profile("cpu").align == 8]
    rest = [spec for spec in pruned if spec.depth == 1]  # what multiples of 8 do not reach
    assert len(liked) >= 4 and min(s.width for s in liked) > max(s.width for s in rest)
    spec = liked[0]
    student, _ = first_student(spec, resnet20, seed=0)
    widths = {m.out_channels for m in student.modules() if isinstance(m, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)


class Waiting(nn.Module):
    """A skip connection that is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 8, 1)
        self.third, self.fourth = nn.Conv2d(8, 2, 1), nn.Linear(2 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        y = self.third(torch.relu(self.second(skip)))
        out: Tensor = self.fourth((y + skip).flatten(1))
        return out


def test_memory_by_hand() -> None:
    images = Images(1, 4, 4, (0.0,), (1.0,))
    of, peak = cost_and_peak(Waiting(), images)
    assert peak == 16 * (2 + 8 + 2)  # the third convolution: its input, its output, and the skip that waits
    assert of == cost(Waiting(), images) and of.peak_elements == 16 * (2 + 8 + 2)
    profile = load_profile("cpu")
    assert memory_mb(of, peak, profile, "int8") == pytest.approx((peak + of.parameters) / 1e6)
    assert memory_mb(of, peak, profile, "fp32") == pytest.approx(4 * (peak + of.parameters) / 1e6)
    flash = dataclasses.replace(profile, batch=3, device_class="mcu")
    assert memory_mb(of, peak, flash, "int8") == pytest.approx(3 * peak / 1e6)


def test_most_alive_by_hand() -> None:
    def layer(written: int, operator: str = "conv") -> Layer:
        return Layer("", operator, (written,), 0, 0, written_elements=written)

    chain = [layer(10), layer(4), layer(1)]
    assert most_alive(chain, [{-1}, {0}, {1}], 6) == 16  # 6 + 10, then 10 + 4, then 4 + 1
    assert most_alive(chain, [{-1}, {0}, {1, -1}], 6) == 20  # the image is read again at the end
    assert most_alive([layer(10), layer(10, "elementwise"), layer(1)], [{-1}, {0}, {1}], 6) == 16  # in place
    assert most_alive([layer(10), layer(10, "elementwise"), layer(1)], [{-1}, {0}, {0, 1}], 6) == 21


@pytest.mark.parametrize("side", [32, 96, 224])
def test_mcu_nets_fit_a_microcontroller(side: int, resnet20: Teacher) -> None:
    images = Images(3, side, side, (0.5,) * 3, (0.5,) * 3)
    torch.manual_seed(0)
    model = ResNet(images, 10, depth=(2, 2, 2, 2), width=16, large_stem=side > 64).eval()
    found = search(Teacher(model, images, CLASSES, "", "resnet"), load_profile("cpu"), family="mcu")
    assert len(found.candidates) >= 4
    for candidate in found.candidates:
        of, peak = counted(candidate.spec)
        assert peak <= MCU_ACTIVATIONS and of.parameters <= MCU_WEIGHTS


def test_capacity() -> None:
    teacher = Cost(parameters=1000, macs=8000, layers=3, traffic_elements=1, peak_elements=1)
    half = dataclasses.replace(teacher, parameters=500, macs=4000)
    assert capacity(teacher, teacher, "cnn") == 1.0
    assert capacity(half, teacher, "resnet") < capacity(half, teacher, "pruned") < 1
    assert capacity(dataclasses.replace(half, macs=2000), teacher, "resnet") < capacity(half, teacher, "resnet")


@pytest.mark.parametrize(
    ("value", "found"), [(0.0965, "0.097"), (1.0, "1"), (1.01, "1.1"), (31.2, "32"), (312.0, "320"), (0.35, "0.35")]
)
def test_rounded_up(value: float, found: str) -> None:
    assert upwards(value) == found


def test_texts_of_the_command_line() -> None:
    assert count("500k", "--max-params") == 500_000 and count("1.5M", "--max-params") == 1_500_000
    assert count("20000", "--max-params") == 20_000 and count(None, "--max-params") is None
    assert megabytes("300kB", "--max-memory") == pytest.approx(0.3) and megabytes("2MB", "--max-memory") == 2
    assert megabytes("0.5", "--max-memory") == 0.5
    calls: list[Callable[[], object]] = [
        lambda: count("many", "--max-params"),
        lambda: count("0", "--max-params"),
        lambda: megabytes("3 parsecs", "--max-memory"),
        lambda: megabytes("-2MB", "--max-memory"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="cannot be read"):
            call()


def test_a_precision_that_keeps_every_limit_is_taken(resnet20: Teacher) -> None:
    """The fastest one may need more memory; who limits the memory deploys the other."""
    profile = load_profile("cpu")
    of, peak = cost_and_peak(resnet20.model, SMALL)
    predicted = {"fp32": Prediction(1.0, 0.9, 1.1), "int8": Prediction(2.0, 1.9, 2.1)}
    whole = dataclasses.replace(of, parameters=10 * of.parameters, macs=10 * of.macs)
    assert deployed(of, peak, predicted, whole, profile)[0] == "fp32"
    tight = limited(memory_mb=1.1 * memory_mb(of, peak, profile, "int8"))
    precision, kept = deployed(of, peak, predicted, whole, tight)
    assert precision == "int8" and not any(limit.broken() for limit in kept)
    precision, kept = deployed(of, peak, predicted, whole, limited(memory_mb=1e-3, latency_ms=1.2))
    assert precision == "int8" and [bool(limit.broken()) for limit in kept[:3]] == [True, False, True]


def test_size_student_is_the_search(resnet20: Teacher) -> None:
    profile = adjusted(load_profile("cpu"), latency_ms=0.9, memory_mb=0.2, model_mb=0.2, parameters=120_000)
    sizing, found = size_student(resnet20, profile), search(resnet20, profile)
    assert sizing.spec == found.chosen.spec and sizing.bound_by == found.bound_by
    assert sizing.candidates == len(found.candidates) and sizing.student == found.chosen.cost
    assert named(name_of(sizing.spec), SMALL, CLASSES) == sizing.spec
    of, peak = cost(resnet20.model, SMALL), cost_and_peak(first_student(sizing.spec, resnet20, seed=0)[0], SMALL)[1]
    precision = found.chosen.precision
    kept = limits(sizing.student, peak, sizing.predicted, precision, of, profile)
    assert [limit.name for limit in kept] == ["latency", "graph size", "memory", "parameters", "parameters", "MACs"]
    assert not any(limit.broken() for limit in kept)
