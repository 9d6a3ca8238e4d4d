"""The bundle's bill of materials: a CycloneDX 1.6 ML-BOM of the student, its teacher, its graphs and libraries.

The library writes everything but the model card, which it has no class for (11.12); that part is added to its JSON.
Nothing in it is random or a time, so the same student gives the same bill.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6

from edgekd.families import name_of
from edgekd.files import sha256
from edgekd.types import Manifest, StudentSpec

BOM = "bom.cdx.json"
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # URLs; RFC 9562
STUDENT = "student"  # bom-ref


def bom_text(manifest: Manifest, graphs: Mapping[str, Path]) -> str:
    """The bill as JSON. manifest: complete but for files and graphs; graphs: precision -> file."""
    digests = {precision: sha256(path) for precision, path in graphs.items()}
    files = [_graph(precision, graphs[precision].name, digest) for precision, digest in sorted(digests.items())]
    bom = Bom(
        serial_number=uuid.uuid5(NAMESPACE, json.dumps([manifest.teacher["sha256"], digests], sort_keys=True)),
        metadata=BomMetaData(component=_student(manifest, files)),
        components=_libraries(manifest),
    )
    bom.register_dependency(_component(bom), list(bom.components))
    bill: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del bill["metadata"]["timestamp"]
    bill["metadata"]["component"]["modelCard"] = model_card(manifest)
    return json.dumps(bill, indent=2, ensure_ascii=False) + "\n"


def model_card(manifest: Manifest) -> dict[str, Any]:
    """CycloneDX's modelCard: how the student learned, from what, what goes in and out, and how near its graphs are."""
    images, method = manifest.images, manifest.method
    shape = f"float32 pixels 0..255, {manifest.batch}x{images.channels}x{images.height}x{images.width}"
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "architectureFamily": str(manifest.student["family"]),
            "modelArchitecture": _name(manifest),
            "datasets": [{"type": "dataset", "name": "generated images", "description": manifest.data}],
            "inputs": [{"format": shape}],
            "outputs": [{"format": f"float32 logits, {manifest.batch}x{len(manifest.classes)}"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": "agreement with the torch student on generated images", "value": str(v), "slice": precision}
                for precision, parity in sorted(manifest.parity.items())
                if (v := parity.get("agreement")) is not None
            ]
        },
        "considerations": {
            "useCases": [f"classifying images on {manifest.profile['summary']}"],
            "technicalLimitations": [
                "agreement on generated images is not accuracy: measure that with labelled images of the task"
            ],
        },
        "properties": [
            {"name": f"edgekd:{name}", "value": str(method[name])} for name in ("name", "budget", "seed")
        ],
    }  # fmt: skip


def _student(manifest: Manifest, files: list[Component]) -> Component:
    named = str(manifest.provenance.get("teacher_licence") or "")
    licence = named or "inherited from the teacher; not named"
    teacher = Component(
        name=str(manifest.teacher["architecture"]), type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="teacher",
        hashes=[_hash(manifest.teacher["sha256"])], description="the trained classifier that the student learned from",
        licenses=[DisjunctiveLicense(name=named)] if named else None,
    )  # fmt: skip
    return Component(
        name=_name(manifest), type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=STUDENT,
        description=f"student for {manifest.profile['summary']}, distilled by edgekd without data",
        licenses=[DisjunctiveLicense(name=licence)], components=files,
        pedigree=Pedigree(ancestors=[teacher], notes=manifest.data),
        properties=[Property(name=f"edgekd:{n}", value=str(manifest.student[n])) for n in ("parameters", "macs")],
    )  # fmt: skip


def _name(manifest: Manifest) -> str:
    family, depth, width = (manifest.student[key] for key in ("family", "depth", "width"))
    return name_of(StudentSpec(family, depth, width, manifest.images, manifest.classes))


def _graph(precision: str, name: str, digest: str) -> Component:
    return Component(name=name, type=ComponentType.FILE, bom_ref=f"graph-{precision}", hashes=[_hash(digest)],
                     description=f"ONNX graph, {precision}")  # fmt: skip


def _libraries(manifest: Manifest) -> list[Component]:
    apart = ("machine", "device", "python")
    return [
        Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"library-{name}")
        for name, version in manifest.made_with.items()
        if name not in apart
    ]


def _component(bom: Bom) -> Component:
    assert bom.metadata.component is not None
    return bom.metadata.component


def _hash(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
