"""Running a bundle on this machine: the same command that runs on a board, started here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.errors import EdgekdError, EnvironmentLacking, InputError, IntegrityError, MeasurementError
from edgekd.types import Bundle

RUNTIMES = ("onnxrt", "trt", "trtexec", "openvino", "litert")  # that the runner knows
FAILURES: dict[int, type[EdgekdError]] = {3: InputError, 4: EnvironmentLacking, 7: IntegrityError}


def run_bundle(
    bundle: Bundle,
    *,
    out: Path | None = None,
    quick: bool = False,
    threads: int | None = None,
    reference: Path | None = None,
    eval_data: Path | None = None,
    soak: float | None = None,
    runtime: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs `python -m runner` in the bundle's folder on this machine and gives its report.

    out: where report.json goes (default: into the bundle); threads: None takes the profile's, 0 all; reference: the
    teacher's graph, measured in turns with the student's; eval_data: an npz of write_eval_data; soak: minutes of
    a long run afterwards; runtime: one of RUNTIMES, None takes the one that the graphs are for; say: gets the runner's
    progress lines. Raises MeasurementError, or what the runner's exit code stands for.
    """
    out = out or bundle.folder / "report.json"
    command = [sys.executable, "-m", "runner", "--out", str(out.resolve())]
    command += ["--quick"] if quick else []
    command += ["--threads", str(threads)] if threads is not None else []
    command += ["--reference", str(reference.resolve())] if reference else []
    command += ["--eval-data", str(eval_data.resolve())] if eval_data else []
    command += ["--soak", f"{soak:g}"] if soak else []
    command += ["--runtime", runtime] if runtime else []
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=bundle.folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            say(line.rstrip())
    if process.returncode:
        why = next((li.removeprefix("error: ") for li in reversed(lines) if li.startswith("error: ")), "")
        raise FAILURES.get(process.returncode, MeasurementError)(
            "the bundle did not run on this machine",
            code="E0501",
            why=why or (lines[-1] if lines else f"the runner ended with {process.returncode} and said nothing"),
        )
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report
