"""What TensorRT's messages mean, and what to do. The messages differ little from 8.2 to 11."""

import re
from typing import List, NamedTuple, Sequence

from .setting import EXIT_ENVIRONMENT, EXIT_EXPORT, EXIT_INTEGRITY, Refused


class Cause(NamedTuple):
    """pattern: found in a message, whatever its case. cause may hold {0}, what the pattern's group found."""

    pattern: str
    cause: str
    fix: str
    exit_code: int


EXPORT_AGAIN = "export for the TensorRT that is on this device: its version belongs into the profile's [runtime]"
BUILD_AGAIN = "remove the engine; it is built anew on this device"

# The first that fits counts: a lack of memory also leaves a layer without an implementation, and says so later.
# Messages as in onnx/onnx-tensorrt ModelImporter.cpp and the threads of NVIDIA/TensorRT named on the lines.
CAUSES = (
    Cause(
        r"out ?of ?memory|cudaErrorMemoryAllocation|could not be allocated",  # NVIDIA/TensorRT#2643
        "the GPU's memory does not suffice to build or run the engine",
        "stop what else runs there, close the desktop, add swap on a Jetson, or set workspace_mb to 64 in the profile",
        EXIT_ENVIRONMENT,
    ),
    Cause(
        r"CUDA initialization failure[^0-9]*(\d+)?|no CUDA-capable device|CUDA driver version is insufficient",
        "CUDA does not start on this device",
        "nvidia-smi (or tegrastats on a Jetson) says why; driver and CUDA must be those TensorRT was built for",
        EXIT_ENVIRONMENT,
    ),
    Cause(
        r"SM ?\(?(\d[\d.]*)\)? is not supported|unsupported SM",
        "this TensorRT has no kernels for this GPU any more",
        "use the TensorRT of the board's own JetPack",
        EXIT_ENVIRONMENT,
    ),
    Cause(
        r"version tag does not match|magicTag|not compatible with this version of TensorRT|kSERIALIZATION_VERSION",
        "the engine was built by another version of TensorRT",  # NVIDIA/TensorRT#977
        BUILD_AGAIN,
        EXIT_INTEGRITY,
    ),
    Cause(
        r"incompatible device|expecting compute \S+ got compute (\S+)|platform specific tag mismatch",
        "the engine was built for another GPU",  # NVIDIA/TensorRT#818
        BUILD_AGAIN,
        EXIT_INTEGRITY,
    ),
    Cause(
        r"Could not find any implementation for node (.+?)(?:\.\)|\.$|$)",  # NVIDIA/TensorRT#2918
        "TensorRT has no kernel for {0} in this precision",
        "raise workspace_mb in the profile (too little leaves kernels out), else take another precision",
        EXIT_EXPORT,
    ),
    Cause(
        r"operator: (\w+) \(importFallbackPlugin|could not find plugin:? (\w+)|No importer registered for op:? (\w+)",
        "this TensorRT's parser does not know the operator {0}",
        EXPORT_AGAIN,
        EXIT_EXPORT,
    ),
    Cause(
        r"only supports? symmetric quantization|shiftIsAllZeros",
        "the graph's quantisation is not symmetric: it was made for another runtime",
        "export for target tensorrt",
        EXIT_EXPORT,
    ),
    Cause(
        r"Unsupported ONNX data type: (\w+)",
        "this TensorRT does not take the data type {0}",
        EXPORT_AGAIN,
        EXIT_EXPORT,
    ),
    Cause(
        r"opset|ir[_ ]version|UNSUPPORTED_NODE|Failed to parse the ONNX|MODEL_DESERIALIZE_FAILED|ParseFromCodedStream",
        "this TensorRT's parser does not take the graph: it is of a newer ONNX, or damaged",
        EXPORT_AGAIN,
        EXIT_EXPORT,
    ),
)
NOT_KNOWN = Cause("", "TensorRT failed in a way that edgekd does not know", "its own words may help", EXIT_EXPORT)


def cause_of(messages: Sequence[str]) -> Cause:
    """The cause that the messages show; the most telling one where they show several."""
    for cause in CAUSES:
        for message in messages:
            found = re.search(cause.pattern, message, re.IGNORECASE)
            if found:
                groups = [g for g in found.groups() if g]
                return cause._replace(cause=cause.cause.format(groups[0] if groups else "of a layer"))
    return NOT_KNOWN


def refusal(doing: str, version: str, messages: Sequence[str]) -> Refused:
    """What to raise when TensorRT failed. doing: what it was asked for, "student.fp32.onnx cannot be built"."""
    cause = cause_of(messages)
    said = _told(messages)
    text = "%s: %s (TensorRT %s)\n  fix   %s" % (doing, cause.cause, version, cause.fix)
    return Refused(text + "".join("\n  said  %s" % line for line in said), cause.exit_code)


def _told(messages: Sequence[str]) -> List[str]:
    """The first and the last of the messages, shortened: the rest repeats them."""
    lines = [" ".join(m.split())[:300] for m in messages if m.strip()]
    return lines if len(lines) < 4 else lines[:2] + lines[-1:]
