"""What the runner and its runtime take when there is nothing to compute: a graph of one Identity, the same way."""

import base64
import os
import tempfile
from typing import Any

import numpy as np

from . import harness
from .setting import Say, Setting

# onnx.helper.make_graph of Identity x -> y, float32 (n, k); opset 9 and IR 4, which every ONNX Runtime takes
IDENTITY = "CAQ6QwoQCgF4EgF5IghJZGVudGl0eRIBaVoVCgF4EhAKDggBEgoKAxIBbgoDEgFrYhUKAXkSEAoOCAESCgoDEgFuCgMSAWtCBAoAEAk="
CLASSES = 10
RUNS, WARM_UP_RUNS = 2000, 500


def overhead_us(runtime: Any, setting: Setting, say: Say, runs: int = RUNS) -> float:
    """p50 of one call of the identity graph through runtime.load, in microseconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "identity.onnx")
        with open(path, "wb") as handle:
            handle.write(base64.b64decode(IDENTITY))
        infer, _ = runtime.load(path, setting._replace(precision="fp32"), say)
        x = np.zeros((setting.batch, CLASSES), dtype=np.float32)
        harness.timed(infer, x, WARM_UP_RUNS)
        return 1e3 * float(np.median(harness.timed(infer, x, runs)))
