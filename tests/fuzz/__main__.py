"""Random programs through ppl-vae, by hand: `python -m tests.fuzz --pairs 5000 --seed 7`.

Prints what became of them by production of the grammar, and each failure as a small program that runs. Run it at the
root of the repository.
"""

import argparse
import time
from collections import Counter, defaultdict

import torch

from .grammar import described
from .judge import FAULTS, in_short, judged
from .source import reproduction

KINDS = ("right", "doubted", "unlucky", "refused", "crashed, as in Pyro", "WRONG", "CRASHED")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--pairs", type=int, default=500, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--pair", type=int, help="this pair only, by its number")
    parser.add_argument("--show", type=int, default=3, help="how many failures to print as programs")
    parser.add_argument("--only", default="", help="only pairs with this production, in part")
    parser.add_argument("--brief", action="store_true", help="a line for each failure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, first = time.monotonic(), options.seed * 1_000_000
    by_production, by_method = defaultdict(Counter), defaultdict(Counter)
    sentences, failures, errors, unlucky = defaultdict(list), [], Counter(), []
    numbers = range(first, first + options.pairs) if options.pair is None else [options.pair]
    for seed in numbers:
        pair = described(seed)
        if options.only and not any(options.only in p for p in pair.productions):
            continue
        for outcome in judged(pair):
            by_method[outcome.method][outcome.kind] += 1
            for production in pair.productions:
                by_production[production][outcome.kind] += 1
            if outcome.kind == "refused" and outcome.pyro_runs:
                sentences[(bool(pair.unsound), in_short(outcome.text))].append(seed)
            if outcome.kind == "unlucky":
                unlucky.append(f"  {seed} by {outcome.method}, guide: {pair.guide_kind}: {outcome.text}")
            if outcome.kind in FAULTS and options.brief:
                parts = ", ".join(sorted(pair.productions))
                print(f"{seed} {outcome.kind} {outcome.method}: {outcome.text[:160]!r} | {parts}", flush=True)
            if outcome.kind in FAULTS:
                failures.append((pair, outcome))
                errors[(outcome.kind, outcome.method, in_short(outcome.text) if outcome.kind == "CRASHED" else "")] += 1
    for table in (by_method, by_production):
        print(f"\n{'':34}" + "".join(f"{k[:10]:>11}" for k in KINDS))
        for name, counts in sorted(table.items()):
            print(f"{name:34}" + "".join(f"{counts[k] or '':>11}" for k in KINDS))
    print("\nrefused though Pyro runs it:")
    for (unsound, text), seeds in sorted(sentences.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"  {len(seeds):4} {'unsound' if unsound else 'SOUND  '} {text}  e.g. {seeds[:3]}")
    print("\nbelieved, and off by no more than honest importance sampling is:")
    print("\n".join(unlucky))
    print("\nfailures:")
    for key, count in errors.most_common():
        print(f"  {count:4} {' '.join(key)}")
    for pair, outcome in failures[: options.show]:
        print(f"\n# {'-' * 100}\n# {outcome.kind} by {outcome.method}: {outcome.text.splitlines()[0]}")
        print(reproduction(pair))
    print(f"{sum(sum(c.values()) for c in by_method.values())} runs in {time.monotonic() - started:.0f} seconds")


if __name__ == "__main__":
    main()
