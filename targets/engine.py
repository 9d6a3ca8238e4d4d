"""An ONNX graph becomes a TensorRT engine, 8.2 to 11: precision is what the graph's own types say.

From 10 on the network is strongly typed. Before, builder flags allow what the graph holds, and its fp32 layers are
asked to stay so; TensorRT 8 may still choose otherwise, and the list of layers says where.
"""

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import trt_errors
from .setting import EXIT_ENVIRONMENT, EXIT_INPUT, Refused, Setting

OLD_WORKSPACE_MB = 256  # TensorRT 8.2 and 8.3 give a kernel none by default, and then find none for some layers
NO_PRECISION = (
    "CONSTANT",
    "SHAPE",
    "QUANTIZE",
    "DEQUANTIZE",
    "IDENTITY",
    "CAST",
)  # they compute nothing, or change type
MOST_LAYERS = 300  # in the report
TYPES = r"FP32|FP16|BF16|FP8|FP4|INT8|INT4|INT32|INT64|Float|Half|Bool"


class Built(NamedTuple):
    engine: bytes
    timings: bytes  # the timing cache; empty: none is kept
    facts: Dict[str, Any]


def version_of(trt: Any) -> Tuple[int, ...]:
    """(8, 2, 1) of "8.2.1.8"."""
    return tuple(int(n) for n in re.findall(r"\d+", trt.__version__)[:3])


def log_of(trt: Any) -> Any:
    """A logger that keeps warnings and errors in `messages`, the latest 200, and prints nothing."""
    level = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc]  # only now is it known which TensorRT there is
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (level.INTERNAL_ERROR, level.ERROR, level.WARNING):
                self.messages.append(message)
                del self.messages[:-200]

    return Log()


def build(trt: Any, log: Any, name: str, graph: bytes, setting: Setting, timings: bytes) -> Built:
    """Builds the engine for batches of setting.batch. name: of the graph, for messages; timings: of earlier builds."""
    builder = trt.Builder(log)
    network = builder.create_network(network_flags(trt, setting))
    parser = trt.OnnxParser(network, log)
    if setting.dla_core is not None and hasattr(trt, "OnnxParserFlag"):  # TensorRT 8.6
        if hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA"):  # 10.16: rewrites layers so that a DLA takes more of them
            parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    if not parser.parse(graph):
        found = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise trt_errors.refusal("%s cannot be read" % name, trt.__version__, found + log.messages)
    config = builder.create_builder_config()
    facts: Dict[str, Any] = {"flags": _set_flags(trt, network, config, setting)}
    facts["shapes"] = _set_shapes(builder, network, config, setting)
    facts["workspace_mb"] = _set_workspace(trt, config, setting)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the engine does not tell its layers' types
    if setting.dla_core is not None:
        facts["dla"] = _set_dla(trt, builder, network, config, setting.dla_core)
    if setting.timing_cache:
        _set_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise trt_errors.refusal("%s cannot be built" % name, trt.__version__, log.messages)
    cache = config.get_timing_cache() if setting.timing_cache else None
    return Built(bytes(plan), b"" if cache is None else bytes(cache.serialize()), facts)


def network_flags(trt: Any, setting: Setting) -> int:
    """Bits for create_network. A DLA takes strongly typed networks from TensorRT 11 on, where all are."""
    flags, version, known = 0, version_of(trt), trt.NetworkDefinitionCreationFlag
    if version < (10,):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    elif version < (11,) and setting.dla_core is None:
        flags |= 1 << int(known.STRONGLY_TYPED)
    return flags


def _parser_error(error: Any) -> str:
    where = "node %d" % error.node()
    if hasattr(error, "node_operator"):  # TensorRT 10
        where += " (%s %s)" % (error.node_operator(), error.node_name())
    return "%s: %s" % (where, error.desc())


def _set_flags(trt: Any, network: Any, config: Any, setting: Setting) -> List[str]:
    """Allows what a weakly typed network needs, and gives the names of what was allowed."""
    set_ = []
    if config.get_flag(trt.BuilderFlag.TF32):
        set_.append("TF32")  # fp32 layers run as TF32 on Ampere and later; TensorRT's default
    if version_of(trt) >= (11,) or (version_of(trt) >= (10,) and setting.dla_core is None):
        return set_  # strongly typed
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    half = any(trt.DataType.HALF in _outputs(layer) for layer in layers)
    if half or setting.dla_core is not None:  # a DLA computes in fp16 or int8 only
        config.set_flag(trt.BuilderFlag.FP16)
        set_.append("FP16")
    if any(layer.type == trt.LayerType.QUANTIZE for layer in layers):
        config.set_flag(trt.BuilderFlag.INT8)
        set_.append("INT8")
    if half and setting.dla_core is None:
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        set_.append("PREFER_PRECISION_CONSTRAINTS")
        for layer in layers:
            if str(layer.type).split(".")[-1] not in NO_PRECISION and _outputs(layer) == [trt.DataType.FLOAT]:
                layer.precision = trt.DataType.FLOAT  # an fp32 island of the graph
    return set_


def _outputs(layer: Any) -> List[Any]:
    return [layer.get_output(i).dtype for i in range(layer.num_outputs)]


def _set_shapes(builder: Any, network: Any, config: Any, setting: Setting) -> Dict[str, List[int]]:
    """Fixes the open batch to the one that is measured: no kernel has to suit another."""
    if network.num_inputs != 1 or network.num_outputs < 1:
        raise Refused("the graph has %d inputs; the runner feeds one" % network.num_inputs, EXIT_INPUT)
    tensor = network.get_input(0)
    found, wanted = tuple(tensor.shape), (setting.batch, *setting.shape)
    if len(found) != len(wanted) or any(found[i] not in (-1, wanted[i]) for i in range(len(found))):
        raise Refused("the graph takes %s, the samples are %s" % (list(found), list(wanted)), EXIT_INPUT)
    if -1 in found:
        shapes = builder.create_optimization_profile()
        shapes.set_shape(tensor.name, wanted, wanted, wanted)
        config.add_optimization_profile(shapes)
        found = wanted
    return {tensor.name: list(found)}


def _set_workspace(trt: Any, config: Any, setting: Setting) -> Optional[int]:
    """Limits a kernel's memory, and gives the limit in 2**20 bytes; None: TensorRT's own."""
    if hasattr(config, "set_memory_pool_limit"):  # TensorRT 8.4
        if setting.workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, setting.workspace_mb << 20)
        return setting.workspace_mb
    workspace_mb = OLD_WORKSPACE_MB if setting.workspace_mb is None else setting.workspace_mb
    config.max_workspace_size = workspace_mb << 20
    return workspace_mb


def _set_dla(trt: Any, builder: Any, network: Any, config: Any, core: int) -> Dict[str, Any]:
    """Sends to a DLA what it can run, the rest to the GPU, and gives the names of that rest."""
    if core >= builder.num_DLA_cores:
        message = "the profile asks for DLA core %d, and this device has %d; take dla_core out of it"
        raise Refused(message % (core, builder.num_DLA_cores), EXIT_ENVIRONMENT)
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    on_gpu = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    return {"core": core, "layers": len(layers), "on_gpu": on_gpu[:MOST_LAYERS], "on_gpu_count": len(on_gpu)}


def _set_timings(config: Any, timings: bytes) -> None:
    """Gives the builder the timings of earlier builds; those of another version or GPU it refuses, and starts empty."""
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def layers_of(trt: Any, engine: Any) -> Dict[str, Any]:
    """How many layers the engine has, how many give which type, and each one's name, kind and type."""
    return layers_in(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def layers_in(text: str) -> Dict[str, Any]:
    """The same from the inspector's JSON, which trtexec writes too. 8.2 gives names alone for some engines."""
    try:
        found = json.loads(text)
        layers = [_layer(layer) for layer in found["Layers"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {"count": None, "why": "the engine's description cannot be read: %s" % error}
    types: Dict[str, int] = {}
    for layer in layers:
        types[layer[2]] = types.get(layer[2], 0) + 1
    return {"count": len(layers), "types": types, "layers": layers[:MOST_LAYERS]}


def _layer(layer: Any) -> Sequence[str]:
    """(name, kind, type of its first output)"""
    if isinstance(layer, str):
        return [layer, "", "not told"]
    outputs = layer.get("Outputs") or [{}]
    said = re.search(TYPES, str(outputs[0].get("Format/Datatype", "")), re.IGNORECASE)
    kind = {"float": "fp32", "half": "fp16"}.get(said.group().lower(), said.group().lower()) if said else "not told"
    return [str(layer.get("Name", "")), str(layer.get("LayerType", "")), kind]
