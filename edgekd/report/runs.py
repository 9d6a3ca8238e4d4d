"""What is in a folder of output folders: a line per run of compress, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import InputError
from edgekd.families import name_of
from edgekd.files import from_dict, parsed
from edgekd.report.reading import read_log, read_report
from edgekd.report.verdict import derived, verdict
from edgekd.types import StudentSpec


@dataclass(frozen=True)
class RunLine:
    """One output folder. Figures are those of the graph to deploy, on the machine that measured it; None: not yet."""

    folder: str
    stage: str  # "finished", or what comes next
    profile: str
    teacher: str  # architecture, or the first digits of its sha256 while there is no bundle
    student: str
    method: str
    budget: str
    prior: str
    seed: int
    graph: str | None  # to deploy
    agreement: float | None  # share
    top1: float | None  # share
    p50_ms: float | None
    valid: bool | None  # the latency
    deployable: bool | None  # None: not judged


def runs(root: Path) -> list[RunLine]:
    """Every output folder in `root`, itself and two levels below it, by name.

    Raises InputError where `root` is no folder, or a file in one of them is none of compress's.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", code="E0374", fix="name the folder that holds your output folders")
    found = sorted(path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}settings.json"))
    lines = (_line(path, root) for path in found)
    return [line for line in lines if line is not None]


def _line(path: Path, root: Path) -> RunLine | None:
    """None for a settings.json that is not of compress."""
    folder, settings = path.parent, _read(path)
    if settings is None or not {"recipe", "student", "profile", "teacher"} <= settings.keys():
        return None
    recipe, spec = settings["recipe"], from_dict(StudentSpec, settings["student"], where=str(path))
    manifest = _read(folder / "bundle" / "manifest.json")
    figures: dict[str, Any] = dict.fromkeys(("graph", "agreement", "top1", "p50_ms", "valid", "deployable"))
    if manifest and (folder / "bundle" / "report.json").is_file():
        report = read_report(folder / "bundle" / "report.json")
        documents = {"manifest": manifest, "report": report, "boards": {}, "result": _read(folder / "result.json")}
        deployed = derived(documents)["deployed"]
        graph = report["graphs"][deployed]
        figures = {
            "graph": deployed,
            "agreement": graph["agreement"],
            "top1": graph["accuracy"],
            "p50_ms": graph["latency_ms"]["p50"],
            "valid": report["valid"],
            "deployable": verdict(documents).deployable,
        }
    return RunLine(
        folder=str(folder.relative_to(root)),
        stage=_stage(folder),
        profile=settings["profile"]["name"],
        teacher=manifest["teacher"]["architecture"] if manifest else settings["teacher"][:12],
        student=name_of(spec),
        method=recipe["method"],
        budget=recipe["budget"],
        prior=str(recipe["config"].get("prior", "none")),
        seed=recipe["seed"],
        **figures,
    )


def _stage(folder: Path) -> str:
    """Which stage of compress is open. Whether a process is at it now cannot be seen from the files."""
    if (folder / "bundle" / "report.json").is_file():
        return "finished"
    if (folder / "bundle").is_dir():
        return "to be measured"
    if (folder / "student.pt").is_file():
        return "to be exported"
    log, _ = read_log(folder / "log.jsonl")
    return f"distilling: {log[-1]['phase']} {log[-1].get('step', '')}" if log else "to be distilled"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON", code="E0375", why=str(error)) from error
    return value if isinstance(value, dict) else None
