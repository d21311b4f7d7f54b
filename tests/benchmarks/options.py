"""How long to measure, and how far it is."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How long to measure.

    Attributes:
        rounds: how often all competitors have their turn.
        seconds: of a turn.
        batches: the batch sizes.
        architectures: the names of those that are trained.
        quick: whether only to see that it works.
    """

    rounds: int = 15
    seconds: float = 0.2
    batches: tuple[int, ...] = (20, 100, 512)
    architectures: tuple[str, ...] = ("mlp", "gated", "conv")
    quick: bool = False


def say(*words: object) -> None:
    """Tell how far it is, on the standard error: the table alone goes to the standard output."""
    print(*words, file=sys.stderr, flush=True)
