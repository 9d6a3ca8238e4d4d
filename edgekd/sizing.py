"""The student that a device gets: every family is looked at, and the best expected one that keeps all limits taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import torch

from edgekd.capacity import BASIS, capacity
from edgekd.errors import UsageError
from edgekd.families import (
    FAMILIES,
    MCU_ACTIVATIONS,
    MCU_WEIGHTS,
    members,
    name_of,
    named,
)
from edgekd.limits import Limit, deployed, excess, memory_mb, predictions
from edgekd.liveness import cost_and_peak
from edgekd.pruning import pruned, prunings, shown_to
from edgekd.saliency import shown_by
from edgekd.student import build_student
from edgekd.types import Candidate, Cost, Profile, Search, Sizing, StudentSpec, Teacher
from edgekd.unfilled import Unfilled

TINY = 16  # pixels: up to it a plain network is worth more per parameter than a ResNet (benchmarks/NOTES.md)
SHARES = (0.85, 0.75, 0.65, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2, 0.15)  # of the teacher's MACs, that pruning leaves


def search(
    teacher: Teacher,
    profile: Profile,
    *,
    family: str = "auto",
    like_teacher: float | None = None,
    must_fit: bool = True,
    prior: str = "none",
) -> Search:
    """Looks at students for `profile` and chooses the best expected one that keeps every limit. Pure; some seconds, of
    large images some ten.

    family: one of FAMILIES, one student ("resnet:1x16", "mobilenetv2:0.35", "pruned:0.5"; edgekd.families.named), or
    "auto": a plain network for images up to 16 pixels, else every family. like_teacher: at most this share of the
    teacher's predicted latency; without it at most half of its parameters and MACs. must_fit: without it, where none is
    predicted to fit, the nearest is chosen, for who will measure. prior: of the training to come, whose images show
    which channels a pruned student can spare. Raises UsageError for another name, and, with the limits that bind and
    what would fit, when nothing fits.
    """
    if like_teacher is not None and not 0 < like_teacher <= 1:
        raise UsageError(
            f"--like-teacher {like_teacher:g} is no share", code="E0230", fix="a share of the teacher's latency: 0.5"
        )
    of_teacher, notes = counted_teacher(teacher)[0], list[str]()
    exact = named(family, teacher.images, teacher.classes)
    shown = shown_by(prior, teacher.images)
    share = {"share": 1.0} if exact else {}  # who names a student wants that one
    looked_at: list[tuple[Candidate, list[Limit]]] = []
    for spec, of, peak in _students(teacher, profile, family, exact, of_teacher, notes, shown):
        predicted = predictions(of, profile)
        precision, kept = deployed(of, peak, predicted, of_teacher, profile, like_teacher=like_teacher, **share)
        candidate = Candidate(
            spec=spec,
            cost=of,
            predicted=predicted,
            expected=capacity(of, of_teacher, spec.family),
            memory_mb=memory_mb(of, peak, profile, precision),
            broken=tuple(sentence for limit in kept if (sentence := limit.broken())),
            precision=precision,
        )
        looked_at.append((candidate, kept))
    fitting = [candidate for candidate, _ in looked_at if not candidate.broken]
    if not fitting and (must_fit or not looked_at):
        raise _nothing_fits(looked_at, teacher, profile, family)
    nearest = min(looked_at, key=lambda pair: max(limit.value / limit.most for limit in pair[1]))[0]
    chosen = max(fitting or [nearest], key=lambda c: (c.expected, -_ms(c)))
    candidates = sorted((candidate for candidate, _ in looked_at), key=lambda c: (_ms(c), -c.expected))
    return Search(
        candidates=tuple(candidates),
        front=tuple(pareto(candidates)),
        chosen=chosen,
        bound_by=_bound_by(chosen, candidates, exact is not None),
        basis="; ".join([BASIS, *notes]),
    )


def size_student(
    teacher: Teacher,
    profile: Profile,
    *,
    family: str = "auto",
    like_teacher: float | None = None,
    prior: str = "none",
) -> Sizing:
    """The chosen student of `search`, with what it and the teacher cost."""
    return sized(search(teacher, profile, family=family, like_teacher=like_teacher, prior=prior), teacher, profile)


def sized(found: Search, teacher: Teacher, profile: Profile) -> Sizing:
    """What a search came to, with what the teacher costs."""
    of_teacher = counted_teacher(teacher)[0]
    return Sizing(
        spec=found.chosen.spec,
        student=found.chosen.cost,
        teacher=of_teacher,
        predicted=found.chosen.predicted,
        teacher_predicted=predictions(of_teacher, profile),
        candidates=len(found.candidates),
        bound_by=found.bound_by,
    )


def pareto(candidates: list[Candidate]) -> list[Candidate]:
    """Those that are expected to be better than all that are faster. candidates: the fastest first."""
    front: list[Candidate] = []
    for candidate in candidates:
        if not front or candidate.expected > front[-1].expected:
            front.append(candidate)
    return front


def next_better(chosen: Candidate, candidates: list[Candidate]) -> Candidate | None:
    """The next size up: the next better expected one of the family, or of all where it has no better one."""
    better = [c for c in candidates if (c.expected, -_ms(c)) > (chosen.expected, -_ms(chosen)) and c.broken]
    own = [c for c in better if c.spec.family == chosen.spec.family]
    return min(own or better, key=lambda c: (c.expected, -_ms(c)), default=None)


@lru_cache(maxsize=4096)
def counted(spec: StudentSpec) -> tuple[Cost, int]:
    """(cost, numbers alive at the worst moment) of a student; not of a pruned one."""
    with torch.device("meta"), Unfilled():
        model = build_student(spec)
    return cost_and_peak(model, spec.images)


def counted_teacher(teacher: Teacher) -> tuple[Cost, int]:
    """(cost, numbers alive at the worst moment) of the teacher."""
    return cost_and_peak(teacher.model, teacher.images)


def considered(teacher: Teacher, family: str) -> tuple[str, ...]:
    """The families that are looked at. Raises UsageError for a name that is none."""
    images = teacher.images
    if family == "auto":
        if max(images.height, images.width) <= TINY:
            return ("cnn",)
        return tuple(f for f in FAMILIES if f != "lenet" or images.channels == 1)  # LeNet is a network for gray images
    if family not in FAMILIES:
        raise UsageError(
            f"--student {family} is not one",
            code="E0212",
            fix=f"auto, {', '.join(FAMILIES)}, or one: resnet:1x16, resnet8, mobilenetv2:0.35, mcu:2x8, cnn:8, "
            "lenet:3, pruned:0.5",
        )
    return (family,)


def _students(
    teacher: Teacher,
    profile: Profile,
    family: str,
    exact: StudentSpec | None,
    of_teacher: Cost,
    notes: list[str],
    shown: str,
) -> Iterator[tuple[StudentSpec, Cost, int]]:
    """Every student to look at, with its cost and the numbers alive. notes: gets what was left out."""
    if exact and exact.family == "pruned":
        model = pruned(teacher, share=exact.width / 100, align=exact.depth, prior=shown)
        exact = replace(exact, channels_by=shown_to(teacher, shown))
        yield exact, *cost_and_peak(model, teacher.images)
        return
    if exact:
        yield exact, *counted(exact)
        return
    for name in considered(teacher, family):
        if name == "pruned":
            yield from _pruned(teacher, profile, family, notes, shown)
        for row in members(name, teacher.images, teacher.classes):
            for spec in row:
                of, peak = counted(spec)
                if name != "mcu" or (peak <= MCU_ACTIVATIONS and of.parameters <= MCU_WEIGHTS):
                    yield spec, of, peak
                if of.macs > of_teacher.macs or of.parameters > of_teacher.parameters:
                    # wider ones are no students; this one says which limit binds
                    break


def _pruned(
    teacher: Teacher, profile: Profile, family: str, notes: list[str], shown: str
) -> Iterator[tuple[StudentSpec, Cost, int]]:
    left: tuple[float, ...] = SHARES
    try:
        for align in dict.fromkeys((profile.align, 1)):  # widths that the device does not like reach smaller shares
            for share, model in prunings(teacher, left, align=align, prior=shown) if left else ():
                by = shown_to(teacher, shown)
                spec = StudentSpec("pruned", align, round(100 * share), teacher.images, teacher.classes, by)
                yield spec, *cost_and_peak(model, teacher.images)
                left = tuple(other for other in SHARES if other < share)
    except UsageError as error:
        if family != "auto":
            raise
        notes.append(f"without the pruned teacher: {error.what} ({error.why})")


def _ms(candidate: Candidate) -> float:
    return candidate.predicted[candidate.precision].latency_ms


def _bound_by(chosen: Candidate, candidates: list[Candidate], exact: bool) -> str:
    larger = next_better(chosen, candidates)
    if larger is not None:
        return f"{name_of(larger.spec)}: {'; '.join(larger.broken)}"
    return "it was named" if exact else "the largest there is"


def _nothing_fits(
    looked_at: list[tuple[Candidate, list[Limit]]], teacher: Teacher, profile: Profile, family: str
) -> UsageError:
    what = f"no student of {family if family != 'auto' else 'any family'} fits {profile.name}"
    if not looked_at:
        side = f"{teacher.images.height}x{teacher.images.width}"
        return UsageError(what, code="E0210", why=f"family {family} does not take images of {side}", fix="another one")
    nearest, kept = min(looked_at, key=lambda pair: excess(pair[1]))
    broken = [limit for limit in kept if limit.broken()]
    options = " ".join(dict.fromkeys(limit.option for limit in broken))
    lifted = f"with {options} it would; or " if all(limit.option for limit in broken) else ""
    return UsageError(
        what,
        code="E0210",
        why=f"the nearest, {name_of(nearest.spec)}: {'; '.join(nearest.broken)}",
        fix=f"{lifted}choose another --profile or --student",
    )
