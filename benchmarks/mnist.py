"""MNIST, LeNet5 -> LeNet5Half, by the published RDSKD: three seeds through the command line, last model.

    python benchmarks/mnist.py DATA [--seeds 0 1 2] [--out benchmarks/results/mnist_rdskd.jsonl] [-- COMPRESS OPTIONS]

DATA: an npz with train_images, train_labels, test_images, test_labels (uint8, 28x28). The teacher is trained here on
the training images, padded to 32x32; the student never sees one. One JSON line per seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from record import compress

from edgekd import Images, save_teacher
from edgekd.networks import LeNet

FACTS = Images(1, 32, 32, (0.1307,), (0.3081,))
SETTINGS = ["batch=256", "generator_width=64", "generator_steps=480", "student_steps=2000"]  # the rest as published


def train_teacher(data: Path, folder: Path, *, epochs: int = 12, seed: int = 0) -> None:
    """LeNet5 on the 60,000 training images: teacher.pt and test.npz in `folder`."""
    arrays = np.load(data, allow_pickle=False)
    pixels = {split: np.pad(arrays[f"{split}_images"], ((0, 0), (2, 2), (2, 2))) for split in ("train", "test")}
    x = (torch.from_numpy(pixels["train"])[:, None].float() / 255 - FACTS.mean[0]) / FACTS.std[0]
    y = torch.from_numpy(arrays["train_labels"]).long()
    torch.manual_seed(seed)
    model = LeNet(FACTS, 10)
    steps = epochs * (len(x) // 256)
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: len(x) // 256 * 256].view(-1, 256):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    save_teacher(model, folder / "teacher.pt", images=FACTS, classes=[str(k) for k in range(10)])
    np.savez(folder / "test.npz", images=pixels["test"], labels=arrays["test_labels"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mnist_rdskd.jsonl"))
    parser.add_argument("options", nargs="*", help="options of edgekd compress, instead of the ones written down here")
    options = parser.parse_args()
    chosen = options.options or ["--budget", "paper", *(f"--set={setting}" for setting in SETTINGS)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train_teacher(options.data, folder)
        for seed in options.seeds:
            arguments = ["teacher.pt", "--profile", "cpu", "--student", "lenet:3", "--method", "rdskd", *chosen]
            arguments += ["--eval-data", "test.npz", "-o", f"seed{seed}"]
            line = compress("MNIST LeNet5 -> LeNet5Half", arguments, folder=folder, seed=seed, out=options.out)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
