"""Robustness over settings: a student's top-1 on MNIST over a grid of loss weights, learning rates and batch sizes.

    python benchmarks/robustness.py [--data ../shared/data] [--grids rdskd dafl ...] [--corners] [--share 0.5]
        [--seed 0] [--budget fast] [--set NAME=VALUE ...] [--cells "as set" "student_lr x2" ...]
        [--out benchmarks/results/robustness.jsonl]

One factor at a time around the budget's own settings: each weight x0.2 and x5, each learning rate and the batch x0.5
and x2; --corners adds all rates and the batch together, four cells. --share scales the budget's steps. One JSON line
per cell; the same command goes on where it was stopped. Ends with mean, minimum and spread per grid. No cell is chosen:
the figure is how little the choice matters. --cells runs those of a grid that have one of these names: its spread is
then at least what they show, its worst cell at most.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import table
from methods import parser_of
from pairs import Task, prepared, refusal, run_all
from record import lines

from edgekd import load_teacher
from edgekd.compute import RATES as DEFAULT_RATES
from edgekd.methods import configure, scaled

WEIGHTS, RATES, BATCHES = (0.2, 5.0), (0.5, 2.0), (0.5, 2.0)
OPEN = {  # settings that a method leaves open, as it sets them on MNIST's students
    "student_lr": DEFAULT_RATES["adam"],
    "generator_lr": 1e-3,
    "adversarial": 1.0,
}


@dataclass(frozen=True)
class Grid:
    """A method's settings that are changed. Settings that do nothing are not among them: they would look robust."""

    method: str
    weights: tuple[str, ...]
    rates: tuple[str, ...]
    batches: tuple[str, ...]  # changed together
    prior: str | None = None  # for methods that have a choice


GRIDS: dict[str, Grid] = {
    "rdskd": Grid("rdskd", ("one_hot", "information_entropy", "diversity"), ("generator_lr", "student_lr"), ("batch",)),
    "rdskd_plus": Grid(  # on MNIST's teacher, without BatchNorm, drawn images are not refined: no weights
        "rdskd_plus", (), ("student_lr",), ("batch",), "procedural"
    ),
    "rdskd_plus_no_prior": Grid(  # beside the other methods, which have none
        "rdskd_plus",
        ("authenticity", "balance", "diversity", "adversarial"),
        ("generator_lr", "student_lr"),
        ("batch", "image_batch"),
        "none",
    ),
    "dafl": Grid("dafl", ("one_hot", "information_entropy", "activation"), ("generator_lr", "student_lr"), ("batch",)),
    "mskd": Grid(
        "mskd",
        ("one_hot", "information_entropy", "activation", "mode_seeking"),
        ("generator_lr", "student_lr"),
        ("batch",),
    ),
}


def times(config: Mapping[str, Any], names: tuple[str, ...], factor: float) -> dict[str, float | int]:
    """These settings times a factor; whole numbers stay whole and even (RDSKD compares the halves of a batch)."""
    values = {name: OPEN[name] if config[name] is None else config[name] for name in names}
    return {
        n: 2 * round(v * factor / 2) if isinstance(v, int) else float(f"{v * factor:.6g}") for n, v in values.items()
    }


def cells(grid: Grid, config: Mapping[str, Any], *, corners: bool = False) -> dict[str, dict[str, float | int]]:
    """Name of each cell -> the settings that it changes; config: the method's settings as they are."""
    found: dict[str, dict[str, float | int]] = {"as set": {}}
    for name, factor in product(grid.weights, WEIGHTS):
        found[f"{name} x{factor:g}"] = times(config, (name,), factor)
    for name, factor in product(grid.rates, RATES):
        found[f"{name} x{factor:g}"] = times(config, (name,), factor)
    for factor in BATCHES:
        found[f"batch x{factor:g}"] = times(config, grid.batches, factor)
    for rate, batch in product(RATES, BATCHES) if corners else ():
        both = times(config, grid.rates, rate) | times(config, grid.batches, batch)
        found[f"all rates x{rate:g}, batch x{batch:g}"] = both
    return found


def chosen_of(found: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The cells of these names, all where none is named; a grid need not have every one, but one at least."""
    chosen = {name: cell for name, cell in found.items() if name in names or not names}
    if not chosen:
        raise SystemExit(f"none of --cells is in the grid; there are: {', '.join(found)}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(__doc__, out="robustness.jsonl")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--corners", action="store_true")
    parser.add_argument("--share", type=float, default=0.5, help="of the budget's steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of every cell")
    parser.add_argument("--cells", nargs="+", default=[], metavar="NAME", help="only these of each grid")
    given = parser.parse_args(arguments)
    named = {name: json.loads(value) for name, _, value in (setting.partition("=") for setting in given.set)}
    reason = refusal("mnist", given.data, given.teachers)
    if reason:
        print(f"mnist: {reason}")
        return 1
    try:
        teacher = load_teacher(prepared("mnist", given.data, given.teachers, given.work) / "teacher.pt")
        around, tasks = " ".join([given.budget, f"steps x{given.share:g}", *given.set]), []
        for name in given.grids:
            grid = GRIDS[name]
            chosen = {"prior": grid.prior, **named} if grid.prior else named
            whole = configure(grid.method, given.budget, chosen, teacher)
            config = vars(whole)
            for cell, changed in chosen_of(cells(grid, config, corners=given.corners), given.cells).items():
                settings = scaled(whole, given.share) | named | changed
                options = [f"--prior={grid.prior}"] if grid.prior else []
                options += [f"--set={n}={json.dumps(v)}" for n, v in settings.items()]
                notes = {"grid": name, "cell": cell, "around": around}
                tasks.append(Task("mnist", grid.method, given.budget, tuple(options), given.seed, notes))
        status = run_all(tasks, given.data, given.teachers, given.work, given.out, jobs=given.jobs)
    except KeyboardInterrupt:
        print(f"stopped; the finished cells are in {given.out}, and the same command goes on", flush=True)
        return 130
    table.show("robustness", *table.robustness(lines(given.out)), markdown=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
