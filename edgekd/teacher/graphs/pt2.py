"""torch.export archives (.pt2) to nodes and tensors: the JSON is parsed here, and no part is unpickled but weights.

torch.export.load is not used: it falls back to unpickling without weights_only and evaluates expressions with sympy.
The serialisation's words come from torch/_export/serde/schema.py (schema 5 to 8, torch 2.4 to 2.13).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.program import operator_named
from edgekd.teacher.content import Content
from edgekd.teacher.graphs import batch
from edgekd.teacher.graphs.decomposed import recomposed, schema_of
from edgekd.teacher.reading import pickled
from edgekd.teacher.reading.archive import Archive
from edgekd.teacher.reading.child import isolated

AGAIN = "export it again:  torch.export.save(torch.export.export(model.eval(), (example,)), 'teacher.pt2')"
TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
         12: "bool", 13: "bfloat16"}  # fmt: skip
FLOATS = frozenset({"float16", "bfloat16", "float64"})  # all computed in float32 here
FORMATS = {1: "contiguous_format", 2: "channels_last", 4: "preserve_format"}
ASSERTIONS = ("_assert", "sym_constrain_range", "assert_tensor_metadata")  # they compute nothing
LARGEST_GRAPH_MB = 64  # of JSON: a ResNet-152 has 2


def read(path: Path) -> Content:
    """Reads the archive of torch.export.save, of today's layout or the one before torch 2.8.

    Raises TeacherError: E0325 for a damaged or foreign archive, E0322 for an operator that edgekd does not run, E0327
    for a graph that is no classifier of images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = _parts(path, archive)
            program, tensors = _program(path, archive, parts)
        nodes, shape, notes = _nodes(program, tensors)
        is_open = _is_open(program)
    except TeacherError:
        raise
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OSError, EOFError) as error:
        raise _damaged(path, error) from error
    except (RecursionError, OverflowError, NotImplementedError, MemoryError) as error:  # sizes and depths that lie
        raise _damaged(path, error) from error
    size = (shape[1], shape[2], shape[3])
    if is_open:
        batch.shapes(nodes, tensors, (2, *size))
    else:
        nodes, opened = batch.free(nodes, tensors, size, shape[0])
        notes += [opened] if opened else []
    return Content(format="torch.export", tensors=tensors, nodes=nodes, size=size, notes=tuple(notes))


def _damaged(path: Path, error: BaseException) -> TeacherError:
    line = (str(error).strip().splitlines() or [""])[0]
    return TeacherError(
        f"{path} is not a whole torch.export archive",
        code="E0325",
        why=f"{type(error).__name__}: {line}"[:300],
        fix=AGAIN,
    )


def _parts(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """The archive's members by their names without its folder. torch stores them uncompressed: a bomb cannot be one."""
    size, total = path.stat().st_size, 0
    for info in archive.infolist():
        total += info.file_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or total > size:
            raise TeacherError(
                f"{path} holds compressed or overlapping parts",
                code="E0325",
                why=f"{info.filename}: torch.export.save stores its parts as they are",
                fix=AGAIN,
            )
    names = archive.namelist()
    root = next((n.removesuffix("archive_format") for n in names if n.split("/")[-1] == "archive_format"), "")
    return {name.removeprefix(root): name for name in names}


def _program(
    path: Path, archive: zipfile.ZipFile, parts: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The exported program as JSON, and all its tensors by the names that it has for them."""
    if "serialized_exported_program.json" in parts:
        program = _json(archive, parts["serialized_exported_program.json"])
        loaded = [_torch_file(path, archive, parts[f"serialized_{kind}.pt"]) for kind in ("state_dict", "constants")
                  if f"serialized_{kind}.pt" in parts]  # fmt: skip
        return program, {name: tensor for part in loaded for name, tensor in part.items()}
    models = [name for name in parts if name.startswith("models/") and name.endswith(".json")]
    if len(models) != 1:
        raise ValueError(f"it holds {len(models)} exported programs")
    program, model = _json(archive, parts[models[0]]), models[0].removeprefix("models/").removesuffix(".json")
    tensors: dict[str, Tensor] = {}
    for kind in ("weights", "constants"):
        whole, config = f"data/{kind}/{model}.pt", f"data/{kind}/{model}_{kind}_config.json"
        if whole in parts:  # torch 2.8
            tensors |= _torch_file(path, archive, parts[whole])
        elif config in parts:
            entries: dict[str, Any] = _json(archive, parts[config])["config"]
            for name, entry in entries.items():
                if entry["use_pickle"]:
                    continue  # a tensor subclass or an object: if the graph needs it, its lack is said
                tensors[name] = _payload(archive, parts[f"data/{kind}/{entry['path_name']}"], entry["tensor_meta"])
    return program, tensors


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > LARGEST_GRAPH_MB * 1_000_000:
        raise ValueError(f"{name} has more than {LARGEST_GRAPH_MB} MB")
    return json.loads(archive.read(name))


def _torch_file(path: Path, archive: zipfile.ZipFile, name: str) -> dict[str, Tensor]:
    """A part that is itself a torch checkpoint, taken apart in a child process: tensors by name."""
    data, where = archive.read(name), f"{path}: {name}"

    def taken_apart() -> tuple[dict[str, Any], dict[str, Tensor]]:
        stream = io.BytesIO(data)
        content = pickled.loaded(stream, where, Archive(stream, len(data), where), len(data))
        if not isinstance(content, dict):
            raise TeacherError(f"{where} holds a {type(content).__name__}", code="E0325", fix=AGAIN)
        return {}, {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}

    with open(path, "rb") as file:
        return isolated(taken_apart, file, len(data), where)[1]


def _payload(archive: zipfile.ZipFile, name: str, meta: Mapping[str, Any]) -> Tensor:
    """A tensor from its raw bytes. What it says of itself is held against their number."""
    kind: torch.dtype = getattr(torch, TYPES[meta["dtype"]])
    sizes, strides = ([int(s["as_int"]) for s in meta[key]] for key in ("sizes", "strides"))
    offset, data = int(meta["storage_offset"]["as_int"]), archive.read(name)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if 0 in sizes:
        return torch.empty(sizes, dtype=kind)
    if min([*sizes, *strides, offset, 0]) < 0 or (last + 1) * kind.itemsize > len(data):
        raise ValueError(f"{name} has {len(data)} bytes, too few for a tensor of {sizes}")
    flat = torch.frombuffer(bytearray(data), dtype=kind, count=len(data) // kind.itemsize)
    return flat.as_strided(sizes, strides, offset).contiguous()


def _nodes(program: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[list[Any], list[int], list[str]]:
    """The nodes, the input's shape (N, C, H, W), and what was changed. Half precision in `tensors` becomes single."""
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    notes: list[str] = []
    nodes: list[Any] = []
    shape: list[int] = []
    for spec in signature["input_specs"]:
        ((kind, held),) = spec.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            source = held[f"{kind}_name"]
            if source in tensors:
                nodes.append(["tensor", held["arg"]["name"], source])
        elif kind == "user_input" and "as_tensor" in held["arg"]:
            if shape:
                raise _no_classifier("it takes several inputs")
            name = held["arg"]["as_tensor"]["name"]
            shape = [_hint(s) for s in graph["tensor_values"][name]["sizes"]]
            nodes.append(["input", name])
    if len(shape) != 4:
        raise _no_classifier(f"its input has the shape {shape}; images have (N, C, H, W)")
    for index, node in enumerate(graph["nodes"]):
        nodes += _calls(node, index, graph)
    nodes.append(["output", _output(graph, signature, notes)])
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in tensors.values()):
        notes.append("the weights were turned into single precision")
        tensors |= {n: t.float() for n, t in tensors.items() if t.is_floating_point()}
    nodes, changed = recomposed(nodes)
    if changed:
        notes.append("the graph was exported in training mode; it runs in eval mode")
    used = {node[2] for node in nodes if node[0] == "tensor"}
    for name in tensors.keys() - used:
        del tensors[name]
    return nodes, shape, notes


def _is_open(program: Mapping[str, Any]) -> bool:
    """Whether the batch is a symbol: then torch.export itself has shown that any will do."""
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    args = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    name = next(arg["as_tensor"]["name"] for arg in args if "as_tensor" in arg)
    return "as_expr" in graph["tensor_values"][name]["sizes"][0]


def _no_classifier(why: str) -> TeacherError:
    return TeacherError("the exported program is no classifier of images", code="E0327", why=why, fix=AGAIN)


def _hint(size: Mapping[str, Any]) -> int:
    """A size, or the example's where it is open. The expression itself is never looked at."""
    if "as_int" in size:
        return int(size["as_int"])
    return int((size["as_expr"].get("hint") or {}).get("as_int", 2))


def _output(graph: Mapping[str, Any], signature: Mapping[str, Any], notes: list[str]) -> str:
    """The name of the first result of shape (N, K), or of the first."""
    users = [s["user_output"]["arg"] for s in signature["output_specs"] if "user_output" in s]
    names = [arg["as_tensor"]["name"] for arg in users if "as_tensor" in arg]
    if len(names) > 1:
        notes.append(f"the graph has {len(names)} outputs; the first of shape (N, K) is taken for the logits")
    flat = [name for name in names if len(graph["tensor_values"][name]["sizes"]) == 2]
    return str([*flat, *names][0])


def _calls(node: Mapping[str, Any], index: int, graph: Mapping[str, Any]) -> list[Any]:
    """One serialised node as calls: the operator, and an item for each of several results."""
    target = str(node["target"])
    if any(word in target for word in ASSERTIONS):
        return []
    target = target.removeprefix("torch.ops.").removeprefix("_")
    outputs = [_result(o) for o in node["outputs"]]
    single = len(outputs) == 1 and isinstance(outputs[0], str)
    name = str(outputs[0]) if single else f"results of {index}"
    if target == "aten.as_strided.default" and _restrided(node["inputs"], graph):
        return [["call", name, "aten.alias.default", [_argument(node["inputs"][0]["arg"])], {}]]
    calls = [["call", name, target, *_arguments(target, node["inputs"])]]
    if not single:
        flat = outputs[0] if len(outputs) == 1 and isinstance(outputs[0], list) else outputs
        calls += [["call", n, "operator.getitem", [{"node": name}, k], {}] for k, n in enumerate(flat) if n]
    return calls


def _restrided(inputs: list[Any], graph: Mapping[str, Any]) -> bool:
    """Whether as_strided changes only the strides of dimensions of size 1, as run_decompositions leaves it."""
    meta = graph["tensor_values"][inputs[0]["arg"]["as_tensor"]["name"]]
    names = {name: _hint(value) for name, value in graph["sym_int_values"].items()}
    given = [_argument(entry["arg"]) for entry in inputs[1:]]
    sizes, strides, *offset = ([names.get(v["node"]) if isinstance(v, dict) else v for v in g] for g in given)
    same = zip(sizes, strides, meta["sizes"], meta["strides"], strict=True)
    return not offset and all(a == _hint(c) and (a == 1 or b == _hint(d)) for a, b, c, d in same)


def _result(output: Mapping[str, Any]) -> Any:
    ((kind, value),) = output.items()
    if kind == "as_tensors":
        return [v["name"] for v in value]
    return value.get("name", value.get("as_name")) if isinstance(value, dict) else None


def _arguments(target: str, inputs: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    given = {str(i["name"]): _argument(i["arg"]) for i in inputs}
    if not target.startswith("aten."):
        operator_named(target)
        return list(given.values()), {}
    args: list[Any] = []
    for argument in schema_of(target).arguments:
        if argument.kwarg_only or argument.name not in given:
            break  # what follows goes by name
        args.append(given.pop(argument.name))
    return args, given


def _argument(arg: Mapping[str, Any]) -> Any:
    ((kind, value),) = arg.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor" | "as_optional_tensor":
            return _argument(value) if "name" not in value else {"node": value["name"]}
        case "as_tensors":
            return [{"node": v["name"]} for v in value]
        case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats":
            return [_argument(v) for v in value]
        case "as_name":
            return {"node": value}
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _argument(value)
        case "as_scalar_type":
            name = TYPES[value]
            return {"constant": f"torch.{'float32' if name in FLOATS else name}"}
        case "as_memory_format":
            return {"constant": f"torch.{FORMATS[value]}"}
        case "as_layout":
            return {"constant": "torch.strided"}
        case "as_device":
            return {"device": True}
        case "as_float":
            return float(value)  # infinity is a string there
        case "as_floats":
            return [float(v) for v in value]
        case "as_int" | "as_ints" | "as_bool" | "as_bools" | "as_string":
            return value
    raise ValueError(f"an argument of the kind {kind}")
