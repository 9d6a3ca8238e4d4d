"""What trtexec writes: times, outputs and errors. A file that was cut off or is something else is refused."""

import json
import math
import re
from typing import Any, Dict, List

import numpy as np

from .setting import EXIT_MEASUREMENT, Refused
from .trtexec_lines import WARM_UP_MS


def times_in(text: str, version: str) -> Dict[str, List[float]]:
    """Milliseconds of each run in an --exportTimes file: "compute", "with_copies".

    Up to 8.4 the file also holds the warm-up, which begins at 0 ms.
    """
    runs, warm_up_inside = _listed(text, "times"), [int(n) for n in version.split(".")[:2]] < [8, 5]
    found: Dict[str, List[float]] = {"compute": [], "with_copies": []}
    for run in runs:
        try:
            numbers = [float(run[key]) for key in ("startComputeMs", "computeMs", "latencyMs")]
        except (KeyError, TypeError, ValueError) as error:
            raise Refused("trtexec's times cannot be read: %s: %s" % (type(error).__name__, error), EXIT_MEASUREMENT)
        if not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise Refused("trtexec's times are not all numbers from 0 on: %s" % numbers, EXIT_MEASUREMENT)
        if warm_up_inside and numbers[0] < WARM_UP_MS:
            continue
        found["compute"].append(numbers[1])
        found["with_copies"].append(numbers[2])
    if not found["compute"]:
        raise Refused("trtexec wrote no times after its warm-up", EXIT_MEASUREMENT)
    return found


def output_in(text: str) -> Any:
    """The first tensor of an --exportOutput file, float32, to six digits. nan and inf stand there bare, no JSON."""
    plain = re.sub(r"(?<=[\s,\[])-?nan(\([^)\s]*\))?(?=[\s,\]])", "NaN", text)
    plain = re.sub(r"(?<=[\s,\[])(-?)inf(?=[\s,\]])", r"\1Infinity", plain)
    first = _listed(plain, "output")[0]
    try:
        shape = [int(n) for n in re.findall(r"\d+", first["dimensions"])]
        values = np.array(first["values"], dtype=np.float32)
        return values.reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Refused("trtexec's output cannot be read: %s: %s" % (type(error).__name__, error), EXIT_MEASUREMENT)


def _listed(text: str, what: str) -> List[Dict[str, Any]]:
    try:
        found_ = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused("trtexec's %s are no JSON, it may have been cut off: %s" % (what, error), EXIT_MEASUREMENT)
    if not isinstance(found_, list) or not found_ or not all(isinstance(item, dict) for item in found_):
        raise Refused("trtexec's %s are not a list of objects" % what, EXIT_MEASUREMENT)
    return found_


def errors_in(text: str) -> List[str]:
    """Lines that trtexec or TensorRT wrote as errors: "[11/20/2026-10:00:00] [E] ..."."""
    return [m.strip() for m in re.findall(r"\[E\] (.+)", text)]
