"""Any number of images through a graph that takes a fixed number at once."""

from typing import Any

import numpy as np

from .setting import Infer


def in_parts(once: Infer, x: Any, size: int) -> Any:
    """Logits of any number of images from what takes `size`; a short last part is filled up with its own images."""
    parts = []
    for i in range(0, len(x), size):
        part = x[i : i + size]
        parts.append(once(np.resize(part, (size, *x.shape[1:])))[: len(part)])
    return np.concatenate(parts)
