"""Five hundred random programs: none is wrong and believed, and none that Pyro runs ends in a traceback."""

from collections import Counter

import pytest
from fuzz.grammar import described
from fuzz.judge import FAULTS, judged
from fuzz.source import reproduction

CHUNKS, PAIRS = 20, 25


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_wrong_and_believed(chunk, request):
    """`python -m tests.fuzz` tries more of them, and prints what became of each."""
    first = 100_000 * request.config.getoption("--seed") + PAIRS * chunk
    counts, failures = Counter(), []
    for seed in range(first, first + PAIRS):
        pair = described(seed)
        for outcome in judged(pair, sparing=True):
            counts[outcome.kind] += 1
            if outcome.kind in FAULTS:
                failures.append(f"{outcome.kind} by {outcome.method}: {outcome.text}\n\n{reproduction(pair)}")
    if failures:
        pytest.fail(f"{len(failures)} of {counts.total()} runs failed, the first {failures[0]}", pytrace=False)
    assert counts["right"] >= counts.total() / 3, counts
