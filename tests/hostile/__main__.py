"""Hostile input by hand: `python -m tests.hostile run_folders --count 2000`, at the root of the repository.

Mutated run folders, Python calls or command lines, or processes that are killed (`kills`): prints what became of them,
how much memory they took, and each fault. It ends with code 1 if there is one.
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

import torch

from . import kills, outcomes, run_folders


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("what", choices=["run_folders", "calls", "command_lines", "kills"])
    parser.add_argument("--count", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        failures = ASK[options.what](options.count, options.seed, Path(work))
    spent = f"{time.monotonic() - started:.0f} s, at most {outcomes.peak_memory():.2f} GB"
    print(f"{options.count} {options.what}, {spent}: {len(failures)} faults")
    print("\n".join(failures))
    sys.exit(bool(failures))


def _folders(count, seed, work):
    results, failures = run_folders.run(count, seed, work)
    print(dict(collections.Counter(outcome.kind for _, _, outcome in results)))
    return failures


def _kills(count, seed, work):
    table, failures = kills.run(count, seed, work)
    print("\n".join(table))
    return failures


def _calls(count, seed, _):
    from . import calls

    return calls.run(count, seed)


def _lines(count, seed, _):
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from .test_command_lines import run

    return [f"{number}: {line} -> {fault}" for number, line, fault in run(count, seed)]


ASK = {"run_folders": _folders, "kills": _kills, "calls": _calls, "command_lines": _lines}

if __name__ == "__main__":
    main()
