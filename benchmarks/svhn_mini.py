"""A teacher on a small piece of SVHN. No command of its own: benchmarks/pairs.py has it as the pair `svhn_mini`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from edgekd import Images, save_teacher
from edgekd.networks import ResNet

EPOCHS, BATCH = 80, 64


def prepare(data: Path, teachers: Path, folder: Path) -> None:
    """A ResNet-8 on the 554 training digits, shifted, and inverted since house numbers are as often dark as bright."""
    with np.load(data / "svhn_mini.npz", allow_pickle=False) as arrays:
        pixels, labels = arrays["train_images"], torch.from_numpy(arrays["train_labels"]).long()
        np.savez(folder / "test.npz", images=arrays["test_images"], labels=arrays["test_labels"])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    facts = Images(3, 32, 32, tuple(x.mean(dim=(0, 2, 3)).tolist()), tuple(x.std(dim=(0, 2, 3)).tolist()))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (facts.mean, facts.std))
    torch.manual_seed(0)
    model = ResNet(facts, 10, depth=1, width=16, large_stem=False).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x))[: len(x) // BATCH * BATCH].view(-1, BATCH):
            right, down = torch.randint(0, 5, (2,)).tolist()
            images = F.pad(x[batch], (2, 2, 2, 2), mode="replicate")[..., down : down + 32, right : right + 32]
            inverted = torch.rand(BATCH, 1, 1, 1) < 0.5
            images = torch.where(inverted, 1 - images, images)
            loss = F.cross_entropy(model((images - mean) / std), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    save_teacher(model.eval(), folder / "teacher.pt", images=facts, classes=[str(digit) for digit in range(10)])
