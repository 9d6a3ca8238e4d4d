"""edgekd: a trained image classifier in, a small one for an edge device out, without the data it was trained on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from edgekd.methods import METHODS as METHODS
    from edgekd.pipeline import compress as compress
    from edgekd.profile import load_profile as load_profile
    from edgekd.teacher import load_teacher as load_teacher
    from edgekd.teacher import save_teacher as save_teacher
    from edgekd.types import Images as Images

__version__ = "0.1.0"
__all__ = ["METHODS", "EdgekdError", "Images", "compress", "load_profile", "load_teacher", "save_teacher"]

_HOMES = {  # public name -> its module, imported on first use: torch takes seconds
    "METHODS": "methods",
    "Images": "types",
    "compress": "pipeline",
    "load_profile": "profile",
    "load_teacher": "teacher",
    "save_teacher": "teacher",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgekd.{_HOMES[name]}"), name)
