"""Which runtime measures a bundle here: the one its graphs are for, or another one, and then the report says so."""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .setting import EXIT_ENVIRONMENT, EXIT_INPUT, Refused

NAMES = ("onnxrt", "trt", "trtexec", "openvino", "litert")
# of a target, the best first; of others ONNX Runtime
WANTED: Dict[str, Tuple[str, ...]] = {
    "tensorrt": ("trt", "trtexec"),
    "openvino": ("openvino",),
    "litert": ("litert",),
}
PRODUCTS = {
    "onnxrt": "ONNX Runtime",
    "trt": "TensorRT",
    "trtexec": "TensorRT",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
}
PACKAGES = {"onnxrt": "onnxruntime", "trt": "tensorrt", "openvino": "openvino", "litert": "ai_edge_litert"}
FORMS = {"openvino": ".xml", "litert": ".tflite"}  # a runtime's own form of a graph, beside the ONNX
NO_FORM = (
    "the bundle has no .tflite, which is all that LiteRT takes; edgekd compress writes it for a profile whose target "
    "is litert, where litert-torch is installed"
)


class Choice(NamedTuple):
    runtime: str  # one of NAMES
    note: str  # why the latency is not the target's own; empty: it is


def choose(target: str, asked: Optional[str], there: List[str], formless: bool = False) -> Choice:
    """The runtime for a manifest's target.

    asked: by --runtime; there: those of NAMES that can run it here; formless: the bundle lacks what LiteRT reads.
    """
    lacking = dict(LACKING, litert=NO_FORM) if formless else LACKING
    if asked is not None and asked not in there:
        exit_code = EXIT_INPUT if lacking[asked] is NO_FORM else EXIT_ENVIRONMENT
        raise Refused("--runtime %s: %s" % (asked, lacking[asked]), exit_code)
    by_option = asked is not None
    wanted = WANTED.get(target, ("onnxrt",))
    if asked is None:
        asked = next((name for name in [*wanted, "onnxrt"] if name in there), None)
    if asked is None:
        needed = (*wanted, "onnxrt") if formless and target == "litert" else wanted
        raise Refused("nothing here can run the graphs: %s" % "; ".join(lacking[n] for n in needed), EXIT_ENVIRONMENT)
    if asked in wanted:
        return Choice(asked, "")
    said = "these latencies are %s's" % PRODUCTS[asked]
    if target in WANTED:
        absent = "neither its Python package nor trtexec is" if target == "tensorrt" else "its Python package is not"
        absent = NO_FORM if target == "litert" and formless else "%s on this device" % absent
        why = "--runtime asked for it" if by_option else absent
        return Choice(asked, "%s on this machine, not %s's: %s" % (said, PRODUCTS[wanted[0]], why))
    return Choice(asked, "%s; the graphs were made for ONNX Runtime" % said if target == "onnxrt" else said)


LACKING = {
    "onnxrt": "onnxruntime does not import; on the device: python3 -m pip install numpy onnxruntime",
    "trt": "the Python package tensorrt does not import; JetPack has it: sudo apt install python3-libnvinfer",
    "trtexec": "trtexec is neither in /usr/src/tensorrt/bin nor on PATH; JetPack: sudo apt install libnvinfer-bin",
    "openvino": "openvino does not import; on the device: python3 -m pip install numpy openvino",
    "litert": "ai_edge_litert does not import; on the device: python3 -m pip install numpy ai-edge-litert",
}


def here(target: str, asked: Optional[str], packed: Any) -> Choice:
    """The choice on this device, for a bundle of these files.

    It is asked for what the choice may need, and no more: importing takes seconds.
    """
    needed = [asked] if asked else [*WANTED.get(target, ()), "onnxrt"]
    formless = not any(name.endswith(FORMS["litert"]) for name in packed)
    there: List[str] = []
    for name in needed:
        if not there and not (formless and name == "litert") and _has(name):
            there.append(name)
    return choose(target, asked, there, formless)


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
    if name == "litert":
        from . import litert_rt

        return litert_rt.opened()
    from . import onnxrt

    return onnxrt.opened()


def form(name: str, graph: str, packed: Any) -> str:
    """The file of a graph that a runtime takes: its own form, where the bundle has it. packed: names of files.

    Only what the manifest lists counts, as only that was verified.
    """
    own = os.path.splitext(graph)[0] + FORMS.get(name, "")
    return own if own in packed and (name != "openvino" or weights(own) in packed) else graph


def takes(name: str, graph: str) -> bool:
    """Whether a runtime reads a file at all, by its ending."""
    return name != "litert" or graph.endswith(FORMS[name])


def weights(graph: str) -> str:
    """The file that OpenVINO reads beside its .xml."""
    return os.path.splitext(graph)[0] + ".bin"
