"""edgekd: a trained image classifier in, a small one for an edge device out, without the data it was trained on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from edgekd.evaluation import load_eval_data as load_eval_data
    from edgekd.methods import METHODS as METHODS
    from edgekd.pipeline import bench as bench
    from edgekd.pipeline import bench_on as bench_on
    from edgekd.pipeline import compress as compress
    from edgekd.profile import load_profile as load_profile
    from edgekd.steps import distill as distill
    from edgekd.steps import export_student as export_student
    from edgekd.teacher import load_teacher as load_teacher
    from edgekd.teacher import save_teacher as save_teacher
    from edgekd.types import Images as Images

__version__ = "0.1.0"
__all__ = [
    "METHODS", "EdgekdError", "Images", "bench", "bench_on", "compress", "distill", "export_student", "load_eval_data",
    "load_profile", "load_teacher", "save_teacher",
]  # fmt: skip

_HOMES = {  # public name -> its module, imported on first use: torch takes seconds
    "METHODS": "methods",
    "Images": "types",
    "bench": "pipeline",
    "bench_on": "pipeline",
    "compress": "pipeline",
    "distill": "steps",
    "export_student": "steps",
    "load_eval_data": "evaluation",
    "load_profile": "profile",
    "load_teacher": "teacher",
    "save_teacher": "teacher",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgekd.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
