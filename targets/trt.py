"""TensorRT: builds the engine on the device once, keeps it by version and GPU, and runs it."""

import ctypes
import os
import time
from typing import Any, Dict, List, Tuple

import numpy as np

from . import cudart, engine, engine_cache, harness, trt_errors
from .setting import EXIT_INPUT, EXIT_MEASUREMENT, Infer, Refused, Say, Setting

CLOCK = "host array in, host array out: copies to and from the GPU are inside, preprocessing is part of the graph"
# by the name that DataType has in every version; trt.nptype fails in TensorRT 8 with numpy 1.24 (np.bool)
NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64"}


class Loaded:
    """An engine ready to run: its buffers, its stream and what launches it."""

    def __init__(self, trt: Any, cuda: Any, log: Any, plan: bytes, setting: Setting) -> None:
        self.trt, self.cuda, self.log, self.batch = trt, cuda, log, setting.batch
        runtime = trt.Runtime(log)
        if setting.dla_core is not None:
            runtime.DLA_core = setting.dla_core
        self.runtime, self.engine = runtime, runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise trt_errors.refusal("the engine cannot be loaded", trt.__version__, log.messages)
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise trt_errors.refusal("the engine cannot be started", trt.__version__, log.messages)
        self.by_name = hasattr(self.engine, "num_io_tensors")  # TensorRT 8.5; before, tensors had numbers
        self.stream = cuda.stream()
        self.shape = (setting.batch, *setting.shape)
        self.tensors = self._tensors()
        inputs = [t for t in self.tensors if t["input"]]
        if len(inputs) != 1 or len(inputs) == len(self.tensors):
            raise Refused("the engine has %d inputs; the runner feeds one" % len(inputs), EXIT_INPUT)
        self.fed, self.gives = inputs[0], next(t for t in self.tensors if not t["input"])
        self.addresses = [t["device"] for t in self.tensors]
        self.graph = self._captured() if setting.cuda_graph else None

    def _tensors(self) -> List[Dict[str, Any]]:
        """Name, direction, type, shape and memory on both sides of each input and output."""
        plain: List[Dict[str, Any]] = []
        if self.by_name:
            for i in range(self.engine.num_io_tensors):
                name = self.engine.get_tensor_name(i)
                is_input = self.engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT
                plain.append({"name": name, "input": is_input, "type": self.engine.get_tensor_dtype(name)})
                if is_input:
                    self.context.set_input_shape(name, self.shape)
        else:
            for i in range(self.engine.num_bindings):
                is_input = self.engine.binding_is_input(i)
                name, kind = self.engine.get_binding_name(i), self.engine.get_binding_dtype(i)
                plain.append({"name": name, "input": is_input, "type": kind})
                if is_input:
                    self.context.set_binding_shape(i, self.shape)
        for i, tensor in enumerate(plain):
            if self.by_name:
                shape = tuple(self.context.get_tensor_shape(tensor["name"]))
            else:
                shape = tuple(self.context.get_binding_shape(i))
            tensor.update(self._memory(tensor["name"], tensor["type"], shape))
            if self.by_name:
                self.context.set_tensor_address(tensor["name"], tensor["device"])
        return plain

    def _memory(self, name: str, kind: Any, shape: Tuple[int, ...]) -> Dict[str, Any]:
        said = str(kind).split(".")[-1]
        if said not in NUMPY or any(n < 0 for n in shape):
            raise Refused("the runner cannot hold the tensor %s: %s %s" % (name, said, shape), EXIT_INPUT)
        dtype = np.dtype(NUMPY[said])
        size = int(np.prod(shape)) * dtype.itemsize
        host = self.cuda.malloc_host(size)
        buffer: Any = (ctypes.c_char * size).from_address(host)
        array = np.frombuffer(buffer, dtype=dtype).reshape(shape)
        return {"array": array, "host": host, "device": self.cuda.malloc(size), "size": size}

    def _captured(self) -> Any:
        """The launches as a CUDA graph. The first execution sets the engine up, and cannot be captured."""
        self._enqueue()
        self.cuda.wait(self.stream)
        try:
            self.cuda.begin_capture(self.stream)
            self._enqueue()
            return self.cuda.end_capture(self.stream)
        except Refused as error:
            message = "the engine cannot be captured as a CUDA graph: %s; take cuda_graph out of the profile" % error
            raise Refused(message, EXIT_MEASUREMENT)

    def _enqueue(self) -> None:
        if self.by_name:
            done = self.context.execute_async_v3(self.stream)
        else:
            done = self.context.execute_async_v2(self.addresses, self.stream)
        if not done:
            raise trt_errors.refusal("the engine does not run", self.trt.__version__, self.log.messages)

    def execute(self) -> None:
        if self.graph is None:
            self._enqueue()
        else:
            self.cuda.launch(self.graph, self.stream)

    def stage(self, x: Any) -> None:
        """Puts pixels where the GPU can fetch them. The type may change: a graph may take uint8."""
        np.copyto(self.fed["array"][: len(x)], x, casting="unsafe")

    def copy_in(self) -> None:
        self.cuda.copy(self.fed["device"], self.fed["host"], self.fed["size"], cudart.TO_DEVICE, self.stream)

    def copy_out(self) -> None:
        self.cuda.copy(self.gives["host"], self.gives["device"], self.gives["size"], cudart.TO_HOST, self.stream)

    def infer(self, x: Any) -> Any:
        """Logits (N, K) float32 of pixels (N, C, H, W), in parts of the engine's batch."""
        parts = []
        for i in range(0, len(x), self.batch):
            part = x[i : i + self.batch]
            self.stage(part)
            self.copy_in()
            self.execute()
            self.copy_out()
            self.cuda.wait(self.stream)
            parts.append(self.gives["array"][: len(part)].astype(np.float32))  # a copy: the buffer is used again
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def parts(self, x: Any, rounds: int, most_s: float) -> Dict[str, List[float]]:
        """Milliseconds by CUDA events of each run: "compute" alone, "with_copies", and "host", the wall around both."""
        events = [self.cuda.event() for _ in range(4)]
        found: Dict[str, List[float]] = {"compute": [], "with_copies": [], "host": []}
        begun = time.perf_counter()
        while len(found["host"]) < rounds and time.perf_counter() - begun < most_s:
            start = time.perf_counter()
            self.stage(x)  # on the host, and before the first event: "with_copies" is the GPU's time alone
            self.cuda.record(events[0], self.stream)
            self.copy_in()
            self.cuda.record(events[1], self.stream)
            self.execute()
            self.cuda.record(events[2], self.stream)
            self.copy_out()
            self.cuda.record(events[3], self.stream)
            self.cuda.wait(self.stream)
            found["host"].append(1e3 * (time.perf_counter() - start))
            found["compute"].append(self.cuda.ms_between(events[1], events[2]))
            found["with_copies"].append(self.cuda.ms_between(events[0], events[3]))
        return found


class TensorRT:
    """The runtime through its Python package. trt: the module; cuda: a cudart.Cuda."""

    clock = CLOCK

    def __init__(self, trt: Any, cuda: Any) -> None:
        self.trt, self.cuda = trt, cuda
        self.device = cuda.device()
        self.loaded: Dict[Any, Loaded] = {}

    def describe(self) -> Dict[str, Any]:
        found = {"name": "tensorrt", "version": self.trt.__version__, "through": "its Python package"}
        return dict(found, **dict(self.device, **self.cuda.versions()))

    def load(self, path: str, setting: Setting, say: Say) -> Tuple[Infer, Dict[str, Any]]:
        """(infer, facts) of a graph, whose engine is built where none is kept for this version, GPU and graph."""
        with open(path, "rb") as handle:
            graph = handle.read()
        made_from = dict(
            self.device,
            tensorrt=self.trt.__version__,
            graph_sha256=engine_cache.sha256_of(graph),
            settings=engine_cache.settings_of(setting),
        )
        log = engine.log_of(self.trt)
        name = engine_cache.name_of(path, made_from)
        plan, facts = engine_cache.stored(setting.engines, name, made_from), {}  # type: Any, Dict[str, Any]
        if plan is None:
            say("building an engine of %s: minutes on a small board" % os.path.basename(path))
            plan, facts = self._built(log, path, graph, setting)
            engine_cache.keep(setting.engines, name, dict(made_from, build=facts), plan)
        start, free_mb = time.perf_counter(), self.cuda.free_mb()
        loaded = Loaded(self.trt, self.cuda, log, plan, setting)
        self.loaded[loaded.infer] = loaded
        facts = facts or engine_cache.told(setting.engines, name)
        facts.update(engine=name + ".engine", engine_mb=len(plan) / 1e6)
        facts["load_ms"] = 1e3 * (time.perf_counter() - start)
        facts["gpu_memory_mb"] = max(0.0, free_mb - self.cuda.free_mb())  # other processes' changes are in it
        facts["cuda_graph"] = loaded.graph is not None
        facts["engine_layers"] = engine.layers_of(self.trt, loaded.engine)
        return loaded.infer, facts

    def _built(self, log: Any, path: str, graph: bytes, setting: Setting) -> Tuple[bytes, Dict[str, Any]]:
        kept = os.path.join(setting.engines, engine_cache.timings_name(self.trt.__version__, self.device))
        start = time.perf_counter()
        built = engine.build(self.trt, log, os.path.basename(path), graph, setting, engine_cache.read_or_nothing(kept))
        if built.timings:
            engine_cache.written(kept, built.timings)
        return built.engine, dict(built.facts, build_s=time.perf_counter() - start)

    def measure(self, infers: Dict[str, Infer], x: Any, protocol: Dict[str, float], say: Say) -> Dict[str, Any]:
        """What harness.measure finds, and "parts_ms": GPU compute, with copies, and host wall, of runs of their own."""
        found = harness.measure(infers, x, protocol, say)
        found["parts_ms"] = {}
        for name, infer in infers.items():
            parts = self.loaded[infer].parts(x, int(protocol["rounds"]), protocol["most_s"])
            found["parts_ms"][name] = {part: harness.percentiles(times) for part, times in parts.items()}
        return found


def opened() -> TensorRT:
    """TensorRT of this device. Raises ImportError without its Python package, Refused without a GPU."""
    import tensorrt  # type: ignore[import-not-found,unused-ignore]  # the board brings it

    return TensorRT(tensorrt, cudart.opened())
