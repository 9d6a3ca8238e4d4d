"""How much of this machine's memory a compress takes: a few steps are measured, and what follows is reckoned.

What counts is the memory of the processes' own, without files: the banks of images are files, whose pages the system
takes back when it needs room. Read from Linux's /proc; elsewhere nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.compute import give_back_memory
from edgekd.errors import EnvironmentLacking, UsageError
from edgekd.export import torch_logits
from edgekd.memory import short_of_memory
from edgekd.pace import at_share, distilled_briefly, share_within
from edgekd.room import numbers, per_pass
from edgekd.types import Cost, StudentSpec, Teacher

PROC = Path("/proc/self")
NAMES = ("VmHWM", "VmData", "RssAnon", "RssFile", "RssShmem")
HALF = 0.5  # of the images of the one probe, in the other
SLACK = 1.12  # gaps between blocks, which a longer training leaves more of: five tries of benchmarks/memory.py
STEPS = 2  # of a probe: after the first one the optimisers have their states
# 10**6 bytes, seen on small networks and held against more by benchmarks/memory.py: what exporting needs, and a runner
EXPORTER, RUNNER = 70.0, 70.0
# copies: of a network's weights, where a graph of it is written, and in a session of the runner; of the images kept
WRITTEN, RUN, KEPT = 3.8, 2.0, 2.0


@contextmanager
def held_to(most_mb: float | None) -> Iterator[None]:
    """Inside, the system gives this process and those it starts no more own memory than so many 10**6 bytes each.

    What is then refused is what ran out: a training halves the images at once (edgekd/memory.py), and what cannot do
    with less raises EnvironmentLacking. None: as much as there is. UsageError where the system does not say or hold.
    """
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    if most_mb is not None:
        give_back_memory()
        found = _status()
        if found is None:
            raise UsageError(
                "--max-ram needs Linux",
                code="E0249",
                why="no other system says what a process takes",
                fix="leave it out",
            )
        if found["RssAnon"] >= most_mb:
            raise _lacking(f"{found['RssAnon']:,.0f} MB are taken before the training begins", most_mb)
        reserved = found["VmData"] - found["RssAnon"]  # the limit counts what is reserved and not used, such as stacks
        resource.setrlimit(resource.RLIMIT_DATA, (int((most_mb + reserved) * 1e6), before[1]))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not short_of_memory(error):
            raise
        raise _lacking((str(error).strip() or "a block was refused").splitlines()[0], most_mb) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _lacking(why: str, most_mb: float | None) -> EnvironmentLacking:
    return EnvironmentLacking(
        "the memory does not suffice" if most_mb is None else f"{most_mb:,.0f} MB of memory do not suffice",
        code="E0409",
        why=why,
        fix="allow more with --max-ram, free memory, or set smaller batches:  --set batch=64 --set image_batch=64",
    )


def own_mb() -> float | None:
    """10**6 bytes of this process's own memory that are resident; None where the system does not say."""
    found = _status()
    return None if found is None else found["RssAnon"]


def highest_mb() -> float | None:
    """The most own memory, in 10**6 bytes, since the last call of this; None where the system does not say."""
    found = _status()
    if found is None:
        return None
    try:
        (PROC / "clear_refs").write_text("5", encoding="ascii")  # proc(5): begin the high-water mark anew
    except OSError:
        return None
    return found["VmHWM"] - found["RssFile"] - found["RssShmem"]


def _status() -> dict[str, float] | None:
    try:
        lines = (PROC / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines if line.endswith(" kB"))
    try:
        return {name: int(sizes[name].split()[0]) * 1024 / 1e6 for name in NAMES}
    except KeyError:
        return None


def training_mb(
    method: str, config: Any, teacher: Teacher, spec: StudentSpec, seed: int, *, within_s: float
) -> float | None:
    """Own memory at the most while the student is trained, in 10**6 bytes; None where the system does not say.

    A few steps of every phase with as many images as about within_s seconds allow, and with half of them: what each
    phase takes grows evenly with its images.
    """
    give_back_memory()
    if highest_mb() is None:
        return None
    large = share_within(teacher, config, within_s, STEPS)
    found = []
    for wanted in (large * HALF, large):
        short, share = at_share(config, teacher, wanted, STEPS)
        found.append((share, _peaks(method, short, teacher, spec, seed)))
    (half, few), (whole, many) = found
    return SLACK * max(extrapolated(half, few.get(phase, mb), whole, mb) for phase, mb in many.items())


def afterwards_mb(teacher: Teacher, of_teacher: Cost, of_student: Cost, images: int) -> float | None:
    """Own memory at the most behind the training, in 10**6 bytes: this process and the runner that it waits for.

    images: generated ones that a run keeps. What is taken now, with the teacher read, is the ground; a pass of the
    teacher is measured. None where the system does not say.
    """
    give_back_memory()
    now, facts = own_mb(), teacher.images
    if now is None or highest_mb() is None:
        return None
    once = numbers(facts)
    torch_logits(teacher.model, facts, np.zeros((per_pass(once), facts.channels, facts.height, facts.width), np.uint8))
    passing = max(0.0, (highest_mb() or 0.0) - now)
    small, large = (4 * of.parameters / 1e6 for of in (of_student, of_teacher))
    kept = KEPT * images * once / 1e6
    exporting = now + kept + small + EXPORTER + max(passing, WRITTEN * small, WRITTEN * large)
    measuring = now + kept + small + EXPORTER + RUNNER + RUN * (small + large)
    return max(exporting, measuring)


def extrapolated(half: float, few: float, whole: float, many: float) -> float:
    """What all images take, by a straight line through what a share `half` of them and a larger one `whole` take."""
    slope = max(0.0, many - few) / (whole - half) if whole > half else 0.0
    return many + slope * (1.0 - whole)


def _peaks(method: str, config: Any, teacher: Teacher, spec: StudentSpec, seed: int) -> dict[str, float]:
    """Own memory at the most in each phase of a training."""
    found: dict[str, float] = {}
    give_back_memory()
    highest_mb()

    def log(phase: str, step: int, steps: int, **figures: float) -> None:
        found[phase] = max(found.get(phase, 0.0), highest_mb() or 0.0)

    distilled_briefly(method, config, teacher, spec, seed, log)
    return found
