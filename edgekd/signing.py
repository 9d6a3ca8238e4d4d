"""Signatures of bundles by OpenSSF model-signing, with a key of the user's own and without a network.

What is signed is manifest.json, every file that it lists, and nothing else. The signature lies beside them as
model.sig, a Sigstore bundle that `model_signing verify key` reads as well. A key has no date; a certificate in its
place has.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.bundle import MANIFEST, SIGNATURE
from edgekd.errors import EnvironmentLacking, InputError, IntegrityError
from edgekd.files import sha256, written
from edgekd.types import Bundle

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PASSWORD = "EDGEKD_KEY_PASSWORD"  # noqa: S105 - the name of a variable of the environment
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # that model-signing takes
MEDIA_TYPE, PAYLOAD_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.in-toto+json"
MAKE_A_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem; openssl ec -in key.pem -pubout -out key.pub"


def sign_bundle(bundle: Bundle, key: Path) -> Path:
    """Signs a verified bundle with a private key; gives the signature's path. Files that are not packed stay unsigned.

    Raises InputError for a key that cannot be used, EnvironmentLacking without model-signing.
    """
    private_key(key)
    from model_signing import signing

    config = signing.Config()  # type: ignore[no-untyped-call]
    config.use_elliptic_key_signer(private_key=key, password=_password())  # type: ignore[arg-type] # it wants bytes
    config.set_hashing_config(_hashing(bundle))
    path = bundle.folder / SIGNATURE
    with written(path) as temporary:
        with tempfile.TemporaryDirectory() as outside:  # a file in the bundle would be signed as well
            config.sign(bundle.folder, Path(outside) / SIGNATURE)
            text = (Path(outside) / SIGNATURE).read_text(encoding="utf-8")
        temporary.write_text(_canonical(json.loads(text)), encoding="utf-8")
    return path


def check_signature(bundle: Bundle, key: Path) -> str:
    """Holds a bundle, whose files were verified, against its signature; gives whose it is, in words.

    key: PEM of a public key, or of a certificate, whose dates must hold today. Raises IntegrityError: not signed,
    signed by another key, changed after signing; InputError, EnvironmentLacking as sign_bundle.
    """
    path = bundle.folder / SIGNATURE
    public, whose = _public_key(key)
    if not path.is_file():
        raise IntegrityError(
            f"{bundle.folder} is not signed",
            code="E0705",
            why=f"it has no {SIGNATURE}",
            fix="ask its maker for a signed one (edgekd sign BUNDLE --key key.pem)",
        )
    pem, payload = _pem(public), _payload(path, _pem(public))
    from model_signing import verifying

    with tempfile.NamedTemporaryFile(suffix=".pub") as handle:
        handle.write(pem)
        handle.flush()
        config = verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=Path(handle.name))
        config.set_hashing_config(_hashing(bundle))
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the library prints
                config.verify(bundle.folder, path)
        except Exception as error:  # of cryptography, pydantic, json and the library itself
            raise _changed(path, f"{type(error).__name__}: {error}".rstrip(": ")) from error
    signed = {item["name"]: item["digest"] for item in json.loads(payload)["predicate"]["resources"]}
    if signed != {MANIFEST: sha256(bundle.folder / MANIFEST), **bundle.manifest.files}:
        raise _changed(path, "it is of other files than the manifest's")
    return whose


def private_key(path: Path) -> EllipticCurvePrivateKey:
    """An EC key that can sign. Its password, if it has one, is in EDGEKD_KEY_PASSWORD. Raises InputError."""
    _needs_library()
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    password = _password()
    try:
        key = load_pem_private_key(_read(path), password)
    except (ValueError, TypeError) as error:
        raise _unusable(path, str(error), f"is it protected? {PASSWORD}=... edgekd ...") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise _unusable(path, "it is no elliptic curve key of 256, 384 or 521 bits", f"make one:  {MAKE_A_KEY}")
    return key


def _public_key(path: Path) -> tuple[EllipticCurvePublicKey, str]:
    """A public key or a certificate's, and whose it is. Raises IntegrityError for a certificate out of its dates."""
    _needs_library()
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content, now = _read(path), datetime.now(UTC)
    try:
        if b"BEGIN CERTIFICATE" in content:
            certificate = x509.load_pem_x509_certificate(content)
            first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not first <= now <= last:
                raise IntegrityError(
                    f"{path}: the certificate {'has expired' if now > last else 'is not valid yet'}",
                    code="E0707",
                    why=f"it holds from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
                    fix="ask the bundle's maker for one that holds",
                )
            key, whose = certificate.public_key(), certificate.subject.rfc4514_string()
        else:
            key, whose = load_pem_public_key(content), f"the holder of {path}"  # type: ignore[assignment]
    except (ValueError, TypeError) as error:
        raise _unusable(path, str(error), "give the PEM of the maker's public key or certificate") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise _unusable(path, "it is no elliptic curve key of 256, 384 or 521 bits", f"make one:  {MAKE_A_KEY}")
    return key, whose


def _payload(path: Path, pem: bytes) -> bytes:
    """What is signed, as its file holds it. Raises IntegrityError where any byte is not as sign_bundle writes it.

    The library overlooks unknown names, blanks and bits of base64 that nobody reads: here no byte may change unseen.
    """
    try:
        document = json.loads(path.read_bytes())
        envelope = document["dsseEnvelope"]
        payload, signature = envelope["payload"], envelope["signatures"][0]["sig"]
        content = base64.b64decode(payload, validate=True)
        rebuilt = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": document["verificationMaterial"]["publicKey"], "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(content).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(base64.b64decode(signature)).decode(), "keyid": ""}],
            },
        }
        if _canonical(rebuilt).encode() != path.read_bytes():
            raise ValueError("it is not as edgekd sign writes it; one by other tools can be made again by edgekd sign")
        found = document["verificationMaterial"]["publicKey"]
    except (ValueError, KeyError, TypeError, IndexError, OSError, RecursionError) as error:
        raise _changed(path, f"it cannot be read: {error}") from error
    if found != {"hint": hashlib.sha256(pem).hexdigest()}:
        raise IntegrityError(
            f"{path} was made with another key",
            code="E0706",
            why="the key that is named in it is not the given one",
            fix="do not use the bundle, or give the key of the one who signed it",
        )
    return content


def _changed(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path} does not hold", code="E0708", why=why, fix="copy the bundle again, or do not use it")


def _unusable(path: Path, why: str, fix: str) -> InputError:
    return InputError(f"{path} cannot be used as a key", code="E0365", why=why.splitlines()[0] if why else "", fix=fix)


def _hashing(bundle: Bundle) -> Any:
    """model-signing told to leave out what was not packed."""
    from model_signing import hashing

    packed = {*bundle.manifest.files, MANIFEST}
    names = (p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*") if p.is_file())
    config = hashing.Config()  # type: ignore[no-untyped-call]
    return config.set_ignored_paths(paths=sorted(set(names) - packed), ignore_git_paths=False)


def _canonical(document: Any) -> str:
    return json.dumps(document, separators=(",", ":")) + "\n"


def _pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _password() -> bytes | None:
    return os.environb.get(PASSWORD.encode()) or None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {path} cannot be read", code="E0364", why=str(error), fix="name its file") from error


def _needs_library() -> None:
    try:
        import model_signing.signing  # noqa: F401 - needs pyOpenSSL, which it does not ask for
    except ImportError as error:
        raise EnvironmentLacking(
            "signatures need model-signing",
            code="E0414",
            why=str(error),
            fix='python3 -m pip install "edgekd[sign]"',
        ) from error
