"""One student's page: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.files import written
from edgekd.report import circumstances, classes, fidelity, figures, tables
from edgekd.report.cells import Table, at, cell
from edgekd.report.reading import HERE, Subject
from edgekd.report.verdict import derived, student_name, verdict

if TYPE_CHECKING:
    import jinja2

LARGEST_GRID = 1_000_000  # bytes of PNG that go into a page as they are
WITHOUT_DATA = "; how good it is was judged without data, by agreement with its teacher"  # beside the verdict
GRID_WIDTH = 1200  # pixels of a larger one, as JPEG
TILES = (
    ("parameters", "fewer parameters than the teacher"),
    ("macs", "fewer multiply-adds"),
    ("mb", "smaller graph"),
    ("p50", "the speed of the teacher's graph on this machine"),
)


def write_page(subject: Subject, path: Path | None = None) -> Path:
    """Writes the page of one student, whole or not at all, by default to OUT/report.html; gives its path."""
    return write_html("page.html", page(subject), path or subject.page)


def write_html(template: str, values: Mapping[str, Any], path: Path) -> Path:
    """Fills a template of this folder and writes it. `values` hold "documents", which go into the JSON block."""
    text = _templates().get_template(template).render(values)
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def page(subject: Subject) -> dict[str, Any]:
    """What the template shows."""
    documents = {**subject.documents, "derived": derived(subject.documents)}
    manifest, report = documents["manifest"], documents["report"]
    deployed = documents["derived"]["deployed"]
    return {
        "title": f"{student_name(documents)} for {manifest['profile']['name']}",
        "name": subject.name,
        "notes": subject.notes,
        "documents": documents,
        "manifest": manifest,
        "report": report,
        "deployed": deployed,
        "verdict": verdict(documents),
        "quality_basis": "" if report["evaluated"] else WITHOUT_DATA,
        "without_data": fidelity.section(documents),
        "limits": tables.limits(documents, deployed),
        "quality": _quality(documents, deployed),
        "tiles": [
            (cell(documents, f"/derived/{key}", "times"), text) for key, text in TILES if key in documents["derived"]
        ],
        "comparison": tables.comparison(subject, documents),
        "devices": [_device(documents, name, place) for name, place in subject.devices.items()],
        "plan": _plan(documents),
        "training": figures.training(subject.log, "training"),
        "images": _images(subject),
        "by_class": _by_class(documents, deployed),
        "provenance": _provenance(documents),
        "commands": _commands(subject),
        "how_to_run": (subject.bundle / "README.txt").read_text(encoding="utf-8"),
    }


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2

    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    digest = hashlib.sha256(style.encode()).digest()
    found.globals |= {"style": style, "style_hash": "sha256-" + base64.b64encode(digest).decode()}
    return found


def _quality(documents: Mapping[str, Any], deployed: str) -> tuple[Any, str]:
    """The one figure of quality on top: top-1 where labelled images were given, else agreement."""
    if documents["report"]["evaluated"]:
        return cell(documents, f"/report/graphs/{deployed}/accuracy", "share"), "top-1 on the evaluation data"
    text = "agreement with the teacher on generated images"
    return cell(documents, f"/report/graphs/{deployed}/agreement", "share"), text


def _device(documents: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    report = at(documents, place)
    slug = "histogram-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return {
        "name": name,
        "report": report,
        "foreign": report["target"] == "tensorrt" and name == HERE,
        "graphs": tables.graphs(documents, place, name),
        "histogram": figures.histogram(report, name, slug),
        "soak": circumstances.soak(documents, place, name),
        "condition": circumstances.condition(documents, place, name),
        "warnings": circumstances.texts(report.get("warnings")),
        "facts": tables.settings(f"What {name} says of itself", documents, f"{place}/device"),
        "runtime": tables.settings(f"Runtime on {name}", documents, f"{place}/runtime"),
        "protocol": tables.settings(f"Protocol on {name}", documents, f"{place}/protocol"),
    }


def _plan(documents: Mapping[str, Any]) -> dict[str, Any] | None:
    plan = documents["plan"]
    if plan is None:
        return None
    chosen = plan["chosen"]["predicted_ms"]
    precision = min(chosen, key=lambda p: chosen[p]["latency_ms"])
    limit = documents["manifest"]["profile"]["limits"]["latency_ms"]
    return {
        "picture": figures.plan(plan, precision, limit, "plan"),
        "front": tables.front(documents, precision),
        "bound_by": plan["bound_by"],
    }


def _images(subject: Subject) -> dict[str, Any] | None:
    """images.png as a data: address, with the name of each row's class where the file says which that is."""
    path = subject.folder / "images.png"
    if not path.is_file():
        return None
    from PIL import Image

    from edgekd.grid import CLASSES, GAP, SIDE

    data, kind, manifest = path.read_bytes(), "png", subject.documents["manifest"]
    facts = manifest["images"]
    with Image.open(io.BytesIO(data)) as picture:
        zoom = max(1, SIDE // max(facts["height"], facts["width"]))
        rows = (picture.height // zoom + GAP) // (facts["height"] + GAP)
        size, shown = picture.size, json.loads(picture.info.get(CLASSES, "[]"))
        if len(data) > LARGEST_GRID:
            small = picture.convert("RGB")
            small.thumbnail((GRID_WIDTH, 10 * GRID_WIDTH))
            packed = io.BytesIO()
            small.save(packed, format="JPEG", quality=85)
            data, kind = packed.getvalue(), "jpeg"
    names = manifest["classes"]
    return {
        "address": f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
        "size": size,
        "rows": rows,
        "labels": [names[label] for label in shown if label in range(len(names))],
    }


def _by_class(documents: Mapping[str, Any], deployed: str) -> dict[str, Any] | None:
    found = classes.shares(documents, deployed)
    if found is None:
        return None
    table, series, label = found
    graphs = [name for name in (deployed, "teacher") if name in documents["report"]["graphs"]]
    matrices = {name: classes.confusion(documents, name) for name in graphs}
    drawn = []
    for name in graphs:
        counts = at(documents, f"/report/graphs/{name}/evaluation/confusion")
        if counts and matrices[name] is None:
            drawn.append(figures.heat(counts, classes.title(name), f"confusion-{name}"))
    return {
        "table": table,
        "bars": figures.bars(series, label, "by-class") if series[classes.title(deployed)] else None,
        "matrices": [matrix for matrix in matrices.values() if matrix],
        "drawn": drawn,
        "mistakes": [m for m in (classes.mistakes(documents, name) for name in graphs) if m],
        "too_many": classes.too_many(documents, deployed),
    }


def _provenance(documents: Mapping[str, Any]) -> list[Table]:
    found = [
        tables.settings("Teacher", documents, "/manifest/teacher"),
        tables.settings("Student", documents, "/manifest/student", ("images", "classes", "ops")),
        tables.settings("Method and every setting", documents, "/manifest/method"),
        tables.settings("Evaluation data", documents, "/report/evaluation"),
        tables.settings("Made with", documents, "/manifest/made_with"),
        tables.settings("Input of the network", documents, "/manifest/images"),
        tables.settings(
            "Difference of each graph from torch, on the host", documents, "/manifest/parity",
            ("int8: calibration", "int8: recovery"),
        ),
        tables.calibrations(documents),
    ]  # fmt: skip
    return [table for table in found if table and table.rows]


def _commands(subject: Subject) -> list[tuple[str, str]]:
    """What to type, with what it does."""
    name = subject.bundle.resolve().name
    return [
        ("Copy the bundle to the board", f"scp -r {name} USER@BOARD:"),
        ("On the board: verify, measure, compare, write report.json", f"cd {name} && python3 -m runner"),
        ("Or all of it from here", f"edgekd bench {name} --on ssh://USER@BOARD"),
    ]
