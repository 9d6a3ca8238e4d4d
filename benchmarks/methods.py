"""Every method on every pair, as RDSKD's paper compares them: last model, several seeds, through the command line.

    python benchmarks/methods.py [--data ../shared/data] [--teachers ../shared/teachers] [--pairs mnist ...]
        [--methods rdskd dafl ...] [--seeds 0 1 2] [--budget fast] [--out benchmarks/results/methods.jsonl]
        [-- COMPRESS OPTIONS, e.g. --prior none]

One JSON line per run. The same command goes on where it was stopped: a run whose pair, method, budget, options, seed
and edgekd version are in the file is not made again, and Ctrl-C loses only the run that is under way. After a change
of a method without a new version, name another file. Top-1 on test images is written down and chooses nothing.
Table and plots: benchmarks/table.py. Robustness over settings: benchmarks/robustness.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pairs import PAIRS, Task, run_all

from edgekd.methods import METHODS

SHARED = Path(__file__).resolve().parents[2] / "shared"


def parser_of(description: str | None, *, out: str) -> argparse.ArgumentParser:
    """The options that this script and robustness.py have in common."""
    results = Path(__file__).parent / "results" / out
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of mnist.npz, cifar10_test.npz, ...")
    parser.add_argument("--teachers", type=Path, default=SHARED / "teachers", help="folder of ready teachers")
    parser.add_argument("--budget", default="fast", help="of every method; samples and seconds are in the results")
    parser.add_argument("--out", type=Path, default=results)
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="prepared teachers are kept here")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time; their seconds and latencies then mean less"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(__doc__, out="methods.jsonl")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("options", nargs="*", help="further options of edgekd compress, behind --")
    given = parser.parse_args(arguments)
    tasks = [  # a whole row of methods before the next seed
        Task(pair, method, given.budget, tuple(given.options), seed)
        for pair in given.pairs
        for seed in given.seeds
        for method in given.methods
    ]
    try:
        return run_all(tasks, given.data, given.teachers, given.work, given.out, jobs=given.jobs)
    except KeyboardInterrupt:
        print(f"stopped; the finished runs are in {given.out}, and the same command goes on", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
