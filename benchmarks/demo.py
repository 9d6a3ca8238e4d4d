"""The demo: trains a teacher on scanned digits, then runs what a user would run.

    python benchmarks/demo.py [FOLDER] [--seed N] [--out benchmarks/results/digits_demo.jsonl]      (make demo)

Data: scikit-learn's load_digits, 1,797 scanned digits of 8x8 pixels; 1,437 train the teacher, 360 are held out. They
come to `edgekd compress` only as --eval-data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from record import compress
from sklearn.datasets import load_digits
from torch import Tensor, nn

from edgekd import Images, save_teacher
from edgekd.networks import ResNet

EPOCHS, BATCH = 20, 64


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """((images uint8 (N, 8, 8), labels), the held-out ones), the same split every time."""
    data = load_digits()
    images = torch.from_numpy((data.images * 255 / 16).round().astype(np.uint8))
    labels = torch.from_numpy(data.target.astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[test], labels[test])


def train_teacher(pixels: Tensor, labels: Tensor, facts: Images, *, seed: int) -> nn.Module:
    """A ResNet-8 of width 16 with BatchNorm, shifted digits as augmentation."""
    torch.manual_seed(seed)
    model = ResNet(facts, 10, depth=1, width=16, large_stem=False).train()
    x = (pixels[:, None].float() / 255 - facts.mean[0]) / facts.std[0]
    steps = EPOCHS * (len(x) // BATCH)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x))
        for batch in order[: len(x) // BATCH * BATCH].view(-1, BATCH):
            right, down = torch.randint(-1, 2, (2,)).tolist()
            images = F.pad(x[batch], (1, 1, 1, 1), value=float(x.min()))[
                ..., 1 + down : 9 + down, 1 + right : 9 + right
            ]
            loss = F.cross_entropy(model(images), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def prepare(folder: Path, *, seed: int) -> None:
    """Leaves teacher.pt and digits-test.npz in `folder`."""
    (pixels, labels), (test_pixels, test_labels) = digits()
    scaled = pixels.float() / 255
    facts = Images(1, 8, 8, (float(scaled.mean()),), (float(scaled.std()),))
    teacher = train_teacher(pixels, labels, facts, seed=seed)
    save_teacher(teacher, folder / "teacher.pt", images=facts, classes=[str(digit) for digit in range(10)])
    np.savez(folder / "digits-test.npz", images=test_pixels.numpy(), labels=test_labels.numpy())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the figures to this file instead of showing the table")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    prepare(folder, seed=options.seed)
    print(f"trained a teacher on 1,437 digits in {time.perf_counter() - start:.0f} s: {folder / 'teacher.pt'}")
    arguments = ["teacher.pt", "--profile", "jetson", "--eval-data", "digits-test.npz"]
    if options.out:
        print(compress("digits", arguments, folder=folder, seed=options.seed, out=options.out.resolve()))
        return 0
    command = ["edgekd", "compress", *arguments] + (["--seed", str(options.seed)] if options.seed else [])
    print(f"cd {folder} && {' '.join(command)}", flush=True)
    return subprocess.call([sys.executable, "-m", *command], cwd=folder)


if __name__ == "__main__":
    sys.exit(main())
