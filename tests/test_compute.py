"""Networks where memory is short, and compiled ones: the same numbers as without either."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import TINY
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.graph import save_on_cpu

from edgekd import Images, checkpoint, compute, losses, memory
from edgekd.compute import logits_of
from edgekd.errors import EnvironmentLacking
from edgekd.methods import METHODS, distill
from edgekd.networks import ResNet
from edgekd.observe import Observed
from edgekd.student import build_student
from edgekd.types import Run, StudentSpec, Teacher

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def whole_batches_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "bf16_pays", lambda kind: False)  # its rounding would hide what is compared
    monkeypatch.setattr(memory, "_batch", memory._Batch())


class Narrow(nn.Module):
    """A network on a device whose memory holds `most` images of its activations."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most, self.largest = model, most, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} GiB.")
        self.largest = max(self.largest, len(x))
        y: Tensor = self.model(x)
        return y


def trained(
    name: str, teacher: Teacher, folder: Path, **changes: Any
) -> tuple[dict[str, Tensor], list[str], list[Any]]:
    """The student's weights, what was said, and the phases of the log with their steps."""
    method = METHODS[name.split()[0]]
    said: list[str] = []
    log: list[Any] = []
    student = build_student(StudentSpec("resnet", 1, 4, teacher.images, teacher.classes), seed=5)
    folder.mkdir()
    run = Run(CPU, 5, folder, lambda phase, step, steps, **figures: log.append((phase, step)))
    config = method.Config(**{**TINY[name], **changes})
    distill(name.split()[0], teacher, student, config, run, said.append)
    return student.state_dict(), said, log


@pytest.mark.parametrize("name", TINY)
def test_out_of_memory_ends_with_the_same_student(name: str, teacher: Teacher, tmp_path: Path) -> None:
    """In fp32, to the bit where convolutions of parts round as those of the whole do; here they do."""
    changes = {"prior_images": 16} if "prior_images" in TINY[name] else {}  # halves of a batch of 16, too
    enough, said, _ = trained(name, teacher, tmp_path / "enough", **changes)
    assert not said
    narrow = Narrow(teacher.model, most=7)
    scarce, said, log = trained(name, dataclasses.replace(teacher, model=narrow), tmp_path / "scarce", **changes)
    assert narrow.largest == 4 and "with 4 images" in said[-1] and ("memory", 4) in log
    for key, value in enough.items():
        assert torch.allclose(scarce[key], value, rtol=1e-5, atol=1e-6), key


def test_it_goes_on_from_the_last_checkpoint(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    enough, _, whole = trained("rdskd", teacher, tmp_path / "enough", student_steps=43)
    calls = 0

    class Later(Narrow):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            self.most = 8 if calls > 30 else 16  # another program has taken the rest
            return super().forward(x)

    later = Later(teacher.model, most=16)
    scarce, said, log = trained(
        "rdskd", dataclasses.replace(teacher, model=later), tmp_path / "scarce", student_steps=43
    )
    assert len(said) == 1 and [line for line in log if line[0] != "memory"] == whole  # no step is made again
    assert all(torch.allclose(scarce[key], value, rtol=1e-5, atol=1e-6) for key, value in enough.items())


def test_too_little_for_one_image(teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacking) as lacking:
        trained("dfad", dataclasses.replace(teacher, model=Narrow(teacher.model, most=0)), tmp_path / "run")
    assert lacking.value.code == "E0406" and "Tried to allocate 1 GiB" in lacking.value.why


def lacking_of(model: nn.Module) -> tuple[str, int]:
    """Why a training ends whose only step is the network's on 8 images, and how often it began."""
    begun = list[int]()

    def train() -> None:
        begun.append(1)
        memory.in_parts(model, torch.zeros(8, 3, 4, 4))

    with pytest.raises(EnvironmentLacking) as lacking:
        memory.within_memory(train, lambda images: None)
    assert lacking.value.code == "E0406"
    return lacking.value.why, len(begun)


def test_what_needs_its_whole_batch_is_not_begun_again_for_less() -> None:
    norm = nn.BatchNorm2d(3)
    why, begun = lacking_of(Narrow(norm.train(), most=4))
    assert "whole batch" in why and begun == 2
    memory.within_memory(lambda: memory.in_parts(Narrow(norm.eval(), most=4), torch.zeros(8, 3, 4, 4)), lambda _: None)
    why, begun = lacking_of(Narrow(norm.eval(), most=0))
    assert "one image" in why and begun == 4  # 8, 4, 2, 1


def test_one_of_several_processes_ends_with_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    why, begun = lacking_of(Narrow(nn.Identity(), most=4))
    assert "several processes" in why and begun == 1


def test_other_errors_pass() -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        memory.within_memory(broken, lambda images: None)
    words = (
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    assert memory.short_of_memory(RuntimeError(words)) and memory.short_of_memory(MemoryError())


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(Images(3, 8, 8, (0.5,) * 3, (0.2,) * 3), 4, depth=1, width=4, large_stem=False)


def opinion(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Observed]:
    """Logits, gradient of the images by losses of the whole batch and of its statistics, and what was seen."""
    x = x.clone().requires_grad_()
    logits = logits_of(model.eval(), x, observed := Observed(range(4)))
    model.train()  # as rdskd_plus does before its backward pass
    assert observed.classifier
    loss = losses.information_entropy(logits) + losses.batch_norm(observed.batch_norms)
    loss = loss + losses.activation(observed.classifier.features)
    (gradient,) = torch.autograd.grad(loss, x)
    return logits.detach(), gradient, observed


def test_parts_of_a_batch_are_seen_as_the_whole() -> None:
    model, x = network(), torch.randn(10, 3, 8, 8)
    model.train()(torch.randn(64, 3, 8, 8))  # running statistics of its own
    logits, gradient, observed = opinion(model, x)
    memory._batch.most = 4  # parts of 4, 4 and 2
    again, gradient_again, observed_again = opinion(model, x)
    assert torch.allclose(logits, again, atol=1e-6) and torch.allclose(gradient, gradient_again, atol=1e-6)
    assert len(observed.batch_norms) == len(observed_again.batch_norms) and observed.shapes == observed_again.shapes
    for one, other in zip(observed.batch_norms, observed_again.batch_norms, strict=True):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))
    assert len(observed.maps) == 4
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(observed.maps, observed_again.maps, strict=True))


def kept_numbers(model: nn.Module, x: Tensor) -> int:
    """How many numbers the forward pass keeps for the backward pass."""
    numbers = [0]

    def pack(tensor: Tensor) -> Tensor:
        numbers[0] += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits_of(model, x).sum().backward()
    return numbers[0]


def test_parts_keep_no_activations() -> None:
    model, x = network().eval(), torch.randn(8, 3, 8, 8)
    whole = kept_numbers(model, x)
    memory._batch.most = 4
    assert kept_numbers(model, x) < whole / 20


def test_batch_norm_that_trains_gets_the_whole_batch() -> None:
    one, other, x = network().train(), network().train(), torch.randn(8, 3, 8, 8)
    whole = logits_of(one, x)
    memory._batch.most = 4
    assert torch.equal(logits_of(other, x), whole)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_activations_in_host_memory_give_the_same_gradient() -> None:
    """What a GPU does with a network whose BatchNorm trains, without the GPU."""
    gradients = []
    for context in (nullcontext(), save_on_cpu()):
        model = network().train()
        with context:
            loss = logits_of(model, torch.ones(8, 3, 8, 8)).square().mean()
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Networks are compiled from their third call on, forwards and backwards, and run as torch runs them; counted."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compute, "compile_pays", lambda kind: True)
    monkeypatch.setattr(compute, "COMPILE_AFTER", 2)
    monkeypatch.setattr(compute, "COMPILER", counter)
    torch.compiler.reset()
    return counter


def test_nothing_is_compiled_on_a_cpu() -> None:
    model, x = network().eval(), torch.randn(2, 3, 8, 8)
    assert not compute.compile_pays("cpu") and compute.compiled(model, x) is model


def test_many_calls_of_one_kind_are_compiled(compiler: CompileCounterWithBackend) -> None:
    model, x = network().train(), torch.randn(4, 3, 8, 8)
    other = network().train()
    for call in range(4):
        got, wanted = logits_of(model, x), other(x)
        assert torch.allclose(got, wanted, atol=1e-6) and compiler.frame_count == (call > 1)
    got.sum().backward(), wanted.sum().backward()
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad is not None and same.grad is not None and torch.allclose(one.grad, same.grad, atol=1e-6)
    logits_of(model, x[:3])  # another shape, once
    assert compiler.frame_count == 1
    logits_of(model, x, observed := Observed())
    assert observed.batch_norms and observed.classifier and compiler.frame_count == 1
    memory._batch.most = 2
    assert compute.compiled(model, x) is model


def test_compiled_training_ends_with_the_same_student(
    teacher: Teacher, tmp_path: Path, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher here is a captured program, the student a ResNet, and the generator edgekd's."""
    monkeypatch.setattr(compute, "COMPILER", compiler := CompileCounterWithBackend("eager"))  # Adam enlarges rounding
    compiled, _, _ = trained("rdskd", teacher, tmp_path / "compiled")
    assert compiler.frame_count >= 3
    monkeypatch.setattr(compute, "compile_pays", lambda kind: False)
    plain, _, _ = trained("rdskd", teacher, tmp_path / "plain")
    for key, value in plain.items():
        assert torch.allclose(compiled[key], value, rtol=1e-5, atol=1e-6), key
