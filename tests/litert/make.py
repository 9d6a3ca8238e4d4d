"""Writes the graphs beside this file, with which the runner's LiteRT is tested where litert-torch is not installed.

    python tests/litert/make.py

Two images at once, 8x8, four classes; answers.npz has pixels and the network's own logits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main() -> None:
    sys.path.insert(0, str(HERE.parent))
    from conftest import CLASSES, FACTS, pictures

    from edgekd.export import export_tflite, quantise, torch_logits
    from edgekd.families import named
    from edgekd.student import build_student

    spec = named("cnn:4", FACTS, CLASSES)
    assert spec is not None
    network = build_student(spec, seed=0).eval()
    pixels = pictures(64, seed=4)[0][:, None]
    fp32 = HERE / "student.fp32.tflite"
    export_tflite(network, FACTS, fp32, batch=2)
    quantise(fp32, HERE / "student.int8.tflite", pixels)
    np.savez_compressed(HERE / "answers.npz", pixels=pixels, logits=torch_logits(network, FACTS, pixels))


if __name__ == "__main__":
    main()
