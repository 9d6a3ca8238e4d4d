"""The limits that a student has to keep, all at once, and the option that would lift each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, log10

from edgekd.latency import BYTES, model_mb, predict
from edgekd.types import Cost, Prediction, Profile

SHARE = 0.5  # a student has at most this share of the teacher's parameters and MACs; a larger one wins too little


@dataclass(frozen=True)
class Limit:
    """One limit, and how a student stands to it."""

    name: str
    value: float  # the student's
    most: float
    unit: str  # of both
    option: str  # that allows the value; empty: none does

    def broken(self) -> str:
        """A short sentence; empty where the limit is kept."""
        if self.value <= self.most:
            return ""
        digits = next((n for n in range(3, 9) if f"{self.value:.{n}g}" != f"{self.most:.{n}g}"), 9)
        return f"{self.name} {self.value:.{digits}g} over {self.most:.{digits}g} {self.unit}".rstrip()


def fastest(predicted: Mapping[str, Prediction]) -> str:
    """The precision that is predicted to run fastest: the one that is deployed."""
    return min(predicted, key=lambda precision: predicted[precision].latency_ms)


def predictions(of: Cost, profile: Profile) -> dict[str, Prediction]:
    """Precision -> latency on the profile's device, of all that are built for it."""
    return {precision: predict(of, profile, precision) for precision in profile.precisions}


def memory_mb(of: Cost, peak_elements: int, profile: Profile, precision: str) -> float:
    """10**6 bytes that inference needs: activations at the worst moment, and weights where RAM holds them.

    peak_elements: of edgekd.liveness, for one image. Microcontrollers read their weights in place, from flash. The
    runtime's own memory comes on top; so does what it packs or copies for speed.
    """
    in_flash = profile.hardware.weights_in_flash or profile.device_class == "mcu"
    numbers = peak_elements * profile.batch + (0 if in_flash else of.parameters)
    return numbers * BYTES[precision] / 1e6


def limits(
    of: Cost,
    peak_elements: int,
    predicted: Mapping[str, Prediction],
    precision: str,
    teacher: Cost,
    profile: Profile,
    *,
    share: float = SHARE,
    like_teacher: float | None = None,
) -> list[Limit]:
    """Every limit of a student at one precision: the profile's, and that it be smaller than its teacher.

    Latency holds when the upper end of the predicted interval meets it. share: of the teacher's parameters and MACs.
    like_teacher: of the teacher's predicted latency instead; parameters and MACs then may be the teacher's.
    """
    most = profile.limits
    found = [
        _limit("latency", predicted[precision].high_ms, most.latency_ms, "ms", "--latency {}ms"),
        _limit("graph size", model_mb(of, precision), most.model_mb, "MB", "--max-mb {}"),
        _limit("memory", memory_mb(of, peak_elements, profile, precision), most.memory_mb, "MB", "--max-memory {}MB"),
    ]
    if most.parameters is not None:
        found.append(_limit("parameters", of.parameters / 1e6, most.parameters / 1e6, "M", "--max-params {}M"))
    if like_teacher is not None:
        share, whole = 1.0, predictions(teacher, profile)
        ms = whole[fastest(whole)].latency_ms
        found.append(
            _limit(
                f"latency of {ms:.3g} ms, as a share of the teacher's,",
                predicted[precision].latency_ms / ms,
                like_teacher,
                "",
                "--like-teacher {}",
            )
        )
    for name, value, whole_value in (
        ("parameters", of.parameters, teacher.parameters),
        ("MACs", of.macs, teacher.macs),
    ):
        option = "--like-teacher 1" if share < 1 and value <= whole_value else ""
        unit = f"M ({share:.0%} of the teacher's)"
        found.append(_limit(name, value / 1e6, share * whole_value / 1e6, unit, option))
    return [limit for limit in found if limit is not None]


def deployed(
    of: Cost,
    peak_elements: int,
    predicted: Mapping[str, Prediction],
    teacher: Cost,
    profile: Profile,
    *,
    share: float = SHARE,
    like_teacher: float | None = None,
) -> tuple[str, list[Limit]]:
    """(precision, how it stands to the limits): the fastest that keeps all, else the one that is nearest to that."""
    found = [
        (
            precision,
            limits(of, peak_elements, predicted, precision, teacher, profile, share=share, like_teacher=like_teacher),
        )
        for precision in sorted(predicted, key=lambda precision: predicted[precision].latency_ms)
    ]
    return min(found, key=lambda pair: max(1.0, excess(pair[1])))


def excess(kept: list[Limit]) -> float:
    """By how much the limit that is furthest from being kept is exceeded; 1 or less: all are kept."""
    return max(limit.value / limit.most for limit in kept)


def upwards(value: float) -> str:
    """The value with two digits, rounded up."""
    unit = 10.0 ** (floor(log10(value)) - 1)
    return f"{ceil(value / unit - 1e-9) * unit:.6g}"


def _limit(name: str, value: float, most: float | None, unit: str, option: str) -> Limit | None:
    return None if most is None else Limit(name, value, most, unit, option.format(upwards(value)))
