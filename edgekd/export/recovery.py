"""What brings an INT8 graph nearer to its fp32 graph: biases corrected, weights tuned through the rounding.

Bias correction: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, in its
empirical form. Fine-tuning: distillation through fake quantisation (Mishra and Marr, Apprentice, ICLR 2018).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor

from edgekd import losses
from edgekd.compute import one_cycle
from edgekd.export.calibration import Calibrated, agreement
from edgekd.export.fake import FakeQuantised, with_constants
from edgekd.export.int8 import Scheme, quantised
from edgekd.export.network import Logits, Pixels
from edgekd.export.placement import WEIGHTED
from edgekd.export.running import model_logits, runner

CORRECTED = 256  # images that biases are corrected on
RATE, BATCH, TEMPERATURE = 1e-4, 64, 4.0  # of the fine-tune: Adam at its highest, images a step, of the distillation
PROBE, FEWEST, MOST = 3, 20, 400  # steps of the fine-tune: to time, below which it is not begun, and at most
WITHIN_S = 60.0  # seconds that each fine-tune may take
TUNED = "fine-tune towards the {}"


@dataclass(frozen=True)
class Attempt:
    """A way to recover, and what came of it."""

    name: str  # "bias correction", or TUNED with a name of Lessons.targets
    before: float | None  # agreement with the fp32 graph on generated images held out, 0 to 1; None: NaN or Inf
    after: float | None  # the same behind it; None: see note
    kept: bool
    note: str = ""  # its steps, or why there are none


@dataclass(frozen=True)
class Recovered:
    """The INT8 graph behind all attempts, with those that helped inside."""

    graph: onnx.ModelProto
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Lessons:
    """What fine-tunes learn from: generated images, and the logits that they are to give for them.

    Of the fp32 student, which the graph is held against, and of the teacher: where the two differ much, learning from
    the teacher leads away from the student (benchmarks/results/int8.jsonl).
    """

    pixels: Pixels  # (N, C, H, W)
    targets: Mapping[str, Logits]  # "student", "teacher" -> (N, K); tried in this order
    temperature: float = TEMPERATURE
    seed: int = 0
    within_s: float = WITHIN_S
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)


def recover(
    fp32: Path, found: Calibrated, calibration: Pixels, held_out: Pixels, lessons: Lessons, *, scheme: Scheme
) -> Recovered:
    """Corrects biases, then tunes weights; each stays only where the agreement on `held_out` rises.

    held_out: generated images that neither ranges nor weights are made with, the judges of every attempt.
    """
    source, kept, attempts = onnx.load(fp32), found.graph, list[Attempt]()
    answers = model_logits(source, held_out).argmax(1)
    best = agreement(model_logits(kept, held_out), answers)
    for target in (None, *lessons.targets):
        name = "bias correction" if target is None else TUNED.format(target)
        try:
            if target is not None:
                changed, note = fine_tuned(source, kept, lessons, target)
            else:
                changed, note = bias_corrected(source, kept, onnx.load(fp32), calibration[:CORRECTED])
        except ValueError as error:  # an operator that FakeQuantised does not know
            attempts.append(Attempt(name, best, None, False, str(error)))
            continue
        if changed is None:
            attempts.append(Attempt(name, best, None, False, note))
            continue
        graph = quantised(changed, found.ranges, scheme=scheme)
        after = agreement(model_logits(graph, held_out), answers)
        better = after is not None and after > (best or 0.0)
        attempts.append(Attempt(name, best, after, better, note if after is not None else "it gives NaN or Inf"))
        if better:
            source, kept, best = changed, graph, after
    if helped := [one.name for one in attempts if one.kept]:  # its weights are no longer the student's to the bit
        kept.metadata_props.add(key="edgekd.recovery", value=", ".join(helped))
    return Recovered(kept, tuple(attempts))


def bias_corrected(
    source: onnx.ModelProto, int8: onnx.ModelProto, fp32: onnx.ModelProto, pixels: Pixels
) -> tuple[onnx.ModelProto, str]:
    """`source`, which `int8` was made of, with biases for which the INT8 graph's channels have the means of `fp32`.

    In the graph's order, each operator behind those that are corrected already: mean over images and places of every
    output channel of a convolution or linear layer, on pixels (N, C, H, W). And how many have a bias, in words.
    """
    nodes = [node for node in fp32.graph.node if node.op_type in WEIGHTED]
    outputs = runner(fp32, [node.output[0] for node in nodes])(pixels)
    wanted = {node.name: _mean(outputs[node.output[0]]) for node in nodes}
    places = {node.name: node.input[2] for node in source.graph.node if len(node.input) > 2 and node.name in wanted}
    errors: dict[str, NDArray[np.float32]] = {}

    def corrected(node: NodeProto, output: Tensor) -> Tensor:
        if node.name not in places:
            return output
        error = wanted[node.name] - _mean(output.numpy())
        errors[places[node.name]] = error
        return output + torch.from_numpy(error).reshape(1, -1, *[1] * (output.dim() - 2))

    with torch.no_grad():
        FakeQuantised(source, int8)(torch.from_numpy(pixels).float(), corrected)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    changed = {name: held[name] + error for name, error in errors.items() if name in held}
    return with_constants(source, changed), f"{len(changed)} of {len(nodes)} operators have a bias"


def fine_tuned(
    source: onnx.ModelProto, int8: onnx.ModelProto, lessons: Lessons, target: str, *, steps: int | None = None
) -> tuple[onnx.ModelProto | None, str]:
    """`source`, which `int8` was made of, with weights learned through the rounding; and its steps in words.

    target: of lessons.targets. Adam, whose rate falls to nothing where the steps end. steps: None: as many as a probe
    says fit into lessons.within_s, FEWEST to MOST; None is given where they do not fit. Same steps and seed, same
    weights on a CPU.
    """
    if steps is None:
        steps = _affordable(FakeQuantised(source, int8), lessons, target)
        if steps < FEWEST:
            return (
                None,
                f"not tried: {steps} steps would fit into {lessons.within_s:g} seconds, {FEWEST} are the fewest",
            )
    model = FakeQuantised(source, int8)
    _train(model, lessons, target, steps)
    return with_constants(source, dict(model.learned())), f"{steps} steps of {BATCH} images"


def _affordable(model: FakeQuantised, lessons: Lessons, target: str) -> int:
    """Steps that fit into the time, by PROBE of them on a network that is thrown away."""
    start = lessons.clock()
    _train(model, lessons, target, PROBE)
    per_step = (lessons.clock() - start) / PROBE
    return min(MOST, int(lessons.within_s / per_step) if per_step else MOST)


def _train(model: FakeQuantised, lessons: Lessons, target: str, steps: int) -> None:
    rng = torch.Generator().manual_seed(lessons.seed)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    pixels, wanted = torch.from_numpy(lessons.pixels), torch.from_numpy(lessons.targets[target])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * one_cycle(step / steps)
        drawn = torch.randint(len(pixels), (BATCH,), generator=rng)
        guess = model(pixels[drawn].float())
        loss = losses.distillation(student=guess, teacher=wanted[drawn], temperature=lessons.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _mean(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of outputs (N, K, ...) per channel, (K,)."""
    mean: NDArray[np.float32] = output.mean(axis=(0, *range(2, output.ndim)), dtype=np.float64).astype(np.float32)
    return mean
