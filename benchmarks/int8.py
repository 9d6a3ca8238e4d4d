"""What INT8 costs in accuracy, by calibration: top-1 of every graph on labelled images.

    python benchmarks/int8.py RUN teacher.pt test.npz [--train real.npz] [--out benchmarks/results/int8.jsonl]

RUN: an output folder of edgekd compress. Its student is exported again; ranges are measured by every method on the
run's generated images and on 500 real ones, and recovery is run on the best of the generated ones whether the gate asks
for it or not. Real images come from --train; without it from the first 500 of test.npz, which are then left out of the
test. Top-1 is read once, at the end, and decides nothing. One JSON line per graph.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgekd import load_teacher
from edgekd.bundle import read_bundle
from edgekd.evaluation import EvalData, load_eval_data, load_real_images, top1
from edgekd.export import Logits, export_fp32, scheme, torch_logits
from edgekd.export.calibration import IMAGES, agreement, balanced, calibrate, count_for
from edgekd.export.int8 import quantised
from edgekd.export.ranges import METHODS, histograms, ranges
from edgekd.export.recovery import Lessons, recover
from edgekd.export.running import model_logits
from edgekd.integers import Generated, evenly, parted
from edgekd.stages import samples_kept
from edgekd.types import Teacher

ROOT = Path(__file__).resolve().parent
REAL = 500  # images


class Graphs:
    """Graphs of one student, each with its figures as a line."""

    def __init__(self, about: dict[str, Any], data: EvalData, generated: Generated, answers: Logits, out: Path) -> None:
        self.about, self.data, self.samples, self.out = about, data, generated.samples, out
        self.answers = answers.argmax(1)

    def add(self, graph: onnx.ModelProto, **more: Any) -> None:
        """Appends the figures of a graph; more: how it was made."""
        figures = {
            "top1": top1(model_logits(graph, self.data.pixels), self.data),
            "agreement_generated": agreement(model_logits(graph, self.samples), self.answers),
        }
        line = {**self.about, **more, **figures, "evaluated": len(self.data.labels), "gate": len(self.samples)}
        with open(self.out, "a", encoding="utf-8") as file:
            print(json.dumps(line, allow_nan=False), file=file)
        print({**more, **figures}, flush=True)


def generated_of(run: Path, teacher: Teacher) -> Generated:
    """The generated images that a run kept."""
    with np.load(run / "images.npz", allow_pickle=False) as stored:
        return parted(stored["pixels"], samples_kept(teacher.images))


def split(path: Path, real: Path | None, teacher: Teacher) -> tuple[EvalData, np.ndarray[Any, np.dtype[np.uint8]]]:
    """The labelled images to test with, and real ones for ranges, apart from them."""
    data = load_eval_data(path, teacher.images, len(teacher.classes))
    if real is not None:
        pixels = load_real_images(real, teacher.images).pixels
        return data, pixels[evenly(len(pixels), REAL)]
    held = min(REAL, len(data.labels) // 3)
    return EvalData(data.pixels[held:], data.labels[held:], data.name, data.sha256), data.pixels[:held]


def measure(run: Path, teacher: Teacher, data: EvalData, real: np.ndarray[Any, np.dtype[np.uint8]], out: Path) -> None:
    student, generated = load_teacher(run / "student.pt").model, generated_of(run, teacher)
    manifest = read_bundle(run / "bundle").manifest
    about = {"run": run.name, "target": manifest.target, "student": manifest.student["family"], "data": data.name}
    about |= {"seed": manifest.method["seed"], "onnxruntime": manifest.made_with.get("onnxruntime")}
    wanted = scheme(manifest.target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32.onnx"
        export_fp32(student, teacher.images, teacher.classes, path, opset=manifest.profile["opset"])
        fp32 = onnx.load(path)
        graphs = Graphs(about, data, generated, torch_logits(student, teacher.images, generated.samples), out)
        graphs.add(fp32, kind="fp32")
        labels = torch_logits(teacher.model, teacher.images, generated.pool[: 2 * IMAGES[1]]).argmax(1)
        chosen = generated.pool[balanced(labels, count_for(path, generated.pool))]
        for name, pixels in {"generated": chosen, "real": real}.items():
            found = histograms(fp32, pixels)
            for method in METHODS:
                graph = quantised(fp32, ranges(found, method, symmetric=wanted.symmetric), scheme=wanted)
                graphs.add(graph, kind="int8", method=method, images=name, measured_on=len(pixels))
        best = calibrate(path, {"generated": chosen}, generated.judges, scheme=wanted)
        networks = {"student": student, "teacher": teacher.model}
        targets = {name: torch_logits(network, teacher.images, generated.pool) for name, network in networks.items()}
        lessons = Lessons(generated.pool, targets)
        after = recover(path, best, chosen, generated.judges, lessons, scheme=wanted)
        tried = [{"name": a.name, "before": a.before, "after": a.after, "kept": a.kept} for a in after.attempts]
        graphs.add(after.graph, kind="int8 recovered", method=best.chosen.method, images="generated", attempts=tried)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--train", type=Path, help="real images for ranges (npz), none of which is in the test")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "int8.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_teacher(options.teacher)
    measure(options.run, teacher, *split(options.data, options.train, teacher), options.out)


if __name__ == "__main__":
    main()
