"""Which score that is known before training orders students as short distillations do?

    python benchmarks/proxies.py [--settings digits8 digits32 cifar10] [--out benchmarks/results/proxies.json]

--settings without a name computes the correlations of what is there anew.

Students of several families learn for a few steps from a teacher on real images (this is about students, not about
data-free images); their top-1 on images that neither they nor the digits' teachers saw is compared by Spearman's
rank correlation with log MACs, log parameters, the mean of both, edgekd's own score, and NASWOT, synflow and the
gradient's norm at the first weights. digits: scikit-learn's load_digits at 8x8 and enlarged to 32x32, 900 images to
learn from and 897 to judge; the teacher is trained here. cifar10: ../shared/data and ../shared/teachers beside the
repository; 6,000 training images to learn from, 2,000 others to judge (its teacher knows all of them).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from teachers import labelled
from torch import Tensor, nn
from zero_cost import gradient, naswot, synflow

from edgekd import Images, load_teacher
from edgekd.capacity import capacity
from edgekd.latency import cost
from edgekd.networks import ResNet
from edgekd.student import first_student, named
from edgekd.types import Cost, Teacher

ROOT = Path(__file__).resolve().parent
SHARED = ROOT.parent.parent / "shared"
BATCH, TEMPERATURE, SEED = 64, 4.0, 0
NOISE = 1.5  # standard deviation that is added to the normalised pixels of the digits
CLASSES = tuple("0123456789")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published CIFAR ResNets
SMALL = (
    "cnn:4", "cnn:8", "cnn:16", "resnet:1x4", "resnet:1x8", "resnet:1x12", "resnet:2x8", "mobilenetv2:0.5x0.2",
    "mobilenetv2:0.2", "mobilenetv3:0.5x0.2", "mobilenetv3:0.35", "mcu:1x4", "mcu:1x8", "mcu:2x12", "pruned:0.5",
    "pruned:0.25",
)  # fmt: skip
LARGE = (
    "cnn:4", "cnn:8", "cnn:16", "cnn:24", "resnet:1x4", "resnet:1x8", "resnet:1x12", "resnet:2x8",
    "mobilenetv2:0.5x0.2", "mobilenetv2:0.35", "mobilenetv3:0.5x0.2", "mobilenetv3:0.35", "mcu:1x6", "mcu:1x12",
    "mcu:2x16", "pruned:0.5", "pruned:0.25", "pruned:0.14",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A teacher and images: normalised (N, C, H, W), labels (N,)."""

    teacher: Teacher
    learn: tuple[Tensor, Tensor]
    judge: tuple[Tensor, Tensor]
    students: tuple[str, ...]
    steps: int


def digits(side: int) -> Setting:
    """Scanned digits and a teacher trained on them: WIDTH 16, ResNet-14 at 8 pixels, ResNet-20 at 32."""
    data = load_digits()
    pixels = torch.from_numpy((data.images * 255 / 16).astype(np.float32))[:, None]
    if side != 8:
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear")
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(SEED))
    x, y = (pixels[order] / 255 - 0.3) / 0.37, torch.from_numpy(data.target.astype(np.int64))[order]
    x = x + NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED))  # else all reach 98 %
    images = Images(1, side, side, (0.3,), (0.37,))
    torch.manual_seed(SEED)
    model = ResNet(images, 10, depth=2 if side == 8 else 3, width=16, large_stem=False)
    learn, judge = (x[:900], y[:900]), (x[900:], y[900:])
    fit(model, learn[0], F.one_hot(learn[1], 10) * 20.0, steps=300 if side == 8 else 100, rate=0.1)
    teacher = Teacher(model.eval(), images, CLASSES, "", "resnet")
    return Setting(teacher, learn, judge, SMALL if side == 8 else LARGE, 150 if side == 8 else 60)


def cifar10() -> Setting:
    """CIFAR-10 and the published ResNet-20."""
    teacher = load_teacher(
        SHARED / "teachers" / "resnet20_cifar10.th", arch="resnet20", size=(3, 32, 32), mean=MEAN, std=STD
    )
    images, truth = labelled(SHARED / "data", "cifar10", "train")
    pixels, labels = torch.from_numpy(images[:8000]).permute(0, 3, 1, 2), torch.from_numpy(truth[:8000])
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (teacher.images.mean, teacher.images.std))
    x, y = (pixels.float() / 255 - mean) / std, labels
    return Setting(teacher, (x[:6000], y[:6000]), (x[6000:], y[6000:]), LARGE, 120)


def fit(model: nn.Module, x: Tensor, target: Tensor, *, steps: int, rate: float) -> None:
    """SGD in one cycle on logits `target` (N, K), mirrored by nothing, warped by nothing: only the order is random."""
    rng = torch.Generator().manual_seed(SEED)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(x), (BATCH,), generator=rng)
        student, teacher = model(x[batch]) / TEMPERATURE, target[batch] / TEMPERATURE
        loss = TEMPERATURE**2 * F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    model.eval()


def logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(256)])


def measured(setting: Setting) -> list[dict[str, Any]]:
    """A line for each student: its scores, and its top-1 after the short distillation."""
    target, lines = logits(setting.teacher.model, setting.learn[0]), []
    for name in setting.students:
        spec = named(name, setting.teacher.images, CLASSES)
        assert spec is not None
        start = time.perf_counter()
        model, _ = first_student(spec, setting.teacher, seed=SEED)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        of = cost(model, setting.teacher.images)
        x, y = setting.learn[0][:BATCH], setting.learn[1][:BATCH]
        line = {
            "student": name,
            "family": spec.family,
            "macs": of.macs,
            "parameters": of.parameters,
            "layers": of.layers,
            "naswot": naswot(model, x),
            "synflow": synflow(model, x),
            "gradient": gradient(model, x, y),
        }
        fit(model, setting.learn[0], target, steps=setting.steps, rate=0.02 if spec.family == "pruned" else 0.1)
        found = logits(model, setting.judge[0])
        line["top1"] = float((found.argmax(1) == setting.judge[1]).float().mean())
        line["cross_entropy"] = float(F.cross_entropy(found, setting.judge[1]))
        line["seconds"] = round(time.perf_counter() - start, 1)
        print(f"{name:22} top-1 {line['top1']:.3f}  {line['seconds']:.0f} s", flush=True)
        lines.append(line)
    return lines


def correlations(lines: list[dict[str, Any]], teacher: dict[str, int]) -> dict[str, float]:
    """Spearman's rank correlation of each score with top-1. teacher: its MACs and parameters."""
    log = {name: np.log([line[name] for line in lines]) for name in ("macs", "parameters", "layers")}
    scores = {f"log {name}": values for name, values in log.items()}
    scores["log macs + log parameters"] = log["macs"] + log["parameters"]
    whole = Cost(parameters=teacher["parameters"], macs=teacher["macs"], layers=0, traffic_elements=0, peak_elements=0)
    costs = [dataclasses.replace(whole, macs=line["macs"], parameters=line["parameters"]) for line in lines]
    families = [line["family"] for line in lines]
    scores["edgekd"] = np.array([capacity(of, whole, f) for of, f in zip(costs, families, strict=True)])
    scores |= {name: np.array([line[name] for line in lines]) for name in ("naswot", "synflow", "gradient")}
    top1 = [line["top1"] for line in lines]
    return {name: round(float(spearmanr(values, top1).statistic), 3) for name, values in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="*", default=["digits8", "digits32", "cifar10"])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "proxies.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"torch": torch.__version__, "settings": {}}
    if arguments.out.exists():  # other settings stay
        document = json.loads(arguments.out.read_text(encoding="utf-8")) | {"torch": torch.__version__}
    for name in arguments.settings:
        setting = cifar10() if name == "cifar10" else digits(int(name.removeprefix("digits")))
        top1 = float((logits(setting.teacher.model, setting.judge[0]).argmax(1) == setting.judge[1]).float().mean())
        print(f"{name}: teacher {top1:.3f}, {setting.steps} steps of {BATCH}", flush=True)
        whole = cost(setting.teacher.model, setting.teacher.images)
        document["settings"][name] = {
            "teacher_top1": top1,
            "teacher": {"macs": whole.macs, "parameters": whole.parameters},
            "steps": setting.steps,
            "students": measured(setting),
        }
    for name, found in document["settings"].items():  # of earlier runs too: edgekd's score may have changed since
        lines = found["students"]
        others = [line for line in lines if line["family"] != "pruned"]
        found["spearman"] = correlations(lines, found["teacher"])
        found["spearman_without_pruned"] = without = correlations(others, found["teacher"])
        print(f"{name}: Spearman with top-1 of {len(lines)} students")
        for score, value in found["spearman"].items():
            print(f"  {score:28} {value:6.3f}   without the pruned {without[score]:6.3f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
