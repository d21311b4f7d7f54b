"""One thread at a time: Pyro's handlers, store and settings, and the random generators, are one for the whole process.

Whoever uses them takes a turn; another thread that wants one waits, and so gets the numbers that it gets alone. A turn
is within another one in the same thread (it is re-entrant), and one lock serves all, so that none waits in a circle.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ppl_vae.utils.faults import warn

PATIENCE = 1.0  # seconds of waiting, until a warning says what for


class _Turns:
    """A re-entrant lock that another thread may give back: garbage collection ends a generator in any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: threading.Thread | None = None
        self._depth, self._number = 0, 0

    def take(self) -> int:
        """Begin a turn and return its number; wait for it while another thread, that is alive, has one."""
        if not (number := self._taken(0.0) or self._taken(PATIENCE)):
            warn(
                "This thread waits for its turn: another one fits, estimates or samples, and Pyro and the random "
                "generators have one state for the whole process. For work side by side use processes."
            )
            while not number:
                number = self._taken(PATIENCE)
        return number

    def _taken(self, seconds: float) -> int:
        me = threading.current_thread()
        with self._changed:
            if self._holder is not me:
                if not self._changed.wait_for(self._is_free, seconds):
                    return 0
                self._holder, self._depth, self._number = me, 0, self._number + 1
            self._depth += 1
            return self._number

    def _is_free(self) -> bool:
        return self._holder is None or not self._holder.is_alive()

    def give_back(self, number: int) -> None:
        """End the innermost part of a turn; of one that another thread has taken over, nothing is left to end."""
        with self._changed:
            if number == self._number and self._depth:
                self._depth -= 1
                if not self._depth:
                    self._holder = None
                    self._changed.notify()

    def leave(self) -> int:
        """Give a whole turn back for a while; return how deep it is."""
        with self._changed:
            if self._holder is not threading.current_thread():
                return 0
            depth, self._holder, self._depth = self._depth, None, 0
            self._changed.notify()
            return depth

    def come_back(self, depth: int) -> None:
        """Take a turn that was left up again, as deep as it was, under the number that it had."""
        if depth:
            number = self._number
            self.take()
            with self._changed:
                self._depth, self._number = depth, number

    def begin_anew(self) -> bool:
        """In a forked child: end the turn of another thread, which is not there; return whether there was one."""
        self._changed = threading.Condition()  # another thread may have been looking at it
        is_anothers = self._holder not in (None, threading.current_thread())
        if is_anothers:
            self._holder, self._depth, self._number = None, 0, self._number + 1
        return is_anothers


_turns = _Turns()
_left_by_others: list[Callable[[], None]] = []  # what a forked child does to be rid of another thread's turn


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Within it no other thread of this process is in here.

    >>> with one_at_a_time(), one_at_a_time():
    ...     pass
    """
    number = _turns.take()
    try:
        yield
    finally:
        _turns.give_back(number)


@contextmanager
def others_turn() -> Iterator[None]:
    """Within it, in a turn, other threads may have theirs: a person's own function may wait for one of them."""
    depth = _turns.leave()
    try:
        yield
    finally:
        _turns.come_back(depth)


def after_fork(forget: Callable[[], None]) -> Callable[[], None]:
    """Call this in a forked child where another thread had a turn, which in the child never ends."""
    _left_by_others.append(forget)
    return forget


def _in_a_child() -> None:
    if _turns.begin_anew():
        for forget in _left_by_others:
            forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_a_child)
