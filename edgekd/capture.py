"""A model followed by torch.export, as the nodes and tensors of an edgekd.program."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import TeacherError
from edgekd.program import ASSERTED, Program, operator_named, plain_value

aten = torch.ops.aten
GRADIENTS_OFF = "wrap_with_set_grad_enabled"


def capture(model: nn.Module, example: Tensor) -> tuple[list[Any], dict[str, Tensor]]:
    """The nodes of `model` in eval mode, as JSON values, and its tensors by name.

    example: (N, C, H, W) with N >= 2; the batch stays free. What depends on no image is computed here, once. Raises
    TeacherError where torch.export cannot follow the model or meets an operator that no program has.
    """
    exported = _exported(model, example)
    signature = exported.graph_signature
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    sources |= signature.inputs_to_lifted_tensor_constants
    first = {key: name for name, key in model.keys.items()} if isinstance(model, Program) else {}
    names: dict[torch.fx.Node, str] = {}  # of what depends on no image
    values: dict[torch.fx.Node, Any] = {}
    tensors: dict[str, Tensor] = {}
    nodes: list[Any] = []

    def stored(node: torch.fx.Node) -> None:
        """A constant becomes one of the program's with its first use."""
        if node in names and names[node] not in tensors:
            tensors[names[node]] = values[node].detach().clone()
            nodes.append(["tensor", node.name, names[node]])

    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in sources:
            source = sources[node.name]
            known = exported.state_dict if source in exported.state_dict else exported.constants
            values[node], names[node] = known[source], first.get(source, source)
        elif node.op == "placeholder":
            nodes.append(["input", node.name])
        elif node.op == "output":
            nodes.append(["output", node.args[0][0].name])
        elif _name(node.target) == ASSERTED:
            continue
        elif node.all_input_nodes and all(used in values for used in node.all_input_nodes):
            values[node] = _computed(node, values)
            names[node] = node.name if node.name not in sources.values() else f"{node.name}.folded"
        else:
            for used in node.all_input_nodes:
                stored(used)
            target, args = _for_any_batch(node)
            arguments = [plain_value(a) for a in args], {k: plain_value(v) for k, v in node.kwargs.items()}
            nodes.append(["call", node.name, _name(target), *arguments])
    for node in nodes:
        if node[0] == "call":
            operator_named(node[2])
    return nodes, tensors


def _exported(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    if isinstance(model, torch.jit.ScriptModule):
        raise TeacherError(
            "the model cannot be captured as a graph",
            code="E0320",
            why="it is TorchScript",
            fix="torch.jit.save(model, 'teacher.pt'): edgekd reads the weights in that file",
        )
    try:
        exported = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    except Exception as error:  # torch.export raises many kinds, its own and those of the user's forward
        raise TeacherError(
            "the model cannot be captured as a graph",
            code="E0320",
            why=str(error).strip().splitlines()[0],
            fix="save it by name instead: save_teacher(..., arch='torchvision:resnet18')",
        ) from error
    if any(getattr(node.target, "__name__", "") == GRADIENTS_OFF for node in exported.graph.nodes):
        raise TeacherError(
            "the model cannot be captured as a graph",
            code="E0320",
            why="its forward turns gradients off, and images are made by the teacher's gradients",
            fix="take torch.no_grad() out of forward, and write it around the calls",
        )
    return exported


@torch.no_grad()
def _computed(node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> Any:
    """What a node gives that depends on no image: a weight that is normalised, a constant that is shaped."""
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda used: values[used])
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _for_any_batch(node: torch.fx.Node) -> tuple[Any, Any]:
    """Operator and arguments, without what was true of the example, or of this number of channels, alone.

    squeeze() takes the batch away where there is one image; view(-1, 400) of 16 maps of 5x5 is flatten(1).
    """
    target, args = node.target, node.args
    if target not in (aten.squeeze.default, aten.view.default, aten.reshape.default):
        return target, args
    (source, *_), to = node.all_input_nodes, node.meta["val"].shape
    shape = source.meta["val"].shape
    if target == aten.squeeze.default:
        return aten.squeeze.dims, (source, [axis for axis, size in enumerate(shape) if axis and size == 1])
    if len(shape) > 2 == len(to) and str(shape[0]) == str(to[0]) and to[1] == math.prod(shape[1:]):
        return aten.flatten.using_ints, (source, 1)
    return target, args


def _name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)  # "aten.conv2d.default"
    return f"operator.{getattr(target, '__name__', target)}"
