"""What a network costs, and the milliseconds it is expected to take on a device."""

from __future__ import annotations

from edgekd.latency.costs import cost, cost_of_graph, layers
from edgekd.latency.fitting import fitted
from edgekd.latency.prediction import BYTES, memory_mb, model_mb, predict

__all__ = ["BYTES", "cost", "cost_of_graph", "fitted", "layers", "memory_mb", "model_mb", "predict"]
