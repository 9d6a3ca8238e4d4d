"""A tiny real teacher: 8x8 gray images of four classes (stripes and halves), a BatchNorm ResNet trained in seconds."""

from __future__ import annotations

import functools
import gc
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch.onnx._internal.exporter._registration import ONNXRegistry
from typer import testing
from typer.main import get_command
from typer.testing import CliRunner

from edgekd import Images, bundle, load_teacher, save_teacher
from edgekd.__main__ import app
from edgekd.evaluation import EvalData
from edgekd.export import recovery
from edgekd.files import data_dir
from edgekd.networks import ResNet
from edgekd.types import Teacher

HASTY = {"look_s": 0.05, "warmup_s": 0.02, "seconds": 0.1, "idle_s": 0.01, "meter_s": 0.1, "meter_idle_s": 0.05}
FACTS = Images(1, 8, 8, (0.5,), (0.25,))
CLASSES = ("rows", "columns", "top", "left")
FEW = ("batch=32", "latent=8", "generator_width=8", "generator_steps=5", "student_steps=5")  # of the method rdskd
BRIEF = ("--method", "rdskd", "--student", "cnn:4", *(f"--set={setting}" for setting in FEW))


def pictures(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 (N, 8, 8) with noise, and labels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((8, 8))
    patterns = np.stack([rows % 2, columns % 2, rows < 4, columns < 4]).astype(float)
    labels = rng.integers(0, 4, count)
    images = patterns[labels] * rng.uniform(0.4, 0.8, (count, 1, 1)) + rng.uniform(0, 0.3, (count, 8, 8))
    return (255 * images.clip(0, 1)).astype(np.uint8), labels


@pytest.fixture(scope="session", autouse=True)
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Bundles that tests pack measure in tenths of seconds, the runner as it is but for those times; and INT8 graphs of
    students that hardly learned are not tuned."""
    runner = tmp_path_factory.mktemp("hasty") / "targets"
    shutil.copytree(data_dir("targets"), runner, ignore=shutil.ignore_patterns("__pycache__"))
    with open(runner / "measuring.py", "a", encoding="utf-8") as module:
        module.write(f"\nQUICK.update({HASTY})\nFULL.update({HASTY})\n")

    def found(name: str) -> Path:
        return runner if name == "targets" else data_dir(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "data_dir", found)
        patch.setattr(recovery, "MOST", 0)
        yield


def pytest_collection_finish() -> None:
    """What is there by now stays: the collector need not go through half a million objects again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def built_once() -> Iterator[None]:
    """Every torch.onnx.export parses the sources of torchlib's 500 functions, every CliRunner.invoke the signatures of
    all commands: more than half of what either takes, and the same each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        patch.setattr(testing, "_get_command", functools.cache(get_command))
        yield


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(FACTS, 4, depth=1, width=16, large_stem=False).train()
        images, labels = pictures(2048, seed=1)
        x = (torch.from_numpy(images)[:, None].float() / 255 - 0.5) / 0.25
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        for start in range(0, len(x), 64):
            loss = F.cross_entropy(model(x[start : start + 64]), torch.from_numpy(labels[start : start + 64]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    save_teacher(model, path, images=FACTS, classes=CLASSES)
    return path


@pytest.fixture
def teacher(teacher_file: Path) -> Teacher:
    return load_teacher(teacher_file)


@pytest.fixture(scope="session")
def eval_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, labels = pictures(256, seed=2)
    path = tmp_path_factory.mktemp("data") / "test.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def eval_data() -> EvalData:
    images, labels = pictures(256, seed=2)
    return EvalData(images[:, None], labels, "test.npz", "0" * 64)


@dataclass(frozen=True)
class Example:
    """What `edgekd compress teacher.pt --profile jetson --eval-data test.npz --json` left, trained for five steps."""

    folder: Path  # teacher.pt, test.npz, image.png and teacher-jetson/; to be copied where something changes it
    document: dict[str, Any]  # that it printed


@pytest.fixture(scope="session")
def example(teacher_file: Path, eval_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("example")
    shutil.copy(teacher_file, folder / "teacher.pt")
    shutil.copy(eval_file, folder / "test.npz")
    Image.fromarray(pictures(1, seed=3)[0][0]).save(folder / "image.png")
    line = ["compress", "teacher.pt", "--profile", "jetson", "--eval-data", "test.npz", *BRIEF, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    return Example(folder, json.loads(done.stdout))
