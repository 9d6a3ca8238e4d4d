"""OpenVINO: its answers against ONNX Runtime's and torch's, the precision it computes in, its files in a bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import BRIEF, CLASSES, FACTS, pictures
from schemas import problems
from trt_api import runner
from typer.testing import CliRunner

from edgekd import load_profile, pipeline
from edgekd.__main__ import app
from edgekd.bundle import SCHEMA, read_bundle, write_bundle
from edgekd.device import RUNTIMES, run_bundle
from edgekd.errors import EnvironmentLacking, ExportError, IntegrityError, UsageError
from edgekd.export import ParityError, export, export_ir, ir_logits, onnx_logits, openvino_gates, passing, torch_logits
from edgekd.export import openvino_ir as ir
from edgekd.files import data_dir, plain, sha256
from edgekd.types import Bundle, Manifest, Profile, Teacher

runtimes, setting = runner("runtimes"), runner("setting")
needed = pytest.mark.skipif(not ir.installed(), reason="openvino is not installed: pip install 'edgekd[openvino]'")
PIXELS = pictures(128, seed=4)[0][:, None]  # (128, 1, 8, 8)


def profile() -> Profile:
    return dataclasses.replace(load_profile("cpu"), target="openvino", runtime=None)


@pytest.fixture(scope="module")
def graphs(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from edgekd import load_teacher

    network = load_teacher(teacher_file).model
    return export(network, FACTS, CLASSES, profile(), PIXELS, tmp_path_factory.mktemp("graphs"))


@pytest.fixture
def opened() -> Any:
    return runner("openvino_rt").opened()


def setting_of(precision: str, **changes: Any) -> Any:
    return setting.Setting((1, 8, 8), 1, precision, 1, "")._replace(**changes)


def refused(exit_code: int, call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(setting.Refused) as caught:
        call(*arguments)
    assert caught.value.exit_code == exit_code, str(caught.value)
    return str(caught.value)


@needed
@pytest.mark.parametrize("batch", [1, 3])
def test_same_answers_as_onnxruntime(batch: int, graphs: dict[str, Path], opened: Any) -> None:
    """Any number of images, whatever the batch that it was compiled for."""
    infer, facts = opened.load(str(graphs["fp32"]), setting_of("fp32", batch=batch), print)
    rng = np.random.default_rng(0)
    random = rng.integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)
    for pixels in (random, PIXELS):
        found, wanted = infer(pixels.astype(np.float32)), onnx_logits(graphs["fp32"], pixels)
        assert found.dtype == np.float32 and found.shape == wanted.shape
        assert np.array_equal(found.argmax(1), wanted.argmax(1)) and np.abs(found - wanted).max() < 1e-4
    assert facts == {
        "threads": 1,
        "inference_precision": "f32",
        "layers_by_type": {"f32": facts["layers_by_type"]["f32"]},
    }


@needed
def test_answers_are_the_callers_own(graphs: dict[str, Path], opened: Any) -> None:
    """The next call writes over what the runtime keeps; what was given out stays."""
    infer, _ = opened.load(str(graphs["fp32"]), setting_of("fp32"), print)
    first = infer(PIXELS[:1].astype(np.float32))
    kept = first.copy()
    other = infer(255 - PIXELS[:1].astype(np.float32))
    assert np.array_equal(first, kept) and not np.array_equal(first, other)


@needed
def test_int8_graph_runs_in_integers(graphs: dict[str, Path], opened: Any) -> None:
    infer, facts = opened.load(str(graphs["int8"]), setting_of("int8"), print)
    assert facts["layers_by_type"] and set(facts["layers_by_type"]) <= {"u8", "i8"}
    found = infer(PIXELS.astype(np.float32)).argmax(1)
    assert (found == onnx_logits(graphs["int8"], PIXELS).argmax(1)).mean() >= 0.98


@needed
def test_precision_is_asked_for_and_looked_at(
    graphs: dict[str, Path], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    true = opened.core

    def compile_model(model: Any, device: str, hints: dict[str, str]) -> Any:
        asked.append(hints)
        return true.compile_model(model, device, hints)

    opened.core = SimpleNamespace(read_model=true.read_model, compile_model=compile_model)
    for precision in ("fp32", "int8"):
        opened.load(str(graphs[precision]), setting_of(precision), print)
    assert [hints["INFERENCE_PRECISION_HINT"] for hints in asked] == ["f32", "f32"]
    assert all(hints["PERFORMANCE_HINT"] == "LATENCY" and hints["INFERENCE_NUM_THREADS"] == "1" for hints in asked)
    module = runner("openvino_rt")
    monkeypatch.setattr(module, "facts_of", lambda compiled: {"inference_precision": "bf16"})
    assert "in bf16, though f32" in refused(4, opened.load, str(graphs["fp32"]), setting_of("fp32"), print)


@needed
def test_what_it_does_not_take_is_said(graphs: dict[str, Path], opened: Any, tmp_path: Path) -> None:
    assert "--provider cuda" in refused(4, opened.load, str(graphs["fp32"]), setting_of("fp32", provider="cuda"), print)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    assert "does not take" in refused(6, opened.load, str(broken), setting_of("fp32"), print)
    with pytest.raises(ExportError) as caught:
        export_ir(broken, tmp_path / "broken.xml")
    assert caught.value.code == "E0612"


@needed
def test_own_form_is_the_graph_and_always_the_same_file(graphs: dict[str, Path], tmp_path: Path) -> None:
    """Names of nodes that OpenVINO adds would count up within a process; weights stay as they are."""
    for precision, graph in graphs.items():
        files = [export_ir(graph, tmp_path / f"{precision} {n}.xml") for n in range(2)]
        assert [sha256(path) for path in files[0]] == [sha256(path) for path in files[1]]
        assert np.array_equal(ir_logits(files[0][0], PIXELS), ir_logits(graph, PIXELS))
        assert str(tmp_path) not in files[0][0].read_text(encoding="utf-8")


@needed
def test_gates_hold_what_openvino_answers(graphs: dict[str, Path], teacher: Teacher) -> None:
    wanted = torch_logits(teacher.model, FACTS, PIXELS)
    files, found = openvino_gates(graphs, PIXELS, wanted)
    assert [path.name for path in files] == [f"student.{p}.{e}" for p in graphs for e in ("xml", "bin")]
    assert found["fp32"].figures["agreement"] == 1 and found["int8"].figures["agreement"] >= 0.98
    with pytest.raises(ParityError):
        openvino_gates(graphs, PIXELS, wanted[:, ::-1])


@needed
def test_graph_that_is_wrong_in_openvino_alone_is_left_out(
    graphs: dict[str, Path], teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, told = torch_logits(teacher.model, FACTS, PIXELS), list[str]()
    true = ir.ir_logits
    monkeypatch.setattr(ir, "ir_logits", lambda path, x: -true(path, x) if "int8" in path.name else true(path, x))
    found = passing(graphs, graphs["fp32"], PIXELS, wanted, "openvino", told.append)
    assert set(found.graphs) == set(found.logits) == {"fp32"} and len(found.files) == 2
    assert found.parity["int8"]["refused"].startswith("run by OpenVINO, it agrees with torch on")
    assert found.parity["fp32"]["openvino"]["agreement"] == 1
    assert len(told) == 1 and told[0].startswith("the int8 graph is not packed: run by OpenVINO")


def test_without_openvino_the_bundle_has_onnx_alone(
    graphs: dict[str, Path], teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as Python marks what cannot be imported
    wanted, told = torch_logits(teacher.model, FACTS, PIXELS), list[str]()
    found = passing(graphs, graphs["fp32"], PIXELS, wanted, "openvino", told.append)
    assert found.graphs == graphs and not found.files and told == [ir.ABSENT]
    assert "openvino" not in found.parity["fp32"]


# --- the runner, and who chooses it


def bundle_of(graphs: dict[str, Path], teacher: Teacher, folder: Path) -> Bundle:
    wanted = torch_logits(teacher.model, FACTS, PIXELS)
    found = passing(graphs, graphs["fp32"], PIXELS, wanted, "openvino", print)
    manifest = Manifest(
        SCHEMA, "openvino", 1, 1, FACTS, CLASSES, {}, {}, found.parity, {}, {}, {}, plain(profile()), "no data",
    )  # fmt: skip
    samples: dict[str, Any] = {"pixels": PIXELS, "teacher_logits": wanted}
    samples |= {f"{precision}_logits": logits for precision, logits in found.logits.items()}
    return write_bundle(folder, manifest, found.graphs, samples, files=found.files)


@needed
def test_compress_for_openvino_and_bench_by_another(teacher_file: Path, tmp_path: Path) -> None:
    """From a teacher to a report, and a manifest that vouches for OpenVINO's files too."""
    shutil.copy(teacher_file, tmp_path / "teacher.pt")
    text = (data_dir("profiles") / "cpu.toml").read_text(encoding="utf-8").replace('"onnxrt"', '"openvino"')
    (tmp_path / "pc.toml").write_text(text, encoding="utf-8")
    line = [
        "compress",
        str(tmp_path / "teacher.pt"),
        "--profile",
        str(tmp_path / "pc.toml"),
        "-o",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, [*line, *BRIEF, "--json"])
    assert done.exit_code in (0, 1), done.output  # 1: a student of five steps may miss a limit
    bundle = read_bundle(tmp_path / "out" / "bundle")
    report = json.loads((bundle.folder / "report.json").read_text(encoding="utf-8"))
    assert not problems("manifest", plain(bundle.manifest)) and not problems("report", report)
    assert report["runtime"]["name"] == "openvino" and report["runtime"]["note"] == ""
    assert bundle.manifest.parity["fp32"]["openvino"]["agreement"] >= 0.999
    for precision in bundle.manifest.graphs:
        graph, beside = report["graphs"][precision], [f"student.{precision}.{end}" for end in ("xml", "bin")]
        assert graph["file"] == beside[0] and graph["inference_precision"] == "f32" and graph["threads"] >= 1
        assert {*beside, f"student.{precision}.onnx"} <= set(bundle.manifest.files)
        assert graph["mb"] == pytest.approx(sum((bundle.folder / name).stat().st_size for name in beside) / 1e6)
    done = CliRunner().invoke(app, ["bench", str(bundle.folder), "--quick", "--runtime", "onnxrt", "--json"])
    report = json.loads(done.stdout)
    assert report["runtime"]["name"] == "onnxruntime" and "not OpenVINO's: --runtime" in report["runtime"]["note"]
    assert report["graphs"]["fp32"]["file"] == "student.fp32.onnx"
    (bundle.folder / "student.fp32.bin").write_bytes(b"other weights")
    with pytest.raises(IntegrityError, match=r"student\.fp32\.bin is not the file that was packed"):
        read_bundle(bundle.folder)


@needed
def test_graphs_for_onnxruntime_can_be_run_by_openvino(
    graphs: dict[str, Path], teacher: Teacher, tmp_path: Path
) -> None:
    """An .xml that the manifest does not list is nothing to the runner."""
    own = bundle_of({"fp32": graphs["fp32"]}, teacher, tmp_path / "own")
    listed = {name: "" for name in own.manifest.files if not name.endswith((".xml", ".bin"))}
    assert runtimes.form("openvino", "student.fp32.onnx", own.manifest.files) == "student.fp32.xml"
    assert runtimes.form("openvino", "student.fp32.onnx", listed) == "student.fp32.onnx"
    assert runtimes.form("onnxrt", "student.fp32.onnx", own.manifest.files) == "student.fp32.onnx"


@pytest.mark.parametrize(
    "target,asked,there,runtime,said",
    [
        ("openvino", None, ["openvino", "onnxrt"], "openvino", ""),
        ("openvino", None, ["onnxrt"], "onnxrt", "not OpenVINO's: its Python package is not on this device"),
        ("openvino", "onnxrt", ["onnxrt"], "onnxrt", "not OpenVINO's: --runtime asked for it"),
        ("onnxrt", "openvino", ["openvino"], "openvino", "OpenVINO's; the graphs were made for ONNX Runtime"),
        ("onnx", "openvino", ["openvino"], "openvino", "these latencies are OpenVINO's"),
        ("tensorrt", "openvino", ["openvino"], "openvino", "OpenVINO's on this machine, not TensorRT's: --runtime"),
    ],
)
def test_runtime_by_target(target: str, asked: str | None, there: list[str], runtime: str, said: str) -> None:
    choice = runtimes.choose(target, asked, there)
    assert choice.runtime == runtime and (said in choice.note if said else choice.note == "")


def test_runtime_that_is_missing_or_unknown(graphs: dict[str, Path], teacher: Teacher, tmp_path: Path) -> None:
    assert "pip install numpy openvino" in refused(4, runtimes.choose, "onnxrt", "openvino", [])
    assert "pip install numpy openvino" in refused(4, runtimes.choose, "openvino", None, [])
    assert RUNTIMES == runtimes.NAMES  # host and runner know the same
    with pytest.raises(UsageError, match=r"no runtime 'openvin'. Did you mean") as caught:
        pipeline.bench(tmp_path, runtime="openvin")
    assert caught.value.code == "E0246"
    done = CliRunner().invoke(app, ["bench", str(tmp_path), "--runtime", "tflite", "--json"])
    assert done.exit_code == 2 and json.loads(done.stdout)["error"]["code"] == "E0246"
    bundle = bundle_of({"fp32": graphs["fp32"]}, teacher, tmp_path / "bundle")
    if not ir.installed():
        with pytest.raises(EnvironmentLacking) as lacking:
            run_bundle(bundle, quick=True, runtime="openvino")
        assert "pip install numpy openvino" in lacking.value.why


@needed
def test_nothing_of_it_goes_over_the_network(graphs: dict[str, Path], tmp_path: Path) -> None:
    """Its package brings telemetry, which its converter calls and what is used here does not."""
    code = """
import sys
def hook(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(event)
sys.addaudithook(hook)
from pathlib import Path
from edgekd.export.openvino_ir import export_ir, ir_logits
import numpy as np
ir_logits(export_ir(Path(sys.argv[1]), Path(sys.argv[2]))[0], np.zeros((2, 1, 8, 8), np.uint8))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, graphs["fp32"], tmp_path / "a.xml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needed
def test_class_names_of_any_kind_survive_its_form(graphs: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(graphs["fp32"])
    facts = {p.key: p.value for p in model.metadata_props}
    names = ["a & b", "<c>", 'd "quoted"', "Käfer 甲虫"]
    onnx.helper.set_model_props(model, facts | {"edgekd.classes": json.dumps(names, ensure_ascii=False)})
    onnx.save(model, tmp_path / "named.onnx")
    path, _ = export_ir(tmp_path / "named.onnx", tmp_path / "named.xml")
    import openvino

    read = openvino.Core().read_model(path)
    assert json.loads(read.get_rt_info(["framework", "edgekd.classes"]).astype(str)) == names
