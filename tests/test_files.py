from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgekd.errors import InputError
from edgekd.files import data_dir, from_dict, plain, sha256, write_json, written


@dataclass(frozen=True)
class Inner:
    size: float


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    numbers: tuple[int, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None


def test_there_and_back() -> None:
    value = Outer("a", Inner(2.0), (1, 2), {"x": 0.5}, None)
    assert from_dict(Outer, plain(value), where="here") == value
    assert from_dict(Outer, {"name": "a", "inner": {"size": 2}}, where="here") == Outer("a", Inner(2.0))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "a", "inner": {"size": 1, "sise": 2}}, "'size'"),
        ({"name": "a", "inner": {}}, "here: inner: 'size' is missing"),
        ({"name": 1, "inner": {"size": 1}}, "here: name: expected str, found 1"),
        ({"name": "a", "inner": {"size": True}}, "expected float"),
        ({"name": "a", "inner": {"size": 1}, "numbers": [1, "2"]}, "here: numbers[1]: expected int"),
        ({"name": "a", "inner": {"size": 1}, "rates": {"x": "fast"}}, "here: rates.x: expected float"),
        ({"name": "a", "inner": 3}, "expected a table of Inner"),
        ([], "expected a table of Outer"),
    ],
)
def test_strict(values: object, words: str) -> None:
    with pytest.raises(InputError) as refused:
        from_dict(Outer, values, where="here")
    assert words in refused.value.what


def test_written_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_json(path, {"a": 1})
    digest = sha256(path)
    with pytest.raises(RuntimeError), written(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert sha256(path) == digest and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_data_folders_are_found() -> None:
    assert (data_dir("profiles") / "jetson.toml").is_file() and (data_dir("targets") / "harness.py").is_file()
