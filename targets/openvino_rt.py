"""OpenVINO on the CPU, in the precision of the graph: it would compute an fp32 graph in bf16 where that is faster."""

from typing import Any, Dict, Tuple

import numpy as np
import openvino

from .parts import in_parts
from .setting import EXIT_ENVIRONMENT, EXIT_EXPORT, Infer, Refused, Say, Setting

CLOCK = "host array in, host array out: copies are inside, preprocessing is part of the graph"
# INT8 comes from the graph's pairs, and what lies between them is fp32; without fp16 units f16 is computed in f32
HINTS = {"fp32": "f32", "fp16": "f16", "int8": "f32"}
WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")  # as it calls them: where the work is


class OpenVino:
    """The runtime through its Python package. module: openvino."""

    clock = CLOCK

    def __init__(self, module: Any) -> None:
        self.module, self.core = module, module.Core()

    def describe(self) -> Dict[str, Any]:
        device = str(self.core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        return {"name": "openvino", "version": self.module.__version__, "cpu": device}

    def load(self, path: str, setting: Setting, say: Say) -> Tuple[Infer, Dict[str, Any]]:
        """(infer, facts) of an ONNX graph or an IR (.xml beside its .bin): pixels (N, C, H, W) float32 to logits.

        It is compiled for the batch that is measured, as an open one costs time at every call. Raises Refused for
        another provider than the CPU, for a graph that it does not take, and where fp32 is not computed as such.
        """
        if setting.provider != "cpu":
            message = "--provider %s is ONNX Runtime's; OpenVINO runs on the CPU here" % setting.provider
            raise Refused(message, EXIT_ENVIRONMENT)
        try:
            compiled = self._compiled(path, setting)
        except RuntimeError as error:
            text = str(error).strip().splitlines()
            message = "OpenVINO %s does not take %s: %s" % (self.module.__version__, path, text[-1] if text else "")
            raise Refused(message, EXIT_EXPORT)
        facts = facts_of(compiled)
        if setting.precision == "fp32" and facts["inference_precision"] != "f32":
            message = "OpenVINO computes the fp32 graph in %s, though f32 was asked for" % facts["inference_precision"]
            raise Refused(message, EXIT_ENVIRONMENT)
        entry, made = compiled.input(0), compiled.output(0)
        kind, size = np.dtype(entry.element_type.to_dtype()), entry.shape[0]
        request = compiled.create_infer_request()

        def once(x: Any) -> Any:
            # the input is read where it lies; the answer is copied, as the next call writes over it
            return request.infer({0: x}, share_inputs=True)[made].astype(np.float32, copy=False)

        def infer(x: Any) -> Any:
            x = x if x.dtype == kind else x.astype(kind)
            return once(x) if len(x) == size else in_parts(once, x, size)

        return infer, facts

    def _compiled(self, path: str, setting: Setting) -> Any:
        """For one request at a time; a graph of a fixed batch keeps it."""
        model = self.core.read_model(path)
        if model.input(0).partial_shape.is_dynamic:
            model.reshape([setting.batch, *setting.shape])
        asked = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": HINTS.get(setting.precision, "f32"),
        }
        if setting.threads:
            asked["INFERENCE_NUM_THREADS"] = str(setting.threads)
        return self.core.compile_model(model, "CPU", asked)


def facts_of(compiled: Any) -> Dict[str, Any]:
    """What a compiled graph says of itself, which need not be what was asked for: its weighted layers by their type."""
    layers: Dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        known = node.get_rt_info()
        if _text(known, "layerType") in WEIGHTED:
            kind = _text(known, "runtimePrecision")
            layers[kind] = layers.get(kind, 0) + 1
    precision = compiled.get_property("INFERENCE_PRECISION_HINT")
    return {
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
        "inference_precision": precision.get_type_name(),
        "layers_by_type": layers,
    }


def _text(known: Any, name: str) -> str:
    """An entry of a node's runtime information, which is wrapped or not by version."""
    if name not in known:
        return "unknown"
    value = known[name]
    return str(value.astype(str) if hasattr(value, "astype") else value)


def opened() -> OpenVino:
    return OpenVino(openvino)
