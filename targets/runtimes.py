"""Which runtime measures a bundle here: the one its graphs are for, or another one, and then the report says so."""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .setting import EXIT_ENVIRONMENT, Refused

NAMES = ("onnxrt", "trt", "trtexec", "openvino")
# of a target, the best first; of others ONNX Runtime
WANTED: Dict[str, Tuple[str, ...]] = {"tensorrt": ("trt", "trtexec"), "openvino": ("openvino",)}
PRODUCTS = {"onnxrt": "ONNX Runtime", "trt": "TensorRT", "trtexec": "TensorRT", "openvino": "OpenVINO"}
PACKAGES = {"onnxrt": "onnxruntime", "trt": "tensorrt", "openvino": "openvino"}


class Choice(NamedTuple):
    runtime: str  # one of NAMES
    note: str  # why the latency is not the target's own; empty: it is


def choose(target: str, asked: Optional[str], there: List[str]) -> Choice:
    """The runtime for a manifest's target. asked: by --runtime; there: those of NAMES that this device has."""
    if asked is not None and asked not in there:
        raise Refused("--runtime %s: %s" % (asked, LACKING[asked]), EXIT_ENVIRONMENT)
    by_option = asked is not None
    wanted = WANTED.get(target, ("onnxrt",))
    if asked is None:
        asked = next((name for name in [*wanted, "onnxrt"] if name in there), None)
    if asked is None:
        raise Refused("nothing here can run the graphs: %s" % "; ".join(LACKING[n] for n in wanted), EXIT_ENVIRONMENT)
    if asked in wanted:
        return Choice(asked, "")
    said = "these latencies are %s's" % PRODUCTS[asked]
    if target in WANTED:
        absent = "neither its Python package nor trtexec is" if target == "tensorrt" else "its Python package is not"
        why = "--runtime asked for it" if by_option else "%s on this device" % absent
        return Choice(asked, "%s on this machine, not %s's: %s" % (said, PRODUCTS[wanted[0]], why))
    return Choice(asked, "%s; the graphs were made for ONNX Runtime" % said if target == "onnxrt" else said)


LACKING = {
    "onnxrt": "onnxruntime does not import; on the device: python3 -m pip install numpy onnxruntime",
    "trt": "the Python package tensorrt does not import; JetPack has it: sudo apt install python3-libnvinfer",
    "trtexec": "trtexec is neither in /usr/src/tensorrt/bin nor on PATH; JetPack: sudo apt install libnvinfer-bin",
    "openvino": "openvino does not import; on the device: python3 -m pip install numpy openvino",
}


def here(target: str, asked: Optional[str]) -> Choice:
    """The choice on this device. It is asked for what the choice may need, and no more: importing takes seconds."""
    needed = [asked] if asked else [*WANTED.get(target, ()), "onnxrt"]
    there: List[str] = []
    for name in needed:
        if not there and _has(name):
            there.append(name)
    return choose(target, asked, there)


def _has(name: str) -> bool:
    if name == "trtexec":
        from . import trtexec

        return trtexec.found() is not None
    try:
        __import__(PACKAGES[name])
    except ImportError:
        return False
    return True


def opened(name: str) -> Any:
    """The runtime, ready to load graphs: it has clock, describe() and load(), perhaps its own measure()."""
    if name == "trt":
        from . import trt

        return trt.opened()
    if name == "trtexec":
        from . import trtexec

        return trtexec.opened()
    if name == "openvino":
        from . import openvino_rt

        return openvino_rt.opened()
    from . import onnxrt

    return onnxrt.opened()


def form(name: str, graph: str, packed: Any) -> str:
    """The file of a graph that a runtime takes: OpenVINO its own form, where the bundle has it. packed: names of files.

    Only what the manifest lists counts, as only that was verified.
    """
    own = os.path.splitext(graph)[0] + ".xml"
    return own if name == "openvino" and own in packed and weights(own) in packed else graph


def weights(graph: str) -> str:
    """The file that OpenVINO reads beside its .xml."""
    return os.path.splitext(graph)[0] + ".bin"
