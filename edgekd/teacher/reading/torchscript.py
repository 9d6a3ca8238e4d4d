"""Weights out of TorchScript archives. Their code is not run and not even read: the module tree is data.

Two layouts: torch 1.4 and later keep the tree in data.pkl and the numbers in data/; torch 1.0 to 1.3 keep it in
model.json (torch/csrc/jit/serialization's ModelDef as JSON) and the numbers in tensors/.
"""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import TeacherError
from edgekd.teacher.reading import opcodes
from edgekd.teacher.reading.archive import Archive, damaged
from edgekd.teacher.reading.wrappers import DEPTH

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
OLD_TYPES = {
    "FLOAT": torch.float32, "INT32": torch.int32, "BYTE": torch.uint8, "BOOL": torch.bool, "UINT8": torch.uint8,
    "INT8": torch.int8, "INT16": torch.int16, "INT64": torch.int64, "FLOAT16": torch.float16, "DOUBLE": torch.float64,
}  # fmt: skip


def is_torchscript(archive: Archive) -> bool:
    """Whether the archive has one of the two layouts."""
    return ("data.pkl" in archive and "constants.pkl" in archive) or "model.json" in archive


def weights(archive: Archive) -> dict[str, Tensor]:
    """Parameters and buffers by their path in the module tree, as the eager state_dict names them.

    Raises TeacherError for a tree that is none, and for tensors that reach outside of their storage.
    """
    if archive.entries.get("byteorder") and archive.read("byteorder") != b"little":
        raise TeacherError(
            f"{archive.path} was written on a big-endian machine", code="E0396", fix="save it again on another machine"
        )
    tensors: dict[str, Tensor] = {}
    try:
        if "data.pkl" in archive:
            tree = opcodes.value(io.BytesIO(archive.read("data.pkl")), lambda pid: pid)
            _walk(_Storages(archive), tree, "", tensors, 0)
        else:
            model = json.loads(archive.read("model.json"))
            _walk_old(_Storages(archive), model["tensors"], model["mainModule"], "", tensors, 0)
    except (opcodes.Malformed, KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise damaged(archive.path, f"its module tree is not one: {error}") from error
    return tensors


class _Storages:
    """The numbers of an archive; each entry is read once."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.known: dict[str, bytes] = {}

    def tensor(self, name: str, dtype: torch.dtype, offset: int, shape: list[int], stride: list[int]) -> Tensor:
        """A view of the entry `name`, in elements. Raises ValueError where it would reach outside."""
        if name not in self.known:
            self.known[name] = self.archive.read(name)
        data = self.known[name]
        if len(shape) != len(stride) or min([offset, *shape, *stride]) < 0:
            raise ValueError(f"a tensor with offset {offset}, shape {shape} and stride {stride}")
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        if (last + 1) * dtype.itemsize > len(data):
            raise ValueError(f"a tensor of shape {shape} in {len(data)} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the bytes are not writable: nobody writes
            flat = torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
        return flat.as_strided(shape, stride, offset)


def _walk(storages: _Storages, module: Any, before: str, tensors: dict[str, Tensor], depth: int) -> None:
    """Attributes of a module that are tensors, and those of its modules; lists and numbers are left out."""
    if depth > 8 * DEPTH:
        raise ValueError("modules are nested too deep")
    if not isinstance(module, opcodes.Call) or not isinstance(module.state, dict):
        raise ValueError("it holds a module without attributes")
    for name, item in module.state.items():
        if not isinstance(item, opcodes.Call) or not isinstance(item.function, opcodes.Name):
            continue
        if item.function.path in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            tensors[f"{before}{name}"] = _rebuilt(storages, item.args)
        elif item.function.path.startswith("__torch__.") and isinstance(item.state, dict):
            _walk(storages, item, f"{before}{name}.", tensors, depth + 1)


def _rebuilt(storages: _Storages, args: Any) -> Tensor:
    """args: those of torch._utils._rebuild_tensor_v2: storage, offset, shape, strides and what training needs."""
    match args[:4]:
        case (("storage", opcodes.Name(path=kind), str(key), _, int()), int(offset), tuple(shape), tuple(stride)):
            dtype = STORAGES[kind.removeprefix("torch.")]
            return storages.tensor(f"data/{key}", dtype, offset, [*map(int, shape)], [*map(int, stride)])
    raise ValueError("it holds a tensor that is not one")


def _walk_old(
    storages: _Storages, table: list[Any], module: dict[str, Any], before: str, tensors: dict[str, Tensor], depth: int
) -> None:
    if depth > 8 * DEPTH:
        raise ValueError("modules are nested too deep")
    for parameter in module.get("parameters", []):
        entry = table[int(parameter.get("tensorId", 0))]
        tensors[f"{before}{parameter['name']}"] = storages.tensor(
            str(entry["data"]["key"]),
            OLD_TYPES[entry["dataType"]],
            int(entry.get("offset", 0)),
            [int(n) for n in entry.get("dims", [])],
            [int(n) for n in entry.get("strides", [])],
        )
    for child in module.get("submodules", []):
        _walk_old(storages, table, child, f"{before}{child['name']}.", tensors, depth + 1)
