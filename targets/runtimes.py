"""Which runtime measures a bundle here: the one its graphs are for, or another one, and then the report says so."""

from typing import Any, List, NamedTuple, Optional

from .setting import EXIT_ENVIRONMENT, Refused

NAMES = ("onnxrt", "trt", "trtexec")


class Choice(NamedTuple):
    runtime: str  # one of NAMES
    note: str  # why the latency is not the target's own; empty: it is


def choose(target: str, asked: Optional[str], there: List[str]) -> Choice:
    """The runtime for a manifest's target. asked: by --runtime; there: those of NAMES that this device has."""
    if asked is not None and asked not in there:
        raise Refused("--runtime %s: %s" % (asked, LACKING[asked]), EXIT_ENVIRONMENT)
    by_option = asked is not None
    wanted = ["trt", "trtexec"] if target == "tensorrt" else ["onnxrt"]
    if asked is None:
        asked = next((name for name in [*wanted, "onnxrt"] if name in there), None)
    if asked is None:
        raise Refused("nothing here can run the graphs: %s" % "; ".join(LACKING[n] for n in wanted), EXIT_ENVIRONMENT)
    if asked in wanted:
        return Choice(asked, "")
    if target == "tensorrt":
        why = "--runtime asked for it" if by_option else "neither its Python package nor trtexec is on this device"
        return Choice(asked, "these latencies are ONNX Runtime's on this machine, not TensorRT's: %s" % why)
    if target == "onnxrt":
        return Choice(asked, "these latencies are TensorRT's; the graphs were made for ONNX Runtime")
    return Choice(asked, "" if asked == "onnxrt" else "these latencies are TensorRT's")


LACKING = {
    "onnxrt": "onnxruntime does not import; on the device: python3 -m pip install numpy onnxruntime",
    "trt": "the Python package tensorrt does not import; JetPack has it: sudo apt install python3-libnvinfer",
    "trtexec": "trtexec is neither in /usr/src/tensorrt/bin nor on PATH; JetPack: sudo apt install libnvinfer-bin",
}


def here(target: str, asked: Optional[str]) -> Choice:
    """The choice on this device. It is asked for what the choice may need, and no more: importing takes seconds."""
    needed = [asked] if asked else ["trt", "trtexec", "onnxrt"] if target == "tensorrt" else ["onnxrt"]
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
        __import__("onnxruntime" if name == "onnxrt" else "tensorrt")
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
    from . import onnxrt

    return onnxrt.opened()
