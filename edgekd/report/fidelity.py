"""The section 'Without data': agreement set by set and class by class, how sure both are, and what it may mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from edgekd.agreement import SETS
from edgekd.report.cells import Table, at, cell, pointer

PLACE = "/manifest/fidelity"
WORST = 20  # classes shown


def section(documents: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows; None for a bundle of an earlier version, or one that was only measured."""
    if not at(documents, PLACE):
        return None
    return {
        "estimate": estimate(documents),
        "sets": sets(documents),
        "calibration": calibration(documents),
        "by_class": by_class(documents),
    }


def estimate(documents: Mapping[str, Any]) -> Markup:
    """The student's expected share of the teacher's top-1, in a sentence that says how little it is worth."""
    if not at(documents, f"{PLACE}/expected"):
        return Markup(
            "What such agreement means for accuracy is not known: it is unlike that of the students that edgekd's "
            "estimate was fitted to, or of too few images. --eval-data settles it."
        )
    low, middle, high, level, pairs, kept, by_set = (
        cell(documents, f"{PLACE}/expected/{name}", "count" if name == "pairs" else "share")
        for name in ("low", "middle", "high", "level", "pairs", "covered_pairs", "covered_data_sets")
    )
    return Markup(
        "The student is expected to keep {} to {} of its teacher's top-1 (middle {}; {} interval). This is an estimate "
        "from {} pairs of small images ({}), not a guarantee: it held for {} of them when each was left out of the "
        "fit, and for {} when its whole data set was. --eval-data settles it."
    ).format(low, high, middle, level, pairs, ", ".join(at(documents, f"{PLACE}/expected/data_sets")), kept, by_set)


def sets(documents: Mapping[str, Any]) -> Table:
    """A row per set of images."""
    rows = []
    for name in at(documents, f"{PLACE}/sets"):
        place = f"{PLACE}/sets" + pointer(name)
        share, low, high, balanced, largest = (
            cell(documents, f"{place}/{key}", "share") for key in ("share", "low", "high", "balanced", "largest")
        )
        label = SETS.get(name, name)
        label += f" ({at(documents, f'{PLACE}/other')})" if name == "other" else ""
        within = Markup('{}<br><small class="within">{} to {}</small>').format(share, low, high)
        of = Markup("{}<br><small>{} images</small>").format(label, cell(documents, f"{place}/images", "count"))
        rows.append((of, within, balanced, largest))
    note = (
        "Held out: made as the training's images were, but not shown to the student. Agreement: the share of images of "
        "which teacher and student (both in torch) name the same class, and where it lies with 95 %; balanced: the "
        "mean of the shares of all classes, 0 for one that the teacher never names; in one class: the images in the "
        "teacher's commonest class. The nearer that is to 100 %, the less the first column says."
    )
    head = ("", "agreement", "balanced", "in one class")
    return Table("Agreement with the teacher without data", head, tuple(rows), note)


def calibration(documents: Mapping[str, Any]) -> Table:
    """How sure both are of the held-out images."""
    rows = (
        ("mean largest probability, teacher", "teacher"),
        ("the same, student", "student"),
        ("expected calibration error of the student, the teacher's class as label", "error"),
    )
    cells = tuple((text, cell(documents, f"{PLACE}/calibration/{key}", "share")) for text, key in rows)
    return Table("How sure they are of the held-out images", ("", "value"), cells)


def by_class(documents: Mapping[str, Any]) -> Table:
    """Agreement on the held-out images by the teacher's class, the worst first."""
    found, names = at(documents, f"{PLACE}/by_class"), documents["manifest"]["classes"]
    order = sorted(range(len(found["classes"])), key=lambda spot: (found["share"][spot], spot))
    rows = []
    for spot in order[:WORST]:
        share, images = (
            cell(documents, f"{PLACE}/by_class/{key}/{spot}", unit)
            for key, unit in (("share", "share"), ("images", "count"))
        )
        rows.append((names[found["classes"][spot]], share, images))
    left, never = len(order) - len(rows), len(names) - len(order)
    note = f"{left} better ones are in the JSON block of this page. " if left else ""
    note += (
        f"{never} classes were never the teacher's answer to these images: nothing is known of them." if never else ""
    )
    return Table(
        "Agreement by the teacher's class, the worst first", ("class", "agreement", "images"), tuple(rows), note
    )
