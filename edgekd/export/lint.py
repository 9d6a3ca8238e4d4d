"""What a device's parser would refuse in a graph, found before it goes there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from edgekd.errors import ExportError
from edgekd.export import lint_tensorrt
from edgekd.export.findings import Finding
from edgekd.export.tensorrt_rules import OPSETS, Version, rules_version
from edgekd.types import Profile, Runtime


@dataclass(frozen=True)
class Checked:
    """What a graph was checked for."""

    rules: str  # in words, e.g. "TensorRT 10.1, the nearest older to 10.3"
    findings: tuple[Finding, ...]


def lint(path: Path, runtime: str, version: str) -> list[Finding]:
    """What `runtime` of a version would not take in a graph; empty: nothing that edgekd knows.

    runtime: "tensorrt", "onnxruntime", or another, of which edgekd knows the form of the file alone. version: as its
    vendor writes it, "8.2.1"; where it has no rules of its own, those of the nearest older one hold. `rules_for` says
    which do.
    """
    return list(_findings(path, onnx.load(path, load_external_data=False), Runtime(runtime, version)))


def rules_for(runtime: str, version: str) -> str:
    """Which rules `lint` goes by, in words."""
    if runtime == "onnxruntime":
        return f"loading by ONNX Runtime {onnxruntime.__version__} here"
    if runtime != "tensorrt":
        return "the form of the file; edgekd knows no operators of " + (runtime or "an unknown runtime")
    asked = parsed(version)
    used = rules_version(asked)
    name = "TensorRT " + ".".join(map(str, used))
    if not asked:
        return f"{name}, the oldest, as the version is not known"
    if asked[: len(used)] == used:
        return name
    return f"{name}, the nearest {'older' if used <= asked else 'newer'} to {version}"


def check_runtime(path: Path, profile: Profile) -> Checked:
    """Holds a graph against the profile's runtime. Raises ExportError with the first finding and how many there are."""
    runtime = runtime_of(profile)
    found = tuple(_findings(path, onnx.load(path, load_external_data=False), runtime))
    rules = rules_for(runtime.name, runtime.version)
    if found:
        first = found[0]
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise ExportError(
            f"{runtime.name} {runtime.version} would not take {path.name}".replace("  ", " "),
            code="E0612",
            why=f"{first.operator} {first.node!r}: {first.rule} ({first.source}){more}. Rules: {rules}",
            fix="choose another --student or --precision, or correct runtime and opset of the profile",
        )
    return Checked(rules, found)


def runtime_of(profile: Profile) -> Runtime:
    """The profile's runtime; where it names none, that of its target, for TensorRT the oldest with its opset."""
    if profile.runtime is not None:
        return profile.runtime
    if profile.target != "tensorrt":
        return Runtime("onnxruntime" if profile.target == "onnxrt" else "")
    able = [version for version, opset in sorted(OPSETS.items()) if opset >= profile.opset]
    return Runtime("tensorrt", ".".join(map(str, able[0] if able else max(OPSETS))))


def parsed(version: str) -> Version:
    """The numbers of the first version in a text: "8.2.1" and "8.2.1 or later" give (8, 2, 1); none, ()."""
    match = re.search(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _findings(path: Path, model: onnx.ModelProto, runtime: Runtime) -> Iterator[Finding]:
    yield from _form(model, runtime)
    if runtime.name == "tensorrt":
        yield from lint_tensorrt.findings(model, rules_version(parsed(runtime.version)))
    elif runtime.name == "onnxruntime":
        try:
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises kinds of its own
            why = str(error).strip().splitlines()[0]
            yield Finding("", "graph", f"it does not load: {why}", f"ONNX Runtime {onnxruntime.__version__}")


def _form(model: onnx.ModelProto, runtime: Runtime) -> Iterator[Finding]:
    """What holds for all: versions, standard operators, one file."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if runtime.opset_max is not None and opset > runtime.opset_max:
        yield Finding("", "graph", f"opset {opset} is newer than {runtime.opset_max}", runtime.source)
    if runtime.ir_max is not None and model.ir_version > runtime.ir_max:
        yield Finding("", "graph", f"IR version {model.ir_version} is newer than {runtime.ir_max}", runtime.source)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            rule = f"the domain {node.domain!r} is not ONNX's own"
            yield Finding(node.name, node.op_type, rule, "edgekd writes standard operators only")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield Finding(tensor.name, "constant", "it lies in another file", "edgekd writes single files only")
