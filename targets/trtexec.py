"""TensorRT through its command trtexec, where its Python package is missing: a process for each thing asked."""

import math
import os
import shutil
import subprocess
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from . import cudart, engine, engine_cache, harness, onnx_facts, trt_errors
from .setting import EXIT_ENVIRONMENT, EXIT_MEASUREMENT, Infer, Refused, Say, Setting
from .trtexec_lines import MOST, Tool, build_command, described, run_command, timing_options
from .trtexec_output import errors_in, output_in, times_in

JETPACK = "/usr/src/tensorrt/bin/trtexec"  # where JetPack has it; not on PATH there
CLOCK = "CUDA events around copy in, compute and copy out, added up by trtexec: the host's own time is outside"
TURNS = 3  # processes per graph when measuring, in turns with the other graphs
BUILD_S, RUN_S = 3600, 900  # a small board builds for many minutes

Run = Callable[[Sequence[str], float], Tuple[int, str]]  # command, seconds at most -> exit code, what it printed


class Trtexec:
    """The runtime through the command. device: what cudart.device_of says; run: starts a command."""

    clock = CLOCK

    def __init__(self, tool: Tool, device: Dict[str, Any], run: Run) -> None:
        self.tool, self.device, self.run = tool, device, run
        self.loaded: Dict[Infer, Tuple[str, Dict[str, Any], Setting]] = {}

    def describe(self) -> Dict[str, Any]:
        return dict(self.device, name="tensorrt", version=self.tool.version, through="trtexec")

    def load(self, path: str, setting: Setting, say: Say) -> Tuple[Infer, Dict[str, Any]]:
        """(infer, facts) of a graph, whose engine is built where none is kept for this version, GPU and graph."""
        with open(path, "rb") as handle:
            graph = handle.read()
        told = onnx_facts.facts_of(graph)
        made_from = dict(
            self.device,
            tensorrt=self.tool.version,
            graph_sha256=engine_cache.sha256_of(graph),
            settings=dict(engine_cache.settings_of(setting), most=max(MOST, setting.batch)),
        )
        name = engine_cache.name_of(path, made_from)
        if engine_cache.stored(setting.engines, name, made_from) is None:
            say("building an engine of %s: minutes on a small board" % os.path.basename(path))
            plan, build = self._built(path, told, setting)
            engine_cache.keep(setting.engines, name, dict(made_from, build=build), plan)
        plan_path = os.path.join(setting.engines, name + ".engine")

        def infer(x: Any) -> Any:
            parts = [self._output(plan_path, told, setting, x[i : i + MOST]) for i in range(0, len(x), MOST)]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        self.loaded[infer] = plan_path, told, setting
        facts = dict(engine_cache.told(setting.engines, name), engine=name + ".engine")
        facts.update(engine_mb=os.path.getsize(plan_path) / 1e6, cuda_graph=setting.cuda_graph)
        facts.update(load_ms=None, first_ms=None)  # each call is a process of its own
        return infer, facts

    def _built(self, path: str, told: Dict[str, Any], setting: Setting) -> Tuple[bytes, Dict[str, Any]]:
        timings = os.path.join(setting.engines, engine_cache.timings_name(self.tool.version, self.device))
        with tempfile.TemporaryDirectory() as folder:
            plan, layers = os.path.join(folder, "engine"), os.path.join(folder, "layers.json")
            command = build_command(self.tool, path, plan, timings, told, setting)
            command.append("--exportLayerInfo=" + layers)
            start = time.perf_counter()
            self._call(command, BUILD_S, "%s cannot be built" % os.path.basename(path))
            facts: Dict[str, Any] = {"build_s": time.perf_counter() - start, "command": " ".join(command[1:])}
            facts["engine_layers"] = engine.layers_in(read(layers)) if os.path.exists(layers) else {"count": None}
            with open(plan, "rb") as handle:
                return handle.read(), facts

    def _output(self, plan: str, told: Dict[str, Any], setting: Setting, x: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            pixels, answer = os.path.join(folder, "pixels"), os.path.join(folder, "output.json")
            np.ascontiguousarray(x, dtype=told["type"]).tofile(pixels)
            command = run_command(self.tool, plan, told["input"], x.shape, setting)
            command += ["--loadInputs=%s:%s" % (told["input"], pixels), "--exportOutput=" + answer]
            command += ["--iterations=1", "--duration=0", "--warmUp=0"]
            self._call(command, RUN_S, "the engine does not run")
            logits = output_in(read(answer))
        if logits.ndim != 2 or len(logits) != len(x):
            raise Refused("trtexec gave %s for %d images" % (list(logits.shape), len(x)), EXIT_MEASUREMENT)
        return logits

    def measure(self, infers: Dict[str, Infer], x: Any, protocol: Dict[str, float], say: Say) -> Dict[str, Any]:
        """What harness.measure finds, and "parts_ms", in turns of one process for each graph."""
        times: Dict[str, Dict[str, List[float]]] = {name: {"compute": [], "with_copies": []} for name in infers}
        rounds, seconds = math.ceil(protocol["rounds"] / TURNS), protocol["seconds"] / TURNS
        for turn in range(TURNS):
            for name, infer in infers.items():
                say("measuring %s with trtexec, %d of %d" % (name, turn + 1, TURNS))
                plan, told, setting = self.loaded[infer]
                with tempfile.TemporaryDirectory() as folder:
                    out = os.path.join(folder, "times.json")
                    command = run_command(self.tool, plan, told["input"], x.shape, setting)
                    self._call(command + timing_options(rounds, seconds, out), RUN_S, "the engine does not run")
                    for part, found_ in times_in(read(out), self.tool.version).items():
                        times[name][part] += found_
        few = [name for name, parts in times.items() if len(parts["compute"]) < protocol["rounds"]]
        reasons = ["%s: trtexec gave only %d runs" % (name, len(times[name]["compute"])) for name in few]
        return {
            "latency_ms": {name: harness.percentiles(parts["with_copies"]) for name, parts in times.items()},
            "parts_ms": {
                name: {part: harness.percentiles(found_) for part, found_ in parts.items()}
                for name, parts in times.items()
            },
            "times_ms": {name: parts["with_copies"] for name, parts in times.items()},
            "foreign_cores": None,  # trtexec's own work cannot be told from others'
            "valid": not reasons,
            "reasons": reasons,
        }

    def _call(self, command: Sequence[str], seconds: float, doing: str) -> None:
        code, text = self.run(command, seconds)
        if code or "&&&& FAILED" in text:
            said = errors_in(text) or text.strip().splitlines()[-3:]
            raise trt_errors.refusal(doing, self.tool.version, said)


def output(command: Sequence[str], seconds: float) -> Tuple[int, str]:
    """(exit code, what it printed on both streams) of a command."""
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=seconds, check=False,
        )  # fmt: skip
    except OSError as error:
        raise Refused("%s does not start: %s" % (command[0], error), EXIT_ENVIRONMENT)
    except subprocess.TimeoutExpired:
        raise Refused("%s did not end within %d s" % (os.path.basename(command[0]), seconds), EXIT_MEASUREMENT)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError as error:
        raise Refused("trtexec ended well and left no %s: %s" % (os.path.basename(path), error), EXIT_MEASUREMENT)


def found() -> Optional[str]:
    """The path of trtexec; None where there is none."""
    return JETPACK if os.access(JETPACK, os.X_OK) else shutil.which("trtexec")


def opened() -> Trtexec:
    """trtexec of this device. Refused where there is none, or no GPU."""
    path = found()
    if path is None:
        raise Refused("no trtexec in %s or on PATH" % os.path.dirname(JETPACK), EXIT_ENVIRONMENT)
    return Trtexec(described(path, output([path, "--help"], 60)[1]), cudart.device_of(cudart.driver()), output)
