"""From what a training script saved to the weights of one network: dictionaries around them and prefixes come off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import TeacherError

# In the order in which they are preferred where a file has several. A teacher among several is what we are here for.
WRAPPERS = (
    "teacher", "teacher_state_dict", "state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net",
    "network", "network_state_dict", "module", "params", "parameters", "weights", "model_weights", "student",
    "backbone",
)  # fmt: skip
AVERAGES = (
    "state_dict_ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "params_ema", "ema",
    "ema_model_state_dict", "shadow", "swa_state_dict", "averaged_model",
)  # fmt: skip
PREFIXES = (
    "module", "_orig_mod", "model", "_model", "net", "_net", "network", "backbone", "encoder", "teacher", "student",
    "state_dict", "base_model", "classifier_model", "_forward_module", "_fsdp_wrapped_module", "ema_model", "ema",
)  # fmt: skip
INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # wrapped layers: anywhere in a name
TRAINING = re.compile(r"optim|sched|scaler|callback|loops|rng|random_state|grad|amp$|best_(model|state|weights)")
BESIDE = re.compile(
    r"(\w+_)?(criterion|loss(es|_\w+)?|metrics?|acc|accuracy|auroc|f1|confusion\w*|n_averaged|mixup|ema\w*|n_params"
    r"|total_ops|total_params|mean|std|mu|sigma|normali[sz]e\w*|(pre)?proc\w*)(_?\d+)?"
)
COUNTERS = ("total_ops", "total_params")  # what thop leaves in every layer it has counted
TEXT, LIST, NODES, DEPTH = 10_000, 1_000, 20_000, 12  # of values beside the weights; what is larger is left out


@dataclass
class Weights:
    """Tensors by name, the plain values beside them, and what was done to get there, a sentence each."""

    tensors: dict[str, Tensor]
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def unwrapped(tree: Any, *, where: str) -> Weights:
    """The weights in what a checkpoint holds. where: the file. Raises TeacherError where there are none."""
    found = Weights({})
    path: list[str] = []
    while True:
        if isinstance(tree, list | tuple) and len(tree) == 1:
            tree = tree[0]
            path.append("[0]")
            continue
        if not isinstance(tree, Mapping):
            raise _nothing(where, tree)
        if len(path) > DEPTH:
            raise _nothing(where, tree)
        key = _inner(tree)
        if key is None:
            break
        _keep(found, {k: v for k, v in tree.items() if k != key})
        _tell_averages(found, tree, key)
        path.append(str(key))
        tree = tree[key]
    if path:
        found.notes.append(f"the weights were taken from {' / '.join(path)}")
    _gather(found, tree)
    if not any(tensor.ndim for tensor in found.tensors.values()):
        raise _nothing(where, tree)
    found.tensors = named(found)
    return found


def named(found: Weights) -> dict[str, Tensor]:
    """The tensors under the names that the bare network has. What was taken off is noted in `found`."""
    tensors, removed = dict(found.tensors), []
    counters = [name for name in tensors if name.split(".")[-1] in COUNTERS]
    if counters:
        found.notes.append(f"left out: {len(counters)} operation counters ({counters[0]}, ...)")
        tensors = {name: t for name, t in tensors.items() if name not in counters}
    while (prefix := _prefix(tensors)) is not None:
        removed.append(prefix)
        beside = [name for name in tensors if not name.startswith(prefix)]
        if beside:
            found.notes.append(f"left out, not of the network: {_listed(beside)}")
            found.values |= {n: tensors[n].tolist() for n in beside if tensors[n].numel() <= 16}
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if removed:
        found.notes.append(f"taken off the names: {' '.join(removed)}")
    inner = {name: ".".join(p for p in name.split(".") if p not in INSIDE) for name in tensors}
    if any(name != short for name, short in inner.items()) and len(set(inner.values())) == len(inner):
        found.notes.append("taken out of the names: the parts that torch.compile and FSDP add")
        tensors = {inner[name]: t for name, t in tensors.items()}
    return tensors


def _prefix(tensors: Mapping[str, Tensor]) -> str | None:
    """The known prefix that all weights have; others may only be what training adds beside the network."""
    heads = {name.split(".")[0] for name in tensors}
    for head in PREFIXES:
        inside = [name for name in tensors if name.startswith(f"{head}.")]
        if head not in heads or not any(tensors[name].ndim for name in inside):
            continue
        others = [name for name in tensors if not name.startswith(f"{head}.")]
        if all(BESIDE.fullmatch(name.split(".")[0]) for name in others):
            return f"{head}."
    return None


def _inner(tree: Mapping[Any, Any]) -> Any:
    """The key under which the weights lie, or None where they lie here."""
    for key in (*WRAPPERS, *AVERAGES):
        if key in tree and _has_weights(tree[key]):
            return key
    if any(isinstance(value, Tensor) and value.ndim for value in tree.values()):
        return None
    others = [key for key, value in tree.items() if not TRAINING.search(str(key).lower()) and _has_weights(value)]
    return others[0] if len(others) == 1 else None


def _has_weights(value: Any) -> bool:
    """Whether tensors that are no mere counters lie in it, no deeper than wrappers go."""
    level = [value]
    for _ in range(DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below.extend(item.values())
            elif isinstance(item, list | tuple) and len(item) == 1:
                below.append(item[0])
            elif isinstance(item, Tensor) and item.ndim:
                return True
        level = list({id(item): item for item in below}.values())
    return False


def _gather(found: Weights, tree: Mapping[Any, Any]) -> None:
    """Tensors of this dictionary, and of dictionaries in it (split networks, nested parameters) under dotted names."""
    plain: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(level: Mapping[Any, Any], before: str, depth: int) -> None:
        if id(level) in seen or depth > DEPTH:
            return
        seen.add(id(level))
        for key, value in level.items():
            name = f"{before}{key}"
            if isinstance(value, Tensor):
                found.tensors[name] = value.data if isinstance(value, torch.nn.Parameter) else value
            elif isinstance(value, Mapping) and _has_weights(value) and not TRAINING.search(str(key).lower()):
                visit(value, f"{name}.", depth + 1)
            else:
                plain[name] = value

    visit(tree, "", 0)
    if len(seen) > 1:
        found.notes.append(f"{len(seen) - 1} nested dictionaries were joined under dotted names")
    _keep(found, plain)


def _keep(found: Weights, beside: Mapping[Any, Any]) -> None:
    """Plain values go into `found.values`; the names of the rest into a note."""
    left = []
    budget = [NODES]
    for key, value in beside.items():
        name = str(key)
        other = isinstance(value, Mapping) and _has_weights(value)  # another network
        kept = None if other or TRAINING.search(name.lower()) else _plain(value, budget, DEPTH)
        if kept is _TOO_MUCH or (kept is None and value is not None):
            left.append(name)
        elif value is not None:
            found.values.setdefault(name, kept)
    if left:
        found.notes.append(f"left out: {_listed(left)}")


_TOO_MUCH = object()


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    """`value` as JSON has it, or _TOO_MUCH: tensors of weights, values that are too large or too deep."""
    budget[0] -= 1
    if budget[0] < 0 or depth < 0:
        return _TOO_MUCH
    if value is None or isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) < 2**63):
        return value if not isinstance(value, str) or len(value) <= TEXT else _TOO_MUCH
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Tensor):
        small = value.layout is torch.strided and not value.is_meta and not value.is_quantized and value.numel() <= 64
        return value.tolist() if small and not value.is_complex() else _TOO_MUCH
    if isinstance(value, Mapping):
        items = {str(k): _plain(v, budget, depth - 1) for k, v in _first(value.items())}
        return {k: v for k, v in items.items() if v is not _TOO_MUCH}
    if isinstance(value, list | tuple | set):
        parts = [_plain(v, budget, depth - 1) for v in _first(value)]
        return _TOO_MUCH if any(p is _TOO_MUCH for p in parts) or len(value) > LIST else parts
    return _TOO_MUCH


def _first(items: Any) -> Iterator[Any]:
    return (item for _, item in zip(range(LIST), items, strict=False))


def _tell_averages(found: Weights, tree: Mapping[Any, Any], taken: Any) -> None:
    averages = [key for key in AVERAGES if key != taken and key in tree and _has_weights(tree[key])]
    if averages:
        found.notes.append(f"an averaged copy of the weights (EMA) lies in {averages[0]!r} and was not taken")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _nothing(where: str, tree: Any) -> TeacherError:
    if isinstance(tree, Mapping):
        what, why = "no dictionary of tensors", f"its keys are: {', '.join(str(k)[:60] for k in list(tree)[:8])}"
    else:
        kind = f"a tensor of {list(tree.shape)}" if isinstance(tree, Tensor) else f"a {type(tree).__name__}"
        what, why = f"{kind}, not a dictionary of weights", "weights are found by their names"
    return TeacherError(
        f"{where} holds {what}",
        code="E0315",
        why=why,
        fix='save only the weights in your project:  torch.save(model.state_dict(), "teacher_sd.pt")',
    )
