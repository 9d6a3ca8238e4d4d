"""trtexec without trtexec: its command lines by version, and what it writes, whole, cut off and random."""

from __future__ import annotations

import json
import math
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from trt_api import ROOT, runner

setting, lines, outputs, trtexec, facts = (
    runner(n) for n in ("setting", "trtexec_lines", "trtexec_output", "trtexec", "onnx_facts")
)
LOGS = ROOT / "tests" / "logs"
VERSIONS = ("8.2.1", "8.5.1", "8.6.1", "10.3.0", "10.16.1", "11.1.0")
DEVICE = {"gpu": "Orin", "compute_capability": "8.7", "multiprocessors": 8}
PLAIN = {"input": "pixels", "type": "float32", "half": False, "quantised": False}


def log(name: str) -> str:
    return (LOGS / name).read_text(encoding="utf-8")


def tool(version: str) -> Any:
    return lines.described("trtexec", log(f"trtexec-help-{version}.txt"))


def asked(folder: Path | str = "engines", **changes: Any) -> Any:
    return setting.Setting((3, 4, 4), 1, "fp32", 0, str(folder), **changes)


def refused(exit_code: int, call: Any, *arguments: Any) -> str:
    with pytest.raises(setting.Refused) as caught:
        call(*arguments)
    assert caught.value.exit_code == exit_code, str(caught.value)
    return str(caught.value)


def times_in(text: str) -> Any:
    return outputs.times_in(text, "10.3.0")


def model(kind: int = TensorProto.FLOAT, weight: int = TensorProto.FLOAT, quantised: bool = False) -> bytes:
    nodes = [helper.make_node("QuantizeLinear", ["pixels", "s"], ["q"])] if quantised else []
    nodes.append(helper.make_node("Flatten", ["pixels"], ["logits"]))
    values = [helper.make_tensor_value_info(n, kind, ["N", 3, 4, 4]) for n in ("pixels", "logits")]
    weights = [helper.make_tensor("s", weight, [1], [1.0])]
    given = helper.make_tensor_value_info("s", weight, [1])  # up to IR 3 weights stand among the inputs
    graph = helper.make_graph(nodes, "g", [values[0], given], values[1:], weights)
    return bytes(helper.make_model(graph).SerializeToString())


# --- command lines


@pytest.mark.parametrize(
    "version,build",
    [
        ("8.2.1", "--buildOnly --timingCacheFile=t --workspace=256 --fp16 --int8"),
        ("8.5.1", "--buildOnly --timingCacheFile=t --fp16 --int8"),
        ("8.6.1", "--skipInference --timingCacheFile=t --fp16 --int8"),
        ("10.3.0", "--skipInference --timingCacheFile=t --stronglyTyped"),
        ("10.16.1", "--skipInference --timingCacheFile=t --stronglyTyped"),
        ("11.1.0", "--skipInference --timingCacheFile=t"),
    ],
)
def test_build_command(version: str, build: str) -> None:
    told = PLAIN | {"half": True, "quantised": True}
    command = lines.build_command(tool(version), "g.onnx", "e", "t", told, asked())
    shapes = "--minShapes=pixels:1x3x4x4 --optShapes=pixels:1x3x4x4 --maxShapes=pixels:32x3x4x4"
    assert " ".join(command) == f"trtexec --onnx=g.onnx --saveEngine=e --profilingVerbosity=detailed {shapes} {build}"


@pytest.mark.parametrize(
    "version,plain,graph",
    [
        ("8.2.1", "--streams=1 --exposeDMA --useSpinWait", "--useCudaGraph"),
        ("8.5.1", "--streams=1 --exposeDMA --useSpinWait", "--useCudaGraph"),
        ("8.6.1", "--infStreams=1 --exposeDMA --useSpinWait", "--useCudaGraph"),
        ("10.3.0", "--infStreams=1 --exposeDMA --useSpinWait", "--useCudaGraph"),
        ("11.1.0", "--infStreams=1 --exposeDMA --includeDataTransfers --noCudaGraph", None),
    ],
)
def test_run_command_sets_what_versions_default_differently(version: str, plain: str, graph: str | None) -> None:
    command = lines.run_command(tool(version), "e", "pixels", (2, 3, 4, 4), asked())
    assert " ".join(command) == f"trtexec --loadEngine=e --shapes=pixels:2x3x4x4 {plain}"
    with_graph = lines.run_command(tool(version), "e", "pixels", (2, 3, 4, 4), asked(cuda_graph=True))
    assert with_graph == ([*command, graph] if graph else command[:-1])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_exists_in_its_version(version: str) -> None:
    this = tool(version)
    told = PLAIN | {"half": True, "quantised": True}
    for changes in ({}, {"workspace_mb": 64, "timing_cache": False}, {"dla_core": 1}, {"cuda_graph": True}):
        command = lines.build_command(this, "g.onnx", "e", "t", told, asked(**changes))
        command += lines.run_command(this, "e", "pixels", (1, 3, 4, 4), asked(**changes))
        command += lines.timing_options(1000, 10.0, "times.json")
        command += ["--exportLayerInfo=l", "--loadInputs=pixels:x", "--exportOutput=o"]
        used = {option.split("=")[0] for option in command if option.startswith("--")}
        assert used <= this.options, used - this.options
    sized = " ".join(lines.build_command(this, "g", "e", "t", told, asked(workspace_mb=64)))
    assert ("--workspace=64" if version == "8.2.1" else "--memPoolSize=workspace:64") in sized
    dla = lines.build_command(this, "g", "e", "t", PLAIN, asked(dla_core=1))
    assert dla[-2:] == ["--useDLACore=1", "--allowGPUFallback"] and "--stronglyTyped" not in dla
    assert ("--fp16" in dla) == (not version.startswith("11"))


def test_timing_options_are_whole_seconds() -> None:
    assert lines.timing_options(334, 10 / 3, "t.json")[1:3] == ["--iterations=334", "--duration=4"]
    assert "--duration=1" in lines.timing_options(1, 0.0, "t.json")


@pytest.mark.parametrize("version", VERSIONS)
def test_version_from_the_banner(version: str) -> None:
    assert tool(version).version == version


def test_program_that_is_not_trtexec() -> None:
    for text in ("", "usage: something", "[TensorRT v8201] but no options", "--exportTimes and no banner"):
        assert "does not read like" in refused(4, lines.described, "trtexec", text)


# --- what it writes


def test_times_with_and_without_warm_up() -> None:
    early = log("trtexec-times-8.2.json")
    for version in ("8.2.1", "8.4.1"):
        assert outputs.times_in(early, version) == {"compute": [4.0, 5.0], "with_copies": [4.3, 5.3]}
    assert "no times after its warm-up" in refused(5, outputs.times_in, log("trtexec-times-10.3.json"), "8.4.1")
    assert outputs.times_in(log("trtexec-times-10.3.json"), "8.5.1") == {
        "compute": [0.5, 0.75],
        "with_copies": [0.8, 1.05],
    }


def test_output_by_hand() -> None:
    found = outputs.output_in(log("trtexec-output.json"))
    assert found.dtype == np.float32 and found.shape == (2, 3)
    assert found[0].tolist() == pytest.approx([0.5, -1.25, 3e-5], rel=1e-6)
    assert math.isnan(found[1, 0]) and found[1, 1] == -math.inf and found[1, 2] == pytest.approx(12.3456)


@pytest.mark.parametrize("name", ["trtexec-times-8.2.json", "trtexec-times-10.3.json", "trtexec-output.json"])
def test_file_that_was_cut_off_is_refused(name: str) -> None:
    text = log(name)
    read = outputs.output_in if "output" in name else times_in
    for end in range(len(text.rstrip())):
        assert "cut off" in refused(5, read, text[:end])


@pytest.mark.parametrize("read", [times_in, outputs.output_in])
def test_other_json_is_refused(read: Callable[[str], Any]) -> None:
    value: Any
    for value in (
        {}, [], [[]], [1], [{}], None, 3, [{"startComputeMs": 0, "computeMs": "x", "latencyMs": 1}],
        [{"startComputeMs": 0, "computeMs": -1, "latencyMs": 1}], [{"startComputeMs": 0, "computeMs": 1}],
        [{"startComputeMs": 0, "computeMs": float("nan"), "latencyMs": 1}], [{"dimensions": "2x3", "values": [1]}],
        [{"dimensions": 3, "values": [1]}], [{"dimensions": "1", "values": "x"}],
        [{"dimensions": "2", "values": [[1]]}],
        [{"dimensions": "999999999999x9999999999", "values": [1]}], [{"dimensions": "1", "values": [None, {}]}],
    ):  # fmt: skip
        refused(5, read, json.dumps(value))
    refused(5, read, "[" * 100_000)


def test_random_files_are_read_or_refused() -> None:
    """400 mutations: bytes changed, dropped and doubled. Nothing but Refused comes out, and no figure below 0."""
    rng = random.Random(0)
    for name, read in (
        ("times-8.2", times_in),
        ("times-10.3", times_in),
        ("output", outputs.output_in),
    ):
        text = log(f"trtexec-{name}.json")
        for _ in range(400):
            cut = list(text)
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(cut))
                cut[at : at + rng.randint(0, 2)] = rng.choice(
                    ['"', "{", "]", ",", "-", "9", "e", "\0", "\ud7ff", "nan", ""]
                )
            try:
                found = read("".join(cut))
            except setting.Refused:
                continue
            assert name == "output" or all(math.isfinite(t) and t >= 0 for part in found.values() for t in part)
    for _ in range(200):
        refused(5, times_in, rng.randbytes(60).decode("utf-8", "replace"))


@pytest.mark.parametrize(
    "name,said", [("8.2", "no kernel for conv1 + relu1"), ("10.3", "does not know the operator Mish")]
)
def test_failed_run_is_translated(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "student.onnx").write_bytes(model())
    version = "8.2.1" if name == "8.2" else "10.3.0"
    runtime = trtexec.Trtexec(tool(version), DEVICE, lambda command, seconds: (1, log(f"trtexec-failed-{name}.txt")))
    told = refused(6, runtime.load, str(tmp_path / "student.onnx"), asked(tmp_path / "engines"), print)
    assert said in told and f"TensorRT {version}" in told and "student.onnx cannot be built" in told
    assert not list((tmp_path / "engines").iterdir())


# --- the whole way, with a trtexec that keeps to the options of its version


class Recorded:
    """Does what trtexec's options ask for: the "engine" gives each image's sum and largest pixel."""

    def __init__(self, version: str) -> None:
        self.tool = tool(version)
        self.commands: list[list[str]] = []
        self.times = log(f"trtexec-times-{'8.2' if version < '8.5' and version[0] == '8' else '10.3'}.json")

    def __call__(self, command: Sequence[str], seconds: float) -> tuple[int, str]:
        self.commands.append(list(command))
        given = dict(option.partition("=")[::2] for option in command[1:])
        assert set(given) <= self.tool.options
        if "--saveEngine" in given:
            Path(given["--saveEngine"]).write_bytes(b"engine")
            Path(given["--exportLayerInfo"]).write_text('{"Layers": ["conv1"]}')
        if "--exportTimes" in given:
            Path(given["--exportTimes"]).write_text(self.times)
        if "--loadInputs" in given:
            shape = [int(n) for n in given["--shapes"].split(":")[1].split("x")]
            x = np.fromfile(given["--loadInputs"].split(":", 1)[1], dtype=np.float32).reshape(shape[0], -1)
            values = ", ".join(f"{v:g}" for v in np.stack([x.sum(1), x.max(1)], 1).ravel())
            text = (
                f'[\n  {{ "name" : "logits"\n  , "dimensions" : "{shape[0]}x2"\n  , "values" : [ {values} ]\n  }}\n]\n'
            )
            Path(given["--exportOutput"]).write_text(text)
        return 0, "&&&& PASSED TensorRT.trtexec"


@pytest.mark.parametrize("version", VERSIONS)
def test_whole_way(version: str, tmp_path: Path) -> None:
    path, recorded = tmp_path / "student.onnx", Recorded(version)
    path.write_bytes(model())
    runtime = trtexec.Trtexec(recorded.tool, DEVICE, recorded)
    infer, found = runtime.load(str(path), asked(tmp_path / "engines"), lambda line: None)
    assert found["engine_layers"]["count"] == 1 and found["first_ms"] is None and "--onnx=" in found["command"]
    pixels = np.random.default_rng(1).integers(0, 9, (40, 3, 4, 4)).astype(np.float32)
    flat = pixels.reshape(40, -1)
    assert np.array_equal(infer(pixels), np.stack([flat.sum(1), flat.max(1)], 1))
    assert len(recorded.commands) == 1 + 2  # 40 images, 32 at most
    protocol = {"warmup_s": 2.0, "seconds": 10.0, "rounds": 6, "most_s": 300.0}
    measured = runtime.measure({"fp32": infer, "int8": infer}, pixels[:1], protocol, lambda line: None)
    assert measured["valid"] and measured["latency_ms"]["fp32"]["rounds"] == 6  # 3 processes of 2 runs
    copies, compute = (measured["parts_ms"]["fp32"][p]["p50"] for p in ("with_copies", "compute"))
    assert (copies, compute) == pytest.approx((4.8, 4.5) if version == "8.2.1" else (0.925, 0.625))
    few = runtime.measure({"fp32": infer}, pixels[:1], dict(protocol, rounds=1000), lambda line: None)
    assert not few["valid"] and "only 6 runs" in few["reasons"][0]
    before = len(recorded.commands)
    trtexec.Trtexec(recorded.tool, DEVICE, recorded).load(str(path), asked(tmp_path / "engines"), print)
    assert len(recorded.commands) == before  # the engine is kept
    assert runtime.describe()["through"] == "trtexec" and runtime.describe()["version"] == version


def test_run_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    path, recorded = tmp_path / "student.onnx", Recorded("10.3.0")
    path.write_bytes(model())
    runtime = trtexec.Trtexec(recorded.tool, DEVICE, recorded)
    infer, _ = runtime.load(str(path), asked(tmp_path / "engines"), print)
    runtime.run = lambda command, seconds: (0, "&&&& PASSED")
    assert "left no output.json" in refused(5, infer, np.zeros((1, 3, 4, 4), np.float32))


def test_processes_that_fail_to_start_or_to_end(tmp_path: Path) -> None:
    assert "does not start" in refused(4, trtexec.output, [str(tmp_path / "none")], 1)
    sleeper = [sys.executable, "-c", "import time; time.sleep(9)"]
    assert "did not end within 1 s" in refused(5, trtexec.output, sleeper, 1)
    code, text = trtexec.output([sys.executable, "-c", "import sys; print('a'); sys.exit('b')"], 20)
    assert code == 1 and text.split() == ["a", "b"]


# --- what trtexec must be told of a graph


def test_facts_of_a_graph() -> None:
    assert facts.facts_of(model()) == PLAIN
    assert facts.facts_of(model(TensorProto.UINT8))["type"] == "uint8"
    assert facts.facts_of(model(weight=TensorProto.FLOAT16))["half"]
    assert facts.facts_of(model(quantised=True))["quantised"]
    assert "feeds one, of pixels" in refused(3, facts.facts_of, model(TensorProto.DOUBLE))


def test_graphs_that_are_none() -> None:
    whole, rng = model(quantised=True), random.Random(2)
    for end in range(0, len(whole), 3):
        try:
            assert facts.facts_of(whole[:end])["input"] == "pixels"
        except setting.Refused:
            continue
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            facts.facts_of(bytes(data))
        except setting.Refused:
            continue
    for garbage in (b"", b"\xff" * 99, rng.randbytes(999)):
        refused(3, facts.facts_of, garbage)


def test_samples_say_where_they_come_from() -> None:
    told = log("README.md")
    for path in LOGS.iterdir():
        stem = re.sub(r"-\d+\.\d+\.\d+\.txt$", "-VERSION.txt", path.name)
        assert path.name == "README.md" or stem in told
