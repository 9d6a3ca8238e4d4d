"""Profiles: those that come with edgekd, strict loading, checks, the schema, the user's own."""

from __future__ import annotations

import csv
import dataclasses
import json
import tomllib
from pathlib import Path

import onnx
import pytest

from edgekd import load_profile
from edgekd.errors import ProfileError, UsageError
from edgekd.files import data_dir
from edgekd.profile import adjusted, aliases, profile_names, user_profiles
from edgekd.profile_check import check_file
from edgekd.profile_rules import IR_OF_OPSET, MIDDLE_GB_PER_S, doubts, figures, problems
from edgekd.profile_schema import fields, item_of, json_schema, key_table, keys, meanings
from edgekd.profile_toml import FITTED, SCHEMA_LINE, draft, profile_toml
from edgekd.types import Figure, Hardware, Latency, Limits, PowerMode, Profile, Runtime

ROOT = Path(__file__).parents[1]
FIELD = ROOT.parent / "shared" / "field"
SHIPPED = sorted(path for path in (ROOT / "profiles").glob("*.toml") if "alias" not in path.read_text("utf-8")[:9])
SMALL = Profile(
    name="small",
    summary="a board",
    target="onnxrt",
    precisions=("fp32", "int8"),
    limits=Limits(latency_ms=33.0, model_mb=25.0),
    hardware=Hardware(
        peak_gflops={"fp32": Figure(57.6, "derived", "clock"), "int8": Figure(115.0, "derived", "clock")},
        bandwidth_gb_per_s=Figure(5.1, "measured", "copies"),
        memory_gb=Figure(8.0, "vendor", "brief"),
        cores=4,
    ),
    latency=(
        Latency("onnxruntime", "cpu", "fp32", {"compute": 1.0, "layer_us": 10.0}, 0.3, "derived", "roofline"),
        Latency("onnxruntime", "cpu", "int8", {"compute": 1.0, "layer_us": 10.0}, 0.3, "derived", "roofline"),
    ),
    opset=18,
    runtime=Runtime("onnxruntime", "1.16", opset_max=19, ir_max=9, source="its documentation"),
    device_class="sbc",
    power_modes=(PowerMode("default", 7.0, "brief"),),
)
GOOD = profile_toml(SMALL, explained=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No profile of the user who runs the tests; his folder is an empty one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "edgekd" / "profiles"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profile(path: Path) -> None:
    verdict = check_file(path)
    assert (verdict.problems, verdict.doubts) == ((), ())
    profile, text = load_profile(path.stem), path.read_text(encoding="utf-8")
    assert text.startswith(SCHEMA_LINE) and "Defaults of edgekd" in text
    assert text.count(FITTED) == 1 and text.index(FITTED) < text.index("[[latency]]")
    assert "[[latency]]" not in text[: text.index(FITTED)] and "[hardware]" not in text[text.index(FITTED) :]
    assert profile.limits.latency_ms and profile.limits.model_mb and profile.runtime and profile.system
    assert profile.pays or profile.slower
    assert (profile.target == "tensorrt") == (profile.runtime.name == "tensorrt")
    if profile.device_class in ("npu", "mcu"):
        assert profile.target == "onnx" and "student." in profile.converter
    if profile.device_class == "mcu":
        assert profile.hardware.weights_in_flash and profile.hardware.flash_mb and profile.limits.memory_mb
        assert profile.limits.model_mb <= 0.75 * profile.hardware.flash_mb.value
        assert profile.limits.memory_mb <= 1000 * profile.hardware.memory_gb.value


def test_every_published_device_has_a_profile() -> None:
    if not FIELD.is_dir():
        pytest.skip("the field notes are not beside the repository")
    with open(FIELD / "devices.csv", encoding="utf-8") as handle:
        wanted = {row["id"] for row in csv.DictReader(handle)}
    with open(FIELD / "device-latencies.csv", encoding="utf-8") as handle:
        wanted |= {row["device"].partition("@")[0] for row in csv.DictReader(handle)}
    assert len(wanted) >= 45 and wanted <= {path.stem for path in SHIPPED}


def test_what_the_field_taught() -> None:
    for name in ("jetson-nano-4gb", "jetson-tx2"):  # neither has an INT8 unit
        profile = load_profile(name)
        assert profile.precisions == ("fp32",) and "int8" in profile.slower and "fp16" in profile.pays
    versions = {"jetson-nano-4gb": ("8.2.1", 13, "3.6"), "jetson-xavier-nx-8gb": ("8.5.2", 17, "3.8")}
    versions["jetson-orin-nano-8gb-super"] = ("10.3", 20, "3.10")
    for name, (version, opset, python) in versions.items():
        profile = load_profile(name)
        assert profile.runtime is not None and profile.python == python
        assert (profile.runtime.version, profile.runtime.opset_max) == (version, opset)


def test_ir_versions_are_those_of_onnx() -> None:
    lowest = {
        opset: onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]) for opset in IR_OF_OPSET
    }
    assert lowest == IR_OF_OPSET


def test_aliases() -> None:
    known = aliases()
    assert known.items() >= {"jetson": "jetson-orin-nano-8gb-super", "pi4": "rpi-4b", "t4": "nvidia-t4"}.items()
    assert load_profile("jetson") == load_profile("jetson-orin-nano-8gb-super")
    assert set(known.values()) <= set(profile_names()) - set(known)


def test_own_profile_goes_first(home: Path) -> None:
    assert user_profiles() == home
    home.mkdir(parents=True)
    (home / "rpi-5.toml").write_text(GOOD, encoding="utf-8")
    (home / "mine.toml").write_text('alias = "rpi-5"\n', encoding="utf-8")
    assert load_profile("rpi-5").summary == load_profile("mine").summary == load_profile("rpi").summary == "a board"
    assert "mine" in profile_names() and aliases()["mine"] == "rpi-5"
    (home / "loop.toml").write_text('alias = "mine"\n', encoding="utf-8")
    with pytest.raises(ProfileError) as refused:
        load_profile("loop")
    assert refused.value.code == "E0337" and "rpi-5" in refused.value.fix


def test_config_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "config"):  # the XDG rule: a relative one does not count
        monkeypatch.setenv("XDG_CONFIG_HOME", relative)
        assert user_profiles() == tmp_path / ".config" / "edgekd" / "profiles"


def test_path_works_as_well_as_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_profile(path) == dataclasses.replace(SMALL, name="mine")


REFUSED = [
    (("latency_ms = 33.0", "latncy_ms = 33.0"), "E0302", "latency_ms"),
    (("opset = 18", "opsett = 18"), "E0302", "opset"),
    (("opset = 18", ""), "E0303", "opset"),
    (("opset = 18", 'opset = "18"'), "E0304", "int"),
    (("opset = 18", "opset = true"), "E0304", "int"),
    (('precisions = ["fp32", "int8"]', 'precisions = "fp32"'), "E0304", "precisions"),
    (('target = "onnxrt"', 'target = "onnxr"'), "E0332", "'onnxrt'"),
    (('target = "onnxrt"', 'target = "onnx"'), "E0332", "converter"),
    (('precisions = ["fp32", "int8"]', 'precisions = ["fp64"]'), "E0332", "fp64"),
    (('precisions = ["fp32", "int8"]', 'precisions = ["fp32", "fp32"]'), "E0332", "twice"),
    (('precisions = ["fp32", "int8"]', "precisions = []"), "E0332", "precisions"),
    (("fp32 = { value = 57.6", "fp16 = { value = 57.6"), "E0332", "peak_gflops.fp32"),
    (("fp32 = { value = 57.6", "fp31 = { value = 57.6"), "E0332", "'fp32'"),
    (("value = 57.6", "value = -57.6"), "E0332", "peak_gflops.fp32.value"),
    (("value = 5.1", "value = inf"), "E0332", "bandwidth"),
    (('basis = "vendor"', 'basis = "vendr"'), "E0332", "'vendor'"),
    (("latency_ms = 33.0", "latency_ms = -1"), "E0332", "limits.latency_ms"),
    (("model_mb = 25.0", "model_mb = 25.0\nparameters = 0"), "E0332", "limits.parameters"),
    (("opset = 18", "opset = 99"), "E0332", "opset"),
    (("opset = 18", "opset = 20"), "E0332", "opset_max"),
    (("ir_max = 9", "ir_max = 7"), "E0332", "IR 8"),
    (("opset_max = 19", "opset_max = 3"), "E0332", "opset"),
    (("opset_max = 19", "int8_weight_bits = 6"), "E0332", "int8_weight_bits"),
    (('device_class = "sbc"', 'device_class = "sbcs"'), "E0332", "'sbc'"),
    (('device_class = "sbc"', "align = 12"), "E0332", "align"),
    (('device_class = "sbc"', 'python = "three"'), "E0332", "python"),
    (("watts = 7.0", "watts = -7.0"), "E0332", "power_modes.default"),
    (("[[power_modes]]", '[[power_modes]]\nname = "default"\n\n[[power_modes]]'), "E0332", "twice"),
    (("layer_us = 10.0", "layer_us = -10.0"), "E0332", "layer_us"),
    (('precision = "int8"', 'precision = "fp32"'), "E0332", "int8"),
    (("[runtime]", '[pays]\nint8 = "a"\n[slower]\nint8 = "b"\n[runtime]'), "E0332", "slower"),
    (("[limits]", "[limits"), "E0331", "TOML"),
]


@pytest.mark.parametrize(
    ("change", "code", "words"), REFUSED, ids=lambda value: value[1][:40] if len(value) == 2 else None
)
def test_refused_profiles(change: tuple[str, str], code: str, words: str, tmp_path: Path) -> None:
    assert change[0] in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(*change, 1), encoding="utf-8")
    with pytest.raises(ProfileError) as refused:
        load_profile(path)
    assert refused.value.code == code and refused.value.fix and str(path) in refused.value.what
    assert words in refused.value.what + refused.value.why and refused.value.exit_code == 3
    verdict = check_file(path)  # a check and loading agree
    assert code in {finding.code for finding in verdict.problems} and all(f.fix for f in verdict.problems)
    assert any(words in f"{finding.key} {finding.what}" or code == "E0331" for finding in verdict.problems)


def test_check_lists_every_problem(tmp_path: Path) -> None:
    text = GOOD.replace("latency_ms", "latncy_ms").replace("opset = 18", "").replace("watts = 7.0", 'watts = "7"')
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('basis = "measured", ', ""), encoding="utf-8")
    found = {finding.key: finding.code for finding in check_file(path).problems}
    assert found == {
        "limits.latncy_ms": "E0302",
        "opset": "E0303",
        "hardware.bandwidth_gb_per_s.basis": "E0303",
        "power_modes[0].watts": "E0304",
    }
    bad = dataclasses.replace(SMALL, target="x", batch=0, threads=-1, align=3)
    assert [finding.key for finding in problems(bad)] == ["target", "batch", "threads", "align"]
    assert [finding.key for finding in check_file(tmp_path / "none.toml").problems] == ["(file)"]
    path.write_text('alias = "nothing"', encoding="utf-8")
    assert check_file(path).problems[0].code == "E0330"


def test_doubts() -> None:
    assert doubts(SMALL) == []
    odd = dataclasses.replace(
        SMALL,
        hardware=dataclasses.replace(
            SMALL.hardware,
            peak_gflops=dict(SMALL.hardware.peak_gflops) | {"int8": Figure(50.0, "vendor", " ")},
            bandwidth_gb_per_s=Figure(10.1 * MIDDLE_GB_PER_S["sbc"], "vendor", "brief"),
            flash_mb=Figure(2.0, "vendor", "brief"),
        ),
        limits=dataclasses.replace(SMALL.limits, memory_mb=8001.0),
        threads=5,
        align=16,
        slower={"int8": "no unit"},
    )
    assert {finding.key for finding in doubts(odd)} == {
        "hardware.peak_gflops.int8",
        "hardware.peak_gflops.int8.source",
        "hardware.bandwidth_gb_per_s",
        "limits.memory_mb",
        "limits.model_mb",
        "threads",
        "align_source",
        "precisions",
    }
    assert [f.key for f in doubts(dataclasses.replace(SMALL, limits=Limits()))] == ["limits"]


@pytest.mark.parametrize("name", ["jetsn", "nothing-like-it", "../profiles/cpu", "missing.toml"])
def test_unknown_profile(name: str) -> None:
    with pytest.raises(ProfileError) as refused:
        load_profile(name)
    assert refused.value.code == "E0330"
    assert name != "jetsn" or "'jetson'" in refused.value.what


def test_adjusted() -> None:
    assert adjusted(SMALL) == SMALL
    changed = adjusted(SMALL, latency_ms=0.5, memory_mb=0.3, parameters=1000)
    assert changed.limits == Limits(latency_ms=0.5, model_mb=25.0, memory_mb=0.3, parameters=1000)
    assert adjusted(SMALL, precision="fp32").precisions == ("fp32",)
    with pytest.raises(UsageError) as refused:
        adjusted(load_profile("jetson-nano-4gb"), precision="int8")
    assert refused.value.code == "E0211" and "dp4a" in refused.value.why


def test_toml_there_and_back(tmp_path: Path) -> None:
    for profile in (SMALL, load_profile("esp32-s3"), load_profile("jetson")):
        for explained in (False, True):
            path = tmp_path / f"{profile.name}.toml"
            path.write_text(profile_toml(profile, explained=explained), encoding="utf-8")
            assert load_profile(path) == profile


def test_draft_asks_for_sources() -> None:
    empty, like = draft(SMALL, "new", known=False), draft(SMALL, "new", known=True)
    assert {f.key for f in doubts(empty)} == {f"{key}.source" for key in figures(SMALL)}
    assert doubts(like) == problems(like) == problems(empty) == [] and like.hardware == SMALL.hardware
    assert all(way.basis == "derived" and way.source.startswith("copied from small") for way in like.latency)


def test_every_key_is_explained() -> None:
    for kind in (Profile, Limits, Hardware, Figure, Runtime, PowerMode, Latency):
        assert {name for name, _, _ in fields(kind)} <= set(meanings(kind))
    listed = {key.path: key for key in keys()}
    assert listed["limits.latency_ms"].unit == "ms" and not listed["limits.latency_ms"].needed
    assert listed["hardware.peak_gflops"].unit == "10**9 operations/s" and listed["opset"].needed
    assert listed["power_modes[].watts"].type == "float" and "name" not in listed


def test_schema_knows_what_the_dataclasses_know() -> None:
    schema = json_schema()
    for kind in (Limits, Hardware, Figure, Runtime, PowerMode, Latency):
        assert set(schema["definitions"][kind.__name__]["properties"]) == {name for name, _, _ in fields(kind)}
    assert set(schema["properties"]) == {f.name for f in dataclasses.fields(Profile)} - {"name"}
    assert schema["required"] == ["summary", "target", "precisions", "limits", "hardware", "latency", "opset"]
    assert schema["definitions"]["Figure"]["properties"]["basis"]["enum"] == ["measured", "vendor", "derived"]
    assert item_of(tuple[PowerMode, ...]) == ("array", PowerMode)


def test_shipped_profiles_keep_the_schema() -> None:
    schema = json.loads((data_dir("profiles") / "profile.schema.json").read_text(encoding="utf-8"))
    for path in SHIPPED:
        keep(tomllib.loads(path.read_text(encoding="utf-8")), schema, schema, path.stem)
    with pytest.raises(AssertionError):
        keep(tomllib.loads(GOOD.replace("latency_ms", "latncy_ms")), schema, schema, "typo")


def keep(value: object, schema: dict[str, object], root: dict[str, dict[str, object]], where: str) -> None:
    """The part of JSON Schema that json_schema writes, read anew: a validator apart from the loader."""
    for part in schema.get("allOf", []):  # type: ignore[attr-defined]
        keep(value, root["definitions"][part["$ref"].rpartition("/")[2]], root, where)  # type: ignore[arg-type]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": float}
    wanted = kinds[str(schema.get("type", "object"))]
    assert isinstance(value, wanted) or (wanted is float and isinstance(value, int)), where
    assert value in schema.get("enum", [value]), where  # type: ignore[operator]
    if isinstance(value, list):
        for item in value:
            keep(item, schema["items"], root, where)  # type: ignore[arg-type]
    if isinstance(value, dict) and "allOf" not in schema:
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        assert set(schema.get("required", [])) <= set(value), where  # type: ignore[call-overload]
        for key, item in value.items():
            assert key in known or isinstance(others, dict), f"{where}.{key}"  # type: ignore[operator]
            keep(item, known.get(key, others), root, f"{where}.{key}")  # type: ignore[attr-defined]


def test_schema_and_docs_are_those_of_the_dataclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import profile_sources

    again = "run python benchmarks/profile_sources.py --write"
    assert profile_sources.SCHEMA.read_text(encoding="utf-8") == profile_sources.schema_text(), again
    text = profile_sources.DOCS.read_text(encoding="utf-8")
    assert profile_sources.renewed(text) == text and key_table() in text, again
    for path in SHIPPED:
        assert f"| `{path.stem}`" in text
