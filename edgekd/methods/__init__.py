"""The distillation methods. A new one is a file here and a line in METHODS; the type checker holds it to Method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekd.errors import UsageError
from edgekd.files import from_dict, nearest
from edgekd.methods import rdskd
from edgekd.types import Method, Teacher

METHODS: dict[str, Method] = {"rdskd": rdskd}


def configure(method: str, budget: str, settings: Mapping[str, Any], teacher: Teacher) -> Any:
    """The method's Config for a budget, with single settings replaced and the derived ones filled in.

    Raises UsageError for a method, budget or setting that does not exist, and for a teacher that the method
    cannot serve.
    """
    if method not in METHODS:
        raise UsageError(
            f"no method {method!r}.{nearest(method, METHODS)}", code="E0220", why=f"there are: {', '.join(METHODS)}"
        )
    budgets = METHODS[method].BUDGETS
    if budget in budgets:
        config = budgets[budget]
    else:
        try:
            share = float(budget)
        except ValueError:
            share = 0.0
        if not 0 < share <= 10:
            raise UsageError(
                f"budget {budget!r} is neither a name nor a fraction of the published steps",
                code="E0221",
                why=f"names: {', '.join(budgets)}; fractions: above 0, up to 10",
            )
        paper = budgets["paper"]
        steps = {n: max(1, round(v * share)) for n, v in vars(paper).items() if n.endswith("_steps")}
        config = dataclasses.replace(paper, **steps)
    known = vars(config)
    whole = from_dict(type(config), {**known, **settings}, where=f"settings of {method}", error=UsageError)
    return METHODS[method].derived(whole, teacher)
