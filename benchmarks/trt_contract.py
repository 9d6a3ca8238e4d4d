"""Names of TensorRT's Python API by version, written to tests/logs/tensorrt_names.json: the contract of targets/trt.py.

    python benchmarks/trt_contract.py --sources TensorRT.git       (a clone of https://github.com/NVIDIA/TensorRT)

Two sources. For 8.2.1 to 10.3 and 11.1 the binding code of NVIDIA/TensorRT (python/src) at the release's tag: its
.def("name") and .value("NAME"). For 10.16.1 and 11.4.0 the real wheels tensorrt_cu13_bindings, imported over three
empty libraries that gcc makes, since TensorRT's own libraries are not on PyPI: classes and enums can be read, nothing
can run. Only names are kept, of the classes that targets/ uses. --check compares with the stored file.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = ROOT / "tests" / "logs" / "tensorrt_names.json"
TAGS = {
    "8.2.1": "8.2.1",
    "8.4.1": "8.4.1",
    "8.5.1": "8.5.1",
    "8.6.1": "v8.6.1",
    "10.3.0": "v10.3.0",
    "11.1.0": "v11.1",
}
WHEELS = {"10.16.1": "10.16.1.11", "11.4.0": "11.4.0.106"}
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "DeviceType", "EngineInspector", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile", "ITensor",
    "ITimingCache", "LayerInformationFormat", "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "OnnxParserFlag", "ParserError", "ProfilingVerbosity", "Runtime", "Severity", "TensorIOMode",
)  # fmt: skip
PARTS = ("infer/pyCore.cpp", "infer/pyFoundationalTypes.cpp", "infer/pyGraph.cpp", "parsers/pyOnnx.cpp")
SYMBOLS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL",
        "getBuilderPluginRegistry", "getPluginRegistry", "getInferLibVersion", "getLogger",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion",
    ),
}  # fmt: skip
LISTING = """
import json, sys
import tensorrt_bindings as trt
classes = sys.argv[1].split(",")
found = {}
for name in classes:
    one = trt.ILogger.Severity if name == "Severity" else getattr(trt, name, None)
    if one is not None:
        found[name] = sorted(n for n in dir(one) if not n.startswith("_"))
print(json.dumps(found))
"""


def from_source(text: str) -> dict[str, set[str]]:
    """Names by class in pybind11 code: each .def("name", .def_property("name", .value("NAME" after a class or enum."""
    opening = r"py::(?:class_|enum_)<[^;]*?\(?\s*[\w.]+,\s*\"(?P<class>\w+)\""
    declared = r"py::class_<[^;{]*>\s+\w+\{m,\s*\"(?P<braced>\w+)\""
    member = r"\.(?:def|def_static|def_property|def_property_readonly|def_readwrite|value)\(\s*\"(?P<member>\w+)\""
    found: dict[str, set[str]] = {}
    current = ""
    for match in re.finditer(f"{opening}|{declared}|{member}", text):
        if name := match["class"] or match["braced"]:
            current = name
            found.setdefault(current, set())
        elif current and not match["member"].startswith("_"):
            found[current].add(match["member"])
    return found


def of_tag(sources: Path, tag: str) -> dict[str, set[str]]:
    """The names at a tag of NVIDIA/TensorRT."""
    found: dict[str, set[str]] = {}
    for part in PARTS:
        shown = subprocess.run(
            ["git", "-C", sources, "show", f"{tag}:python/src/{part}"], capture_output=True, text=True, check=True
        )
        text = re.sub(r"//[^\n]*", "", shown.stdout)
        for name, members in from_source(text).items():
            found.setdefault(name, set()).update(members)
    return {name: members for name, members in found.items() if name in CLASSES}


def of_wheel(version: str) -> dict[str, set[str]]:
    """The names in the wheel of that version, downloaded and imported in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--target",
            folder,
        ]
        subprocess.run([*pip, f"tensorrt_cu13_bindings=={version}"], check=True)
        for library, symbols in SYMBOLS.items():
            soname = f"lib{library}.so.{version.split('.')[0]}"
            code = "\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in symbols)
            source = Path(folder, "empty.c")
            source.write_text(code, encoding="utf-8")
            made = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", f"{folder}/{soname}", str(source)]
            subprocess.run(made, check=True)
        listed = subprocess.run(
            [sys.executable, "-c", LISTING, ",".join(CLASSES)],
            env={"LD_LIBRARY_PATH": folder, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode:
            raise SystemExit(f"tensorrt_cu13_bindings {version} does not import:\n{listed.stderr}")
        return {name: set(members) for name, members in json.loads(listed.stdout).items()}


def together(versions: dict[str, dict[str, set[str]]]) -> dict[str, dict[str, str]]:
    """class -> name -> the versions that have it, "all" where all do. "" stands for the class itself."""
    found: dict[str, dict[str, str]] = {}
    for name in CLASSES:
        members = {"": [v for v in versions if name in versions[v]]}
        for version, classes in versions.items():
            for member in classes.get(name, ()):
                members.setdefault(member, []).append(version)
        found[name] = {
            member: "all" if len(have) == len(versions) else " ".join(have) for member, have in sorted(members.items())
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="a clone of NVIDIA/TensorRT with its tags")
    parser.add_argument("--check", action="store_true", help="compare with the stored file")
    options = parser.parse_args()
    versions = {version: of_tag(options.sources, tag) for version, tag in TAGS.items()}
    versions |= {version: of_wheel(wheel) for version, wheel in WHEELS.items()}
    versions = dict(sorted(versions.items(), key=lambda item: [int(n) for n in item[0].split(".")]))
    names = {
        "made_by": "benchmarks/trt_contract.py",
        "sources": {v: f"NVIDIA/TensorRT {t}: python/src" for v, t in TAGS.items()}
        | {v: f"tensorrt_cu13_bindings {w}, the wheel" for v, w in WHEELS.items()},
        "versions": list(versions),
        "names": together(versions),
    }
    text = json.dumps(names, indent=1, sort_keys=False) + "\n"
    if options.check:
        if text != NAMES.read_text(encoding="utf-8"):
            raise SystemExit(f"{NAMES} differs from what the sources say")
    else:
        NAMES.parent.mkdir(exist_ok=True)
        NAMES.write_text(text, encoding="utf-8")
    for version, classes in versions.items():
        print(f"{version}: {len(classes)} classes, {sum(map(len, classes.values()))} names")


if __name__ == "__main__":
    main()
