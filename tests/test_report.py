"""Reports: every figure on a page is that of the files, what users wrote stays text, and nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_folders import output_folder, plan, report, sizing

from edgekd.agreement import SETS
from edgekd.bundle import read_bundle
from edgekd.deployed import choose
from edgekd.errors import InputError, IntegrityError
from edgekd.files import plain, write_json
from edgekd.pipeline import Result
from edgekd.profile import load_profile
from edgekd.provenance import command
from edgekd.report.cells import TEXT, at, pointer
from edgekd.report.compare import write_comparison
from edgekd.report.page import write_page
from edgekd.report.reading import read_log, read_subject
from edgekd.report.result import write_result
from edgekd.report.runs import runs
from edgekd.report.verdict import verdict
from edgekd.types import Recipe

HOSTILE = "<script>alert('x')</script>\"><img src=//e.example/x>"
UNITS = {"share": 100.0, "millions": 1e-6}  # what the visible figure is, over the value


@dataclass
class Seen(HTMLParser):
    """What a page holds, as a browser would read it."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    figures: list[tuple[dict[str, str | None], str]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    open_: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open_.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open_[-1] if self.open_ else "", data))
        if self.open_ and self.open_[-1] == "data":
            self.figures.append((self.tags[-1][1], data))

    def block(self) -> Any:
        """The JSON block."""
        return json.loads(next(text for tag, text in self.texts if tag == "script"))

    def words(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))


def seen(path: Path) -> Seen:
    found = Seen()
    found.feed(path.read_text(encoding="utf-8"))
    assert found.open_ == []
    return found


def on_disk(folder: Path) -> dict[str, Any]:
    def read(path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    boards = {path.parent.name: read(path) for path in (folder / "boards").glob("*/report.json")}
    documents = {name: read(folder / f"{name}.json") for name in ("plan", "result", "settings")}
    documents |= {name: read(folder / "bundle" / f"{name}.json") for name in ("manifest", "report")}
    return documents | {"boards": boards}


def held_to(documents: Any, page: Seen) -> int:
    """Compares every figure of a page with the files; gives how many there are."""
    for attributes, text in page.figures:
        value, unit = at(documents, str(attributes["data-at"])), str(attributes["data-unit"])
        assert value is not None and float(str(attributes["value"])) == value, attributes
        digits = float(text.replace(",", "").removesuffix(" %").removesuffix("\N{MULTIPLICATION SIGN}"))
        tolerance = 0.0051 if unit in ("share", "times") else 0.00051
        assert digits == pytest.approx(value * UNITS.get(unit, 1.0), abs=tolerance, rel=1e-3), (attributes, text)
    return len(page.figures)


def test_every_figure_is_that_of_the_files(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out")
    board = folder / "boards" / "pi@camera"
    board.mkdir(parents=True)
    write_json(board / "report.json", report(3, scale=3.0))
    page = seen(write_page(read_subject(folder)))
    documents = on_disk(folder)
    block = page.block()
    assert {name: block[name] for name in documents} == documents
    derived = {"deployed": "fp32", "parameters": 8.0, "macs": 8.0, "mb": 9000 / 4000, "p50": 0.9 / 0.2}
    derived |= {"over_fp32": {"report": {"int8": 0.2 / 0.3}, "boards/pi@camera": {"int8": pytest.approx(0.2 / 0.3)}}}
    assert block["derived"] == derived
    assert held_to(documents | {"derived": block["derived"]}, page) > 150
    shown = {str(attributes["data-at"]) for attributes, _ in page.figures}
    for place in ("/report", "/boards/pi@camera"):
        for name, graph in at(documents, place)["graphs"].items():
            here = f"{place}/graphs/{name}"
            wanted = {f"{here}/{key}" for key, value in graph.items() if isinstance(value, float)}
            wanted |= {f"{here}/latency_ms/{key}" for key in graph["latency_ms"] if key != "histogram"}
            assert wanted <= shown, wanted - shown
    assert "slower than fp32" in page.words() and "Deployable:" in page.words()


def test_confusion_and_classes_are_those_of_the_report(tmp_path: Path) -> None:
    page = seen(write_page(read_subject(output_folder(tmp_path / "out"))))
    shown = {str(attributes["data-at"]): text for attributes, text in page.figures}
    counts = [[shown[f"/report/graphs/fp32/evaluation/confusion/{i}/{j}"] for j in range(3)] for i in range(3)]
    assert counts == [["7", "1", "0"], ["0", "7", "1"], ["1", "0", "7"]]
    assert shown["/report/graphs/teacher/evaluation/by_class/share/2"] == "87.50 %"


def test_what_users_wrote_stays_text_and_nothing_is_loaded(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "a&b<i>'", ("cat", HOSTILE, "$x^2$\x01"))
    board = folder / "boards" / "x"
    board.mkdir(parents=True)
    values = report(3)
    values["device"]["name"] = values["reasons"] = values["runtime"]["version"] = HOSTILE
    values["reasons"], values["valid"] = [HOSTILE], False
    write_json(board / "report.json", values)
    other = output_folder(tmp_path / "other", ("cat", HOSTILE, "fox"))
    subjects = [read_subject(folder), read_subject(other)]
    for path in (write_page(subjects[0]), write_comparison(subjects, tmp_path / "compared.html")):
        page = seen(path)
        text = path.read_text(encoding="utf-8")
        assert [dict(a)["type"] for tag, a in page.tags if tag == "script"] == ["application/json"]
        assert HOSTILE in page.words() and HOSTILE not in text
        for tag, attributes in page.tags:
            assert not any(name == "style" or name.startswith("on") for name in attributes), (tag, attributes)
            for name in ("src", "href", "xlink:href", "action", "srcset"):
                assert str(attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
            for value in attributes.values():
                assert "url(" not in str(value) or "url(#" in str(value)
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
        assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")


def test_policy_allows_this_style_sheet_only(tmp_path: Path) -> None:
    page = seen(write_page(read_subject(output_folder(tmp_path / "out"))))
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    (style,) = (text for tag, text in page.texts if tag == "style")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy is not None and "default-src 'none'" in policy and f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy and "http" not in style and "@import" not in style


def test_verdict_is_on_top(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out", broken=("int8 latency 3 ms over 2 ms",))
    words = seen(write_page(read_subject(folder))).words()
    assert "Not deployable:" in words and "int8 latency 3 ms over 2 ms" in words


def test_what_is_known_without_data(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out", evaluated=False)
    page = seen(write_page(read_subject(folder)))
    words = " ".join(page.words().split())
    assert "is met; how good it is was judged without data, by agreement with its teacher" in words
    assert "This is an estimate from 40 pairs of small images (digits, mnist), not a guarantee" in words
    shown = {str(attributes["data-at"]) for attributes, _ in page.figures}
    wanted = {
        f"sets/{name}/{key}" for name in SETS for key in ("share", "low", "high", "balanced", "images", "largest")
    }
    wanted |= {f"calibration/{name}" for name in ("teacher", "student", "error")} | {"expected/low", "expected/high"}
    wanted |= {f"by_class/{key}/{spot}" for key in ("images", "share") for spot in range(3)}
    assert {f"/manifest/fidelity/{name}" for name in wanted} <= shown
    document = json.loads((folder / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    for found, said in (({"expected": None}, "accuracy is not known"), (None, "")):
        document["fidelity"] = document["fidelity"] | found if found else {}
        write_json(folder / "bundle" / "manifest.json", document)
        words = seen(write_page(read_subject(folder))).words()
        assert said in words and ("Without data" in words) == bool(found)


def test_new_measurement_is_judged_by_the_rule_of_compress(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out")
    slow = report(3, scale=1000.0) | {"made": "2026-02-02T00:00:00Z"}
    write_json(folder / "bundle" / "report.json", slow)
    found = verdict(read_subject(folder).documents)
    assert found.broken == choose(slow, load_profile("cpu"), sizing(("cat", "dog", "owl"))).broken
    assert found.deployable is (not found.broken) and found.broken


def test_folder_of_an_earlier_version_has_a_page(tmp_path: Path) -> None:
    """It did not say which graph to deploy."""
    folder = output_folder(tmp_path / "out")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    del result["deployed"]
    write_json(folder / "result.json", result)
    assert write_page(read_subject(folder)).is_file()


def test_bundle_alone_is_not_judged(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out")
    moved = tmp_path / "elsewhere" / "bundle"
    moved.parent.mkdir()
    (folder / "bundle").rename(moved)
    subject = read_subject(moved)
    page = seen(write_page(subject))
    assert subject.page == moved / "report.html" and "Not judged." in page.words()
    assert verdict(subject.documents).deployable is None


def test_page_without_evaluation_plan_log_images_or_histogram(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out", evaluated=False)
    for name in ("plan.json", "log.jsonl", "images.png", "result.json"):
        (folder / name).unlink()
    values = report(3, evaluated=False)
    for graph in values["graphs"].values():
        del graph["latency_ms"]["histogram"], graph["agreement_by_class"], graph["evaluation"]
    write_json(folder / "bundle" / "report.json", values)
    words = seen(write_page(read_subject(folder))).words()
    assert "keeps no histogram" in words and "agreement with the teacher" in words


def test_many_classes_are_drawn(tmp_path: Path) -> None:
    page = seen(write_page(read_subject(output_folder(tmp_path / "out", tuple(f"c{n}" for n in range(40))))))
    assert any("Confusion matrix of student fp32" in str(a.get("aria-label")) for tag, a in page.tags if tag == "svg")
    assert not any("confusion" in str(a["data-at"]) and "/39/39" in str(a["data-at"]) for a, _ in page.figures)


def test_board_of_another_bundle_is_left_out(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "out")
    board = folder / "boards" / "old"
    board.mkdir(parents=True)
    values = report(3)
    values["graphs"]["int8"]["mb"] = 1.0
    write_json(board / "report.json", values)
    subject = read_subject(folder)
    assert list(subject.devices) == ["this machine"]
    assert subject.notes == ("boards/old measured another bundle and is left out",)


def test_log_goes_on_over_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"time_s": 1, "phase": "a"}\n{"time_s": 5, "phase": "a"}\n{"time_\n{"time_s": 2, "phase": "a"}\n[]\n',
        encoding="utf-8",
    )
    lines, broken = read_log(path)
    assert [line["time_s"] for line in lines] == [1, 5, 7] and broken == 2


def test_comparison_marks_what_compares(tmp_path: Path) -> None:
    folders = [output_folder(tmp_path / "one"), output_folder(tmp_path / "two", scale=2.0, seed=1)]
    subjects = [read_subject(folder) for folder in folders]
    path = write_comparison(subjects, tmp_path / "compared.html")
    page = seen(path)
    documents = {"runs": [on_disk(f) | {"derived": page.block()["runs"][i]["derived"]} for i, f in enumerate(folders)]}
    assert held_to(documents, page) >= 30
    assert path.read_text(encoding="utf-8").count('class="best"') == 6  # three percentiles of fp32 and of int8
    write_json(folders[1] / "bundle" / "report.json", report(3, scale=2.0, valid=False))
    again = write_comparison([read_subject(f) for f in folders], tmp_path / "again.html").read_text(encoding="utf-8")
    assert 'class="best"' not in again and "not every measurement is valid" in again


def test_runs_tells_the_stage_of_each(tmp_path: Path) -> None:
    output_folder(tmp_path / "done", broken=("too slow",))
    half = output_folder(tmp_path / "more" / "half")
    (half / "bundle").rename(tmp_path / "gone")
    new = output_folder(tmp_path / "new")
    (new / "bundle").rename(tmp_path / "gone2")
    (new / "log.jsonl").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("{}", encoding="utf-8")
    found = {line.folder: line for line in runs(tmp_path)}
    assert set(found) == {"done", "more/half", "new"}
    done = found["done"]
    assert (done.stage, done.deployable, done.agreement, done.top1) == ("finished", False, 0.9375, 0.875)
    assert (done.student, done.method, done.prior, done.graph, done.p50_ms) == (
        "resnet:1x8",
        "rdskd",
        "none",
        "fp32",
        0.2,
    )
    assert found["more/half"].stage == "distilling: student 10" and found["new"].stage == "to be distilled"
    assert found["new"].agreement is None and found["new"].deployable is None


def test_what_cannot_be_reported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_subject(tmp_path)
    assert caught.value.code == "E0370"
    folder = output_folder(tmp_path / "out")
    path = folder / "bundle" / "report.json"
    for text, code in (("{}", "E0372"), ("[]", "E0373"), ("{", "E0373"), (None, "E0371")):
        path.write_text(text, encoding="utf-8") if text is not None else path.unlink()
        with pytest.raises(InputError) as caught:
            read_subject(folder)
        assert caught.value.code == code
    values = report(3)
    values["graphs"]["fp32"]["latency_ms"]["p90"] = "<b>"
    write_json(path, values)
    with pytest.raises(InputError, match="not a report"):
        read_subject(folder)
    for code, root in (("E0374", tmp_path / "none"), ("E0375", tmp_path)):
        (folder / "settings.json").write_text("{", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            runs(root)
        assert caught.value.code == code
    (folder / "bundle" / "student.fp32.onnx").write_bytes(b"y" * 4000)
    write_json(path, report(3))
    with pytest.raises(IntegrityError):
        read_subject(folder)


def test_command_line(tmp_path: Path) -> None:
    for name, scale in (("one", 1.0), ("two", 2.0)):
        output_folder(tmp_path / name, scale=scale)

    def edgekd(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "edgekd", *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = edgekd("report", "one", "two", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["page"] == "comparison.html" and (tmp_path / "comparison.html").is_file()
    assert edgekd("report", "one", "-o", "no/such/folder/x.html").returncode == 4
    listed = edgekd("runs", "--json")
    assert [line["folder"] for line in json.loads(listed.stdout)["runs"]] == ["one", "two"]


def test_pointers_and_texts_by_hand() -> None:
    assert pointer("a/b", 1, "~") == "/a~1b/1/~0"
    assert at({"a/b": [0, {"~": 7}]}, pointer("a/b", 1, "~")) == 7 and at({"a": [1]}, "/a/5/x") is None
    assert TEXT["share"](0.98765) == "98.77 %" and TEXT["ms"](0.01234) == "0.012" and TEXT["ms"](1234.56) == "1,234.6"


def test_command_as_a_person_typed_it() -> None:
    assert command(["/usr/lib/x/edgekd/__main__.py", "compress", "a b.pt"]) == "edgekd compress 'a b.pt'"
    assert command(["/x/script.py", "compress"]) == ""


def test_plan_and_result_are_those_that_compress_writes(tmp_path: Path) -> None:
    """The made-up files of these tests have the names that the real ones have."""
    folder = output_folder(tmp_path / "out")
    made_up = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    bundle, size = read_bundle(folder / "bundle"), sizing(("cat", "dog", "owl"))
    graph = choose(report(3), load_profile("cpu"), size)
    result = Result(
        folder, bundle, report(3), size, load_profile("cpu"), Recipe("rdskd", "fast", {}, 0), graph, [], 1.0
    )
    assert write_result(result) == folder / "report.html"
    real = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert real.keys() == made_up.keys() and real["sizing"].keys() == plain(made_up["sizing"]).keys()
    assert real["student"] == "resnet:1x8" and plan()["chosen"]["student"] == "resnet:1x8"
