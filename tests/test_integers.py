"""The INT8 graph on its way through compress: what is tried, what is told, and what real images do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import pictures

from edgekd import compress, load_profile
from edgekd.errors import UsageError
from edgekd.evaluation import RealImages
from edgekd.export.ranges import METHODS
from edgekd.integers import real_statement
from edgekd.types import Teacher

QUICK: dict[str, Any] = {
    "method": "rdskd",
    "family": "cnn:4",
    "settings": {"batch": 32, "latent": 8, "generator_width": 8, "generator_steps": 2, "student_steps": 20},
}


def test_real_images_are_tried_and_told(teacher: Teacher, tmp_path: Path) -> None:
    real = RealImages(pictures(40, seed=5)[0][:, None], "mine.npz", "f" * 64)
    said: list[str] = []
    run, profile = tmp_path / "run", load_profile("cpu")
    manifest = compress(teacher, profile, run, **QUICK, calibration_data=real, say=said.append).bundle.manifest
    told = manifest.parity["int8"]["calibration"]
    assert [(one["method"], one["images"]) for one in told["tried"]] == [
        (method, images) for method in METHODS for images in ("generated", "real")
    ]
    assert told["images"] == {"generated": 512, "real": 40} and told["held_out"] == 1171
    best = max(one["agreement"] for one in told["tried"])
    chosen = next(one for one in told["tried"] if one["agreement"] == best)
    assert told["chosen"] == {name: chosen[name] for name in ("images", "method")}
    assert manifest.data.endswith(real_statement(40, "mine.npz", kept=chosen["images"] == "real"))
    (line,) = (line for line in said if line.startswith("INT8 agrees with fp32"))
    assert all(text in line for text in (*METHODS, "40 real images", f"Kept: {chosen['method']}, {chosen['images']}"))
    assert ("recovery" in manifest.parity["int8"]) == any("is asked: correcting" in line for line in said)
    assert json.loads((run / "settings.json").read_text(encoding="utf-8"))["calibration_data"] == "f" * 64
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "INT8: calibration and recovery" in page and "mine.npz" in page
    with np.load(run / "images.npz") as kept:
        assert len(kept["pixels"]) == 5_512
    with pytest.raises(UsageError) as refused:  # its ranges would not be those of this folder
        compress(teacher, profile, run, **QUICK)
    assert "calibration_data" in refused.value.why


def test_statement_on_real_images() -> None:
    assert "measured on 9 real images of a.npz, which nothing was trained on" in real_statement(9, "a.npz", kept=True)
    assert "were tried" in real_statement(9, "a.npz", kept=False)
