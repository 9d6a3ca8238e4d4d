"""Whether the student may be deployed, and the figures that follow from others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.deployed import Choice, choose
from edgekd.families import name_of
from edgekd.files import from_dict
from edgekd.types import Bundle, Manifest, Profile, Sizing, StudentSpec


@dataclass(frozen=True)
class Verdict:
    """deployable: None where the files do not tell."""

    deployable: bool | None
    broken: tuple[str, ...]  # limits, a short sentence each
    why: str = ""  # nothing can be said


def verdict(documents: Mapping[str, Any]) -> Verdict:
    """What compress said of this report; judged again by the same rule where it was measured anew since."""
    result, report = documents["result"], documents["report"]
    if result is None:
        why = "a bundle alone does not hold the latency that was predicted for the device: report on its output folder"
        return Verdict(None, (), why)
    if result["report_made"] == report["made"]:
        broken = result["broken_limits"]
    else:
        from edgekd.stages import unpacked  # it imports torch, and this package

        bundle = Bundle(Path(), from_dict(Manifest, documents["manifest"], where="manifest.json"))
        broken = [*_chosen(documents).broken, *unpacked(bundle)]
    return Verdict(not broken, tuple(broken))


def _chosen(documents: Mapping[str, Any]) -> Choice:
    """The graph to deploy, by the report as it is now."""
    sizing = from_dict(Sizing, documents["result"]["sizing"], where="result.json: sizing")
    profile = from_dict(Profile, documents["manifest"]["profile"], where="manifest.json: profile")
    return choose(documents["report"], profile, sizing)


def predictions(documents: Mapping[str, Any]) -> tuple[str, str] | None:
    """JSON pointers of the student's and the teacher's predicted latency by precision; None where they are not kept."""
    return ("/result/sizing/predicted", "/result/sizing/teacher_predicted") if documents["result"] else None


def student_name(documents: Mapping[str, Any]) -> str:
    """The student's name, as --student takes it."""
    student = documents["manifest"]["student"]
    spec = {field.name: student[field.name] for field in dataclasses.fields(StudentSpec)}
    return name_of(from_dict(StudentSpec, spec, where="manifest.json: student"))


def derived(documents: Mapping[str, Any]) -> dict[str, Any]:
    """Which graph is the one to deploy, and how the student compares: ratios, teacher over student.

    The graph: what compress chose, or chosen again where it was measured anew since; of a bundle alone, where nothing
    is predicted, the one of the shortest p50 measured.
    """
    manifest, report, result = documents["manifest"], documents["report"], documents["result"]
    graphs = report["graphs"]
    if result is None:
        deployed = min(manifest["graphs"], key=lambda p: graphs[p]["latency_ms"]["p50"])
    elif result["report_made"] == report["made"] and "deployed" in result:  # not in those of earlier versions
        deployed = result["deployed"]["precision"]
    else:
        deployed = _chosen(documents).precision
    student, teacher = manifest["student"], manifest["teacher"]
    found: dict[str, Any] = {
        "deployed": deployed,
        "parameters": teacher["parameters"] / student["parameters"],
        "macs": teacher["macs"] / student["macs"],
    }
    if "teacher" in graphs:
        found["mb"] = graphs["teacher"]["mb"] / graphs[deployed]["mb"]
        found["p50"] = graphs["teacher"]["latency_ms"]["p50"] / graphs[deployed]["latency_ms"]["p50"]
    reports = {"report": report, **{f"boards/{name}": board for name, board in documents["boards"].items()}}
    found["over_fp32"] = {
        name: {
            precision: one["graphs"]["fp32"]["latency_ms"]["p50"] / graph["latency_ms"]["p50"]
            for precision, graph in one["graphs"].items()
            if precision not in ("teacher", "fp32") and "fp32" in one["graphs"]
        }
        for name, one in reports.items()
    }
    return found
