"""Checks the profiles that come with edgekd and renews what is made from them.

    python benchmarks/profile_sources.py            checks every file, counts where the figures come from
    python benchmarks/profile_sources.py --write    renews profiles/profile.schema.json and docs/devices.md

Exit code 1: a profile has problems, or what is made from the profiles is not what lies there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edgekd.files import data_dir
from edgekd.profile import load_profile, read_table
from edgekd.profile_check import check_file
from edgekd.profile_rules import BASES, CLASSES, figures
from edgekd.profile_schema import json_schema, key_table
from edgekd.types import Profile

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "profiles" / "profile.schema.json"
DOCS = ROOT / "docs" / "devices.md"


def shipped() -> tuple[list[Profile], dict[str, list[str]]]:
    """(profiles that come with edgekd by class, name -> its aliases). The user's own do not count here."""
    profiles: list[Profile] = []
    aliases: dict[str, list[str]] = {}
    for path in sorted(data_dir("profiles").glob("*.toml")):
        table = read_table(path)
        if set(table) == {"alias"}:
            aliases.setdefault(str(table["alias"]), []).append(path.stem)
        else:
            profiles.append(load_profile(path))
    return sorted(profiles, key=lambda p: (CLASSES.index(p.device_class), p.name)), aliases


def device_table() -> str:
    """One row per device."""
    profiles, aliases = shipped()
    rows = ["| profile | device | runtime | opset | builds | pays | limit |", "|---|---|---|---|---|---|---|"]
    for p in profiles:
        names = f"`{p.name}`" + "".join(f", `{alias}`" for alias in aliases.get(p.name, ()))
        runtime = "" if p.runtime is None else f"{p.runtime.name} {p.runtime.version}".strip()
        ceiling = "" if p.runtime is None or p.runtime.opset_max is None else f" of {p.runtime.opset_max}"
        limit = "" if p.limits.latency_ms is None else f"{p.limits.latency_ms:g} ms"
        builds = ", ".join(p.precisions) + (" for a converter" if p.target == "onnx" else "")
        rows.append(
            f"| {names} | {p.summary} | {runtime} | {p.opset}{ceiling} | {builds} | {', '.join(p.pays)} | {limit} |"
        )
    return "\n".join(rows) + "\n"


def basis_table(profiles: Iterable[Profile]) -> str:
    """How many figures of each kind are measured, the vendor's or derived."""
    counts: dict[str, Counter[str]] = {}
    for profile in profiles:
        for key, figure in figures(profile).items():
            counts.setdefault(key.removeprefix("hardware.").partition(".")[0], Counter())[figure.basis] += 1
    rows = [f"| figure | {' | '.join(BASES)} |", "|---|" + "---|" * len(BASES)]
    for name, count in counts.items():
        rows.append(f"| `{name}` | " + " | ".join(str(count[basis]) for basis in BASES) + " |")
    total = sum(counts.values(), Counter())
    rows.append("| all | " + " | ".join(str(total[basis]) for basis in BASES) + " |")
    return "\n".join(rows) + "\n"


def renewed(text: str) -> str:
    """docs/devices.md with its three tables made anew, each between its comment and the end comment."""
    tables = {"devices": device_table(), "bases": basis_table(shipped()[0]), "keys": key_table()}
    for name, table in tables.items():
        begin, end = f"<!-- {name}: made by benchmarks/profile_sources.py -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + table + end + after
    return text


def schema_text() -> str:
    """profile.schema.json as it should lie there."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the schema and the tables of the docs")
    write = parser.parse_args().write
    bad = False
    for path in sorted(data_dir("profiles").glob("*.toml")):
        verdict = check_file(path)
        bad = bad or bool(verdict.problems)
        for finding in (*verdict.problems, *verdict.doubts):
            print(f"{path.name}: {finding.key}: {finding.what}")
    for path, text in ((SCHEMA, schema_text()), (DOCS, renewed(DOCS.read_text(encoding="utf-8")))):
        if write:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is old: run with --write")
            bad = True
    profiles, aliases = shipped()
    print(f"{len(profiles)} profiles, {sum(map(len, aliases.values()))} other names\n{basis_table(profiles)}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
