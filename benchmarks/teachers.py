"""Trains a teacher of the GPU benchmarks, in as many calls as it takes. benchmarks/gpu.py runs it.

    python benchmarks/teachers.py NAME [--data ../shared/data] [--out benchmarks/results/gpu] [--tiny]

Leaves OUT/teacher-NAME.json and OUT/teacher-NAME.part1.pt, ...: weights in fp16, in files below 16 MB. A stop by Ctrl-C
or SIGTERM is saved in OUT/work, and the same command goes on from there. The last model counts; its top-1 on the test
images is read once, at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import Images
from edgekd.bank import normalised
from edgekd.checkpoint import Checkpoint, stoppable
from edgekd.compute import autocast, choose_device, descend, logits_of, to_device
from edgekd.errors import Interrupted
from edgekd.files import from_dict, plain, sha256, write_json, written
from edgekd.student import build_student, named

PART_BYTES = 15_000_000  # of the tensors in a file; one convolution of ResNet-34 has 4.7 MB at most
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple(map(str, range(10)))


@dataclass(frozen=True)
class Course:
    """How a teacher is trained: SGD with Nesterov momentum 0.9, warm-up and cosine, random crops."""

    arch: str
    data: str  # cifar10 or svhn
    epochs: int
    aim: float  # top-1 that distillation starts from in the literature
    batch: int = 256
    lr: float = 0.2  # at its highest; 0.1 for batches of 128, as usual
    weight_decay: float = 5e-4
    padding: int = 4  # pixels around an image that is cropped to its size again
    mirror: bool = True  # half of the images
    images: int | None = None  # only the first so many, of training and test


COURSES: dict[str, Course] = {
    "resnet34": Course("resnet34", "cifar10", epochs=100, aim=0.953),
    "wrn40-2": Course("wrn40-2", "cifar10", epochs=80, aim=0.945),
    "svhn-wrn40-2": Course("wrn40-2", "svhn", epochs=60, aim=0.96, mirror=False),
}
TINY = {"resnet34": "resnet8", "wrn40-2": "wrn10-1"}  # stand-ins, for a look at the path on a CPU

Pixels = NDArray[np.uint8]  # (N, H, W, 3), RGB
Labelled = tuple[Pixels, NDArray[np.int64]]


def course(name: str, *, tiny: bool) -> Course:
    """How the teacher `name` is trained."""
    whole = COURSES[name]
    return replace(whole, arch=TINY[whole.arch], epochs=2, batch=32, images=128) if tiny else whole


def decode(deltas: NDArray[np.uint8]) -> Pixels:
    """CIFAR-10 as it is stored, differences (3, N, H, W) modulo 256 of the planes R-G, G, B-G: RGB (N, H, W, 3)."""
    x = np.cumsum(np.cumsum(deltas, 2, dtype=np.uint8), 3, dtype=np.uint8)
    x[0] += x[1]
    x[2] += x[1]
    return np.ascontiguousarray(x.transpose(1, 2, 3, 0))


def labelled(data: Path, which: str, split: str) -> Labelled:
    """The images and labels of `which` (cifar10, svhn), split train or test, in the folder `data`."""
    if which == "svhn":
        with np.load(data / "svhn.npz", allow_pickle=False) as arrays:
            return arrays[f"{split}_images"], arrays[f"{split}_labels"].astype(np.int64)
    names = ["cifar10_test.npz"] if split == "test" else ["cifar10_train_1of2.npz", "cifar10_train_2of2.npz"]
    images, labels = [], []
    for name in names:
        with np.load(data / name, allow_pickle=False) as coded:
            images.append(decode(coded["images_delta"]))
            labels.append(coded["labels"].astype(np.int64))
    return np.concatenate(images), np.concatenate(labels)


def facts_of(pixels: Pixels) -> Images:
    """What a network is fed that sees such images (N, H, W, 3) with mean 0 and variance 1."""
    scaled = [pixels[..., channel].astype(np.float32) / 255 for channel in range(3)]
    mean, std = (tuple(round(float(f(c)), 4) for c in scaled) for f in (np.mean, np.std))
    return Images(3, pixels.shape[1], pixels.shape[2], mean, std)


def cropped(padded: Tensor, chosen: Tensor, size: int, rng: torch.Generator, *, mirror: bool) -> Tensor:
    """Random crops of size x size pixels of the images padded[chosen], half of them mirrored: uint8 (n, C, size, size).

    padded: uint8 (N, C, H, W); all on one device, where a batch is one gathering of bytes.
    """
    n, device = len(chosen), padded.device
    down, right = torch.randint(padded.shape[2] - size + 1, (2, n, 1), generator=rng, device=device)
    along = torch.arange(size, device=device).expand(n, size)
    if mirror:
        along = torch.where(torch.randint(2, (n, 1), generator=rng, device=device).bool(), along.flip(1), along)
    rows = (down + torch.arange(size, device=device))[:, None, :, None]
    columns = (right + along)[:, None, None, :]
    channels = torch.arange(padded.shape[1], device=device)[:, None, None]
    return padded[chosen[:, None, None, None], channels, rows, columns]


def rate(done: float) -> float:
    """The learning rate's share of its highest value after a share `done` of the steps: up for 5 %, cosine to 0."""
    return done / 0.05 if done < 0.05 else 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))


def train(how: Course, given: Labelled, facts: Images, path: Path, *, seed: int = 0) -> tuple[nn.Module, float]:
    """The network in eval mode, and the seconds it took over all calls. path: of the checkpoint.

    Raises Interrupted, after saving, on SIGINT or SIGTERM. A GPU runs it in bf16, compiled.
    """
    device = choose_device()
    spec = named(how.arch, facts, tuple(map(str, range(10))))
    assert spec, how.arch
    model = to_device(build_student(spec, seed=seed), device).train()
    pixels = torch.from_numpy(given[0]).permute(0, 3, 1, 2).to(device)
    padded, labels = F.pad(pixels, (how.padding,) * 4), torch.from_numpy(given[1]).to(device)
    rng = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), how.lr, momentum=0.9, nesterov=True, weight_decay=how.weight_decay)
    checkpoint = Checkpoint(path, model=model, optimizer=optimizer, rng=rng)
    at: dict[str, Any] = checkpoint.restore({"step": 0, "seconds": 0.0})
    begun, earlier, first, per_epoch = time.monotonic(), at["seconds"], at["step"], len(labels) // how.batch
    steps, forward = how.epochs * per_epoch, torch.compile(model) if device.type == "cuda" else model
    with stoppable():
        for step in range(first, steps):
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 or step == first:  # an epoch's order is its own, so that one can be gone on with
                drawn = torch.Generator(device).manual_seed(1_000 * seed + epoch)
                order = torch.randperm(len(labels), generator=drawn, device=device)
            chosen = order[batch * how.batch : (batch + 1) * how.batch]
            optimizer.param_groups[0]["lr"] = how.lr * rate((step + 1) / steps)
            x = normalised(cropped(padded, chosen, facts.height, rng, mirror=how.mirror), facts)
            with autocast(device):
                logits = forward(x)
            loss = descend(F.cross_entropy(logits.float(), labels[chosen]), optimizer)
            if batch == per_epoch - 1 and epoch % 5 == 4:
                said = f"epoch {epoch + 1} of {how.epochs}, loss {loss.item():.3f}"
                print(f"{how.arch}: {said}, {at['seconds']:.0f} s", file=sys.stderr, flush=True)
            at |= {"step": step + 1, "seconds": earlier + time.monotonic() - begun}
            checkpoint.keep(at)
    return model.eval(), at["seconds"]


@torch.no_grad()
def top1(model: nn.Module, test: Labelled, facts: Images) -> float:
    """Share of the images (N, H, W, 3) whose class the network, in eval mode, finds."""
    device, right = next(model.parameters()).device, 0
    for at in range(0, len(test[1]), 1_000):
        x = torch.from_numpy(test[0][at : at + 1_000]).permute(0, 3, 1, 2).to(device)
        guess = logits_of(model, normalised(x, facts)).argmax(dim=1).cpu()
        right += int((guess == torch.from_numpy(test[1][at : at + 1_000])).sum())
    return right / len(test[1])


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in fp16, on the CPU; BatchNorm's and biases, which are few and may be very small, as they are."""
    return {n: (t.half() if t.is_floating_point() and t.ndim > 1 else t).cpu().contiguous() for n, t in state.items()}


def keep(name: str, state: dict[str, Tensor], facts: dict[str, Any], out: Path) -> list[Path]:
    """Writes the tensors in parts below 16 MB and, last, teacher-NAME.json with their hashes; gives all paths."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in state.items():
        if size + tensor.nbytes > PART_BYTES and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][key] = tensor
        size += tensor.nbytes
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"teacher-{name}.part{number}.pt" for number in range(1, len(parts) + 1)]
    for path, part in zip(paths, parts, strict=True):
        with written(path) as temporary:
            torch.save(part, temporary)
    whole = out / f"teacher-{name}.json"
    write_json(whole, facts | {"parts": {path.name: sha256(path) for path in paths}})
    return [*paths, whole]


def joined(name: str, out: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, in fp32, and the facts that `keep` has written. Raises ValueError that names a part in its way."""
    facts: dict[str, Any] = json.loads((out / f"teacher-{name}.json").read_text(encoding="utf-8"))
    state: dict[str, Tensor] = {}
    for file, wanted in facts["parts"].items():
        path = out / file
        if not path.is_file() or sha256(path) != wanted:
            raise ValueError(f"{path} is not the part that teacher-{name}.json names: copy it again, or train anew")
        state |= torch.load(path, weights_only=True)
    return {n: t.float() if t.is_floating_point() else t for n, t in state.items()}, facts


def images_of(facts: dict[str, Any]) -> Images:
    """What the teacher of these facts is fed."""
    return from_dict(Images, facts["images"], where="images")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=COURSES)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu")
    parser.add_argument("--tiny", action="store_true", help="a small stand-in, a few steps, on the CPU too")
    given = parser.parse_args(arguments)
    how, checkpoint = course(given.name, tiny=given.tiny), given.out / "work" / f"teacher-{given.name}.ckpt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    learnt, test = (labelled(given.data, how.data, split) for split in ("train", "test"))
    learnt, test = ((x[: how.images], y[: how.images]) for x, y in (learnt, test))
    facts = facts_of(learnt[0])
    try:
        model, seconds = train(how, learnt, facts, checkpoint)
    except Interrupted as stop:
        print(stop.what, file=sys.stderr)
        return stop.exit_code
    state = halved(model.state_dict())
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})  # what is kept is what is tested
    about = plain(
        {"arch": how.arch, "course": how, "images": facts, "classes": DIGITS if how.data == "svhn" else CIFAR10}
    )
    about |= {"top1": top1(model, test, facts), "seconds": round(seconds, 1), "torch": torch.__version__}
    about["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    keep(given.name, state, about, given.out)
    checkpoint.unlink(missing_ok=True)
    print(json.dumps(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
