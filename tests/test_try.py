"""edgekd try: a picture through a graph whose answers can be computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from edgekd import Images
from edgekd.__main__ import app
from edgekd.bundle import read_bundle, write_bundle
from edgekd.files import plain, write_json
from edgekd.picture import classify, read_picture
from edgekd.profile import load_profile
from edgekd.types import Manifest

COLOUR = Images(3, 4, 6, (0.5,) * 3, (0.25,) * 3)
CLASSES = ("red", "green", "blue")


def means(scale: float) -> onnx.ModelProto:
    """logits: the mean of each channel in [0, 1], times `scale`."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 4, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(scale / 255, np.float32), "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    graphs = {name: tmp_path / f"student.{name}.onnx" for name in ("fp32", "int8")}
    onnx.save(means(2.0), graphs["fp32"])
    onnx.save(means(4.0), graphs["int8"])  # another answer, to tell the two apart
    manifest = Manifest(
        1, "onnxrt", 1, 1, COLOUR, CLASSES, {}, {}, {}, {}, {"sha256": "a" * 64}, {}, plain(load_profile("cpu")), "none"
    )
    write_bundle(tmp_path / "out" / "bundle", manifest, graphs, {"pixels": np.zeros((1, 3, 4, 6), np.uint8)})
    p50 = {"fp32": 0.2, "int8": 0.1}
    report = {"graphs": {name: {"latency_ms": {"p50": ms}} for name, ms in p50.items()}}
    write_json(tmp_path / "out" / "bundle" / "report.json", report)
    return tmp_path / "out" / "bundle"


def flat(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_probabilities_by_hand(bundle: Path, tmp_path: Path) -> None:
    found = classify(read_bundle(bundle), flat(tmp_path / "a.png", (255, 0, 51)), precision="fp32")
    exps = [math.exp(2.0), math.exp(0.0), math.exp(0.4)]  # 51 / 255 = 0.2
    assert [name for name, _ in found.answers] == ["red", "blue", "green"]
    wanted = [exps[0] / sum(exps), exps[2] / sum(exps), exps[1] / sum(exps)]
    assert [share for _, share in found.answers] == pytest.approx(wanted, abs=1e-6)
    assert found.notes == () and found.graph.name == "student.fp32.onnx"


def test_the_fastest_that_was_measured(bundle: Path, tmp_path: Path) -> None:
    picture = flat(tmp_path / "a.png", (0, 255, 0))
    found = classify(read_bundle(bundle), picture)
    assert found.precision == "int8" and found.answers[0][0] == "green"
    assert found.answers[0][1] == pytest.approx(math.e**4 / (math.e**4 + 2))
    (bundle / "report.json").unlink()
    assert "not measured" in classify(read_bundle(bundle), picture).chosen_by


def test_pictures_of_other_kinds(tmp_path: Path) -> None:
    gray = Images(1, 2, 2, (0.5,), (0.25,))
    Image.fromarray(np.full((2, 2), 65535, np.uint16)).save(tmp_path / "deep.png")
    pixels, notes = read_picture(tmp_path / "deep.png", gray)
    assert pixels.tolist() == [[[[255, 255], [255, 255]]]] and "16 bits" in notes[0]
    flat(tmp_path / "big.jpg", (10, 200, 30), (60, 80))
    pixels, notes = read_picture(tmp_path / "big.jpg", COLOUR)
    assert pixels.shape == (1, 3, 4, 6) and notes == ("resized from 60x80 to 6x4, stretched",)
    assert np.abs(pixels[0, :, 0, 0].astype(int) - (10, 200, 30)).max() < 6
    Image.new("RGBA", (6, 4), (255, 0, 0, 255)).save(tmp_path / "alpha.png")
    assert read_picture(tmp_path / "alpha.png", COLOUR)[1] == ("RGBA made RGB",)


def test_a_turned_photograph(tmp_path: Path) -> None:
    array: NDArray[np.uint8] = np.zeros((6, 4, 3), np.uint8)
    array[0] = 255  # the first row, which the camera held on its side is the right column
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    Image.fromarray(array).save(tmp_path / "turned.png", exif=turned)
    pixels, notes = read_picture(tmp_path / "turned.png", COLOUR)
    assert notes == () and pixels[0, 0, :, -1].tolist() == [255] * 4 and not pixels[0, 0, :, :-1].any()


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    picture = flat(tmp_path / "a.png", (0, 0, 255), (12, 8))
    done = CliRunner().invoke(app, ["try", str(bundle.parent), str(picture), "--top", "2"])
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["blue", "96.47%"] and len([line for line in lines if "%" in line]) == 2
    assert "resized from 12x8 to 6x4" in done.stdout and lines[-1].startswith("next      edgekd bench")
    done = CliRunner().invoke(app, ["try", str(bundle), str(picture), "--json"])
    document = json.loads(done.stdout)
    assert document["answers"][0] == {"class": "blue", "probability": pytest.approx(0.9647, abs=1e-4)}
    assert document["precision"] == "int8" and document["notes"] == ["resized from 12x8 to 6x4"]


def test_refusals(bundle: Path, tmp_path: Path) -> None:
    picture = flat(tmp_path / "a.png", (0, 0, 255))
    (tmp_path / "text.jpg").write_text("no picture")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for arguments, code, exit_code in (
        ([str(tmp_path / "nowhere"), str(picture)], "E0701", 7),
        ([str(bundle), str(tmp_path / "missing.png")], "E0346", 3),
        ([str(bundle), str(tmp_path / "text.jpg")], "E0346", 3),
        ([str(bundle), str(tmp_path / "cut.png")], "E0346", 3),
        ([str(bundle), str(tmp_path)], "E0346", 3),
        ([str(bundle), str(picture), "--precision", "fp16"], "E0248", 2),
    ):
        done = CliRunner().invoke(app, ["try", *arguments])
        assert done.exit_code == exit_code and code in done.stderr, done.stderr
    with open(bundle / "student.fp32.onnx", "ab") as graph:
        graph.write(b"x")
    assert CliRunner().invoke(app, ["try", str(bundle), str(picture)]).exit_code == 7


def test_no_picture_has_eight_channels(tmp_path: Path) -> None:
    from edgekd.errors import InputError

    with pytest.raises(InputError) as refused:
        read_picture(flat(tmp_path / "a.png", (0, 0, 0)), Images(8, 2, 2, (0.5,) * 8, (0.5,) * 8))
    assert refused.value.code == "E0347"
