"""torchvision, made importable beside a torch without CUDA.

torchvision's wheels on the package index are CUDA builds. With a CPU-only torch their compiled operators stay
unregistered, and `import torchvision` fails on the missing torchvision::nms. Classifiers need none of them, so their
signatures are declared and the import is tried again. The declarations come only after the failure: on a healthy
installation they would clash with the real operators.
"""

from __future__ import annotations

from typing import Any

import torch

_declared: list[torch.library.Library] = []  # kept alive: a Library that is collected takes its operators with it


def torchvision() -> Any:
    """The torchvision module."""
    try:
        import torchvision as module
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision as module
    return module
