"""Reports in headless Chromium: nothing overflows, nothing is fetched, the console is silent, axe-core finds nothing.

Needs Chromium (Debian's package, or EDGEKD_CHROMIUM names another) and the Python packages playwright and
axe-playwright-python.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_folders import output_folder, report
from test_fleet_page import full, outcome

from edgekd.errors import MeasurementError
from edgekd.files import write_json
from edgekd.report.compare import write_comparison
from edgekd.report.fleet import write_fleet
from edgekd.report.page import write_page
from edgekd.report.reading import read_subject

CHROMIUM = os.environ.get("EDGEKD_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
AXE = ((1280, "light"), (390, "dark"))  # seconds each
LONG = "a_class_name_of_one_word_that_is_longer_than_any_column_of_a_telephone_would_ever_be"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("reports")
    folders = [
        output_folder(root / "one", ("cat", LONG, "owl", "fox")),
        output_folder(root / "two", ("cat", LONG), scale=1.5, broken=("latency 3 ms over 2 ms",)),
    ]
    (folders[0] / "boards" / "pi@camera").mkdir(parents=True)
    write_json(folders[0] / "boards" / "pi@camera" / "report.json", report(4, scale=4.0, valid=False))
    write_json(folders[0] / "bundle" / "report.json", full())
    subjects = [read_subject(folder) for folder in folders]
    compared = write_comparison(subjects, root / "compared.html")
    gone = MeasurementError(f"{LONG} does not answer", code="E0510", why="no route to host", fix="is it on?")
    boards = [outcome("pi", full()), outcome(f"orin.{LONG.replace('_', '-')}", full(2.0)), outcome("nano", None, gone)]
    fleet = write_fleet(boards, folders[1] / "bundle")
    return {"one": write_page(subjects[0]), "compared": compared, "fleet": fleet}


@pytest.mark.parametrize("name", ["one", "compared", "fleet"])
def test_page_in_a_browser(browser: Any, pages: dict[str, Path], name: str) -> None:
    for width, scheme in VIEWS:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, said=said: said.append(request.url))
        page.goto(pages[name].as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{name} is {over} px too wide at {width}"
        fetched = [url for url in said if not url.startswith("data:")]
        assert fetched == [pages[name].as_uri()], "the console is not silent, or something was fetched"
        black = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (black == "rgb(255, 255, 255)") is (scheme == "light")
        if (width, scheme) in AXE:
            found = axe.Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        page.close()


def test_page_prints_on_white(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(pages["one"].as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.pdf().startswith(b"%PDF")
    page.close()
