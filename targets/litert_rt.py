"""LiteRT on the CPU (XNNPACK, where its build has it): .tflite graphs, each for a fixed number of images."""

import os
from typing import Any, Dict, Tuple

import ai_edge_litert
import numpy as np
from ai_edge_litert import interpreter as litert

from .parts import in_parts
from .setting import EXIT_ENVIRONMENT, EXIT_EXPORT, Infer, Refused, Say, Setting

CLOCK = "host array in, host array out: copies are inside, preprocessing is part of the graph"


class LiteRt:
    """The runtime through its Python package. interpreter: its class of that name."""

    clock = CLOCK

    def __init__(self, interpreter: Any, version: str) -> None:
        self.interpreter, self.version = interpreter, version

    def describe(self) -> Dict[str, Any]:
        return {"name": "litert", "version": self.version}

    def load(self, path: str, setting: Setting, say: Say) -> Tuple[Infer, Dict[str, Any]]:
        """(infer, facts) of a .tflite: pixels (N, C, H, W) float32 to logits; more or fewer than its batch in parts.

        Raises Refused for another provider than the CPU and for a graph that it does not take.
        """
        if setting.provider != "cpu":
            message = "--provider %s is ONNX Runtime's; LiteRT runs on the CPU here" % setting.provider
            raise Refused(message, EXIT_ENVIRONMENT)
        threads = setting.threads or cores()  # by itself it takes one
        try:
            model = self.interpreter(model_path=path, num_threads=threads)
            model.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            text = str(error).strip().splitlines()
            message = "LiteRT %s does not take %s: %s" % (self.version, path, text[-1] if text else "")
            raise Refused(message, EXIT_EXPORT)
        entry, made = model.get_input_details()[0], model.get_output_details()[0]
        fed, given = entry["index"], made["index"]
        kind, size = np.dtype(entry["dtype"]), int(entry["shape"][0])

        def once(x: Any) -> Any:
            model.set_tensor(fed, x)
            model.invoke()
            return model.get_tensor(given).astype(np.float32, copy=False)  # a copy: the next call writes over it

        def infer(x: Any) -> Any:
            x = x if x.dtype == kind else x.astype(kind)
            return once(x) if len(x) == size else in_parts(once, x, size)

        return infer, {"threads": threads}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def opened() -> LiteRt:
    return LiteRt(litert.Interpreter, ai_edge_litert.__version__)
