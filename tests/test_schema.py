"""edgekd schema: what is written and printed fits its schema, and what is changed does not."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BRIEF, Example
from jsonschema import Draft202012Validator
from schemas import problems, validator
from typer.main import get_command
from typer.testing import CliRunner

from edgekd import types
from edgekd.__main__ import app
from edgekd.deployed import Choice
from edgekd.device import Outcome, board_of
from edgekd.errors import MeasurementError
from edgekd.explain_command import Explanation
from edgekd.export.layers import LayerDifference
from edgekd.files import plain
from edgekd.measure import Measured, Row
from edgekd.measure_command import document as measured_document
from edgekd.plan import Plan
from edgekd.provenance import Provenance
from edgekd.report.runs import RunLine
from edgekd.schema_command import FOLDER, names, schema_of, schemas
from edgekd.verification import Verified

FILES = {
    "manifest": "bundle/manifest.json",
    "report": "bundle/report.json",
    "result": "result.json",
    "candidates": "plan.json",
    "settings": "settings.json",
}
# Schema -> a command line in the example's folder. bench prints what compress keeps as report.json.
LINES = {
    "plan": ["plan", "teacher.pt", "-o", "planned", *BRIEF],
    "eval": ["eval", "teacher.pt", "--data", "test.npz"],
    "inspect": ["inspect", "teacher.pt"],
    "inspect a graph": ["inspect", "teacher-jetson/bundle/student.fp32.onnx"],
    "inspect a bundle": ["inspect", "teacher-jetson/bundle"],
    "methods": ["methods"],
    "doctor": ["doctor"],
    "page": ["report", "teacher-jetson"],
    "runs": ["runs", "."],
    "verify": ["verify", "teacher-jetson"],
    "try": ["try", "teacher-jetson", "image.png"],
    "explain": ["explain", "E0312"],
    "explain all": ["explain"],
    "profiles-list": ["profiles", "list", "--class", "mcu"],
    "profiles-show": ["profiles", "show", "jetson"],
    "profiles-check": ["profiles", "check", "new.toml", "missing.toml"],
    "profiles-new": ["profiles", "new", "new", "-o", "new.toml", "--from", "rpi-5"],
    "schema": ["schema"],
    "error": ["verify", "missing"],
}


@pytest.fixture(scope="module")
def documents(example: Example, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every document of the example: its files, and what each command prints."""
    folder = tmp_path_factory.mktemp("documents") / "work"
    shutil.copytree(example.folder, folder)
    out = folder / "teacher-jetson"
    found: dict[str, Any] = {"compress": example.document}
    found |= {f"{name} file": json.loads((out / path).read_text(encoding="utf-8")) for name, path in FILES.items()}
    logged = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found |= {f"log line {at}": json.loads(line) for at, line in enumerate(logged)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("profiles-new", *(name for name in LINES if name != "profiles-new")):
            done = CliRunner().invoke(app, [*LINES[name], "--json"])
            found[name] = json.loads(done.stdout)
    report = found["report file"]
    board, path = board_of("ssh://pi@192.168.1.20"), out / "boards" / "pi@192.168.1.20" / "report.json"
    lost = MeasurementError("no answer", code="E0510", why="it is off", fix="turn it on")
    outcomes = [Outcome(board, report, path, None, 1.0, "2026-01-01T00:00:00Z")]
    outcomes.append(Outcome(board, None, path, lost, 1.0, "2026-01-01T00:00:00Z"))
    found |= {"board": outcomes[0].document, "board that failed": outcomes[1].document}
    found["boards"] = {"bundle": "b", "boards": [outcome.document for outcome in outcomes]}
    found["sign"] = {"bundle": "b", "signature": "b/model.sig"}  # test_trust.py signs
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def of(name: str) -> str:
    """The schema of a document above."""
    return name.split(" ")[0]


def test_schemas_are_schemas() -> None:
    for path in FOLDER.glob("*.json"):
        whole = json.loads(path.read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(whole)
        assert whole["$schema"].endswith("2020-12/schema") and whole["$id"] == f"urn:edgekd:schema:{path.stem}"


def test_every_document_fits(documents: dict[str, Any]) -> None:
    wrong = {name: found for name, value in documents.items() if (found := problems(of(name), value))}
    assert not wrong
    assert documents["error"]["error"]["exit"] == 7 and documents["profiles-check"][1]["problems"]


def test_every_schema_was_held_against_a_document(documents: dict[str, Any]) -> None:
    assert set(schemas()) - {of(name) for name in documents} == {"profiles-measure"}  # the test below


def commands(command: Any, path: str = "edgekd") -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield f"{path} {name}", inner
        yield from commands(inner, f"{path} {name}")


def test_every_command_with_json_has_a_schema() -> None:
    told = " ".join(schemas().values()) + " edgekd profiles measure --json"
    lacking = [
        path
        for path, command in commands(get_command(app))
        if any("--json" in parameter.opts for parameter in command.params) and f"{path} --json" not in told
    ]
    assert not lacking


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a document lies; of a list the first alone."""
    yield at
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*at, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with one value replaced; `...`: taken out."""
    whole = copy.deepcopy(document)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return whole


@pytest.mark.parametrize("name", ["manifest", "result", "candidates", "settings", "report"])
def test_changed_documents_are_refused(name: str, documents: dict[str, Any]) -> None:
    """A value of another type anywhere; below a setting of a method or a figure's name anything may be."""
    document = documents[f"{name} file"]
    for many in {"files", "candidates", "front"} & document.keys():  # one stands for all
        kept: Any = document[many]
        document = document | {many: dict(list(kept.items())[:1]) if isinstance(kept, dict) else kept[:1]}
    if name == "report":
        document = document | {"graphs": {"fp32": document["graphs"]["fp32"]}}
    free = 0
    for path in paths(document):
        if path and "config" not in path[:-1]:
            accepted = validator(name).is_valid(changed(document, path, [{"what": "is this"}]))
            assert not accepted, path
        free += "config" in path[:-1]
    assert (free > 0) is (name in ("manifest", "settings"))


@pytest.mark.parametrize("name", ["manifest", "result", "settings", "report", "compress", "plan", "verify", "try"])
def test_missing_and_unknown_names_are_refused(name: str, documents: dict[str, Any]) -> None:
    document = documents[f"{name} file" if f"{name} file" in documents else name]
    for key in document:
        optional = (name, key) == ("report", "evaluation")
        assert validator(name).is_valid(changed(document, (key,), ...)) is optional, key
    assert not validator(name).is_valid(document | {"surprise": 1})
    assert not validator(name).is_valid([document]) and not validator(name).is_valid(None)


def test_shares_hashes_and_versions_are_held(documents: dict[str, Any]) -> None:
    report, manifest = documents["report file"], documents["manifest file"]
    for path, value in ((("schema",), 2), (("made",), "yesterday"), (("graphs", "fp32", "agreement"), 1.5)):
        assert not validator("report").is_valid(changed(report, path, value))
    assert not validator("report").is_valid(changed(report, ("graphs",), {"bf16": report["graphs"]["fp32"]}))
    assert not validator("manifest").is_valid(changed(manifest, ("files", "samples.npz"), "abc"))


def test_definitions_have_the_names_of_the_dataclasses() -> None:
    """Those of the documents are built by files.plain; one more field there, and the schema must be told."""
    known = json.loads((FOLDER / "common.json").read_text(encoding="utf-8"))["$defs"]
    nouns = ("Images", "Profile", "Limits", "Hardware", "Figure", "Latency", "Runtime", "PowerMode", "RunnerOptions")
    kinds = [getattr(types, name) for name in (*nouns, "StudentSpec", "Cost", "Layer", "Prediction", "Sizing")]
    for kind in (*kinds, Choice, RunLine, Verified, Provenance, Plan, Explanation, LayerDifference):
        fields = {field.name for field in dataclasses.fields(kind) if field.repr}
        assert set(known[kind.__name__]["properties"]) == set(known[kind.__name__]["required"]) == fields, kind
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["properties"]) == {field.name for field in dataclasses.fields(types.Manifest)}


def test_a_measured_device(documents: dict[str, Any]) -> None:
    report = documents["report file"]
    fields: dict[str, Any] = {field.name: None for field in dataclasses.fields(Row)}
    row = Row(**fields | {"network": "cnn:4", "pixels": 32, "precision": "fp32", "threads": 1, "latency_ms": 0.5})
    values: dict[str, Any] = {"rows": (row,), "errors": (-0.25,), "warnings": ("a busy board",)}
    values |= {"device": report["device"], "runtime": report["runtime"], "profile": None}
    document = measured_document(Path("mine.toml"), Measured(**values))
    assert not problems("profiles-measure", plain(document)) and document["mean_error"] == 0.25
    assert problems("profiles-measure", document | {"rows": []})


def test_command_lists_prints_and_refuses() -> None:
    listed = CliRunner().invoke(app, ["schema"]).stdout
    assert all(name in listed for name in schemas()) and "common" not in schemas()
    printed = json.loads(CliRunner().invoke(app, ["schema", "board"]).stdout)
    assert printed == schema_of("board") and set(printed["$defs"]) == {"report", "common"}
    assert json.loads(CliRunner().invoke(app, ["schema", "--json"]).stdout) == schemas()
    done = CliRunner().invoke(app, ["schema", "reprot"])
    assert done.exit_code == 2 and "E0260" in done.stderr and "'report'" in done.stderr and not done.stdout
    assert names("pro") == ["profiles-check", "profiles-list", "profiles-measure", "profiles-new", "profiles-show"]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [100, 900, 100_000])  # more than ours, more than a walk bears, more than a parser
def test_deep_manifest_is_a_clean_error(depth: int, example: Example, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(example.folder / "teacher-jetson" / "bundle", bundle)
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "schema": 1,')
    (bundle / "manifest.json").write_text(text.replace('"provenance": {', f'"provenance": {{"x": {nested(depth)},'))
    for line in (["inspect", bundle], ["verify", bundle], ["bench", bundle], ["report", bundle], ["try", bundle, "x"]):
        done = CliRunner().invoke(app, [str(word) for word in line])
        assert done.exit_code == 7 and "E0701" in done.stderr and "nested" in done.stderr, (line, done.stderr)
        assert len(done.stderr.splitlines()) <= 5


@pytest.mark.parametrize("text", [nested(100_000), "[]", '{"files": 3}'])
def test_runner_refuses_such_a_manifest(text: str, example: Example, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(example.folder / "teacher-jetson" / "bundle", bundle)
    (bundle / "manifest.json").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-B", "-m", "runner"], cwd=bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7 and done.stderr.startswith("error: manifest.json") and "Traceback" not in done.stderr


def test_deep_settings_are_a_clean_error(example: Example, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    line = ["compress", str(example.folder / "teacher.pt"), "-o", str(out), *BRIEF]
    for text in (nested(100), nested(100_000), "[]", "{}", '{"student": {}, "recipe": 1}'):
        (out / "settings.json").write_text(text, encoding="utf-8")
        for more in ([], ["--minutes", "1"]):
            done = CliRunner().invoke(app, [*line, *more])
            assert done.exit_code == 3 and "E0354" in done.stderr, (text[:40], done.stderr)
