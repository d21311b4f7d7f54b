"""How many threads: one, or all that the process has, whichever does the work at hand sooner.

OpenMP's threads wait for each other at the end of every operation, so all of them stand still while another program
holds one of them up. Small networks gain little from threads, and beside a busy neighbour steps of theirs have taken
fifty times as long with two as with one. No rule knows the neighbours; a short trial does.
"""

import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self, TypeVar

import torch

from ppl_vae.errors import InputError

T = TypeVar("T")
Work = Callable[[], object]
Trial = Callable[[], AbstractContextManager[Work]]  # within it, a unit of work can be repeated without a trace

AHEAD = 0.85  # of one thread's time, at most, for all threads: where it hardly matters, one is disturbed by nobody
FEW = 8  # units of work; fewer are not worth a trial
TRIAL_SECONDS, TRIAL_ROUNDS = 0.25, 30
PAUSE = 30  # times a trial's own seconds before the next
WINDOW, SLOW = 9, 1.5  # units of work whose median is looked at, and how far above the least median it is slow


class Threads:
    """Within it work is done by so many threads; at the end, however it ends, the process has as many as before.

    More threads round sums in another order, so results are the same up to rounding only. Where threads do not matter
    (one is all that the process has, or the work is on a GPU) nothing is tried.

    Args:
        wanted: how many, or "auto": as it is until a trial says whether one is faster.
        device: of the work.

    Raises:
        InputError: it is neither a whole number of at least 1 nor "auto".

    >>> from contextlib import nullcontext
    >>> with Threads(1) as threads:
    ...     threads.run(torch.get_num_threads, lambda: nullcontext(lambda: None))
    1
    """

    def __init__(self, wanted: int | str, device: torch.device | None = None) -> None:
        check_threads(wanted)
        self.wanted, self.on_cpu = wanted, device is None or device.type == "cpu"
        self.all = 1  # that "auto" may use
        self._seconds: list[float] = []
        self._usual, self._next_trial = math.inf, 0.0

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        if isinstance(self.wanted, int):
            torch.set_num_threads(self.wanted)
        elif self.on_cpu:
            self.all = self._before
        return self

    def __exit__(self, *problem: object) -> None:
        torch.set_num_threads(self._before)

    def choose(self, trial: Trial, count: int) -> None:
        """Try a unit of work with one thread and with all, in turn, for a quarter of a second, and keep the faster.

        Args:
            trial: makes the context in which a unit can be repeated without a trace.
            count: units to come; of few, nothing is tried.
        """
        if self.all == 1 or count < FEW:
            return
        start = time.perf_counter()
        spent = {1: 0.0, self.all: 0.0}
        with trial() as work:
            _seconds_with(1, work)  # what is done once only is no part of it
            for _ in range(TRIAL_ROUNDS):
                for number in spent:
                    spent[number] += _seconds_with(number, work)
                if time.perf_counter() - start > TRIAL_SECONDS:
                    break
        torch.set_num_threads(self.all if spent[self.all] < AHEAD * spent[1] else 1)
        self._usual, self._seconds = math.inf, []
        now = time.perf_counter()
        self._next_trial = now + PAUSE * (now - start)

    def run(self, work: Callable[[], T], trial: Trial) -> T:
        """Do a unit of work; where such units have become slow, choose again."""
        if self.all == 1:
            return work()
        start = time.perf_counter()
        result = work()
        self._seconds.append(time.perf_counter() - start)
        if len(self._seconds) == WINDOW:
            median = statistics.median(self._seconds)
            self._usual, self._seconds = min(self._usual, median), []
            if median > SLOW * self._usual and time.perf_counter() > self._next_trial:
                self.choose(trial, FEW)
        return result


def check_threads(wanted: int | str) -> None:
    """Refuse what is not a number of threads."""
    if wanted != "auto" and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1):
        raise InputError(f"Expected threads to be a whole number of at least 1, or 'auto'; got {wanted!r}.")


def seconds_of(work: Work) -> float:
    """Return how long work takes, as far as it can be told without what other programs take.

    That is the processor's time where there is one thread only, and else the clock's.
    """
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    clock = time.thread_time if torch.get_num_threads() == 1 and not on_gpu else time.perf_counter
    start = clock()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def _seconds_with(count: int, work: Work) -> float:
    torch.set_num_threads(count)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
