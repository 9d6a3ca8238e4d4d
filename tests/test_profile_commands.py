"""edgekd profiles as a user runs it, and compress for devices that edgekd does not build for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner, Result

from edgekd import console
from edgekd.profile import adjusted, load_profile
from edgekd.profile_commands import app
from edgekd.types import Teacher


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for stream in (console.out, console.err):
        monkeypatch.setattr(stream, "_width", 80)
    return tmp_path / "config" / "edgekd" / "profiles"


def profiles(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_list_fits_80_columns() -> None:
    done = profiles("list")
    assert done.exit_code == 0 and max(map(len, done.stdout.splitlines())) <= 80
    lines = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert "jetson-nano-4gb = jetson-nano" in lines and "jetson-nano" not in lines  # an alias has no row of its own
    assert re.search(r"jetson-nano-4gb.* tensorrt 8\.2\.1 +fp32 +20 ms", done.stdout)
    assert re.search(r"hailo-8.* hailort 4\.x +fp32 int8 -> +5 ms", done.stdout)
    assert int(re.search(r"(\d+) profiles", done.stdout)[1]) >= 45  # type: ignore[index]


def test_list_of_a_class_with_own_ones(home: Path) -> None:
    assert profiles("new", "rpi-5", "--from", "rpi-4b").exit_code == 0
    done = profiles("list", "--class", "sbc")
    assert "rpi-5* = " in done.stdout and "* yours" in done.stdout and "jetson" not in done.stdout
    (home / "broken.toml").write_text("summary = 3\n", encoding="utf-8")
    done = profiles("list", "--class", "sbc")  # one bad file of the user's does not hide the others
    assert done.exit_code == 0 and "broken.toml" in done.output and "rpi-4b" in done.stdout
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert listed["rpi-5"]["user"] is True and listed["pi5"]["name"] == "rpi-5" and listed["cpu"]["user"] is False
    refused = profiles("list", "--class", "mcus")
    assert refused.exit_code == 2 and "'mcu'" in refused.output


def test_show_tells_basis_and_source() -> None:
    done = profiles("show", "jetson-nano-4gb")
    text = " ".join(done.stdout.split())
    for words in (
        "NVIDIA Jetson Nano 4GB",
        "peak fp16 472 Gop/s vendor",
        "int8 is slow",
        "ONNX opset 13 at most",
        "MAXN",
    ):
        assert words in text
    document = json.loads(profiles("show", "jetson", "--json").stdout)
    assert document["name"] == "jetson-orin-nano-8gb-super" and "orin-nano" in document["aliases"]
    assert profiles("show", "jetsn").exit_code == 3


def test_new_then_check(home: Path, tmp_path: Path) -> None:
    done = profiles("new", "camera")
    path = home / "camera.toml"
    assert done.exit_code == 0 and "profiles check" in done.stdout and "profiles measure camera" in done.stdout
    assert "# p90 of one batch" in path.read_text(encoding="utf-8")
    assert "no source" in profiles("check", path).stdout
    again = profiles("new", "camera")
    assert again.exit_code == 2 and "there already" in again.output
    for name, other in (("../x", tmp_path / "x.toml"), ("x", tmp_path / "x.yaml")):
        assert profiles("new", name, "-o", other).exit_code == 2 and not other.exists()
    assert profiles("new", "x", "-o", tmp_path / "deep" / "x.toml", "--from", "jetsn").exit_code == 3
    assert not (tmp_path / "deep").exists()


def test_check_lists_all_and_exits_3(tmp_path: Path) -> None:
    assert profiles("new", "good", "--from", "rpi-4b", "-o", tmp_path / "good.toml").exit_code == 0
    text = (tmp_path / "good.toml").read_text(encoding="utf-8")
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace("threads = 4", "treads = 4", 1).replace("opset = 18", ""), encoding="utf-8")
    done = profiles("check", tmp_path / "good.toml", bad, "--json")
    good, found = json.loads(done.stdout)
    assert done.exit_code == 3 and good["problems"] == []
    assert {(p["key"], p["code"]) for p in found["problems"]} == {("treads", "E0302"), ("opset", "E0303")}
    shown = profiles("check", bad)
    assert shown.exit_code == 3 and "2 problems" in shown.stdout and shown.stdout.count("    fix ") == 2
    assert "Did you mean 'threads'?" in shown.stdout
    assert profiles("check", tmp_path / "good.toml").exit_code == 0


def test_compress_for_a_vendors_converter(teacher: Teacher, tmp_path: Path) -> None:
    from edgekd.pipeline import compress

    profile = adjusted(load_profile("hailo"), latency_ms=1000.0)
    settings = {"batch": 32, "latent": 8, "generator_width": 8, "generator_steps": 2, "student_steps": 2}
    result = compress(teacher, profile, tmp_path / "out", method="rdskd", settings=settings)
    bundle = tmp_path / "out" / "bundle"
    text = (bundle / "README.txt").read_text(encoding="utf-8")
    assert "Hailo Dataflow Compiler" in text and "calibrat" in text and max(map(len, text.splitlines())) <= 120
    graph = onnx.load(bundle / "student.fp32.onnx")
    assert "of shape 1x1x8x8" in text
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 8, 8]
    assert graph.opset_import[0].version == profile.opset and graph.ir_version <= (profile.runtime.ir_max or 99)  # type: ignore[union-attr]
    assert result.bundle.manifest.target == "onnx" and set(result.bundle.manifest.graphs) == {"fp32", "int8"}
