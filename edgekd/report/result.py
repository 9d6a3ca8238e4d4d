"""result.json: what compress concluded, kept for the page and for edgekd runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekd
from edgekd.families import name_of
from edgekd.files import plain, write_json
from edgekd.provenance import command, shortened

if TYPE_CHECKING:
    from edgekd.device import Outcome
    from edgekd.pipeline import Result

SCHEMA = 1


def write_result(result: Result) -> Path:
    """Writes OUT/result.json and OUT/report.html; gives the page's path."""
    sizing: dict[str, Any] = plain(result.sizing)
    for network in (sizing["student"], sizing["teacher"]):
        network.pop("ops", None)
    values = {
        "schema": SCHEMA,
        "edgekd": edgekd.__version__,
        "command": shortened(command(sys.argv)),
        "seconds": round(result.seconds, 1),
        "report_made": result.report["made"],
        "student": name_of(result.sizing.spec),
        "deployed": plain(result.deployed),
        "deployable": not result.broken,
        "broken_limits": result.broken,
        "sizing": sizing,
        "evaluation": result.report.get("evaluation"),
    }
    write_json(result.folder / "result.json", values)
    return refresh_page(result.folder)


def refresh_page(folder: Path) -> Path:
    """Writes the page of an output folder or a bundle again, after a new measurement; gives its path."""
    from edgekd.report.page import write_page  # matplotlib: a second
    from edgekd.report.reading import read_subject

    return write_page(read_subject(folder))


def refresh_fleet(outcomes: Sequence[Outcome], bundle: Path) -> Path:
    """Writes the page of the boards that were just measured; gives its path, boards/fleet.html beside the bundle."""
    from edgekd.report.fleet import write_fleet  # matplotlib: a second

    return write_fleet([outcome.document for outcome in outcomes], bundle)
