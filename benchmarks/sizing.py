"""Does the chosen student keep its limit, and does the next size up break one?

    python benchmarks/sizing.py [--measured] [--out benchmarks/results/sizing.json]

Five profiles by five limits (latency, parameters, graph size, memory, all at once), each a fraction of what the student
has that is chosen without it. The teacher is a CIFAR ResNet-20, untrained: no figure here depends on weights. The
students are built as compress builds them and their figures computed anew. --measured: this machine is the profile
cpu. It is measured first, as `edgekd profiles measure cpu` does, and the students are sized with what was found; then
the chosen ones and the next size up are exported and timed with ONNX Runtime (p90), untrained. Refused where other
processes used the machine meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd import Images
from edgekd.device import run_bundle
from edgekd.families import name_of
from edgekd.files import write_json
from edgekd.latency import cost, model_mb, predict
from edgekd.limits import deployed
from edgekd.liveness import cost_and_peak
from edgekd.measure import measure, probe_bundle, undisturbed
from edgekd.networks import ResNet
from edgekd.profile import adjusted, load_profile
from edgekd.sizing import next_better, search
from edgekd.student import first_student
from edgekd.types import Candidate, Profile, Teacher

ROOT = Path(__file__).resolve().parent
PROFILES = ("cpu", "jetson-orin-nano-8gb-super", "jetson-nano-4gb", "rpi-4b", "stm32h743")
PER_BUNDLE = 8  # networks measured in turns


def resnet20() -> Teacher:
    """CIFAR's ResNet-20, untrained."""
    images = Images(3, 32, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.manual_seed(0)
    model = ResNet(images, 10, depth=3, width=16, large_stem=False, option="A").eval()
    return Teacher(model, images, tuple("0123456789"), "", "resnet20")


def asked(free: Candidate) -> dict[str, dict[str, Any]]:
    """The limits of a profile: each a fraction of what the student has that is chosen without them."""
    precision = free.precision
    each: dict[str, dict[str, Any]] = {
        "latency": {"latency_ms": 0.7 * free.predicted[precision].high_ms},
        "parameters": {"parameters": free.cost.parameters // 2},
        "graph size": {"model_mb": 0.4 * model_mb(free.cost, precision)},
        "memory": {"memory_mb": 0.6 * free.memory_mb},
    }
    return each | {"all": {name: value for limit in each.values() for name, value in limit.items()}}


def verdict(teacher: Teacher, profile: Profile, candidate: Candidate) -> list[str]:
    """Limits that a student breaks, from the network that compress would train."""
    model, _ = first_student(candidate.spec, teacher, seed=0)
    of, peak = cost_and_peak(model, teacher.images)
    predicted = {precision: predict(of, profile, precision) for precision in profile.precisions}
    whole = cost(teacher.model, teacher.images)
    _, kept = deployed(of, peak, predicted, whole, profile)
    return [sentence for limit in kept if (sentence := limit.broken())]


def case(teacher: Teacher, profile: Profile) -> tuple[dict[str, Any], Candidate, Candidate | None]:
    found = search(teacher, profile)
    larger = next_better(found.chosen, list(found.candidates))
    precision = found.chosen.precision
    line = {
        "chosen": name_of(found.chosen.spec),
        "breaks": verdict(teacher, profile, found.chosen),
        "next": None if larger is None else name_of(larger.spec),
        "next_breaks": [] if larger is None else verdict(teacher, profile, larger),
        "precision": precision,
        "predicted_ms": dataclasses.asdict(found.chosen.predicted[precision]),
        "memory_mb": found.chosen.memory_mb,
        "candidates": len(found.candidates),
    }
    line["holds"] = not line["breaks"] and (larger is None or bool(line["next_breaks"]))
    return line, found.chosen, larger


def measured_ms(networks: dict[str, nn.Module], teacher: Teacher, profile: Profile) -> dict[str, Any]:
    """Name -> precision -> p50 and p90 on this machine. Raises MeasurementError where others used it."""
    found: dict[str, Any] = {name: {} for name in networks}
    names = list(networks)
    for at in range(0, len(names), PER_BUNDLE):
        part = {name: networks[name] for name in names[at : at + PER_BUNDLE]}
        with tempfile.TemporaryDirectory() as folder:
            bundle = probe_bundle(part, teacher.images, teacher.classes, profile, Path(folder))
            report = run_bundle(bundle, quick=True)
            undisturbed(report)
        for key, graph in report["graphs"].items():
            name, precision = key.rsplit(" ", 1)
            found[name][precision] = {q: graph["latency_ms"][q] for q in ("p50", "p90")}
    return found


def this_machine() -> Profile:
    """The profile cpu with the latencies of this machine."""
    profile = load_profile("cpu")
    found = measure(
        profile,
        lambda bundle, count: run_bundle(bundle, quick=True, threads=count),
        threads=[profile.threads],
        say=print,
    )
    print(f"fitted to {len(found.rows)} rows, mean error {np.abs(found.errors).mean():.1%}", flush=True)
    return found.profile


def measured(teacher: Teacher, profile: Profile, lines: list[dict[str, Any]], students: dict[str, Candidate]) -> None:
    """Adds to the lines of the profile cpu what this machine takes."""
    networks = {name: first_student(c.spec, teacher, seed=0)[0] for name, c in students.items()}
    ms = measured_ms(networks, teacher, profile)
    for line in lines:
        if line["profile"] == "cpu":
            most = line["limits"].get("latency_ms", profile.limits.latency_ms)
            line["measured_ms"] = ms[line["chosen"]]
            line["measured_holds"] = most is None or ms[line["chosen"]][line["precision"]]["p90"] <= most
            if line["next"]:
                line["next_measured_ms"] = ms[line["next"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", action="store_true", help="time the students of the profile cpu on this machine")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "sizing.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    teacher, lines, students = resnet20(), list[dict[str, Any]](), dict[str, Candidate]()
    here = this_machine() if arguments.measured else load_profile("cpu")
    for name in PROFILES:
        profile = here if name == "cpu" else load_profile(name)
        for limit, most in asked(search(teacher, profile).chosen).items():
            line, chosen, larger = case(teacher, adjusted(profile, **most))
            lines.append({"profile": name, "limit": limit, "limits": most, **line})
            if name == "cpu":
                students |= {name_of(c.spec): c for c in (chosen, larger) if c is not None}
            shown = "; ".join(line["next_breaks"]) or "nothing"
            print(f"{name:28} {limit:11} {line['chosen']:18} next {line['next']}: {shown}", flush=True)
    holding = sum(line["holds"] for line in lines)
    document: dict[str, Any] = {"teacher": "ResNet-20, 32x32", "hold": holding, "of": len(lines), "cases": lines}
    print(f"{holding} of {len(lines)}: the chosen student keeps every limit, the next size up breaks one")
    write_json(arguments.out, document)
    if arguments.measured:
        measured(teacher, here, lines, students)
        timed = [line for line in lines if "measured_ms" in line]
        document |= {"measured_hold": sum(line["measured_holds"] for line in timed), "measured_of": len(timed)}
        print(f"measured: {document['measured_hold']} of {len(timed)} keep their limit on latency")
        write_json(arguments.out, document)
    if holding < len(lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
