"""What the shell completes: names that are known without torch."""

from __future__ import annotations

from pathlib import Path

from edgekd.families import DEEP, FAMILIES, PUBLISHED

BUDGETS = ("fast", "good", "best", "paper")
PRECISIONS = ("fp32", "fp16", "int8")
EXAMPLES = (
    "resnet:1x16",
    "mobilenetv2:0.35",
    "mobilenetv3:0.35",
    "mcu:2x8",
    "cnn:8",
    "lenet:3",
    "pruned:0.5",
    "wrn16-1",
)


def _starting(incomplete: str, *names: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """Profiles that come with edgekd and the user's own."""
    from edgekd.profile import profile_files

    return _starting(incomplete, *sorted(profile_files()))


def device_classes(incomplete: str) -> list[str]:
    """Classes of devices."""
    from edgekd.profile_rules import CLASSES

    return _starting(incomplete, *CLASSES)


def methods(incomplete: str) -> list[str]:
    """Distillation methods: each is a module of its name, and importing them would take torch."""
    files = (Path(__file__).parent / "methods").glob("[!_]*.py")
    return _starting(incomplete, *sorted(path.stem for path in files))


def budgets(incomplete: str) -> list[str]:
    """Budgets of any method."""
    return _starting(incomplete, *BUDGETS)


def precisions(incomplete: str) -> list[str]:
    """Precisions, and auto."""
    return _starting(incomplete, "auto", *PRECISIONS)


def graph_precisions(incomplete: str) -> list[str]:
    """Precisions that a bundle may have."""
    return _starting(incomplete, *PRECISIONS)


def students(incomplete: str) -> list[str]:
    """Families, published networks and an example of each form."""
    return _starting(incomplete, "auto", *FAMILIES, *DEEP, *PUBLISHED, *EXAMPLES)


def priors(incomplete: str) -> list[str]:
    """Priors; pictures are completed by the shell itself when none of these begins so."""
    return _starting(incomplete, "none", "procedural", "photo")
