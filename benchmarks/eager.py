"""What a user gets: the teacher as it is run today, in eager torch, against the deployed student; batch 1, one thread.

    python benchmarks/eager.py [--quick] [--out benchmarks/results/eager.json]

Pairs with random weights, on which latency does not depend; students fp32 and INT8 by ONNX Runtime through the
runner's own modules. All are measured in turns by the runner's protocol, beside them the teacher's graph by ONNX
Runtime, and INT8 with weights of 7 bits, for x86 without VNNI. Ratios are of p50; the lower and upper end are of the
95 % intervals, set against each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from runtimes import ROOT, exported
from trt_api import runner

from edgekd import Images
from edgekd.families import named
from edgekd.measure import CLASSES
from edgekd.student import build_student

PAIRS = {"resnet20": "resnet8", "resnet18": "resnet:1x16"}  # CIFAR-10's, at 32 pixels
PIXELS = 32


def eager(network: str) -> Any:
    """A function from images to logits: the network in torch, as it is."""
    images = Images(3, PIXELS, PIXELS, (0.5,) * 3, (0.25,) * 3)
    spec = named(network, images, CLASSES)
    assert spec is not None
    model = build_student(spec, seed=0).eval()

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = model((torch.from_numpy(x) / 255 - 0.5) / 0.25).numpy()
        return logits

    return infer


def compared(folder: Path, *, quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    runtime, measuring = runner("runtimes").opened("onnxrt"), runner("measuring")
    infers: dict[str, Any] = {}
    for network in dict.fromkeys((*PAIRS, *PAIRS.values())):
        files, pixels = exported(network, PIXELS, folder, ("onnxrt",))
        if network in PAIRS:
            files["int8 of 7 bits"] = exported(network, PIXELS, folder, ("onnxrt",), weight_bits=7)[0]["int8"]
        one = pixels[:1]
        for name, graph in files.items():
            precision = name.split()[0]
            setting = runner("setting").Setting(pixels.shape[1:], 1, precision, 1, str(folder))
            infer, _ = runtime.load(str(graph), setting, print)
            infers[f"{network} {name}"] = lambda x, infer=infer, one=one: infer(one)
        if network in PAIRS:
            today = eager(network)
            infers[f"{network} eager"] = lambda x, infer=today, one=one: infer(one)
    protocol = measuring.QUICK if quick else measuring.FULL
    found = runner("harness").measure(infers, None, protocol, lambda line: print(line, flush=True))
    latency = {key: (value["p50"], value["interval95"]["p50"]) for key, value in found["latency_ms"].items()}
    ratios = {}
    for teacher, student in PAIRS.items():
        for over, under in (
            (f"{teacher} eager", f"{student} fp32"), (f"{teacher} eager", f"{student} int8"),
            (f"{teacher} eager", f"{teacher} fp32"), (f"{teacher} fp32", f"{teacher} int8"),
            (f"{teacher} fp32", f"{teacher} int8 of 7 bits"),
        ):  # fmt: skip
            (a, (a_low, a_high)), (b, (b_low, b_high)) = latency[over], latency[under]
            ratios[f"{over} / {under}"] = [round(v, 3) for v in (a / b, a_low / b_high, a_high / b_low)]
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["python", "benchmarks/eager.py", *sys.argv[1:]]),
        "device": runner("sensors").HERE.device(),
        "torch": torch.__version__,
        "onnxruntime": runtime.describe()["version"],
        "protocol": protocol,
        **{k: found[k] for k in ("valid", "reasons", "foreign_cores", "steal_cores")},
        "p50_ms": {key: value for key, (value, _) in latency.items()},
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the runner's --quick")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "eager.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = compared(Path(temporary), quick=given.quick)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("valid", "reasons", "p50_ms", "ratios")}, indent=1))


if __name__ == "__main__":
    main()
