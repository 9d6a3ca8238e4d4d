"""Programs taken apart by run_decompositions, or exported in training mode, as the layers that edgekd looks for.

BatchNorm's statistics and the classifier are found by the operators batch_norm and linear (edgekd.observe); what
stands for them in a decomposed program is called so again. Operators: torch/_decomp, the core ATen set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd.program import operator_named

Call = tuple[str, list[Any], dict[str, Any]]  # an operator with its arguments


def recomposed(nodes: list[Any]) -> tuple[list[Any], bool]:
    """The nodes in eval mode and put together, without those that nothing needs; and whether they were in training."""
    training = any(_in_training(node) for node in nodes)
    turned = _transposed(nodes)
    nodes = [_layer(node, turned) for node in nodes]
    several = {node[1] for node in nodes if node[0] == "call" and node[2] in SINGLE}
    nodes = [_alias(node) if _item_of(node, several) else node for node in nodes]
    nodes = [[*n[:2], SINGLE[n[2]], *n[3:]] if n[0] == "call" and n[2] in SINGLE else n for n in nodes]
    return needed(nodes), training


def _in_training(node: list[Any]) -> bool:
    if node[0] != "call":
        return False
    match node[2].split("."):
        case ["aten", "batch_norm", _]:
            return node[3][5] is True and _node(node[3][3]) is not None
        case ["aten", "_native_batch_norm_legit_functional" | "_native_batch_norm_legit", "default"]:
            return True
        case ["aten", "dropout" | "dropout_" | "feature_dropout" | "feature_dropout_" | "alpha_dropout", _]:
            return node[3][2] is True
    return False


def _node(value: Any) -> str | None:
    return value.get("node") if isinstance(value, dict) else None


def _transposed(nodes: list[Any]) -> dict[str, str]:
    """Names of matrices that are transposed tensors of the file, with the tensors' names."""
    stored = {node[1] for node in nodes if node[0] == "tensor"}
    found: dict[str, str] = {}
    for node in nodes:
        if node[0] != "call" or not node[3] or (source := _node(node[3][0])) not in stored or source is None:
            continue
        if node[2:4] == ["aten.t.default", [{"node": source}]] or node[2:4] in (
            ["aten.permute.default", [{"node": source}, [1, 0]]],
            ["aten.transpose.int", [{"node": source}, 0, 1]],
        ):
            found[node[1]] = source
    return found


def _layer(node: list[Any], turned: dict[str, str]) -> list[Any]:
    """A node as the layer that it stands for; the operators of several results keep a mark, see SINGLE."""
    if node[0] != "call":
        return node
    target, args = node[2], node[3]
    if target == "aten.addmm.default" and _node(args[2]) in turned and not node[4]:
        return [*node[:2], "aten.linear.default", [args[1], {"node": turned[args[2]["node"]]}, args[0]], {}]
    if target in ("aten.mm.default", "aten.matmul.default") and _node(args[1]) in turned:
        return [*node[:2], "aten.linear.default", [args[0], {"node": turned[args[1]["node"]]}], {}]
    if _in_training(node) and target.split(".")[1] not in LAYERS:
        at = 5 if "batch_norm" in target else 2
        return [*node[:3], [*args[:at], False, *args[at + 1 :]], node[4]]
    make = LAYERS.get(target.split(".")[1]) if target.startswith("aten.") else None
    return [*node[:2], *make(args, node[4])] if make else node


def _convolution(args: list[Any], kwargs: dict[str, Any]) -> Call:
    x, weight, bias, stride, padding, dilation, turned, output_padding, groups = args
    dims = len(stride)
    if turned:
        overload = "default" if dims == 1 else "input"
        rest = [stride, padding, output_padding, groups, dilation]
        return f"aten.conv_transpose{dims}d.{overload}", [x, weight, bias, *rest], kwargs
    return f"aten.conv{dims}d.default", [x, weight, bias, stride, padding, dilation, groups], kwargs


def _batch_norm(args: list[Any], kwargs: dict[str, Any]) -> Call:
    """(x, weight, bias, mean, variance, [training,] momentum, eps), in eval mode."""
    return "several.batch_norm", [*args[:5], False, *args[-2:], False], kwargs


def _functions(dims: int) -> Callable[[list[Any], dict[str, Any]], Call]:
    return lambda args, kwargs: (f"aten.adaptive_avg_pool{dims}d.default", args, kwargs)


LAYERS: dict[str, Callable[[list[Any], dict[str, Any]], Call]] = {
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_native_batch_norm_legit_functional": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "native_batch_norm": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "_adaptive_avg_pool2d": _functions(2),
    "native_layer_norm": lambda args, kwargs: ("several.layer_norm", [*args, False], kwargs),
    "native_group_norm": lambda args, kwargs: (
        "several.group_norm", [args[0], args[6], args[1], args[2], args[7], False], kwargs),
    "native_dropout": lambda args, kwargs: ("several.dropout", [args[0], args[1], False], kwargs),
    "max_pool2d_with_indices": lambda args, kwargs: ("several.max_pool2d", args, kwargs),
    "_softmax": lambda args, kwargs: ("aten.softmax.int", args[:2], kwargs),
    "_log_softmax": lambda args, kwargs: ("aten.log_softmax.int", args[:2], kwargs),
    "_scaled_dot_product_flash_attention_for_cpu": lambda args, kwargs: (
        "several.scaled_dot_product_attention",
        [*args[:3], kwargs.get("attn_mask"), *(args[3:5] or [0.0, False])],
        {k: v for k, v in kwargs.items() if k == "scale"}),
}  # fmt: skip
SINGLE = {
    f"several.{name}": f"aten.{name}.{overload}"
    for name, overload in (
        ("batch_norm", "default"), ("layer_norm", "default"), ("group_norm", "default"), ("dropout", "default"),
        ("max_pool2d", "default"), ("scaled_dot_product_attention", "default"))
}  # fmt: skip
DECOMPOSED = frozenset(LAYERS)


def schema_of(target: str) -> Any:
    """The operator's declaration: its arguments by name. Raises TeacherError E0322 for one that edgekd does not run."""
    import torch

    match target.split("."):
        case ["aten", packet, overload] if packet in DECOMPOSED:
            return getattr(getattr(torch.ops.aten, packet), overload)._schema
    return operator_named(target)._schema  # type: ignore[attr-defined]


def _item_of(node: list[Any], several: set[str]) -> bool:
    return node[0] == "call" and node[2] == "operator.getitem" and _node(node[3][0]) in several


def _alias(node: list[Any]) -> list[Any]:
    """What was item 0 of a tuple is the result itself; other items (statistics, indices) have no user in a forward."""
    if node[3][1] == 0:
        return [*node[:2], "aten.alias.default", [node[3][0]], {}]
    return ["unused"]


def needed(nodes: list[Any]) -> list[Any]:
    """Without what the output does not depend on. Operators in place stay where what they change may be needed: the
    value that they are given, or one that it is a view of."""
    sources = {n[1]: _node(n[3][0]) if n[3] else None for n in nodes if n[0] == "call"}
    wanted: set[str] = set()
    kept: list[Any] = []
    for node in reversed(nodes):
        if node[0] == "output":
            wanted.add(node[1])
        elif node[0] == "call":
            at = sources[node[1]] if node[2].split(".")[1].endswith("_") else None
            while at is not None and at not in wanted:
                at = sources.get(at)
            if node[1] not in wanted and at is None:
                continue
            wanted |= _names([node[3], list(node[4].values())])
        elif node[0] != "input" and (node[0] != "tensor" or node[1] not in wanted):
            continue
        kept.append(node)
    return kept[::-1]


def _names(value: Any) -> set[str]:
    if isinstance(value, list):
        return {name for v in value for name in _names(v)}
    return {value["node"]} if isinstance(value, dict) and "node" in value else set()
