"""What each ingredient of RDSKD+ is worth: top-1 with everything, and without one ingredient at a time.

    python benchmarks/ablation.py [--pair digits] [--seeds 0 1 2] [--budget fast] [--only NAME ...]
        [--out benchmarks/results/ablation.jsonl] [-- COMPRESS OPTIONS]

Feature maps lead the first 800 steps by themselves: `-- --set=features=1` puts them into all.

Some are taken away only where --only names them, as they are not in every training: "inheritance" (of first weights,
from the teacher), "refinement" (images made beside a prior, whether by a generator or refined), and of colour images
"generator" (refined ones instead of its), "iterations" (rounds instead), "history" (the statistics of earlier batches),
"shift" (images moved while they are made) and "muon" (SGD instead).

One JSON line per run; the same command goes on where it was stopped. Ends with mean, spread and change per ingredient.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import table
from methods import parser_of
from pairs import PAIRS, Task, run_all
from record import lines

WITHOUT: dict[str, tuple[str, ...]] = {  # ingredient -> the options that take it away
    "nothing": (),
    "increments": ("--set=increments=false",),
    "balance": ("--set=balance=0",),
    "diversity": ("--set=diversity=0",),
    "batch_norm": ("--set=batch_norm=0",),
    "adversarial": ("--set=adversarial=0",),
    "replay": ("--set=made_share=0",),
    "rounds": ("--set=rounds=1",),
    "tones": ("--set=tones=false",),
    "warp": ("--set=warp=0",),
    "mixed": ("--set=mixed=0",),
    "features": ("--set=features=0",),
    "early end": ("--set=patience=0",),
    "inheritance": ("--set=inherit=false",),
    "refinement": ("--set=image_steps=0",),
    "generator": ("--set=generated=false",),
    "iterations": ("--set=batch_iterations=1",),
    "history": ("--set=batch_norm_momentum=0",),
    "shift": ("--set=shift=0",),
    "muon": ("--set=optimizer=sgd",),
}
BY_NAME = ("inheritance", "refinement", "generator", "iterations", "history", "shift", "muon")


def rows(out: Path, pair: str, options: tuple[str, ...]) -> list[list[str]]:
    """A row per ingredient that was taken away: name, seeds, mean +- spread in percent, difference to the whole."""
    top1: dict[str, dict[int, float]] = {}
    for line in lines(out):
        if line["pair"] == pair and line["around"] == " ".join(options):
            top1.setdefault(line["without"], {})[line["seed"]] = line["top1"]["fp32"]
    whole = statistics.mean(top1["nothing"].values()) if "nothing" in top1 else None
    found = []
    for name, by_seed in top1.items():
        values = list(by_seed.values())
        change = "" if whole is None else f"{100 * (statistics.mean(values) - whole):+.2f}"
        found.append([name, " ".join(map(str, sorted(by_seed))), table.percent(values), change])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(__doc__, out="ablation.jsonl")
    parser.add_argument("--pair", choices=PAIRS, default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=WITHOUT, default=[name for name in WITHOUT if name not in BY_NAME])
    parser.add_argument("options", nargs="*", help="further options of edgekd compress in every run, behind --")
    given = parser.parse_args(arguments)
    around = tuple(given.options)
    tasks = [
        Task(given.pair, "rdskd_plus", given.budget, (*around, *WITHOUT[name]), seed, notes)
        for seed in given.seeds
        for name in given.only
        for notes in [{"without": name, "around": " ".join(around)}]
    ]
    try:
        status = run_all(tasks, given.data, given.teachers, given.work, given.out, jobs=given.jobs)
    except KeyboardInterrupt:
        print(f"stopped; the finished runs are in {given.out}, and the same command goes on", flush=True)
        return 130
    table.show("ablation", ["without", "seeds", "top-1", "change"], rows(given.out, given.pair, around), markdown=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
