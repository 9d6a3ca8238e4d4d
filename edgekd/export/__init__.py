"""Student to ONNX: one graph per precision, as the device's runtime reads it, each held against torch and its rules."""

from edgekd.export.findings import Finding
from edgekd.export.fp16 import export_fp16
from edgekd.export.fp32 import export_fp32
from edgekd.export.graphs import export, graph_path
from edgekd.export.int8 import Scheme, export_int8, scheme
from edgekd.export.layers import LayerDifference, compare_layers, parting, worst
from edgekd.export.lint import check_runtime, lint, rules_for
from edgekd.export.litert import Source, export_tflite, litert_gates, quantise, tflite_logits
from edgekd.export.metadata import GraphFacts, graph_facts
from edgekd.export.network import Deployed, Logits, Pixels, torch_logits, weights_sha256
from edgekd.export.openvino_ir import export_ir, ir_logits, openvino_gates
from edgekd.export.parity import AGREEMENT, FP32_TOLERANCE, Gate, ParityError, check_parity, gates
from edgekd.export.passing import Passing, passing
from edgekd.export.running import onnx_logits

__all__ = [
    "AGREEMENT", "FP32_TOLERANCE", "Deployed", "Finding", "Gate", "GraphFacts", "LayerDifference", "Logits",
    "ParityError", "Passing", "Pixels", "Scheme", "Source", "check_parity", "check_runtime", "compare_layers",
    "export", "export_fp16", "export_fp32", "export_int8", "export_ir", "export_tflite", "gates", "graph_facts",
    "graph_path", "ir_logits", "lint", "litert_gates", "onnx_logits", "openvino_gates", "parting", "passing",
    "quantise", "rules_for", "scheme", "tflite_logits", "torch_logits", "weights_sha256", "worst",
]  # fmt: skip
