"""Competitors run in turn, round by round, and what is told of their times: medians, ratios within a round, the least.

Other work on the same machine slows all that runs in the same fraction of a second alike: a ratio of two times of one
round says more than a ratio of two medians.
"""

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True)
class Competitor:
    """Something that is timed.

    Attributes:
        work: does `units` units of the work.
        units: steps, samples or floating-point operations done by one call.
        around: makes what a turn happens within.
        finish: waits for what a turn has only begun, within its time.
    """

    work: Callable[[], object]
    units: float = 1.0
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    finish: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Times:
    """Seconds for one unit of a competitor's work in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over rounds."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The fastest round: what the machine does undisturbed."""
        return min(self.seconds)

    def over(self, other: "Times") -> float:
        """Return the median over rounds of the ratio within a round, this one's seconds over the other's."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def scaled(self, factor: float) -> "Times":
        """Return the times for `factor` units."""
        return Times(tuple(factor * value for value in self.seconds))


def in_turn(
    competitors: dict[str, Competitor], rounds: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Times]:
    """Time all competitors, a turn of about so many seconds for each of them in each round.

    The first call of a turn is not timed: it finds the caches and the threads as another competitor left them. Each
    round starts with another one, so that none always comes after the same.
    """
    found: dict[str, list[float]] = {name: [] for name in competitors}
    names = list(competitors)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(one_turn(competitors[name], seconds, clock))
    return {name: Times(tuple(values)) for name, values in found.items()}


def one_turn(competitor: Competitor, seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one unit of work, over as many calls as fit into about so many seconds."""
    with competitor.around():
        competitor.work()
        competitor.finish()
        gc.disable()  # as timeit does: what others left behind is not this one's
        try:
            count, start = 0, clock()
            while count == 0 or clock() - start < seconds:
                competitor.work()
                count += 1
            competitor.finish()
            return (clock() - start) / (count * competitor.units)
        finally:
            gc.enable()
