"""What doctor finds, and that what runs on boards runs under their Pythons."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from edgekd import doctor
from edgekd.__main__ import app
from edgekd.files import data_dir

PYTHONS = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
LOOKED_AT = ["Python", "numpy", "onnxruntime", "GPU", "TensorRT", "trtexec", "OpenVINO", "LiteRT", "disk", "memory",
             "load", "clocks", "power mode", "temperature"]  # fmt: skip


@pytest.mark.skipif(not PYTHONS, reason="no other Python under pyenv")
@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parts[-3])
def test_device_part_runs_under_the_pythons_of_boards(python: Path) -> None:
    script = (data_dir("targets") / "doctor.py").read_text(encoding="utf-8")
    done = subprocess.run([python, "-c", script, "tensorrt"], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"] for line in lines] == LOOKED_AT and not done.stderr
    by_name = {line["name"]: line for line in lines}
    assert by_name["Python"]["state"] == "ok" and python.parts[-3] in by_name["Python"]["found"]
    assert by_name["trtexec"]["state"] in ("warning", "ok")
    assert all(line["fix"] for line in lines if line["state"] == "lacking")


def test_this_machine_has_what_it_needs() -> None:
    found = {finding.name: finding for finding in doctor.examine_here()}
    assert set(LOOKED_AT) | set(doctor.NEEDED) | {"CUDA", "ssh"} == set(found)
    assert not [finding for finding in found.values() if finding.state == "lacking"]
    assert found["torch"].found == torch.__version__


def test_package_that_does_not_import_is_lacking() -> None:
    def broken(name: str) -> object:
        raise ImportError("libthing.so: cannot open shared object file")

    found = doctor._imports("onnx", broken)
    assert found.state == "lacking" and "libthing" in found.found and "pip install" in found.fix


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_gpu_that_is_seen_but_runs_nothing_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.cuda().state == "absent"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = doctor.cuda()
    assert found.state == "lacking" and "does not run" in found.found and found.fix


def test_no_ssh_client_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.ssh().state == "warning"


def test_command_as_lines_and_as_json() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    document = json.loads(done.stdout)
    assert done.exit_code == 0 and document["complete"] and list(document["machines"]) == ["this machine"]
    shown = CliRunner().invoke(app, ["doctor", "--profile", "jetson"])
    assert "onnxruntime" in shown.stdout and shown.exit_code == 0
    assert CliRunner().invoke(app, ["doctor", "--on", "ssh://-oProxyCommand=x"]).exit_code == 2
