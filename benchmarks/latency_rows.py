"""Published latencies: a row of the table -> the way it was run, in the words of profiles/, or why it is left out."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from published_networks import network_cost

from edgekd.types import Cost

FP16_ARITHMETIC = {  # ARMv8.2 cores: ncnn computes in fp16 where it may
    "rk3588", "jetson-orin-nano-8gb", "jetson-agx-xavier", "snapdragon-888", "snapdragon-8-gen2", "rpi-5",
}  # fmt: skip
FAMILIES = {  # (start of the runtime, unit in the table) -> (family, runtime, unit)
    ("TensorRT", "GPU"): ("cuda", "tensorrt", "gpu"),
    ("ncnn", "CPU"): ("cpu", "ncnn", "cpu"),
    ("ncnn", "GPU (Vulkan)"): ("vulkan", "ncnn", "gpu"),
    ("LiteRT", "NPU"): ("npu", "litert", "npu"),
    ("QNN", "NPU"): ("npu", "qnn", "npu"),
    ("ONNX Runtime (QNN EP)", "NPU"): ("npu", "onnxruntime-qnn", "npu"),
    ("ONNX Runtime (QNN EP)", "CPU"): ("cpu", "onnxruntime-qnn", "cpu"),
    ("OpenCV DNN", "CPU"): ("cpu", "opencv", "cpu"),
    ("OpenCV DNN", "GPU"): ("cuda", "opencv", "gpu"),
    ("RKNN", "NPU"): ("npu", "rknn", "npu"),
    ("HailoRT", "NPU"): ("npu", "hailort", "npu"),
    ("Edge TPU", "TPU"): ("npu", "edgetpu", "npu"),
    ("TFLM", "CPU"): ("mcu", "tflm", "cpu"),
    ("MLPerf Tiny", "MCU/NPU"): ("mcu", "mlperf-tiny", "cpu"),
}
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "float": "fp16", "w8a8": "int8"}
PRECISIONS |= {"w8a16": "w8a16", "w8a16_mixed_int16": "w8a16"}


@dataclass(frozen=True)
class Row:
    device: str
    model: str
    family: str
    runtime: str
    unit: str
    precision: str
    threads: int  # 0: none, or not said
    batch: int
    latency_ms: float
    of: Cost
    label: str  # the row in words


@dataclass(frozen=True)
class LeftOut:
    label: str
    why: str


def read_rows(path: Path) -> tuple[list[Row], list[LeftOut]]:
    """(rows that can be used, rows that cannot with the reason)."""
    found = [_row(line) for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
    return [one for one in found if isinstance(one, Row)], [one for one in found if isinstance(one, LeftOut)]


def _row(line: dict[str, str]) -> Row | LeftOut:
    device, model, threads = line["device"], line["model"], line["threads"]
    label = " ".join(line[k] for k in ("device", "model", "precision", "runtime", "unit", "threads", "statistic"))
    way = next((w for (r, u), w in FAMILIES.items() if line["runtime"].startswith(r) and line["unit"] == u), None)
    if way is None:
        return LeftOut(label, "no family of runtimes has this runtime and unit")
    if "without ESP-NN" in line["note"]:
        return LeftOut(label, "reference kernels, 43 times slower than the ones that anybody ships")
    if device == "snapdragon-8-gen3" and way[1] == "mlperf-tiny":
        return LeftOut(label, "runs on the low-power island of the phone, one row of its kind")
    precision = PRECISIONS.get(line["precision"])
    if way[0] == "vulkan" and precision == "int8":
        way = FAMILIES["ncnn", "CPU"]  # ncnn has no int8 on Vulkan: these rows repeat those of its CPU
    if line["precision"].startswith("fp16/bf16"):
        precision = "fp16" if way[2] == "gpu" or device in FP16_ARITHMETIC else "fp32"
    if precision is None:
        return LeftOut(label, f"precision {line['precision']!r} is not known")
    of = network_cost(model, line["source"])
    if of is None:
        return LeftOut(label, "the network is not known")
    batch = re.search(r"batch (\d+)|\bb(\d+)\b", line["statistic"])
    count = re.fullmatch(r"\d+", threads)
    return Row(
        device=device, model=model, family=way[0], runtime=way[1], unit=way[2], precision=precision,
        threads=int(threads) if count and way[2] == "cpu" else 0, batch=int(batch[1] or batch[2]) if batch else 1,
        latency_ms=float(line["latency_ms"]), of=of, label=label,
    )  # fmt: skip
