"""What strangers and boards hand in, made wrong by hypothesis: an EdgekdError or a result, and never long.

Whole documents are taken and a place in them is replaced, cut off or left out, beside text and bytes of every kind.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgekd import load_profile
from edgekd.bundle import read_bundle
from edgekd.device.board import Board, board_of
from edgekd.device.remote import _checked
from edgekd.errors import EdgekdError
from edgekd.files import data_dir, plain
from edgekd.plan import SCHEMA, Plan, device_of, read_plan
from edgekd.report.reading import read_log, read_report
from edgekd.types import Images, Manifest
from targets import trtexec_lines, trtexec_output
from targets.setting import Refused

HANG_MS = 5_000
DEEP = "[" * 20_000
quick = settings(
    max_examples=60, deadline=HANG_MS, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=20),
    st.sampled_from(["", "../x", "/etc/passwd", "nan", "\x00", "x" * 5_000, -1, 0, 1e308, math.inf]),
)  # fmt: skip
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3))
ADDRESSES = st.from_regex(r"ssh://([a-z]{0,5}@)?[a-z0-9.:\[\]-]{0,20}(:[0-9]{0,12})?(/.{0,12})?", fullmatch=True)
TIMES = [{"startComputeMs": 9e3, "computeMs": 1.0, "latencyMs": 1.5}]
OUTPUT = [{"name": "logits", "dimensions": "1x2", "values": [1.0, 2.0]}]
FIGURES = ("p50", "p90", "p95", "p99", "mean", "std", "min", "max", "rounds")
GRAPH = {"latency_ms": dict.fromkeys(FIGURES, 1.0), "mb": 1.0, "agreement": 1.0}
REPORT = {
    "graphs": {"fp32": GRAPH}, "device": {"name": "x"}, "runtime": {"name": "y", "version": "1"},
    "reasons": [], "valid": True,
}  # fmt: skip
PLAN = plain(Plan(SCHEMA, "0" * 64, "cpu", "auto", "rdskd_plus", "fast", 0, limits={"latency_ms": 2.0}))
MANIFEST = plain(
    Manifest(
        schema=1, target="onnxrt", batch=1, threads=0, images=Images(1, 8, 8, (0.5,), (0.2,)), classes=("a", "b"),
        graphs={"fp32": "x.onnx"}, files={"x.onnx": "0" * 64}, parity={}, student={}, teacher={}, method={},
        profile={}, data="",
    )
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


@st.composite
def spoilt(draw: st.DrawFn, document: Any) -> Any:
    """The document with one place replaced or left out."""
    place = draw(st.sampled_from(places(document)))
    if not place:
        return draw(values)
    copied = copy.deepcopy(document)
    of = copied
    for key in place[:-1]:
        of = of[key]
    if draw(st.booleans()):
        of[place[-1]] = draw(values)
    else:
        del of[place[-1]]
    return copied


def texts(document: Any) -> st.SearchStrategy[bytes]:
    """JSON of a spoilt document, the first part of a good one, and any bytes."""
    whole = json.dumps(document)
    cut = st.integers(0, len(whole)).map(lambda n: whole[:n].encode())
    return st.one_of(spoilt(document).map(lambda v: json.dumps(v).encode()), cut, st.binary(max_size=200))


def toml(value: Any) -> bytes:
    """TOML of what has a form in it; what has none is left out."""
    try:
        return tomli_w.dumps(_without_none(value)).encode("utf-8", "replace")
    except (TypeError, AttributeError, ValueError):
        return b"x = 1"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value if v is not None] if isinstance(value, list) else value


def refused_or_fine(call: Callable[[], Any]) -> None:
    try:
        call()
    except (EdgekdError, Refused) as error:  # Refused: the runner's
        assert str(error)


def table(name: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads((data_dir("profiles") / f"{name}.toml").read_text(encoding="utf-8"))


@quick
@given(st.one_of(spoilt(table("cpu")).map(toml), spoilt(table("jetson-nano-4gb")).map(toml), st.binary(max_size=200)))
@example(b"a = " + DEEP.encode())
def test_profiles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.toml").write_bytes(content)
    refused_or_fine(lambda: load_profile(tmp_path / "p.toml"))


@quick
@given(st.one_of(spoilt(PLAN).map(toml), st.binary(max_size=200)))
@example(b"a = " + DEEP.encode())
def test_plans(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.toml").write_bytes(content)
    refused_or_fine(lambda: device_of(read_plan(tmp_path / "plan.toml")))


@quick
@given(texts(MANIFEST))
def test_manifests(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    refused_or_fine(lambda: read_bundle(tmp_path))


@quick
@given(texts(REPORT))
@example(DEEP.encode())
def test_reports_of_boards(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    refused_or_fine(lambda: read_report(tmp_path / "report.json"))
    if content != DEEP.encode():
        refused_or_fine(lambda: _checked(Board("host"), content))


@quick
@given(st.lists(texts({"time_s": 1.0, "phase": "x", "step": 1}), max_size=4).map(b"\n".join))
@example(DEEP.encode())
def test_logs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    refused_or_fine(lambda: read_log(tmp_path / "log.jsonl"))


@quick
@given(texts(TIMES), texts(OUTPUT), st.text(max_size=500))
@example(DEEP.encode(), DEEP.encode(), "")
def test_what_trtexec_writes(times: bytes, output: bytes, log: str) -> None:
    text = times.decode("utf-8", "replace")
    refused_or_fine(lambda: trtexec_output.times_in(text, "8.2.1"))
    refused_or_fine(lambda: trtexec_output.times_in(text, "10.3.0"))
    refused_or_fine(lambda: trtexec_output.output_in(output.decode("utf-8", "replace")))
    trtexec_output.errors_in(log)
    refused_or_fine(lambda: trtexec_lines.described("trtexec", log))


@quick
@given(st.one_of(st.text(max_size=60), st.text(max_size=40).map(lambda t: f"ssh://{t}"), ADDRESSES))
@example("ssh://host:" + "9" * 5_000)
@example("ssh://" + "[" * 5_000)
@example("ssh://h/" + "%41" * 20_000)
def test_addresses_of_boards(url: str) -> None:
    refused_or_fine(lambda: board_of(url))


def test_the_documents_are_good_before_they_are_spoilt(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(toml(PLAN))
    assert device_of(read_plan(tmp_path / "plan.toml")).limits.latency_ms == 2.0
    (tmp_path / "report.json").write_text(json.dumps(REPORT), encoding="utf-8")
    assert read_report(tmp_path / "report.json") == REPORT and _checked(Board("h"), json.dumps(REPORT).encode())
    (tmp_path / "p.toml").write_bytes(toml(table("cpu")))
    assert dataclasses.replace(load_profile(tmp_path / "p.toml"), name="cpu") == load_profile("cpu")
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    with pytest.raises(EdgekdError, match=r"x\.onnx is missing"):
        read_bundle(tmp_path)
    assert trtexec_output.times_in(json.dumps(TIMES), "8.2.1")["compute"] == [1.0]
    assert trtexec_output.output_in(json.dumps(OUTPUT)).tolist() == [[1.0, 2.0]]
