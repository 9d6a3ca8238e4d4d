"""What the shell completes, asked as a shell asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgekd import completion
from edgekd.methods import METHODS
from edgekd.prior import NAMES
from edgekd.profile_rules import PRECISIONS


def completed(line: str) -> list[str]:
    """What bash is offered after `line`; the last word is the one to complete."""
    words = line.split(" ")
    environment = os.environ | {
        "_EDGEKD_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = (
        "import sys; sys.argv = ['edgekd']\n"
        "from edgekd.__main__ import app\n"
        "try: app(prog_name='edgekd')\n"
        "finally: assert not {'torch', 'onnx', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Error" not in done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted", "other"),
    [
        ("edgekd plan t.pt --profile jetson-n", "jetson-nano", "rpi-5"),
        ("edgekd compress t.pt --method rd", "rdskd_plus", "dafl"),
        ("edgekd compress t.pt --student mobilenet", "mobilenetv2", "resnet"),
        ("edgekd compress t.pt --precision f", "fp16", "int8"),
        ("edgekd profiles show rpi", "rpi-4b", "jetson"),
        ("edgekd explain E031", "E0312", "E0401"),
        ("edgekd schema re", "report", "manifest"),
    ],
)
def test_as_a_shell_asks(line: str, wanted: str, other: str) -> None:
    offered = completed(line)
    assert wanted in offered and other not in offered


def test_names_are_those_of_the_modules() -> None:
    assert set(completion.methods("")) == set(METHODS)
    assert set(completion.priors("")) == set(NAMES)
    assert set(completion.graph_precisions("")) == set(PRECISIONS)
    known = {name for method in METHODS.values() for name in method.BUDGETS}
    assert set(completion.budgets("")) == known
    assert "jetson" in completion.profiles("jets") and completion.profiles("nothing") == []
    assert completion.device_classes("j") == ["jetson"]


def test_students_are_students() -> None:
    from edgekd import Images
    from edgekd.families import FAMILIES, named

    images = Images(3, 32, 32, (0.5,) * 3, (0.5,) * 3)
    for name in completion.students(""):
        assert name in ("auto", *FAMILIES) or named(name, images, ("a", "b")), name
