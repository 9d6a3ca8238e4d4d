"""The distillation methods. A new one is a file here and a line in METHODS; the type checker holds it to Method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from edgekd.checkpoint import NAME, step_back
from edgekd.compute import RATES, give_back_memory
from edgekd.divergence import TRIES, stable
from edgekd.errors import UsageError
from edgekd.files import from_dict, nearest
from edgekd.memory import within_memory
from edgekd.methods import dafl, deepinversion, dfad, fast, mskd, rdskd, rdskd_plus, zskd
from edgekd.types import Run, Sampler, StudentSpec, Teacher

PRUNED_FEATURES = 10.0  # the weight of a pruned student's feature maps
PRUNED_PACE = 0.15  # of an optimizer's usual rate
PRUNED_BATCH = 128  # images at most


class Method(Protocol):
    """A data-free distillation method: a module with these names satisfies it."""

    @property
    def Config(self) -> type: ...
    @property
    def BUDGETS(self) -> Mapping[str, Any]: ...
    def derived(self, config: Any, teacher: Teacher) -> Any: ...
    def distill(self, teacher: Teacher, student: nn.Module, config: Any, run: Run) -> Sampler: ...


METHODS: dict[str, Method] = {
    "rdskd_plus": rdskd_plus,
    "rdskd": rdskd,
    "dafl": dafl,
    "mskd": mskd,
    "zskd": zskd,
    "deepinversion": deepinversion,
    "dfad": dfad,
    "fast": fast,
}


def distill(
    method: str,
    teacher: Teacher,
    student: nn.Module,
    config: Any,
    run: Run,
    say: Callable[[str], None] = lambda line: None,
) -> Sampler:
    """Trains `student` in place by a method of METHODS, see its distill, and in parts of a batch where memory runs out.

    It then goes on from its last checkpoint in run.folder, or begins anew; see edgekd/memory.py for what is the same.
    So it does, with lower learning rates, where its numbers stop being finite: edgekd/divergence.py.
    """
    first = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
    last, phases = ["the start"], [""]

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        last[0] = f"{phase} step {step} of {steps}"
        if phases[0] != phase:
            phases[0] = phase
            give_back_memory()
        if phase == "collapse":
            say(f"the generator showed hardly more than one class: begun anew with other weights ({step} of {steps})")
        run.log(phase, step, steps, **figures)

    def as_new() -> None:
        student.load_state_dict(first)
        for parameter in student.parameters():
            parameter.grad = None
        student.requires_grad_(True)  # a method may have been about to make images

    def smaller(images: int) -> None:
        as_new()
        run.log("memory", images, images)
        say(f"out of memory: going on from the last checkpoint with {images} images at a time; slower, the same result")

    def slower(attempt: int, pace: float) -> None:
        as_new()
        if attempt > 1:  # the newest checkpoint led there twice
            step_back(run.folder / NAME)
        run.log("rate", attempt, TRIES, pace=pace)
        say(f"numbers are no longer finite: going on from the last good checkpoint, learning rates times {pace:.2g}")

    there = dataclasses.replace(run, log=log)
    return stable(
        lambda: within_memory(lambda: METHODS[method].distill(teacher, student, config, there), smaller),
        where=lambda: last[0],
        again=slower,
    )


def scaled(config: Any, share: float) -> dict[str, int]:
    """Every field that counts steps, times `share`; one at least, but none where there were none, nor more than enough.

    Where a method says how many steps of a field are `enough`, that field is scaled in its `unbounded` proportion, and
    then cut to them.
    """
    most: Mapping[str, int] = config.enough() if hasattr(config, "enough") else {}
    whole = config.unbounded() if most else config
    steps = {name: v and max(1, round(v * share)) for name, v in vars(whole).items() if name.endswith("_steps")}
    return {name: v and min(v, most.get(name, v)) for name, v in steps.items()}


def prior_of(config: Any) -> str:
    """The prior of a method's derived settings; "none" where the method has no choice."""
    named: str | None = getattr(config, "prior", None)
    return named or "none"


def configure(method: str, budget: str, settings: Mapping[str, Any], teacher: Teacher) -> Any:
    """The method's Config for a budget, with single settings replaced and the derived ones filled in.

    Raises UsageError for a method, budget or setting that does not exist, and for a teacher that the method
    cannot serve.
    """
    if method not in METHODS:
        raise UsageError(
            f"no method {method!r}.{nearest(method, METHODS)}", code="E0220", why=f"there are: {', '.join(METHODS)}"
        )
    budgets, share = METHODS[method].BUDGETS, 1.0
    if budget not in budgets:
        try:
            share = float(budget)
        except ValueError:
            share = 0.0
        if not 0 < share <= 10:
            raise UsageError(
                f"budget {budget!r} is neither a name nor a fraction of the longest one's steps",
                code="E0221",
                why=f"names: {', '.join(budgets)}; fractions: above 0, up to 10",
            )
    config = budgets.get(budget, list(budgets.values())[-1])  # the published steps, or the longest budget
    known = vars(config)
    if settings.get("prior") == "none" and "prior" not in known:  # a method that has none anyway
        settings = {name: value for name, value in settings.items() if name != "prior"}
    chosen = from_dict(type(config), {**known, **settings}, where=f"settings of {method}", error=UsageError)
    whole = METHODS[method].derived(chosen, teacher)  # published steps may depend on the teacher's images
    if share == 1:
        return whole
    steps = {n: v for n, v in scaled(whole, share).items() if n not in settings}
    return METHODS[method].derived(dataclasses.replace(whole, **steps), teacher)


def gentle(config: Any, student: StudentSpec, settings: Mapping[str, Any]) -> Any:
    """The same config with what `settings` leave open set for a student that is the teacher, pruned.

    A rate that keeps what it knows, twice the steps of half as many images, and feature maps held to the teacher's for
    good: its blocks still mean the same (benchmarks/NOTES.md).
    """
    if student.family != "pruned" or not getattr(config, "inherit", False):  # drawn weights are as any other student's
        return config
    rate = RATES[config.optimizer or "sgd"] * PRUNED_PACE
    chosen: dict[str, Any] = {"features": PRUNED_FEATURES, "hints": None}
    chosen |= {"optimizer": config.optimizer or "sgd", "student_lr": rate}
    if "batch" not in settings and config.batch > PRUNED_BATCH:
        times = config.batch // PRUNED_BATCH
        chosen |= {"batch": PRUNED_BATCH, "student_steps": times * config.student_steps}
        chosen |= {"lesson_steps": times * config.lesson_steps}
    return dataclasses.replace(config, **{name: value for name, value in chosen.items() if name not in settings})
