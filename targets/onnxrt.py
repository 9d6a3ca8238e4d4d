"""ONNX Runtime, on the CPU or through a provider that was asked for and is truly at work."""

import os
from typing import Any, Dict, List, Tuple

import numpy as np
import onnxruntime

from .parts import in_parts
from .setting import EXIT_ENVIRONMENT, Infer, Refused, Say, Setting

CLOCK = "host array in, host array out: copies are inside, preprocessing is part of the graph"
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}


class OnnxRuntime:
    """The runtime through its Python package. module: onnxruntime."""

    clock = CLOCK

    def __init__(self, module: Any) -> None:
        self.module = module

    def describe(self) -> Dict[str, Any]:
        return {"name": "onnxruntime", "version": self.module.__version__}

    def load(self, path: str, setting: Setting, say: Say) -> Tuple[Infer, Dict[str, Any]]:
        """(infer, facts) of a graph: infer takes pixels (N, C, H, W) as float32 0..255 and gives logits (N, K)."""
        options = self.module.SessionOptions()
        options.intra_op_num_threads = setting.threads
        options.log_severity_level = 3
        # x86 with AVX2 and no VNNI adds int8 products in 16 bits, which overflow: a student lost a fifth of its answers
        options.add_session_config_entry("session.x64quantprecision", "1")
        asked = self._asked(setting)
        session = self.module.InferenceSession(path, options, providers=asked)
        active(session.get_providers(), setting.provider, self.module.__version__)
        fed = session.get_inputs()[0]
        name, made = fed.name, [output.name for output in session.get_outputs()]
        kind = np.dtype(TYPES.get(fed.type, "float32"))  # comparing with a word takes microseconds
        fixed = fed.shape[0] if isinstance(fed.shape[0], int) else None  # of graphs for vendors' converters

        def once(x: Any) -> Any:
            return session.run(made, {name: x})[0].astype(np.float32, copy=False)

        def infer(x: Any) -> Any:
            x = x if x.dtype == kind else x.astype(kind)
            return once(x) if fixed is None or len(x) == fixed else in_parts(once, x, fixed)

        return infer, {"providers": session.get_providers(), "threads": setting.threads or "all"}

    def _asked(self, setting: Setting) -> List[Any]:
        """Providers with options, the preferred one first, the CPU last: operators without a kernel go there."""
        if setting.provider == "cpu":
            return [PROVIDERS["cpu"]]
        if setting.provider == "cuda":
            return [PROVIDERS["cuda"], PROVIDERS["cpu"]]
        os.makedirs(setting.engines, exist_ok=True)
        options = {"trt_engine_cache_enable": True, "trt_engine_cache_path": setting.engines}
        options.update(trt_timing_cache_enable=setting.timing_cache, trt_cuda_graph_enable=setting.cuda_graph)
        if setting.workspace_mb is not None:
            options["trt_max_workspace_size"] = setting.workspace_mb << 20
        # without these it computes all in fp32, whatever the graph says
        options.update(trt_fp16_enable=setting.precision == "fp16", trt_int8_enable=setting.precision == "int8")
        if setting.dla_core is not None:
            options.update(trt_dla_enable=True, trt_dla_core=setting.dla_core)
        return [(PROVIDERS["tensorrt"], options), PROVIDERS["cuda"], PROVIDERS["cpu"]]


def active(providers: List[str], asked: str, version: str) -> None:
    """Refuses a silent fallback: what the session got counts, not what is installed (microsoft/onnxruntime#23372)."""
    if PROVIDERS[asked] not in providers:
        message = "onnxruntime %s was asked for %s and runs on %s; %s" % (
            version,
            PROVIDERS[asked],
            ", ".join(providers),
            "install the onnxruntime-gpu that fits this CUDA (python3 -m runner.doctor says which), or --provider cpu",
        )
        raise Refused(message, EXIT_ENVIRONMENT)


def opened() -> OnnxRuntime:
    return OnnxRuntime(onnxruntime)
