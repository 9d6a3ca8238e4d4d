"""edgekd verify and sign: may a bundle be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd import console, documents
from edgekd.files import plain
from edgekd.options import AsJson, Debug

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or the output folder of compress.")]


def verify(
    bundle: Folder,
    key: Annotated[
        Path | None, typer.Option(help="The maker's public key or certificate (PEM): the bundle must be signed by it.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Is BUNDLE what its maker packed? Every file's hash, nothing beside them, the signature. Exit code 7 if not."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.verification import verify as verified

        found = verified(bundle, key)
        signature = {
            "holds": f"signature {found.signature}: {found.signer}",
            "signed, not checked": "signed, not checked: give --key",
        }.get(found.signature, "not signed: who changes manifest.json as well is not noticed")
        lines = [f"files     {found.files}, {found.mb:.1f} MB, as they were packed", f"signed    {signature}"]
        if found.beside:
            lines.append(f"beside    {', '.join(found.beside)}: left by measuring, not packed, not verified")
        documents.show(plain(found), "\n".join(lines), as_json)


def sign(
    bundle: Folder,
    key: Annotated[Path, typer.Option(help="A private key (EC, PEM); its password in EDGEKD_KEY_PASSWORD.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Verify BUNDLE and sign it: manifest.json and every file that it lists. Writes model.sig into it."""
    with console.errors(debug=debug, as_json=as_json):
        from edgekd.bundle import beside
        from edgekd.signing import sign_bundle
        from edgekd.verification import bundle_in

        found = bundle_in(bundle)
        beside(found)
        path = sign_bundle(found, key)
        text = f"signed    {path}\nnext      edgekd verify {bundle} --key key.pub"
        documents.show({"bundle": str(found.folder), "signature": str(path)}, text, as_json)
