"""The page of a fleet, and what a single page shows of how it was measured: every figure is held to its report."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from report_folders import graph, output_folder, report
from test_report import HOSTILE, held_to, seen

from edgekd.device import Board, Outcome
from edgekd.errors import MeasurementError
from edgekd.files import write_json
from edgekd.report.fleet import write_fleet
from edgekd.report.page import write_page
from edgekd.report.reading import read_subject

STATE = {
    "governor": "schedutil", "clocks_mhz": {"cpu_fastest": 1510.4, "cpu_slowest": 729.6, "17000000.gpu": 624.75},
    "clock_limit_mhz": 1510.4, "temperatures_c": {"cpu-thermal": 45.5}, "hottest_c": 45.5, "power_mode": "15W (0)",
    "battery": None, "load_1min": 0.1, "gpu_load": None,
}  # fmt: skip


def full(scale: float = 1.0, **more: Any) -> dict[str, Any]:
    """A report of this version's runner with a long run and a meter."""
    found = report(3, scale=scale)
    for name, one in found["graphs"].items():
        t = graph(name, 3, scale, True)["latency_ms"]
        one["latency_ms"]["interval95"] = {
            "p50": [0.99 * t["p50"], 1.01 * t["p50"]],
            "p90": [t["p90"], 1.05 * t["p90"]],
        }
        one["idle_start_ms"] = {"idle_s": 1.0, "queries": 20, "p50": 3 * t["p50"], "max": 5 * t["p50"]}
        one["energy"] = {"watts": 8.0, "joules": 0.008 * scale, "joules_above_idle": 0.002 * scale, "runs": 500}
    windows = [{"at_s": 10.0 * n, "p50": 0.2 + 0.01 * n, "runs": 900, "clock_mhz": 1510.4 - n, "hottest_c": 45.0 + n}
               for n in range(40)]  # fmt: skip
    found |= {
        "condition": {"preflight": [], "before": STATE, "after": STATE | {"hottest_c": 71.0}, "throttled_by": []},
        "warnings": ["governor: schedutil: the clock follows the load"], "throttled": "no", "overhead_us": 21.5,
        "steal_cores": 0.0, "foreign_cores_most": 0.04, "raw": {"file": "raw_latency.npz", "sha256": "b" * 64},
        "energy": {"source": "INA3221, VDD_IN", "idle_w": 6.0, "seconds": 5.0},
        "soak": {"graph": "int8", "said": "slower by 90.0 % at the end than at the start", "minutes": 7,
                 "window_s": 10.0, "drift": 0.9, "steady": False, "windows": windows, "reasons": [], "throttled": "yes",
                 "throttled_by": ["the clock fell from 1510 to 1100 MHz"]},
    }  # fmt: skip
    return found | more


def outcome(host: str, found: dict[str, Any] | None, error: MeasurementError | None = None) -> dict[str, Any]:
    return Outcome(Board(host), found, Path("report.json"), error, 1.0, "2026-01-02T03:04:05Z").document


def test_single_page_shows_how_it_was_measured(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out")
    write_json(folder / "bundle" / "report.json", full())
    page = seen(write_page(read_subject(folder)))
    held_to(page.block(), page)
    shown = {str(attributes["data-at"]) for attributes, _ in page.figures}
    for place in (
        "/report/graphs/fp32/latency_ms/interval95/p50/0", "/report/graphs/fp32/latency_ms/interval95/p90/1",
        "/report/graphs/int8/idle_start_ms/p50", "/report/graphs/int8/idle_start_ms/idle_s",
        "/report/graphs/int8/energy/joules_above_idle", "/report/energy/idle_w", "/report/overhead_us",
        "/report/condition/before/clocks_mhz/cpu_fastest", "/report/condition/after/clocks_mhz/17000000.gpu",
        "/report/condition/after/hottest_c", "/report/soak/windows/0/p50", "/report/soak/windows/38/clock_mhz",
    ):  # fmt: skip
        assert place in shown, place
    words = page.words()
    assert "slower by 90.0 %" in words and "the clock fell from 1510 to 1100 MHz" in words
    assert "Beware: governor: schedutil" in words and "INA3221, VDD_IN" in words and "15W (0)" in words
    assert "Every 2th window" not in words and "one window in 2" in words  # 40 windows, 30 rows at most


def test_page_of_an_older_runner_says_nothing_of_it(tmp_path: Path) -> None:
    words = seen(write_page(read_subject(output_folder(tmp_path / "out")))).words()
    assert "Long run" not in words and "after idle" not in words and "95 % interval" not in words


def test_fleet_page_holds_every_board_and_every_failure(tmp_path: Path) -> None:
    gone = MeasurementError("pi2 does not answer", code="E0510", why="no route", fix="is it on?")
    boards = [outcome("orin", full()), outcome("pi1", report(3, scale=4.0, valid=False)), outcome("pi2", None, gone)]
    (tmp_path / "out").mkdir()
    path = write_fleet(boards, tmp_path / "out" / "bundle")
    assert path == tmp_path / "out" / "boards" / "fleet.html"
    page = seen(path)
    assert page.block() == {"boards": boards}
    assert held_to(page.block(), page) > 60
    words = page.words()
    assert "1 of 3 boards have a valid measurement, 1 failed" in words and "other processes were busy" in words
    assert "E0510" in words and "pi2 does not answer" in words and "is it on?" in words
    assert "Long run, int8: slower by 90.0 %" in words
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 4  # a graph each, and one long run


def test_fleet_without_a_single_report_is_a_page_too(tmp_path: Path) -> None:
    gone = MeasurementError("no answer", code="E0510", why="no route")
    (tmp_path / "out").mkdir()
    page = seen(write_fleet([outcome("a", None, gone), outcome("b", None, gone)], tmp_path / "out" / "bundle"))
    assert "0 of 2 boards" in page.words() and "2 failed" in page.words()


def test_boards_words_stay_words(tmp_path: Path) -> None:
    found = full(warnings=[HOSTILE], throttled=HOSTILE)
    found["device"]["name"] = found["soak"]["said"] = found["condition"]["before"]["governor"] = HOSTILE
    (tmp_path / "out").mkdir()
    path = write_fleet([outcome("a", found), outcome("b", copy.deepcopy(found))], tmp_path / "out" / "bundle")
    page = seen(path)
    assert HOSTILE in page.words() and HOSTILE not in path.read_text(encoding="utf-8")
    assert [dict(a)["type"] for tag, a in page.tags if tag == "script"] == ["application/json"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes), (tag, attributes)


@pytest.mark.parametrize(
    "odd",
    [
        {"soak": {"windows": [{"p50": "x"}]}}, {"soak": 7}, {"soak": {"windows": []}}, {"condition": [1]},
        {"condition": {"before": {"clocks_mhz": [2]}}}, {"warnings": "text"}, {"energy": "much"}, {"throttled": None},
        {"soak": {"windows": [{"p50": 1.0, "at_s": 0.0}], "reasons": 3, "throttled_by": 4}},
    ],
)  # fmt: skip
def test_odd_reports_do_not_break_the_page(odd: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    words = seen(write_fleet([outcome("a", full() | odd)], tmp_path / "out" / "bundle")).words()
    assert "1 of 1 boards" in words
