"""What there is to show: an output folder of compress, or a bundle alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.bundle import read_bundle
from edgekd.errors import InputError
from edgekd.files import parsed, plain
from edgekd.report.cells import pointer

PERCENTILES = ("p50", "p90", "p95", "p99")
FIGURES = (*PERCENTILES, "mean", "std", "min", "max", "rounds")
HERE = "this machine"  # that made the report in the bundle


@dataclass(frozen=True)
class Subject:
    """One student with all that is known of it."""

    folder: Path  # the output folder, or that of a bundle which lies alone
    bundle: Path
    page: Path  # where its page goes
    documents: Mapping[str, Any]  # manifest and report; boards by name; plan, settings and result: None if missing
    log: tuple[Mapping[str, Any], ...]  # lines of log.jsonl; time_s goes on over interruptions
    notes: tuple[str, ...]  # what was left out, a sentence each

    @property
    def name(self) -> str:
        """How tables call it."""
        return self.folder.resolve().name

    @property
    def devices(self) -> dict[str, str]:
        """Name of each device that measured it -> JSON pointer of its report. This machine first."""
        return {HERE: pointer("report")} | {name: pointer("boards", name) for name in self.documents["boards"]}


def read_subject(folder: Path) -> Subject:
    """Reads and verifies what `folder` holds: an output folder, or a bundle.

    Raises InputError where nothing is finished or a report is none, IntegrityError for a changed bundle.
    """
    whole, bundle = located(folder)
    out = whole or bundle
    if not (bundle / "report.json").is_file():
        raise InputError(
            f"{bundle} was not measured yet", code="E0371", fix=f"measure it:  edgekd bench {bundle} --quick"
        )
    manifest = plain(read_bundle(bundle).manifest)
    boards, notes = _boards(bundle, manifest)
    log, broken = read_log(out / "log.jsonl")
    if broken:
        notes.append(f"{broken} lines of log.jsonl were cut off and are left out")
    documents = {
        "manifest": manifest,
        "report": read_report(bundle / "report.json"),
        "boards": boards,
        **{name: _optional(whole / f"{name}.json") if whole else None for name in ("plan", "settings", "result")},
    }
    return Subject(out, bundle, out / "report.html", documents, tuple(log), tuple(notes))


def located(folder: Path) -> tuple[Path | None, Path]:
    """The output folder, if there is one, and the bundle's. Raises InputError where no bundle is."""
    if (folder / "bundle" / "manifest.json").is_file():
        return folder, folder / "bundle"
    if (folder / "manifest.json").is_file():
        above = folder.resolve().parent
        return (above if (above / "settings.json").is_file() else None), folder
    unfinished = (folder / "settings.json").is_file()
    raise InputError(
        f"{folder} has no bundle to report on",
        code="E0370",
        why="the run in it is not finished" if unfinished else "it is no output folder of compress, and no bundle",
        fix="run the same command again, it goes on" if unfinished else "edgekd runs FOLDER lists what is there",
    )


def read_report(path: Path) -> dict[str, Any]:
    """A report of the runner. Raises InputError where something that every page shows is missing or no number."""
    report = _json(path)
    try:
        doubts = [
            name
            for name, graph in report["graphs"].items()
            if not all(_number(graph["latency_ms"][f]) for f in FIGURES)
            or not all(_number(graph[f]) for f in ("agreement", "mb"))
        ]
        named = isinstance(report["device"]["name"], str) and isinstance(report["runtime"]["name"], str)
        whole = named and isinstance(report["reasons"], list) and "valid" in report and report["graphs"]
        missing = "" if whole and not doubts else f"figures of {', '.join(doubts) or 'the device'} are none"
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"{type(error).__name__}: {error}"
    if missing:
        fix = "measure again:  edgekd bench BUNDLE"
        raise InputError(f"{path} is not a report of the runner", code="E0372", why=missing, fix=fix)
    return report


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of log.jsonl, and how many were cut off by an interruption. time_s counts on where a run went on."""
    if not path.is_file():
        return [], 0
    lines: list[dict[str, Any]] = []
    broken, before, offset = 0, 0.0, 0.0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            time_s, _ = float(line["time_s"]), line["phase"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            broken += 1
            continue
        if time_s < before:
            offset += before
        before = time_s
        lines.append(line | {"time_s": time_s + offset})
    return lines, broken


def _boards(bundle: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Reports of boards by their name. One of another bundle, whose graphs have other sizes, is left out and named."""
    sizes = {name: (bundle / file).stat().st_size / 1e6 for name, file in manifest["graphs"].items()}
    boards: dict[str, Any] = {}
    notes = []
    for path in sorted((bundle.resolve().parent / "boards").glob("*/report.json")):
        report = read_report(path)
        found = {name: graph["mb"] for name, graph in report["graphs"].items() if name != "teacher"}
        if found == sizes:
            boards[path.parent.name] = report
        else:
            notes.append(f"boards/{path.parent.name} measured another bundle and is left out")
    return boards, notes


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _optional(path: Path) -> dict[str, Any] | None:
    return _json(path) if path.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON", code="E0373", why=str(error)) from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object", code="E0373", why=f"found {type(value).__name__}")
    return value
