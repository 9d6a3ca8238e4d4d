"""A teacher at 224 pixels: torchvision's ResNet-18, trained from nothing on 200 photographs of five kinds of flowers.

No command of its own: benchmarks/pairs.py has it as the pair `flowers`. The photographs are a small part of
TensorFlow's flower_photos; so few teach a network of this size little, and how near the student comes is what counts.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgekd import Images
from edgekd.vision import torchvision

FACTS = Images(3, 224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
COURSE, BATCH, RATE = ((112, 60), (224, 6)), 25, 0.02  # (side in pixels, epochs) of each part


def prepare(data: Path, teachers: Path, folder: Path) -> None:
    """Leaves resnet18.pt, a state_dict, and test.npz, the 100 test photographs."""
    torch.manual_seed(0)
    x, y = photographs(data / "flowers.zip", "train")
    model = torchvision().models.resnet18(num_classes=len(CLASSES)).train()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (FACTS.mean, FACTS.std))
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = sum(epochs for _, epochs in COURSE) * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for side, epochs in COURSE:
        for _ in range(epochs):
            for batch in torch.randperm(len(x))[: len(x) // BATCH * BATCH].view(-1, BATCH):
                crops = torch.stack([part_of(x[n], side) for n in batch.tolist()])
                loss = F.cross_entropy(model((crops / 255 - mean) / std), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    torch.save(model.state_dict(), folder / "resnet18.pt")
    images, labels = photographs(data / "flowers.zip", "test")
    np.savez(folder / "test.npz", images=images.numpy(), labels=labels.numpy())


def photographs(path: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The middles of the photographs of a split, uint8 (N, 3, H, W), and which of CLASSES each is (N,)."""
    pixels, labels = list[NDArray[np.uint8]](), []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and n.endswith(".jpg")):
            picture = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            pixels.append(np.asarray(ImageOps.fit(picture, (FACTS.width, FACTS.height))).transpose(2, 0, 1))
            labels.append(CLASSES.index(name.split("/")[1]))
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels)


def part_of(image: torch.Tensor, side: int) -> torch.Tensor:
    """A square of 35 to 100 % of an image (3, H, H), brought to (3, side, side); mirrored half of the time."""
    length = int(image.shape[1] * (0.35 + 0.65 * torch.rand(()).item()) ** 0.5)
    top, left = (int(torch.randint(0, image.shape[1] - length + 1, ())) for _ in range(2))
    part = image[None, :, top : top + length, left : left + length].float()
    part = F.interpolate(part, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    return part.flip(2) if torch.rand(()).item() < 0.5 else part
