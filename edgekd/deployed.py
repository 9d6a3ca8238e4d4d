"""Which graph of a bundle to deploy: `--precision auto` builds all that the profile allows and picks by figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.types import Profile, Sizing


@dataclass(frozen=True)
class Choice:
    """The graph to deploy, of those that stayed close enough to torch to be packed."""

    precision: str
    basis: str  # of the latencies: "measured" or "predicted"
    latency_ms: Mapping[str, float]  # of every graph: measured p50, or the one predicted
    broken: tuple[str, ...]  # limits of the profile that it breaks, a short sentence each; empty: deployable
    slower: tuple[str, ...]  # precisions that promise speed and are slower here than fp32


def choose(report: Mapping[str, Any], profile: Profile, sizing: Sizing, *, measured: bool = False) -> Choice:
    """The graph that breaks fewest limits of the profile and, of those alike, is fastest.

    The graph's size is that of the file. Latency is measured where this machine is the profile's device (the profile
    "cpu") or the report is a board's (measured), elsewhere predicted, since a figure of this machine says nothing about
    a board. The limit holds for p90, or the prediction's upper end; p50, or the prediction, says which is faster, as
    p90 tells more of other load than of the graphs where that disturbed the measurement.
    """
    limits, here = profile.limits, measured or profile.name == "cpu"
    packed = [precision for precision in profile.precisions if precision in report["graphs"]]
    latency: dict[str, float] = {}
    slowest: dict[str, float] = {}  # what the limit is for
    for precision in packed:
        if here:
            measured_ms = report["graphs"][precision]["latency_ms"]
            latency[precision], slowest[precision] = measured_ms["p50"], measured_ms["p90"]
        else:
            predicted = sizing.predicted[precision]
            latency[precision], slowest[precision] = predicted.latency_ms, predicted.high_ms

    def breaks(precision: str) -> tuple[str, ...]:
        found, size = list[str](), report["graphs"][precision]["mb"]
        if limits.latency_ms is not None and slowest[precision] > limits.latency_ms:
            found.append(f"{precision} latency {slowest[precision]:.3g} ms over {limits.latency_ms:g} ms")
        if limits.model_mb is not None and size > limits.model_mb:
            found.append(f"{precision} graph {size:.3g} MB over {limits.model_mb:g} MB")
        return tuple(found)

    chosen = min(packed, key=lambda precision: (len(breaks(precision)), latency[precision]))
    slower = tuple(p for p in packed if p != "fp32" and latency[p] > latency.get("fp32", float("inf")))
    return Choice(chosen, "measured" if here else "predicted", latency, breaks(chosen), slower)


def told(choice: Choice) -> str:
    """The choice in a line for people."""
    others = ", ".join(f"{p} {ms:.3g}" for p, ms in choice.latency_ms.items() if p != choice.precision)
    text = f"{choice.precision}, {choice.latency_ms[choice.precision]:.3g} ms {choice.basis}"
    text += f" ({others})" if others else ""
    return text + "".join(f"; {precision} is slower than fp32" for precision in choice.slower)
