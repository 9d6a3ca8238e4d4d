from __future__ import annotations

from pathlib import Path

import pytest

from edgekd import load_profile
from edgekd.errors import ProfileError, UsageError
from edgekd.files import data_dir
from edgekd.profile import adjusted, profile_names

GOOD = (data_dir("profiles") / "rpi-4b.toml").read_text(encoding="utf-8")


def test_profiles_that_come_with_it() -> None:
    assert set(profile_names()) >= {"cpu", "jetson", "jetson-nano-4gb", "jetson-orin-nano-8gb-super", "rpi-4b", "rpi-5"}
    for name in profile_names():
        profile = load_profile(name)
        assert profile.hardware.source and profile.latency.basis and profile.limits.latency_ms


def test_alias_says_which_board() -> None:
    assert load_profile("jetson").name == "jetson-orin-nano-8gb-super"
    assert load_profile("jetson") == load_profile("jetson-orin-nano-8gb-super")


def test_path_works_as_well_as_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_profile(path).name == "mine"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("latency_ms = 33.0", "latncy_ms = 33.0"), "E0302", "latency_ms"),
        (("opset = 18", "opsett = 18"), "E0302", "opset"),
        (("opset = 18", ""), "E0303", "opset"),
        (("opset = 18", 'opset = "18"'), "E0304", "int"),
        (("opset = 18", "opset = true"), "E0304", "int"),
        (('precisions = ["fp32", "int8"]', 'precisions = "fp32"'), "E0304", "precisions"),
        (('target = "onnxrt"', 'target = "onnx"'), "E0332", "onnxrt"),
        (('precisions = ["fp32", "int8"]', 'precisions = ["fp64"]'), "E0332", "fp64"),
        (("fp32 = 57.6, ", ""), "E0332", "fp32"),
        (("latency_ms = 33.0", "latency_ms = -1"), "E0332", "limits"),
        (("bandwidth_gb_per_s = 5.1", "bandwidth_gb_per_s = 0"), "E0332", "hardware"),
        (("opset = 18", "opset = 99"), "E0332", "opset"),
        (("[limits]", "[limits"), "E0331", "TOML"),
    ],
)
def test_refused_profiles(change: tuple[str, str], code: str, words: str, tmp_path: Path) -> None:
    assert change[0] in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(*change), encoding="utf-8")
    with pytest.raises(ProfileError) as refused:
        load_profile(path)
    assert refused.value.code == code and words in refused.value.what + refused.value.why
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("name", ["jetsn", "nothing-like-it", "../profiles/cpu", "missing.toml"])
def test_unknown_profile(name: str) -> None:
    with pytest.raises(ProfileError) as refused:
        load_profile(name)
    assert refused.value.code == "E0330"
    assert name != "jetsn" or "'jetson'" in refused.value.what


def test_adjusted() -> None:
    profile = load_profile("jetson")
    assert adjusted(profile) == profile
    assert adjusted(profile, latency_ms=0.5).limits.latency_ms == 0.5
    assert adjusted(profile, precision="fp32").precisions == ("fp32",)
    with pytest.raises(UsageError):
        adjusted(load_profile("jetson-nano-4gb"), precision="int8")
