"""An output folder that is kept elsewhere: what is there is whole, and another machine goes on with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from edgekd import checkpoint, elsewhere
from edgekd.elsewhere import MARK, Elsewhere, folder_of
from edgekd.errors import EnvironmentLacking, StoppedAtOnce, UsageError

Go = Callable[[str], None]


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL, seen from a machine whose folder is empty."""
    url = f"file://{tmp_path}/store/run1" if request.param == "file" else f"memory://{tmp_path.name}/run1"
    monkeypatch.chdir(machine(tmp_path, "here"))
    return url


def machine(tmp_path: Path, name: str) -> Path:
    place = tmp_path / name
    place.mkdir(exist_ok=True)
    return place


def there(url: str) -> dict[str, bytes]:
    system, path = fsspec.core.url_to_fs(url)
    found = {
        str(name).lstrip("/").removeprefix(path.lstrip("/") + "/"): system.cat_file(name) for name in system.find(path)
    }
    found.pop(MARK, None)
    return found


def nothing(line: str) -> None:
    raise AssertionError(line)


def test_a_folder_is_itself(tmp_path: Path) -> None:
    with folder_of("out", tmp_path, nothing, nothing) as named, folder_of(None, tmp_path, nothing, nothing) as other:
        assert (named, other) == (Path("out"), tmp_path)


def test_another_machine_goes_on(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError, match="stopped"), folder_of(store, tmp_path, said.append, nothing) as folder:
        assert folder == Path("run1") and not folder.exists()
        (folder / "bundle").mkdir(parents=True)
        for name, text in (("a.u8", "images"), (checkpoint.NAME, "state"), (".lock", "mine"), (".x.1.tmp", "half")):
            (folder / name).write_text(text)
        (folder / "bundle" / "manifest.json").write_text("{}")
        raise RuntimeError("stopped")
    whole = {"a.u8": b"images", checkpoint.NAME: b"state", "bundle/manifest.json": b"{}"}
    assert there(store) == whole

    monkeypatch.chdir(machine(tmp_path, "other"))
    with folder_of(store, tmp_path, said.append, nothing) as folder:
        assert "bringing 4 files" in said[-1]
        assert {name: (folder / name).read_bytes() for name in whole} == whole
        (folder / checkpoint.NAME).unlink()
        (folder / "student.pt").write_text("student")
    assert there(store) == {"a.u8": b"images", "student.pt": b"student", "bundle/manifest.json": b"{}"}
    assert said[-1] == f"copied to {store}"

    monkeypatch.chdir(tmp_path / "here")  # whose folder is older now
    with pytest.raises(UsageError, match="is not what is in") as refused, folder_of(store, tmp_path, nothing, nothing):
        pass
    assert refused.value.code == "E0251" and (tmp_path / "here" / "run1" / checkpoint.NAME).read_text() == "state"
    monkeypatch.chdir(tmp_path / "other")  # which made the newest copy
    with folder_of(store, tmp_path, said.append, nothing) as folder:
        assert "going on with it" in said[-1] and (folder / "student.pt").is_file()


def test_copies_come_behind_saves_and_in_order(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "EVERY_S", 0.0)
    put: list[str] = []
    real = Elsewhere._put

    def noted(self: Elsewhere, path: Path, name: str) -> None:
        put.append(name)
        real(self, path, name)

    monkeypatch.setattr(Elsewhere, "_put", noted)
    with folder_of(store, tmp_path, lambda line: None, nothing) as folder:
        folder.mkdir()
        for name in ("result.json", "student.pt", checkpoint.NAME, "z.u8", "a.json"):
            (folder / name).write_text(name)
        counters = checkpoint.Checkpoint(folder / checkpoint.NAME)
        monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
        counters.keep({"step": 1})
        assert put == [
            "a.json", "distillation.prev.ckpt", "z.u8", checkpoint.NAME, "student.pt", "result.json", MARK
        ]  # fmt: skip
        put.clear()
        (folder / "z.u8").write_text("changed")
    assert put == ["z.u8", MARK] and there(store)["z.u8"] == b"changed"
    assert not checkpoint._behind


def test_store_that_fails(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the training it is a warning and tried again; at the end it is an error, and all is here."""
    monkeypatch.setattr(elsewhere, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    warned: list[str] = []

    def fails(*_: Any) -> None:
        raise OSError("the line is down")

    lacking = pytest.raises(EnvironmentLacking, match="no way to")
    with lacking as refused, folder_of(store, tmp_path, nothing, warned.append) as folder:
        folder.mkdir()
        monkeypatch.setattr(type(Elsewhere(store).system), "put_file", fails)
        checkpoint.Checkpoint(folder / checkpoint.NAME).keep({"step": 1})
        assert len(warned) == 1 and "the line is down" in warned[0]
    assert refused.value.code == "E0411" and "the line is down" in refused.value.why
    assert (folder / checkpoint.NAME).is_file()
    with pytest.raises(StoppedAtOnce), folder_of(f"{store}2", tmp_path, nothing, nothing) as folder:
        folder.mkdir()
        (folder / "a").write_text("a")
        raise StoppedAtOnce(2)  # and nothing is copied, which would fail


@pytest.mark.parametrize(
    ("url", "code"), [("file://", "E0250"), ("s3://bucket/run", "E0411"), ("nosuch://a/b", "E0411")]
)
def test_refused(url: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "AWS_ACCESS_KEY_ID", "")
    if code == "E0411" and url.startswith("s3"):
        monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    with pytest.raises((UsageError, EnvironmentLacking)) as refused, folder_of(url, tmp_path, nothing, nothing):
        pass
    assert refused.value.code == code and not list(tmp_path.iterdir())


def test_names_that_lead_out_of_the_folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Elsewhere, "_names", lambda self: ["../escaped"])
    with pytest.raises(EnvironmentLacking, match="no way to") as refused:
        Elsewhere(store).fetch(lambda line: None)
    assert "outside" in refused.value.why and not Path("escaped").exists()
