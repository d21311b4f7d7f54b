"""How many threads: one, or all that the process has, whichever does the work at hand sooner.

OpenMP's threads wait for each other at the end of every operation, so all stand still while another program holds one
up: beside a busy neighbour, steps of small networks have taken fifty times as long with two as with one. No rule knows
the neighbours; a short trial does.

A forked process has none of its parent's OpenMP threads, and would wait for them for ever: there it is always one.
"""

import math
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self, TypeVar

import torch

from ppl_vae.errors import InputError, is_one_of, shown, whole_number
from ppl_vae.utils.forks import is_forked
from ppl_vae.utils.one_at_a_time import one_at_a_time

T = TypeVar("T")
Work = Callable[[], object]
Trial = Callable[[], AbstractContextManager[Work]]  # within it, a unit of work can be repeated without a trace

AHEAD = 0.85  # of one thread's time, at most, for all threads: where it hardly matters, one is disturbed by nobody
WORTH = 3.0  # seconds of work with one thread; less is not worth a trial, which beside busy programs may take one
TRIAL_SECONDS, TRIAL_ROUNDS = 0.25, 30
PAUSE = 30  # times a trial's own seconds before the next
MOST = 8  # threads for each processor
WINDOW, SLOW = 9, 1.5  # units of work whose median is looked at, and how far above the least median it is slow


class Threads:
    """Within it work is done by so many threads; at the end, however it ends, the process has as many as before.

    With "auto" it is one, until a trial says that all that the process has are faster. More threads round sums in
    another order. Python's threads wait for each other (`one_at_a_time`): OpenMP's are all at the service of one.

    Raises:
        InputError: it is neither a whole number of at least 1 nor "auto".

    >>> with Threads(1):
    ...     torch.get_num_threads()
    1
    """

    process_has: ClassVar[int | None] = None  # as the outermost found

    def __init__(self, wanted: int | str) -> None:
        self.wanted = check_threads(wanted)
        self.all = 1  # that may be tried
        self._seconds: list[float] = []
        self._usual, self._next_trial, self._count = math.inf, 0.0, 0

    def __enter__(self) -> Self:
        self._turn = one_at_a_time()
        self._turn.__enter__()
        self._before, self._outer = torch.get_num_threads(), Threads.process_has
        Threads.process_has = Threads.process_has or self._before
        self.all = Threads.process_has if self.wanted == "auto" and not is_forked() else 1
        torch.set_num_threads(self.wanted if isinstance(self.wanted, int) else 1)
        return self

    def __exit__(self, *problem: object) -> None:
        Threads.process_has = self._outer
        torch.set_num_threads(1 if is_forked() else self._before)
        self._turn.__exit__(None, None, None)

    def choose(self, trial: Trial, count: int) -> None:
        """Try a unit of work with one thread and with all, in turn, for a quarter of a second, and keep the faster.

        Args:
            trial: makes the context in which a unit can be repeated without a trace.
            count: units to come; where these are done soon enough, one thread does them.
        """
        if self.all == 1 or count < 2:
            return
        start, number = time.perf_counter(), 1
        with trial() as work:
            first = _seconds_with(1, work)  # which may do what is done once only, so that it does not count
            if first * count > WORTH:
                number = self._faster(work)
        torch.set_num_threads(number)
        self._usual, self._seconds, self._count = math.inf, [], count
        now = time.perf_counter()
        self._next_trial = now + PAUSE * (now - start)

    def _faster(self, work: Work) -> int:
        spent, end = {self.all: 0.0, 1: 0.0}, time.perf_counter() + TRIAL_SECONDS
        for _ in range(TRIAL_ROUNDS):
            for number in spent:
                spent[number] += _seconds_with(number, work)
            if time.perf_counter() > end:
                break
        return self.all if spent[self.all] < AHEAD * spent[1] else 1

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
                self.choose(trial, self._count)
        return result


def check_threads(wanted: Any) -> int | str:
    """Return how many threads, as Python's int, or "auto"; refuse a number that no machine of this size is made for."""
    most = MOST * (os.cpu_count() or 1)
    if is_one_of(wanted, ["auto"]):
        return "auto"
    number = whole_number(wanted)
    if number is None or number < 1:
        raise InputError(f"Expected threads to be a whole number of at least 1, or 'auto'; got {shown(wanted)}.")
    if number > most:
        raise InputError(f"Expected threads to be at most {most} on this machine; got {shown(number)}. Ask for fewer.")
    if is_forked() and number > 1:
        raise InputError(
            f"Expected threads=1 in a forked process, in which more of PyTorch's threads would wait for ever; got "
            f"{number}. Leave threads out, or start the process anew (multiprocessing's 'spawn')."
        )
    return number


def seconds_of(work: Work) -> float:
    """Return how long work takes: the processor's time where there is one thread only, and else the clock's."""
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
