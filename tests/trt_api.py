"""TensorRT's Python API as one version has it, and a GPU that is this process's memory, to drive targets/trt.py with.

Every object gives the names that tests/logs/tensorrt_names.json lists for the version, and no other: code that asks for
a name which that version lacks fails as it would on the board. The "engine" gives, for each image, its sum, its largest
pixel and their number, so that a wrong copy shows in the numbers.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
NAMES: dict[str, dict[str, str]] = json.loads((ROOT / "tests/logs/tensorrt_names.json").read_text())["names"]
VERSIONS: list[str] = json.loads((ROOT / "tests/logs/tensorrt_names.json").read_text())["versions"]
touched: set[tuple[str, str]] = set()  # (class, name) that was asked for and is there


def runner(name: str) -> ModuleType:
    """A module of targets/, as the package that it is in a bundle."""
    if "runner" not in sys.modules:
        folder = ROOT / "targets"
        spec = importlib.util.spec_from_file_location(
            "runner", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec and spec.loader
        sys.modules["runner"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["runner"])
    return importlib.import_module(f"runner.{name}")


def has(version: str, kind: str, name: str) -> bool:
    where = NAMES.get(kind, {}).get(name, "")
    return where == "all" or version in where.split()


class Member:
    """A value of an enum."""

    def __init__(self, kind: str, name: str, number: int) -> None:
        self.text, self.number = f"{kind}.{name}", number

    def __int__(self) -> int:
        return self.number

    def __str__(self) -> str:
        return self.text


class Only:
    """What a class of TensorRT has in a version, around an object that has what any version has."""

    def __init__(self, version: str, kind: str, real: Any) -> None:
        vars(self).update(version=version, kind=kind, real=real)

    def __getattr__(self, name: str) -> Any:
        if not has(self.version, self.kind, name):
            raise AttributeError(f"TensorRT {self.version} has no {self.kind}.{name}")
        touched.add((self.kind, name))
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not has(self.version, self.kind, name):
            raise AttributeError(f"TensorRT {self.version} has no {self.kind}.{name}")
        touched.add((self.kind, name))
        setattr(self.real, name, value)


ENUMS = (
    "BuilderFlag", "DataType", "DeviceType", "LayerInformationFormat", "LayerType", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParserFlag", "ProfilingVerbosity", "TensorIOMode",
)  # fmt: skip


class Gpu:
    """libcudart and libcuda over this process's memory. capturing: executions are kept for the graph."""

    def __init__(self, name: str = "Orin", capability: tuple[int, int] = (8, 7), processors: int = 8) -> None:
        self.facts, self.name = {75: capability[0], 76: capability[1], 16: processors}, name
        self.kept: list[Any] = []
        self.handles, self.calls = 100, []  # type: int, list[str]
        self.capturing: list[Any] | None = None
        self.captured: dict[int, list[Any]] = {}
        self.fails: dict[str, int] = {}  # function -> error number
        self.clock_ms, self.recorded = 0.0, {}  # type: float, dict[int, float]  # a copy takes 0.1 ms, an execution 0.25
        self.old_graphs = False  # CUDA before 11.4

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("cuda", "cu")) or (name == "cudaGraphInstantiateWithFlags" and self.old_graphs):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.fails:
                return self.fails[name]
            self.act(name, arguments)
            return 0

        return call

    def cudaGetErrorString(self, number: int) -> bytes:  # CUDA's name
        return {2: b"out of memory", 35: b"CUDA driver version is insufficient"}.get(number, b"unknown")

    def act(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name in ("cudaMalloc", "cudaMallocHost"):
            self.kept.append(ctypes.create_string_buffer(arguments[1]))
            arguments[0]._obj.value = ctypes.addressof(self.kept[-1])
        elif name == "cudaMemcpyAsync":
            ctypes.memmove(arguments[0], arguments[1], arguments[2])
            self.clock_ms += 0.1
        elif name == "cudaEventRecord":
            self.recorded[arguments[0]] = self.clock_ms
        elif name == "cudaStreamBeginCapture":
            self.capturing = []
        elif name == "cudaStreamEndCapture":
            self.handles += 1
            self.captured[self.handles], self.capturing = self.capturing or [], None
            arguments[1]._obj.value = self.handles
        elif name in ("cudaGraphInstantiateWithFlags", "cudaGraphInstantiate"):
            arguments[0]._obj.value = arguments[1].value
            assert len(arguments) == (3 if name.endswith("Flags") else 5)
        elif name == "cudaGraphLaunch":
            for execute in self.captured[arguments[0]]:
                execute()
        elif name == "cuDeviceGetName":
            arguments[0].value = self.name.encode()
        elif name == "cuDeviceGetAttribute":
            arguments[0]._obj.value = self.facts[arguments[1]]
        elif name == "cudaEventElapsedTime":
            arguments[0]._obj.value = self.recorded[arguments[2]] - self.recorded[arguments[1]]
        elif name in ("cudaRuntimeGetVersion", "cudaDriverGetVersion", "cudaGetDeviceCount"):
            arguments[0]._obj.value = 1 if name.endswith("Count") else 12060
        elif name in ("cudaStreamCreateWithFlags", "cudaEventCreate"):
            self.handles += 1
            arguments[0]._obj.value = self.handles


class TensorRT:
    """The module tensorrt of a version. graph: what the parser finds, changed by a test before it is used."""

    def __init__(self, version: str, gpu: Gpu) -> None:
        self.version, self.gpu, self.__version__ = version, gpu, version
        half = [("conv", "CONVOLUTION", "HALF"), ("islet", "SOFTMAX", "FLOAT"), ("w", "CONSTANT", "FLOAT")]
        self.layers = [*half, ("q", "QUANTIZE", "INT8"), ("dq", "DEQUANTIZE", "FLOAT")]
        self.batch, self.shape, self.inputs = -1, (3, 4, 4), 1
        self.errors: list[str] = []  # of the parser
        self.build_errors: list[str] | None = None  # None: the build works
        self.load_errors: list[str] | None = None
        self.runs, self.dla_cores = True, 2
        self.timings_of = b"timings " + version.encode()
        self.built: list[Any] = []  # SimpleNamespace of each configuration that was built

        class ILogger:
            Severity = SimpleNamespace(**self.members("Severity"))

        self.ILogger = ILogger

    def members(self, kind: str) -> dict[str, Member]:
        names = [n for n in NAMES[kind] if n.isupper() and has(self.version, kind, n)]
        return {n: Member(kind, n, i) for i, n in enumerate(names)}

    def __getattr__(self, name: str) -> Any:
        if name in ENUMS and has(self.version, name, ""):
            touched.add((name, ""))
            vars(self)[name] = Only(self.version, name, SimpleNamespace(**self.members(name)))
            return vars(self)[name]
        raise AttributeError(f"TensorRT {self.version} has no {name}")

    def value(self, kind: str, name: str) -> Any:
        return getattr(getattr(self, kind).real, name)

    def only(self, kind: str, **what: Any) -> Any:
        return Only(self.version, kind, SimpleNamespace(**what))

    def Builder(self, log: Any) -> Any:  # TensorRT's name
        return self.only(
            "Builder",
            create_network=self.network,
            create_builder_config=self.config,
            create_optimization_profile=lambda: self.only("IOptimizationProfile", set_shape=self.set_shape),
            build_serialized_network=lambda network, config: self.build(log, config),
            num_DLA_cores=self.dla_cores,
        )

    def network(self, flags: int) -> Any:
        self.flags = flags
        kinds = {name: self.value("DataType", name) for _, _, name in self.layers}
        self.network_layers = [
            self.only(
                "ILayer", name=name, type=self.value("LayerType", kind), num_outputs=1, precision=None,
                get_output=lambda i, dtype=dtype: self.only("ITensor", dtype=kinds[dtype]),
            )
            for name, kind, dtype in self.layers
        ]  # fmt: skip
        pixels = self.only("ITensor", name="pixels", shape=(self.batch, *self.shape))
        return self.only(
            "INetworkDefinition", num_layers=len(self.layers), get_layer=lambda i: self.network_layers[i],
            num_inputs=self.inputs, num_outputs=1, get_input=lambda i: pixels,
        )  # fmt: skip

    def OnnxParser(self, network: Any, log: Any) -> Any:  # TensorRT's name
        def error(i: int) -> Any:
            return self.only(
                "ParserError", node=lambda: i, desc=lambda: self.errors[i],
                node_operator=lambda: "Mish", node_name=lambda: "/act",
            )  # fmt: skip

        self.parser_flags: list[str] = []
        return self.only(
            "OnnxParser", parse=lambda graph: not self.errors, num_errors=len(self.errors), get_error=error,
            set_flag=lambda flag: self.parser_flags.append(str(flag)),
        )  # fmt: skip

    def set_shape(self, *shapes: Any) -> None:
        self.shapes = shapes

    def config(self) -> Any:
        real = SimpleNamespace(set=[], limits={}, cache=None)

        def set_timing_cache(cache: Any, ignore_mismatch: bool) -> bool:
            ours = cache.held in (b"", self.timings_of)
            real.cache = cache if ours else real.cache
            return ours

        def create_timing_cache(held: bytes) -> Any:
            cache = self.only("ITimingCache", serialize=lambda: self.timings_of)
            vars(cache)["held"] = held
            return cache

        real.get_flag = lambda flag: str(flag) == "BuilderFlag.TF32"
        real.set_flag = lambda flag: real.set.append(str(flag).split(".")[1])
        real.add_optimization_profile = lambda shapes: 0
        real.set_memory_pool_limit = lambda pool, size: real.limits.update({str(pool): size})
        real.create_timing_cache, real.set_timing_cache = create_timing_cache, set_timing_cache
        real.get_timing_cache = lambda: real.cache
        real.can_run_on_DLA = lambda layer: layer.name == "conv"
        real.max_workspace_size = real.profiling_verbosity = real.default_device_type = real.DLA_core = None
        return Only(self.version, "IBuilderConfig", real)

    def build(self, log: Any, config: Any) -> bytes | None:
        if self.build_errors is not None:
            for message in self.build_errors:
                log.log(self.ILogger.Severity.ERROR, message)
            return None
        self.built.append(config.real)
        return b"engine of " + self.version.encode()

    def Runtime(self, log: Any) -> Any:  # TensorRT's name
        def load(plan: bytes) -> Any:
            for message in self.load_errors or ():
                log.log(self.ILogger.Severity.ERROR, message)
            return None if self.load_errors is not None else self.engine()

        self.runtime = self.only("Runtime", deserialize_cuda_engine=load, DLA_core=None)
        return self.runtime

    def engine(self) -> Any:
        names, kinds = ["logits", "pixels"], [self.value("DataType", "FLOAT")] * 2
        text = json.dumps(
            {"Layers": ["conv + relu", {"Name": "fc", "Outputs": [{"Format/Datatype": "Row major FP16"}]}]}
        )
        return self.only(
            "ICudaEngine",
            num_io_tensors=2, num_bindings=2,
            get_tensor_name=lambda i: names[i], get_binding_name=lambda i: names[i],
            get_tensor_dtype=lambda name: kinds[names.index(name)], get_binding_dtype=lambda i: kinds[i],
            get_tensor_mode=lambda name: self.value("TensorIOMode", "INPUT" if name == "pixels" else "OUTPUT"),
            binding_is_input=lambda i: names[i] == "pixels",
            create_execution_context=self.context,
            create_engine_inspector=lambda: self.only("EngineInspector", get_engine_information=lambda form: text),
        )  # fmt: skip

    def context(self) -> Any:
        shapes: dict[Any, Any] = {}
        addresses: dict[str, int] = {}
        ran: list[bool] = []  # the first execution sets a context up, and cannot be captured

        def run(pixels: int, logits: int) -> None:
            shape = shapes["pixels"]
            self.gpu.clock_ms += 0.25
            ran.append(True)
            x = array(pixels, shape).reshape(shape[0], -1)
            array(logits, (shape[0], 3))[:] = np.stack([x.sum(1), x.max(1), np.full(len(x), x.shape[1])], 1)

        def execute(pixels: int, logits: int) -> bool:
            if self.runs and self.gpu.capturing is not None:
                self.gpu.capturing.append(lambda: run(pixels, logits))
                return bool(ran)
            elif self.runs:
                run(pixels, logits)
            return self.runs

        return self.only(
            "IExecutionContext",
            set_input_shape=lambda name, shape: shapes.update({name: shape}),
            set_binding_shape=lambda i, shape: shapes.update(pixels=shape),
            get_tensor_shape=lambda name: shapes["pixels"] if name == "pixels" else (shapes["pixels"][0], 3),
            get_binding_shape=lambda i: shapes["pixels"] if i == 1 else (shapes["pixels"][0], 3),
            set_tensor_address=lambda name, address: addresses.update({name: address}),
            execute_async_v3=lambda stream: execute(addresses["pixels"], addresses["logits"]),
            execute_async_v2=lambda bindings, stream: execute(bindings[1], bindings[0]),
        )


def array(address: int, shape: tuple[int, ...]) -> Any:
    buffer: Any = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.frombuffer(memoryview(buffer), dtype=np.float32).reshape(shape)
