"""A bundle that people can trust: hashes, signature, papers. What is changed is found, whatever it is."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from report_folders import output_folder
from typer.testing import CliRunner

from edgekd.__main__ import app
from edgekd.bom import BOM, bom_text
from edgekd.bundle import SIGNATURE, read_bundle, write_bundle
from edgekd.errors import EdgekdError, InputError, IntegrityError
from edgekd.provenance import command, made_with, provenance, shortened
from edgekd.signing import PASSWORD, check_signature, private_key, sign_bundle
from edgekd.types import Bundle
from edgekd.verification import verify

DAMAGES = 1000


@pytest.fixture(scope="module")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its papers, not signed."""
    folder = output_folder(tmp_path_factory.mktemp("trust") / "run") / "bundle"
    bundle = read_bundle(folder)
    kept = tmp_path_factory.mktemp("graphs")
    graphs = {p: Path(shutil.copy(folder / name, kept / name)) for p, name in bundle.manifest.graphs.items()}
    papers = vars(provenance(["edgekd", "compress"], teacher_licence="MIT", gpu=""))
    manifest = dataclasses.replace(bundle.manifest, provenance=papers, made_with=made_with("cpu"), graphs={}, files={})
    write_bundle(folder, manifest, graphs, {}, {BOM: bom_text(manifest, graphs)})
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """key.pem and key.pub, and those of a stranger."""
    pytest.importorskip("model_signing", reason="signatures need the extra sign")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("key", "stranger"):
        write_key(folder / f"{name}.pem")
    return folder


def write_key(path: Path, password: bytes | None = None) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    how = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, how))
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)


@pytest.fixture
def signed(plain_bundle: Path, keys: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(plain_bundle, folder)
    sign_bundle(read_bundle(folder), keys / "key.pem")
    return folder


def test_whole_bundle_is_verified(signed: Path, keys: Path) -> None:
    found = verify(signed, keys / "key.pub")
    listed = read_bundle(signed).manifest.files
    assert found.signature == "holds" and found.files == len(listed) + 1 and found.beside == []
    assert found.signer == f"the holder of {keys / 'key.pub'}"
    assert verify(signed).signature == "signed, not checked"
    (signed / "report.json").write_text("{}")
    (signed / "engines").mkdir()
    (signed / "engines" / "x.plan").write_bytes(b"x")
    assert verify(signed, keys / "key.pub").beside == ["engines/x.plan", "report.json"]
    (signed / SIGNATURE).unlink()
    assert verify(signed).signature == "not signed"


def test_library_of_openssf_accepts_the_signature(signed: Path, keys: Path) -> None:
    from model_signing import verifying

    config = verifying.Config()  # type: ignore[no-untyped-call]
    config.use_elliptic_key_verifier(public_key=keys / "key.pub")
    config.set_ignore_unsigned_files(True).verify(signed, signed / SIGNATURE)
    (signed / "README.txt").write_text("other")
    with pytest.raises(ValueError, match=r"README\.txt"):
        config.verify(signed, signed / SIGNATURE)


def test_stranger_missing_signature_and_key_are_refused_with_the_reason(signed: Path, keys: Path) -> None:
    def code(key: Path) -> str:
        with pytest.raises(EdgekdError) as refused:
            verify(signed, key)
        assert refused.value.exit_code == (3 if refused.value.code.startswith("E03") else 7)
        return refused.value.code

    assert code(keys / "stranger.pub") == "E0706"
    assert code(keys / "nowhere.pub") == "E0364"
    assert code(signed / "README.txt") == "E0365"
    sign_bundle(read_bundle(signed), keys / "stranger.pem")  # a stranger signs in place of the maker
    assert code(keys / "key.pub") == "E0706"
    document = json.loads((signed / SIGNATURE).read_text())  # and says that the maker did
    mine = signed.parent / "mine.sig"
    sign_bundle(read_bundle(signed), keys / "key.pem")
    mine.write_bytes((signed / SIGNATURE).read_bytes())
    document["verificationMaterial"] = json.loads(mine.read_text())["verificationMaterial"]
    (signed / SIGNATURE).write_text(json.dumps(document, separators=(",", ":")) + "\n")
    assert code(keys / "key.pub") == "E0708"
    (signed / SIGNATURE).unlink()
    assert code(keys / "key.pub") == "E0705"


def test_signature_of_another_bundle_does_not_hold(plain_bundle: Path, signed: Path, keys: Path) -> None:
    other = signed.parent / "other"
    bundle = read_bundle(signed)
    graphs = {p: plain_bundle / name for p, name in bundle.manifest.graphs.items()}
    smaller = write_bundle(other, dataclasses.replace(bundle.manifest, graphs={}, files={}), graphs, {})
    shutil.copy(sign_bundle(smaller, keys / "key.pem"), signed / SIGNATURE)
    with pytest.raises(IntegrityError) as refused:
        verify(signed, keys / "key.pub")
    assert refused.value.code == "E0708"


@pytest.mark.parametrize(("first", "last", "code"), [(-2, -1, "E0707"), (1, 2, "E0707"), (-1, 1, "")])
def test_certificate_holds_within_its_dates(signed: Path, keys: Path, first: int, last: int, code: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    key, now = private_key(keys / "key.pem"), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Maker")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now + timedelta(days=first)).not_valid_after(now + timedelta(days=last))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = signed.parent / "maker.crt"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    if not code:
        assert check_signature(read_bundle(signed), path) == "CN=Maker"
        return
    with pytest.raises(IntegrityError, match="expired" if last < 0 else "not valid yet") as refused:
        verify(signed, path)
    assert refused.value.code == code


def test_protected_key_takes_its_password_from_the_environment(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path / "own.pem", b"secret")
    with pytest.raises(InputError, match="cannot be used"):
        sign_bundle(read_bundle(signed), tmp_path / "own.pem")
    monkeypatch.setenv(PASSWORD, "secret")
    sign_bundle(read_bundle(signed), tmp_path / "own.pem")
    assert verify(signed, tmp_path / "own.pub").signature == "holds"


def test_a_thousand_damages_are_found(signed: Path, keys: Path) -> None:
    """Byte flips, truncations, files and bytes swapped; in every file, the manifest and the signature among them."""
    rng = random.Random(0)
    content = {path: path.read_bytes() for path in sorted(signed.rglob("*")) if path.is_file()}
    paths, missed = list(content), []
    always = [signed / "manifest.json", signed / SIGNATURE]
    for number in range(DAMAGES):
        path = always[number % 2] if number % 5 < 2 else rng.choice(paths)
        changed = damaged(content, path, rng)
        assert any(content[p] != data for p, data in changed.items())
        for p, data in changed.items():
            p.write_bytes(data)
        try:
            verify(signed, keys / "key.pub")
            missed.append((number, path.name))
        except IntegrityError as error:
            assert error.exit_code == 7
        for p in changed:
            p.write_bytes(content[p])
    assert missed == []
    assert verify(signed, keys / "key.pub").signature == "holds"


def damaged(content: dict[Path, bytes], path: Path, rng: random.Random) -> dict[Path, bytes]:
    data = bytearray(content[path])
    match rng.choice(("flip", "flip", "cut", "swap files", "swap bytes")):
        case "cut":
            return {path: bytes(data[: rng.randrange(len(data))])}
        case "swap files":
            other = rng.choice([p for p in content if content[p] != content[path]])
            return {path: content[other], other: content[path]}
        case "swap bytes":
            places = [i for i in range(len(data) - 1) if data[i] != data[i + 1]]
            if places:
                i = rng.choice(places)
                data[i], data[i + 1] = data[i + 1], data[i]
                return {path: bytes(data)}
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return {path: bytes(data)}


def test_every_byte_of_the_signature_counts(signed: Path, keys: Path) -> None:
    path, bundle = signed / SIGNATURE, read_bundle(signed)
    content = path.read_bytes()
    outside = [i for i in range(len(content)) if not content.index(b'"payload"') + 40 < i < content.index(b'"payloadT')]
    for place in outside:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(IntegrityError):
            check_signature(bundle, keys / "key.pub")


def plant(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: plant(folder, "numpy.py"),
        lambda folder: plant(folder, "runner/__pycache__/harness.cpython-311.pyc"),
        lambda folder: plant(folder, ".hidden"),
        lambda folder: (folder / "link").symlink_to("/etc"),
    ],
    ids=["module", "compiled", "hidden", "link"],
)
def test_what_was_not_packed_is_refused(plain_bundle: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    shutil.copytree(plain_bundle, tmp_path / "bundle")
    change(tmp_path / "bundle")
    with pytest.raises(IntegrityError) as refused:
        verify(tmp_path / "bundle")
    assert refused.value.code == "E0704" and refused.value.fix.startswith("delete it")


def test_verifying_100_mb_takes_less_than_2_s(plain_bundle: Path, keys: Path, tmp_path: Path) -> None:
    graph = tmp_path / "student.fp32.onnx"
    graph.write_bytes(bytes(100_000_000))
    manifest = dataclasses.replace(read_bundle(plain_bundle).manifest, graphs={}, files={})
    bundle: Bundle = write_bundle(tmp_path / "bundle", manifest, {"fp32": graph}, {})
    sign_bundle(bundle, keys / "key.pem")
    start = time.process_time()  # others may use this machine
    assert verify(bundle.folder, keys / "key.pub").mb > 100
    assert time.process_time() - start < 2


def test_commands(signed: Path, keys: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["verify", str(signed), "--key", str(keys / "key.pub")])
    assert done.exit_code == 0 and "signature holds" in done.stdout
    done = run(app, ["verify", str(signed)])
    assert done.exit_code == 0 and "give --key" in done.stdout
    (signed / SIGNATURE).unlink()
    assert "not signed" in run(app, ["verify", str(signed)]).stdout
    assert run(app, ["sign", str(signed), "--key", str(keys / "key.pem")]).exit_code == 0
    assert run(app, ["verify", str(signed), "--key", str(keys / "stranger.pub")]).exit_code == 7
    (signed / "samples.npz").write_bytes(b"")
    done = run(app, ["verify", str(signed), "--json"])
    assert done.exit_code == 7 and "samples.npz" in json.loads(done.stdout)["error"]["what"]


def test_bill_of_materials_is_valid_and_the_same_each_time(plain_bundle: Path, tmp_path: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    pytest.importorskip("jsonschema", reason="the validator of cyclonedx-python-lib needs it")
    from cyclonedx.schema import SchemaVersion

    bundle = read_bundle(plain_bundle)
    manifest = bundle.manifest
    graphs = {precision: plain_bundle / name for precision, name in manifest.graphs.items()}
    text = (plain_bundle / BOM).read_text(encoding="utf-8")
    assert bom_text(manifest, graphs) == text
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"task"', '"tusk"')) is not None
    student = json.loads(text)["metadata"]["component"]
    assert student["type"] == "machine-learning-model" and student["name"] == "resnet:1x8"
    assert student["pedigree"]["ancestors"][0]["hashes"][0]["content"] == manifest.teacher["sha256"]
    hashes = {part["name"]: part["hashes"][0]["content"] for part in student["components"]}
    assert hashes == {name: manifest.files[name] for name in manifest.graphs.values()}
    assert student["modelCard"]["modelParameters"]["datasets"][0]["description"] == manifest.data
    assert student["licenses"] == [{"license": {"name": "MIT"}}]


def test_provenance_says_no_more_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    line = ["/usr/bin/edgekd", "compress", "/home/ada/a b.pt", "-o", "/srv/out"]
    assert shortened(command(line)) == "edgekd compress '~/a b.pt' -o /srv/out"
    found = provenance(line, teacher_licence="", gpu="")
    assert found.licence.endswith("which one, the user did not say") and found.cores > 0 and found.processor
    assert provenance(["x.py"], teacher_licence="MIT", gpu="").command == ""
    assert {"edgekd", "torch", "onnx", "onnxruntime", "numpy", "python", "machine", "device"} == set(made_with("cpu"))
