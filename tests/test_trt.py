"""TensorRT on the device, without TensorRT: its API by version (tests/trt_api.py) is injected, and memory is ours.

What a real TensorRT does with these calls is not tested here; docs/tensorrt.md says what has run where.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from schemas import some_of
from trt_api import NAMES, ROOT, VERSIONS, Gpu, TensorRT, has, runner, touched

setting, trt, engine, cache, cudart = (runner(n) for n in ("setting", "trt", "engine", "engine_cache", "cudart"))
errors, runtimes, onnxrt = runner("trt_errors"), runner("runtimes"), runner("onnxrt")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4)).astype(np.float32)


@dataclasses.dataclass
class Board:
    """A runtime over the API of one version, and where its graph and engines lie."""

    api: TensorRT
    gpu: Gpu
    runtime: Any
    graph: Path
    engines: Path

    def setting(self, **changes: Any) -> Any:
        return setting.Setting((3, 4, 4), 2, "fp32", 0, str(self.engines), **changes)

    def load(self, **changes: Any) -> Any:
        return self.runtime.load(str(self.graph), self.setting(**changes), lambda line: None)


def board(folder: Path, version: str, gpu: Gpu | None = None) -> Board:
    gpu = gpu or Gpu()
    api = TensorRT(version, gpu)
    (folder / "student.fp16.onnx").write_bytes(b"a graph")
    runtime = trt.TensorRT(api, cudart.Cuda(gpu, gpu))
    return Board(api, gpu, runtime, folder / "student.fp16.onnx", folder / "engines")


def refused(exit_code: int, call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(setting.Refused) as caught:
        call(*arguments, **named)
    assert caught.value.exit_code == exit_code, str(caught.value)
    return str(caught.value)


# --- the contract: what is asked for exists


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("changes", [{}, {"workspace_mb": 64}, {"cuda_graph": True}, {"dla_core": 1}], ids=str)
def test_every_version_builds_and_runs(version: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Only names that the version has are asked for: any other raises AttributeError in tests/trt_api.py."""
    here = board(tmp_path, version)
    infer, facts = here.load(**changes)
    flat = PIXELS.reshape(5, -1)
    expected = np.stack([flat.sum(1), flat.max(1), np.full(5, 48)], 1)
    assert infer(PIXELS) == pytest.approx(expected)  # 5 images through an engine of 2: the last part is padded
    assert infer(PIXELS[:1]) == pytest.approx(expected[:1])
    assert facts["shapes"] == {"pixels": [2, 3, 4, 4]} and facts["engine_layers"]["types"] == {"not told": 1, "fp16": 1}
    assert facts["cuda_graph"] == bool(changes.get("cuda_graph")) and "Refused" not in str(facts)
    assert not some_of("Graph", facts) and not some_of("RuntimeFound", here.runtime.describe())
    assert some_of("Graph", facts | {"speed": 1}) and some_of("RuntimeFound", {"name": []})  # the check can fail
    if "dla_core" in changes:
        assert facts["dla"] == {"core": 1, "layers": 5, "on_gpu": ["islet", "w", "q", "dq"], "on_gpu_count": 4}
        assert here.api.runtime.real.DLA_core == 1


def test_parser_error_in_every_version(tmp_path: Path) -> None:
    for version in VERSIONS:
        here = board(tmp_path, version)
        here.api.errors = ["No importer registered for op: Mish"]
        said = refused(6, here.load)
        assert "student.fp16.onnx cannot be read" in said and "operator Mish" in said and version in said
        assert ("(Mish /act)" in said) == has(version, "ParserError", "node_operator")


OF = {  # what the names of engine.py and trt.py hold
    "trt": "", "self.trt": "", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "shapes": "IOptimizationProfile", "runtime": "Runtime", "error": "ParserError",
    "self.engine": "ICudaEngine", "self.context": "IExecutionContext", "layer": "ILayer", "tensor": "ITensor",
    "known": "NetworkDefinitionCreationFlag", "level": "Severity", "cache": "ITimingCache",
}  # fmt: skip


def named_in(path: Path) -> set[tuple[str, str]]:
    """(class, name) of TensorRT that a module's text names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            chain = ast.unparse(node.value)
            if OF.get(chain):
                found.add((OF[chain], node.attr))
            elif chain.removeprefix("self.").startswith("trt."):
                found.add((chain.split(".")[-1], node.attr))
    return found


def test_every_name_in_the_text_is_known_and_was_asked_for(tmp_path: Path) -> None:
    """Each name that the code holds exists in some version, and the runs above reach it in all that have it."""
    named = named_in(ROOT / "targets/engine.py") | named_in(ROOT / "targets/trt.py")
    named -= {("ILogger", "__init__"), ("ILogger", "Severity")}
    named -= {("ILayer", "get"), ("ITensor", "update")}  # dicts of the same name
    assert len(named) > 60
    assert not {(kind, name) for kind, name in named if name not in NAMES[kind]}
    touched.clear()
    for version in VERSIONS:
        for changes in ({}, {"workspace_mb": 64}, {"dla_core": 1}):
            (tmp_path / f"{version}{len(changes)}{changes.get('dla_core')}").mkdir()
            infer, _ = board(tmp_path / f"{version}{len(changes)}{changes.get('dla_core')}", version).load(**changes)
            infer(PIXELS)
        here = board(tmp_path, version)
        here.api.errors = ["x"]
        refused(6, here.load)
    missed = {pair for pair in named - touched if pair[0] != "Severity"}  # those are a plain class's
    assert not missed


def test_a_name_that_a_version_lacks_is_refused() -> None:
    api = TensorRT("11.4.0", Gpu())
    with pytest.raises(AttributeError, match=r"no BuilderFlag\.FP16"):
        _ = api.BuilderFlag.FP16
    with pytest.raises(AttributeError, match=r"no IBuilderConfig\.max_workspace_size"):
        api.config().max_workspace_size = 1
    with pytest.raises(AttributeError, match="no MemoryPoolType"):
        _ = TensorRT("8.2.1", Gpu()).MemoryPoolType


# --- building


@pytest.mark.parametrize(
    "version,network,flags",
    [
        ("8.2.1", "EXPLICIT_BATCH", ["FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"]),
        ("8.6.1", "EXPLICIT_BATCH", ["FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"]),
        ("10.3.0", "STRONGLY_TYPED", []),
        ("10.16.1", "STRONGLY_TYPED", []),
        ("11.4.0", "", []),
    ],
)
def test_precision_is_the_graphs(version: str, network: str, flags: list[str], tmp_path: Path) -> None:
    here = board(tmp_path, version)
    _, facts = here.load()
    bit = 1 << int(getattr(here.api.NetworkDefinitionCreationFlag, network)) if network else 0
    assert here.api.flags == bit and here.api.built[0].set == flags
    assert facts["flags"] == ["TF32", *flags]
    kept = {layer.real.name: layer.real.precision for layer in here.api.network_layers}
    assert {name for name, kind in kept.items() if kind is not None} == ({"islet"} if flags else set())


def test_plain_fp32_graph_needs_no_flag_on_8(tmp_path: Path) -> None:
    here = board(tmp_path, "8.2.1")
    here.api.layers = [("conv", "CONVOLUTION", "FLOAT")]
    assert here.load()[1]["flags"] == ["TF32"]


def test_dla_before_11_is_weakly_typed_and_gets_fp16(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    here.api.layers = [("conv", "CONVOLUTION", "FLOAT")]
    assert here.load(dla_core=0)[1]["flags"] == ["TF32", "FP16"]
    assert here.api.flags == 0 and here.api.built[0].set == ["FP16", "GPU_FALLBACK"]
    assert here.api.parser_flags == []
    late = board(tmp_path, "11.4.0")
    late.load(dla_core=0)
    assert late.api.built[0].set == ["GPU_FALLBACK"] and late.api.parser_flags == ["OnnxParserFlag.ADJUST_FOR_DLA"]
    assert "this device has 2" in refused(4, board(tmp_path, "10.3.0").load, dla_core=2)


def test_workspace_by_version(tmp_path: Path) -> None:
    old, new = board(tmp_path, "8.2.1"), board(tmp_path, "8.4.1")
    assert old.load()[1]["workspace_mb"] == 256 and old.api.built[0].max_workspace_size == 256 << 20
    assert new.load()[1]["workspace_mb"] is None and new.api.built[0].limits == {}
    new.load(workspace_mb=64)
    assert new.api.built[1].limits == {"MemoryPoolType.WORKSPACE": 64 << 20}


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    here.api.batch = 1  # a graph of a fixed batch, and the profile measures two
    assert "[1, 3, 4, 4], the samples are [2, 3, 4, 4]" in refused(3, here.load)
    here.api.batch = 2
    here.load()
    assert not hasattr(here.api, "shapes")  # nothing is open, nothing to set
    here.api.inputs = 2
    here.graph.write_bytes(b"another")
    assert "2 inputs" in refused(3, here.load)


# --- the cache


def test_second_load_builds_nothing(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    _, first = here.load()
    _, second = here.load()
    assert len(here.api.built) == 1 and second["flags"] == first["flags"] and second["build_s"] == first["build_s"]
    kept = sorted(path.name for path in here.engines.iterdir())
    assert [name.rsplit(".", 1)[1] for name in kept] == ["engine", "json", "cache"]
    assert kept[0].startswith("student.fp16-trt10.3.0-Orin-sm87-") and kept[2] == "timings-trt10.3.0-Orin-sm87.cache"


def test_other_graph_gpu_version_or_setting_is_another_engine(tmp_path: Path) -> None:
    names = set()
    for version, gpu, graph, changes in (
        ("10.3.0", Gpu(), b"a graph", {}),
        ("10.16.1", Gpu(), b"a graph", {}),
        ("10.3.0", Gpu("Orin", (8, 7), 16), b"a graph", {}),  # the larger module has the same name
        ("10.3.0", Gpu("Xavier", (7, 2)), b"a graph", {}),
        ("10.3.0", Gpu(), b"changed", {}),
        ("10.3.0", Gpu(), b"a graph", {"workspace_mb": 8}),
        ("10.3.0", Gpu(), b"a graph", {"dla_core": 0}),
    ):
        here = board(tmp_path, version, gpu)
        here.graph.write_bytes(graph)
        names.add(here.load(**changes)[1]["engine"])
        assert len(here.api.built) == 1
    assert len(names) == 7


@pytest.mark.parametrize(
    "key,value,said",
    [
        ("tensorrt", "8.5.2.2", "built for TensorRT 8.5.2.2, and this is 10.3.0"),
        ("gpu", "Xavier", "built for GPU Xavier, and this is Orin"),
        ("compute_capability", "7.2", "built for compute capability 7.2, and this is 8.7"),
        ("multiprocessors", 16, "built for multiprocessors 16, and this is 8"),
        ("graph_sha256", "ab" * 32, "built for graph abababababab..., and this is "),
        ("settings", {"batch": 1}, 'built for settings {"batch": 1}, and this is '),
    ],
)
def test_mismatch_is_refused_before_loading(key: str, value: Any, said: str, tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    here.load()
    (described,) = here.engines.glob("*.json")
    described.write_text(json.dumps(json.loads(described.read_text()) | {key: value}))
    del here.api.runtime
    assert said in refused(7, here.load)
    assert not hasattr(here.api, "runtime")  # TensorRT never saw it


def test_damaged_cache(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    here.load()
    (described,), (plan,) = here.engines.glob("*.json"), here.engines.glob("*.engine")
    plan.write_bytes(b"other bytes")
    assert "not the file that was built" in refused(7, here.load)
    for text in ("", "[1]", '{"tensorrt": ', "\x00\xff", "null"):
        described.write_text(text, encoding="latin-1")
        assert "remove it" in refused(7, here.load)
    described.unlink()  # its writing was cut off: the engine does not count
    here.load()
    assert len(here.api.built) == 2 and json.loads(described.read_text())["tensorrt"] == "10.3.0"


def test_cache_in_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    here.engines.write_text("a file")
    assert "--engines" in refused(4, here.load)
    assert here.api.built == []  # before minutes go into it


def test_timings_of_another_version_are_dropped(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    here.engines.mkdir()
    kept = here.engines / "timings-trt10.3.0-Orin-sm87.cache"
    kept.write_bytes(b"timings of something else")
    here.load()
    assert kept.read_bytes() == b"timings 10.3.0" and here.api.built[0].cache.held == b""
    here.load(workspace_mb=8)
    assert here.api.built[1].cache.held == b"timings 10.3.0"
    here.load(workspace_mb=9, timing_cache=False)
    assert here.api.built[2].cache is None


# --- running


def test_three_figures(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    infer, _ = here.load()
    protocol = {"warmup_s": 0.01, "seconds": 0.0, "rounds": 60, "most_s": 5.0}
    found = here.runtime.measure({"fp16": infer}, PIXELS[:2], protocol, lambda line: None)
    parts = found["parts_ms"]["fp16"]
    assert set(parts) == {"compute", "with_copies", "host"}
    assert parts["compute"]["p50"] == pytest.approx(0.25) and parts["with_copies"]["p50"] == pytest.approx(0.45)
    assert parts["host"]["rounds"] == 60 and found["latency_ms"]["fp16"]["rounds"] >= 60
    order = [c for c in here.gpu.calls if c in ("cudaEventRecord", "cudaMemcpyAsync", "cudaStreamSynchronize")][-7:]
    assert order == ["cudaEventRecord", "cudaMemcpyAsync", "cudaEventRecord", "cudaEventRecord", "cudaMemcpyAsync",
                     "cudaEventRecord", "cudaStreamSynchronize"]  # fmt: skip


def test_cuda_graph_runs_on_new_pixels(tmp_path: Path) -> None:
    for old in (False, True):
        gpu = Gpu()
        gpu.old_graphs = old
        here = board(tmp_path, "8.6.1", gpu)
        infer, _ = here.load(cuda_graph=True)
        for image in PIXELS[:3]:
            assert infer(image[None])[0, 0] == pytest.approx(image.sum())
        assert gpu.calls.count("cudaGraphLaunch") == 3
        assert ("cudaGraphInstantiate" in gpu.calls) == old


def test_failures_of_cuda_and_of_the_engine(tmp_path: Path) -> None:
    here = board(tmp_path, "10.3.0")
    infer, _ = here.load()
    here.gpu.fails = {"cudaMemcpyAsync": 2}
    assert "memory is full" in refused(5, infer, PIXELS)
    here.gpu.fails = {"cudaStreamEndCapture": 900}
    assert "take cuda_graph out" in refused(5, here.load, cuda_graph=True)
    here.gpu.fails, here.gpu.capturing, here.api.runs = {}, None, False
    assert "does not run" in refused(6, infer, PIXELS)
    here.api.load_errors = ["Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed."]
    assert "another version" in refused(7, here.load)


def test_ctypes_signatures_over_a_real_library(tmp_path: Path) -> None:
    """A libcudart made of malloc and memcpy: 64-bit pointers, sizes and floats arrive whole."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to make a library with")
    names = [n for n in cudart.ARGUMENTS if n not in ("cudaMalloc", "cudaMemcpyAsync", "cudaEventElapsedTime")]
    names = [n for n in names if n not in ("cudaGetDeviceCount", "cudaMemGetInfo")]
    code = """#include <stdlib.h>
    #include <string.h>
    int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
    int cudaMemGetInfo(size_t *a, size_t *b) { *a = 5000000000u; *b = 1; return 0; }
    int cudaMalloc(void **p, size_t n) { *p = malloc(n); return n > 1000000 ? 2 : 0; }
    int cudaMemcpyAsync(void *a, const void *b, size_t n, int k, void *s) { memcpy(a, b, n); return s != (void *)7; }
    int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = (float)((char *)b - (char *)a); return 0; }
    const char *cudaGetErrorString(int e) { return e == 2 ? "out of memory" : "other"; }
    """ + "\n".join(f"int {name}(void) {{ return 0; }}" for name in names)
    (tmp_path / "cudart.c").write_text(code)
    library = tmp_path / "libcudart.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", library, tmp_path / "cudart.c"], check=True)
    cuda = cudart.Cuda(cudart.ctypes.CDLL(str(library)), None)
    a, b = cuda.malloc(64), cuda.malloc(64)
    cudart.ctypes.memset(a, 42, 64)
    cuda.copy(b, a, 64, cudart.TO_HOST, 7)
    assert cudart.ctypes.string_at(b, 64) == b"*" * 64
    assert cuda.ms_between(1 << 40, (1 << 40) + 3) == 3.0 and cuda.free_mb() == 5000.0
    assert "error 2, out of memory" in refused(5, cuda.malloc, 2_000_000)


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudart, "driver", Gpu)
    assert "no libcudart was found" in refused(4, cudart.opened, ["libnothing.so.99"])
    assert "libcudart.so.10.2" in cudart.candidates()
    lost = Gpu()
    lost.fails = {"cuInit": 100}
    assert "errors [100, 0, 0, 0, 0]" in refused(4, cudart.device_of, lost)


# --- errors


@pytest.mark.parametrize(
    "message,said,exit_code",
    [
        ("Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[177...Reshape_81]}.)",
         "no kernel for {ForeignNode[177...Reshape_81]}", 6),
        ("[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
         "memory does not suffice", 4),
        ("Serialization Error in verifyHeader: 0 (Version tag does not match)", "another version", 7),
        ("The engine plan file is not compatible with this version of TensorRT, expecting library version 8.6.1",
         "another version", 7),
        ("The engine plan file is generated on an incompatible device, expecting compute 8.7 got compute 7.2, rebuild",
         "another GPU", 7),
        ("In node 3 with name: /act and operator: Mish (importFallbackPluginImporter): UNSUPPORTED_NODE: Assertion",
         "does not know the operator Mish", 6),
        ("getPluginCreator could not find plugin: GridSample version: 1", "operator GridSample", 6),
        ("Assertion failed: shiftIsAllZeros(zeroPoint) && \"TRT only supports symmetric quantization\"",
         "not symmetric", 6),
        ("Unsupported ONNX data type: DOUBLE (11)", "data type DOUBLE", 6),
        ("Failed to parse the ONNX model.", "newer ONNX, or damaged", 6),
        ("CUDA initialization failure with error: 35", "CUDA does not start", 4),
        ("Target GPU SM 53 is not supported by this TensorRT release.", "no kernels for this GPU", 4),
        ("something else", "does not know", 6),
    ],
)  # fmt: skip
def test_messages_get_cause_and_fix(message: str, said: str, exit_code: int) -> None:
    refusal = errors.refusal("student.onnx cannot be built", "10.3.0", ["[W] a warning", message])
    assert said in str(refusal) and "fix   " in str(refusal) and refusal.exit_code == exit_code
    assert message[:60] in str(refusal)


def test_lack_of_memory_is_told_before_what_follows_from_it() -> None:
    lines = ["Could not find any implementation for node conv.", "Error Code 2: OutOfMemory (Requested size was 9)"]
    assert errors.refusal("x", "8.5", lines).exit_code == 4


def test_build_that_fails_is_translated(tmp_path: Path) -> None:
    here = board(tmp_path, "8.5.1")
    here.api.build_errors = ["Error Code 10: Internal Error (Could not find any implementation for node conv1.)"]
    said = refused(6, here.load)
    assert "student.fp16.onnx cannot be built: TensorRT has no kernel for conv1 in this precision" in said
    assert "raise workspace_mb" in said and not list(here.engines.glob("*.engine"))


@pytest.mark.parametrize(
    "text", ["", "{}", '{"Layers": 3}', '{"Layers": [3]}', '{"Layers": [{"Outputs": 3}]}', "[]", "\0"]
)
def test_engine_descriptions_that_cannot_be_read_are_said(text: str) -> None:
    found = engine.layers_in(text)
    assert found["count"] is None and "cannot be read" in found["why"]


# --- which runtime, and its options


@pytest.mark.parametrize(
    "target,asked,there,runtime,said",
    [
        ("onnxrt", None, ["onnxrt", "trt"], "onnxrt", ""),
        ("tensorrt", None, ["onnxrt", "trt", "trtexec"], "trt", ""),
        ("tensorrt", None, ["onnxrt", "trtexec"], "trtexec", ""),
        ("tensorrt", None, ["onnxrt"], "onnxrt", "ONNX Runtime's on this machine, not TensorRT's: neither"),
        ("tensorrt", "onnxrt", ["onnxrt", "trt"], "onnxrt", "not TensorRT's: --runtime asked for it"),
        ("tensorrt", "trtexec", ["trt", "trtexec"], "trtexec", ""),
        ("onnxrt", "trt", ["onnxrt", "trt"], "trt", "TensorRT's; the graphs were made for ONNX Runtime"),
        ("onnx", None, ["onnxrt"], "onnxrt", ""),
    ],
)
def test_runtime_by_target(target: str, asked: str | None, there: list[str], runtime: str, said: str) -> None:
    choice = runtimes.choose(target, asked, there)
    assert choice.runtime == runtime and (said in choice.note if said else choice.note == "")


def test_runtime_that_is_missing() -> None:
    assert "libnvinfer" in refused(4, runtimes.choose, "tensorrt", None, [])
    assert "onnxruntime" in refused(4, runtimes.choose, "onnxrt", None, ["trt"])
    assert "trtexec is neither" in refused(4, runtimes.choose, "tensorrt", "trtexec", ["trt"])
    assert runtimes.here("onnxrt", None, []) == ("onnxrt", "")


def test_options_are_strict() -> None:
    known = {"workspace_mb": 64, "dla_core": 0, "cuda_graph": True}
    assert setting.options_of({"options": known}, {"provider": "cuda"}) == known | {"provider": "cuda"}
    assert setting.options_of({}, {"provider": None}) == {}
    for wrong in ({"workspace": 1}, {"dla_core": True}, {"cuda_graph": 1}, {"workspace_mb": 0}, {"provider": "npu"}):
        refused(3, setting.options_of, {"options": wrong}, {})


def test_provider_that_is_not_at_work_is_an_error(tmp_path: Path) -> None:
    """The real onnxruntime of this machine has no CUDA: it falls back with a warning, and the runner does not."""
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 3, 4, 4]) for n in ("pixels", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["pixels"], ["logits"])], "g", value[:1], value[1:])
    path = tmp_path / "g.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    runtime = onnxrt.opened()
    asked = setting.Setting((3, 4, 4), 2, "fp32", 1, str(tmp_path / "engines"))
    infer, facts = runtime.load(str(path), asked, print)
    assert np.array_equal(infer(PIXELS), PIXELS) and facts["providers"] == ["CPUExecutionProvider"]
    for provider in ("cuda", "tensorrt"):
        if onnxrt.PROVIDERS[provider] in runtime.module.get_available_providers():
            pytest.skip("this onnxruntime has the provider")
        said = refused(4, runtime.load, str(path), asked._replace(provider=provider), print)
        assert onnxrt.PROVIDERS[provider] in said and "runs on CPUExecutionProvider" in said


def test_tensorrt_provider_gets_its_options(tmp_path: Path) -> None:
    asked = setting.Setting(
        (3, 4, 4), 2, "fp16", 1, str(tmp_path / "e"), provider="tensorrt", workspace_mb=64, dla_core=1
    )
    (name, options), *rest = onnxrt.opened()._asked(asked)
    assert name == "TensorrtExecutionProvider" and rest == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert options["trt_fp16_enable"] is True and options["trt_int8_enable"] is False and options["trt_dla_core"] == 1
    assert options["trt_max_workspace_size"] == 64 << 20


# --- in a bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for TensorRT, of a network with one layer."""
    from onnx import TensorProto, helper, save

    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(ROOT / "targets", folder / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    values = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [None, 3, 4, 4])]
    values.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 48]))
    graph = helper.make_graph([helper.make_node("Flatten", ["pixels"], ["logits"])], "g", values[:1], values[1:])
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7),
        folder / "student.fp32.onnx",
    )
    np.savez(folder / "samples.npz", pixels=PIXELS.astype(np.uint8), teacher_logits=PIXELS.reshape(5, -1))
    manifest = {"target": "tensorrt", "batch": 1, "threads": 1, "parity": {}, "profile": {}, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"graphs": {"fp32": "student.fp32.onnx"}}))
    return folder


def ran(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "-m", "runner", "--quick", *options]
    return subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)


def test_report_says_that_onnx_runtime_stood_in(bundle: Path) -> None:
    if runtimes.here("tensorrt", None, []).runtime != "onnxrt":
        pytest.skip("TensorRT is on this machine")
    done = ran(bundle)
    report = json.loads((bundle / "report.json").read_text())
    assert done.returncode == 0 and report["runtime"]["name"] == "onnxruntime" and report["target"] == "tensorrt"
    assert report["runtime"]["note"] in done.stderr and "not TensorRT's" in report["runtime"]["note"]
    assert report["graphs"]["fp32"]["agreement"] == 1.0 and report["graphs"]["fp32"]["parts_ms"] is None
    assert report["graphs"]["fp32"]["first_ms"] > 0 and report["graphs"]["fp32"]["load_ms"] > 0


def test_what_is_asked_for_and_missing_ends_the_run(bundle: Path) -> None:
    if runtimes.here("tensorrt", None, []).runtime != "onnxrt":
        pytest.skip("TensorRT is on this machine")
    for options, said in (
        (("--runtime", "trt"), "error: --runtime trt: the Python package tensorrt does not import"),
        (("--runtime", "trtexec"), "error: --runtime trtexec: trtexec is neither"),
        (("--provider", "cuda"), "asked for CUDAExecutionProvider and runs on CPUExecutionProvider"),
    ):
        done = ran(bundle, *options)
        assert done.returncode == 4 and said in done.stderr, done.stderr


PYTHONS = [
    path
    for version in ("3.6", "3.8", "3.13")
    for path in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python3"))[:1]
]


@pytest.mark.parametrize("python", PYTHONS or [None], ids=lambda p: p.parts[-3] if p else "none")
def test_modules_import_on_the_pythons_of_boards(python: Path | None, bundle: Path) -> None:
    """Those that need no numpy are imported, and one result of each is looked at; the others are compiled."""
    if python is None:
        pytest.skip("no other Python versions under ~/.pyenv on this machine")
    code = """if True:
        from runner import cudart, engine, engine_cache, onnx_facts, runtimes, setting, trt_errors, trtexec_lines
        s = setting.Setting((3, 4, 4), 1, "fp32", 0, "engines", dla_core=0)
        print(s._replace(batch=2).batch, engine.layers_in("")["count"])
        print(trt_errors.refusal("x", "8", ["OutOfMemory"]).exit_code)
        print(onnx_facts.facts_of(open("student.fp32.onnx", "rb").read())["input"], len(cudart.candidates()) > 4)
        print(trtexec_lines.run_command(trtexec_lines.Tool("t", "8.2.1", set()), "e", "x", (1, 2), s)[-1])
        made = dict(tensorrt="8.2.1", gpu="a b", compute_capability="5.3", settings=engine_cache.settings_of(s))
        print(engine_cache.name_of("g.onnx", made), runtimes.choose("onnxrt", None, ["onnxrt"]).runtime)
        for name in ("trt", "trtexec", "trtexec_output", "onnxrt", "__main__"):
            compile(open("runner/%s.py" % name).read(), name, "exec")
    """
    done = subprocess.run([python, "-B", "-c", code], cwd=bundle, capture_output=True, text=True, check=False)
    *plain, name, runtime = done.stdout.split() or [done.stderr, "", ""]
    assert plain == ["2", "None", "4", "pixels", "True", "--useDLACore=0"], done.stderr
    assert name.startswith("g-trt8.2.1-a_b-sm53-") and runtime == "onnxrt"
