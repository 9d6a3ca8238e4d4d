"""Is a bundle what its maker packed? Every file, nothing beside them, and the signature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekd.bundle import MANIFEST, SIGNATURE, beside, read_bundle
from edgekd.types import Bundle


@dataclass(frozen=True)
class Verified:
    """What was found of a bundle that holds."""

    bundle: str  # its folder
    files: int  # that are as they were packed
    mb: float  # 10**6 bytes of them
    beside: list[str]  # what measuring left in the folder; nothing vouches for it
    signature: str  # "not signed", "signed, not checked" or "holds"
    signer: str  # whose key or certificate it is; empty: not checked
    teacher_sha256: str  # of the checkpoint that the student learned from
    data: str  # what was used to make the student, in words


def verify(folder: Path, key: Path | None = None) -> Verified:
    """Verifies the bundle in `folder` (or of an output folder). Raises IntegrityError naming the first bad file.

    key: PEM of a public key or certificate: the bundle must be signed with it. None: the signature is not looked at.
    """
    bundle = bundle_in(folder)
    if key is not None:
        from edgekd.signing import check_signature

        signature, signer = "holds", check_signature(bundle, key)
    else:
        signed = (bundle.folder / SIGNATURE).is_file()
        signature, signer = "signed, not checked" if signed else "not signed", ""
    left, packed = beside(bundle), [bundle.folder / name for name in (*bundle.manifest.files, MANIFEST)]
    return Verified(
        bundle=str(bundle.folder),
        files=len(packed),
        mb=sum(path.stat().st_size for path in packed) / 1e6,
        beside=left,
        signature=signature,
        signer=signer,
        teacher_sha256=bundle.manifest.teacher.get("sha256", ""),
        data=bundle.manifest.data,
    )


def bundle_in(folder: Path) -> Bundle:
    """The bundle that `folder` is, or that the output folder holds; every file verified."""
    inside = folder / "bundle"
    return read_bundle(inside if (inside / MANIFEST).is_file() and not (folder / MANIFEST).is_file() else folder)
