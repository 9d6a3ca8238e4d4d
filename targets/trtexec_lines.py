"""The command lines of trtexec, TensorRT's own tool, from 8.2 to 11.

Options and their defaults differ: 11 has CUDA graph and spin-wait on and copies off, the others the reverse. So each is
set, and what there is to set is read from the tool's own help (samples/common/sampleOptions.cpp of NVIDIA/TensorRT).
"""

import math
import re
from typing import Any, Dict, List, NamedTuple, Sequence, Set

from .engine import OLD_WORKSPACE_MB
from .setting import EXIT_ENVIRONMENT, Refused, Setting

MOST = 32  # images in one call: each call is a process, and starts anew
WARM_UP_MS = 500


class Tool(NamedTuple):
    path: str
    version: str  # "8.2.1"
    options: Set[str]  # that its help names


def described(path: str, help_: str) -> Tool:
    """What a help text says. Its first line has [TensorRT v8201] up to 9, [TensorRT v100300] from 10 on."""
    said = re.search(r"\[TensorRT v(\d{4,6})\]", help_)
    options = set(re.findall(r"(?<![\w-])--[A-Za-z][A-Za-z0-9]*", help_))
    if said is None or "--exportTimes" not in options:
        raise Refused("%s --help does not read like TensorRT's trtexec, 8.2 or later" % path, EXIT_ENVIRONMENT)
    number = int(said.group(1))
    parts = (number // 1000, number // 100 % 10, number % 100)
    if number >= 100000:
        parts = (number // 10000, number // 100 % 100, number % 100)
    return Tool(path, "%d.%d.%d" % parts, options)


def build_command(
    tool: Tool, graph: str, plan: str, timings: str, facts: Dict[str, Any], setting: Setting
) -> List[str]:
    """Builds an engine for 1 to MOST images, tuned for the batch that is measured. facts: of onnx_facts."""
    command = [tool.path, "--onnx=" + graph, "--saveEngine=" + plan, "--profilingVerbosity=detailed"]
    for which, batch in (("min", 1), ("opt", setting.batch), ("max", max(MOST, setting.batch))):
        command.append("--%sShapes=%s" % (which, _shape(facts["input"], (batch, *setting.shape))))
    command.append("--skipInference" if "--skipInference" in tool.options else "--buildOnly")
    if setting.timing_cache:
        command.append("--timingCacheFile=" + timings)
    if setting.workspace_mb is not None or "--memPoolSize" not in tool.options:
        size = OLD_WORKSPACE_MB if setting.workspace_mb is None else setting.workspace_mb
        old = "--memPoolSize" not in tool.options
        command.append("--workspace=%d" % size if old else "--memPoolSize=workspace:%d" % size)
    if major(tool) == 10 and setting.dla_core is None:
        command.append("--stronglyTyped")
    elif major(tool) < 11:  # 11 knows nothing else than strong types
        command += ["--fp16"] if facts["half"] or setting.dla_core is not None else []
        command += ["--int8"] if facts["quantised"] else []
    if setting.dla_core is not None:
        command += ["--useDLACore=%d" % setting.dla_core, "--allowGPUFallback"]
    return command


def run_command(tool: Tool, plan: str, name: str, shape: Sequence[int], setting: Setting) -> List[str]:
    """Loads an engine and runs it, one query at a time, copies timed apart. The caller adds what to write."""
    streams = "--infStreams=1" if "--infStreams" in tool.options else "--streams=1"
    command = [tool.path, "--loadEngine=" + plan, "--shapes=" + _shape(name, shape), streams]
    command.append("--exposeDMA")  # else a second query is under way while the first one's copies run
    if major(tool) >= 11:
        command.append("--includeDataTransfers")
        command += [] if setting.cuda_graph else ["--noCudaGraph"]
    else:
        command.append("--useSpinWait")
        command += ["--useCudaGraph"] if setting.cuda_graph else []
    if setting.dla_core is not None:
        command.append("--useDLACore=%d" % setting.dla_core)
    return command


def _shape(name: str, shape: Sequence[int]) -> str:
    return "%s:%s" % (name, "x".join(str(n) for n in shape))


def timing_options(rounds: int, seconds: float, times: str) -> List[str]:
    """At least so many runs and seconds. Whole seconds: 8.2 reads no others."""
    return [
        "--warmUp=%d" % WARM_UP_MS,
        "--iterations=%d" % rounds,
        "--duration=%d" % max(1, math.ceil(seconds)),
        "--avgRuns=100",
        "--exportTimes=" + times,
    ]


def major(tool: Tool) -> int:
    return int(tool.version.split(".")[0])
