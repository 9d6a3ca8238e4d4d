"""ONNX Runtime on the CPU."""

from typing import Any, Callable, Dict, Tuple

import onnxruntime


def load(path: str, threads: int) -> Tuple[Callable[[Any], Any], Dict[str, Any]]:
    """(infer, facts) of a graph: infer takes pixels (N, C, H, W) as float32 0..255 and gives logits (N, K).

    threads: 0 leaves the number to the runtime (all cores).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # x86 with AVX2 and no VNNI adds int8 products in 16 bits, which overflow: a student lost a fifth of its answers
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def infer(x: Any) -> Any:
        return session.run(None, {name: x})[0]

    return infer, {"providers": session.get_providers(), "threads": threads or "all"}


def describe() -> Dict[str, Any]:
    return {"name": "onnxruntime", "version": onnxruntime.__version__}
