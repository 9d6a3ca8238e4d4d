"""A network as data: the operators that torch.export finds, kept as JSON and run by a small interpreter.

torch.export's own loader is not used: it falls back to unpickling without weights_only and parses expressions with
sympy, so a file made by a stranger could run code. Here an operator outside OPERATORS is refused before anything runs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import TeacherError
from edgekd.program_layers import layers_of

_CLASSIFIERS = """
_safe_softmax _to_copy _unsafe_view abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d
add add_ addcmul addmm alias alpha_dropout amax amin any arange avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm
bitwise_not bmm cat ceil celu channel_shuffle chunk clamp clamp_ clamp_max clamp_min clone constant_pad_nd contiguous
conv1d conv2d conv3d conv_transpose1d conv_transpose2d copy copy_ cos cumsum detach detach_ div div_ dropout dropout_
einsum elu elu_ embedding eq erf exp expand expand_as eye feature_dropout feature_dropout_ fill fill_ flatten flip
floor floor_divide fmod full full_like ge gelu gelu_ glu group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_
hardtanh hardtanh_ index index_select instance_norm isnan layer_norm le leaky_relu leaky_relu_ lift_fresh_copy
linalg_vector_norm linear linspace log log1p log_sigmoid log_softmax logical_and logical_not logical_or lt masked_fill
masked_fill_ matmul max max_pool1d max_pool2d maximum mean min minimum mish mish_ mm movedim mul mul_ narrow ne neg
new_ones new_zeros norm normalize one_hot ones ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu reciprocal
reflection_pad1d reflection_pad2d relu relu6 relu6_ relu_ remainder repeat repeat_interleave replication_pad1d
replication_pad2d reshape rms_norm roll round rsqrt rsub scalar_tensor scaled_dot_product_attention select
select_scatter selu selu_ sigmoid sigmoid_ sign silu silu_ sin slice slice_scatter softmax softplus split
split_with_sizes sqrt square squeeze squeeze_ stack sub sub_ sum sym_size t tanh tanh_ tile to transpose transpose_
unbind unflatten unfold unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var view where
zero zero_ zeros zeros_like _assert_tensor_metadata _weight_norm dot im2col mv
"""  # what image classifiers in eval mode are made of; none touches a file or the network
OPERATORS = frozenset(_CLASSIFIERS.split())
SOFTMAX = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"})
PASSING = frozenset(
    {"_to_copy", "_unsafe_view", "alias", "clone", "contiguous", "detach", "dropout", "flatten", "reshape", "squeeze"}
    | {"to", "view"}
)  # between a softmax and the output they change nothing of it but its shape
VIEWS = frozenset({"aten.view.default", "aten._unsafe_view.default"})
ASSERTED = "aten._assert_tensor_metadata.default"  # holds types that were the example's: training has others
ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "neg", "mod")
}
CONSTANTS = {
    str(value): value
    for value in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
                  torch.strided, torch.contiguous_format, torch.preserve_format, torch.channels_last)
}  # fmt: skip


class Program(nn.Module):
    """Runs nodes as edgekd.capture gives them: (N, C, H, W) -> what the captured model returns. Differentiable.

    Layers with weights are modules (edgekd.program_layers), l0, l1, ... A node ["part", count] says that the graph
    serves batches of `count` images only. Raises TeacherError for a node that is malformed or names an operator outside
    OPERATORS.
    """

    def __init__(self, nodes: list[Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.nodes: list[tuple[str, str, Any, Any, Any]] = []
        self.part: int | None = None
        for node in nodes:
            match node:
                case ["part", int(count)] if count > 0:
                    self.part = count
                    self.nodes.append(("skipped", "", None, None, None))
                case ["tensor", str(name), str(source)] if source in tensors:
                    self.nodes.append(("tensor", name, source, None, None))
                case ["input", str(name)]:
                    self.nodes.append(("input", name, None, None, None))
                case ["call", str(name), str(target), list(), dict()] if target == ASSERTED:
                    self.nodes.append(("skipped", name, None, None, None))
                case ["call", str(name), str(target), list(args), dict(kwargs)]:
                    what = _reshaped if target in VIEWS else operator_named(target)
                    self.nodes.append(("call", name, what, args, kwargs))
                case ["output", str(name)]:
                    self.nodes.append(("output", name, None, None, None))
                case _:
                    raise TeacherError(f"the teacher's graph holds a node that is not one: {node!r}", code="E0321")
        self.keys: dict[str, str] = {}  # name of a tensor -> its name in state_dict()
        self._take_layers(nodes, tensors)
        for name in [name for name in tensors if name not in self.keys]:
            self.keys[name] = f"t{len(self.keys)}"
            self.register_buffer(self.keys[name], tensors[name])

    def _take_layers(self, nodes: list[Any], tensors: Mapping[str, Tensor]) -> None:
        """Puts modules in the places of the nodes that they stand for, and of the tensors that they hold."""
        for place, layer in layers_of(nodes, tensors).items():
            name = f"l{place}"
            self.add_module(name, layer.module)
            self.keys |= {source: f"{name}.{own}" for own, source in layer.sources.items()}
            self.nodes[place] = ("layer", nodes[place][1], name, layer.input, None)
        unused = {("tensor", source) for source in self.keys}
        self.nodes = [node for node in self.nodes if node[0] != "skipped" and (node[0], node[2]) not in unused]

    def layers(self) -> dict[str, nn.Module]:
        """The modules by the names that their weights had, without ".weight", as the captured network named them."""
        weights = {name: key.rpartition(".") for name, key in self.keys.items() if key.endswith(".weight")}
        return {name.removesuffix(".weight"): self.get_submodule(module) for name, (module, _, _) in weights.items()}

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x) if self.part is None else self._in_parts(x, self.part)

    def _in_parts(self, x: Tensor, count: int) -> Tensor:
        """For a graph that is bound to `count` images: parts of so many, the last one filled up with its last image."""
        lacking = -len(x) % count
        filled = torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])]) if lacking else x
        return torch.cat([self._run(part) for part in filled.split(count)])[: len(x)]

    def _run(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {}
        for kind, name, what, args, kwargs in self.nodes:
            if kind == "call":
                values[name] = what(
                    *(real_value(a, values, x.device) for a in args),
                    **{k: real_value(v, values, x.device) for k, v in kwargs.items()},
                )
            elif kind == "layer":
                values[name] = getattr(self, what)(real_value(args, values, x.device))
            elif kind == "tensor":
                values[name] = getattr(self, self.keys[what])
            elif kind == "input":
                values[name] = x
            else:
                result: Tensor = values[name]
                return result
        raise TeacherError("the teacher's graph has no output", code="E0321")


def without_softmax(nodes: list[Any]) -> tuple[list[Any], bool]:
    """The nodes without a softmax or its logarithm at the end, and whether there was one.

    What only hands its result on (a view, a copy) stays, and takes the logits instead.
    """
    producers = {node[1]: node for node in nodes if node[0] == "call"}
    output: str | None = next((node[1] for node in nodes if node[0] == "output"), None)
    name, passed = output, list[str]()
    while name is not None and name in producers and _packet(producers[name]) in PASSING:
        passed.append(name)
        name = _first(producers[name])
    if name is None or name not in producers or _packet(producers[name]) not in SOFTMAX:
        return nodes, False
    logits, users = _first(producers[name]), [n for n in nodes if n[0] == "call" and _uses(n, name)]
    if logits is None or any(user[1] not in passed for user in users):
        return nodes, False  # its result is used inside, as attention does
    kept: list[Any] = []
    for node in nodes:
        if node[0] == "output" and output == name:
            kept.append(["output", logits])
        elif node[0] == "call" and node[1] in passed and _first(node) == name:
            kept.append([*node[:3], [{"node": logits}, *node[3][1:]], node[4]])
        elif node[0] != "call" or node[1] != name:
            kept.append(node)
    return kept, True


def _packet(node: list[Any]) -> str:
    return str(node[2]).split(".")[1]


def _first(node: list[Any]) -> str | None:
    first = node[3][0] if node[3] else None
    return first.get("node") if isinstance(first, dict) else None


def _uses(node: list[Any], name: str) -> bool:
    def inside(value: Any) -> bool:
        if isinstance(value, list):
            return any(inside(v) for v in value)
        return isinstance(value, dict) and value.get("node") == name

    return inside(node[3]) or any(inside(v) for v in node[4].values())


def _reshaped(self: Tensor, size: list[int]) -> Tensor:
    """In place of a view, which maps whose channels lie last in memory do not have."""
    return self.reshape(size)


def operator_named(name: str) -> Callable[..., Any]:
    match name.split("."):
        case ["aten", packet, overload] if packet in OPERATORS and hasattr(getattr(torch.ops.aten, packet), overload):
            found: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
            return found
        case ["operator", function] if function in ARITHMETIC:
            return ARITHMETIC[function]
    raise TeacherError(
        f"the teacher's graph uses the operator {name!r}, which edgekd does not run",
        code="E0322",
        why="only operators of image classifiers are allowed, so that a stranger's file can do nothing else",
        fix="save the teacher by name instead: save_teacher(..., arch='torchvision:resnet18')",
    )


def plain_value(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [plain_value(v) for v in value]
    if isinstance(value, torch.device):
        return {"device": True}  # wherever the program runs
    if str(value) in CONSTANTS and not isinstance(value, str):
        return {"constant": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TeacherError(f"the model's graph holds a value of type {type(value).__name__}", code="E0320")


def real_value(value: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    if isinstance(value, list):
        return [real_value(v, values, device) for v in value]
    if isinstance(value, dict):
        if "node" in value:
            return values[value["node"]]
        return device if "device" in value else CONSTANTS[value["constant"]]
    return value
