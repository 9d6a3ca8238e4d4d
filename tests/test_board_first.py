"""A board over a real ssh that measures before there is a student: compress --on, profiles measure --on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_ssh import OFTEN_S, Server, pytestmark, running, server, there  # noqa: F401  # its sshd and its skips
from typer.testing import CliRunner

from edgekd import measure, shortlist
from edgekd.__main__ import app
from edgekd.device import remote

FEW = ("batch=32", "latent=8", "generator_width=8", "generator_steps=5", "student_steps=5")


@pytest.fixture(autouse=True)
def beside_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests keep this machine busy; that a busy device is refused is tested in test_measure.py."""
    monkeypatch.setattr(remote, "POLL_S", OFTEN_S)
    monkeypatch.setattr(measure, "undisturbed", lambda report: None)
    monkeypatch.setattr(shortlist, "undisturbed", lambda report: None)
    monkeypatch.setattr(shortlist, "TOP", 2)


def test_compress_measures_candidates_on_the_board(
    server: Server,  # noqa: F811
    there: Path,  # noqa: F811
    teacher_file: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    command = [
        "compress",
        str(teacher_file),
        "--precision",
        "fp32",
        "--student",
        "cnn",
        "--method",
        "rdskd",
        "-o",
        str(out),
    ]
    command += [f"--set={setting}" for setting in FEW]
    command += ["--on", f"ssh://board2{there}", "--python", sys.executable, "--json"]
    done = CliRunner().invoke(app, command, env={"EDGEKD_SSH_CONFIG": str(server.config)})
    assert done.exit_code in (0, 1), done.stderr  # 1: a limit of the profile is missed
    assert "before training" in done.stderr
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    assert "were measured on the device" in json.dumps(plan)
    (report,) = (out / "boards").rglob("report.json")
    assert json.loads(report.read_text(encoding="utf-8"))["graphs"]["fp32"]["latency_ms"]["p50"] > 0
    assert not list(there.iterdir())


def test_profile_of_a_board(
    server: Server,  # noqa: F811
    there: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "PROBES", {32: ("cnn:8", "mcu:1x4")})
    path = tmp_path / "board.toml"
    command = ["profiles", "measure", "cpu", "--threads", "1", "--out", str(path), "--json"]
    command += ["--on", f"ssh://board3{there}", "--python", sys.executable]
    done = CliRunner().invoke(app, command, env={"EDGEKD_SSH_CONFIG": str(server.config)})
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {(row["network"], row["precision"]) for row in rows} == {
        (name, precision) for name in ("cnn:8", "mcu:1x4") for precision in ("fp32", "int8")
    }
    assert all(row["latency_ms"] > 0 for row in rows) and not list(there.iterdir())
    shown = CliRunner().invoke(app, ["profiles", "check", str(path)])
    assert shown.exit_code == 0, shown.output
    assert 'basis = "measured"' in path.read_text(encoding="utf-8")
