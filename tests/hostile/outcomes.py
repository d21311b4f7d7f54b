"""What became of a hostile question: an answer, a sentence, or one of the faults that there must be none of."""

import contextlib
import resource
import signal
import warnings
from typing import NamedTuple

import ppl_vae

SECONDS, GIGABYTES, LONGEST = 10, 2.0, 700  # of one question; the longest message
PATIENCE = 6  # times as many seconds by the clock: other tests may run beside it


class Outcome(NamedTuple):
    """An answer, or what was said instead, or what went wrong."""

    kind: str  # "answer", "sentence" or "FAULT"
    what: object  # the answer, or words


class Hang(BaseException):
    """A question took too long; no handler of an exception catches it."""


@contextlib.contextmanager
def limited(seconds=SECONDS):
    """Within it, what takes longer ends in `Hang`: so many seconds of the processor, or several times by the clock."""

    def hang(*_):
        raise Hang

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, PATIENCE * seconds)}
    before = {name: signal.signal(name, hang) for name, _ in timers.values()}
    for timer, (_, wait) in timers.items():
        signal.setitimer(timer, wait)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for name, handler in before.items():
            signal.signal(name, handler)


def outcome_of(question):
    """Ask, and tell what came of it."""
    before = peak_memory()
    try:
        with warnings.catch_warnings(), limited():
            warnings.simplefilter("ignore")
            found = Outcome("answer", question())
    except (ppl_vae.InputError, ppl_vae.NonFiniteLossError) as problem:
        said = str(problem)
        whole = len(said) <= LONGEST and "\n" not in said.strip() and said.strip()
        found = Outcome("sentence", said) if whole else Outcome("FAULT", f"no sentence: {said[:300]!r}")
    except Hang:
        found = Outcome("FAULT", f"no answer in {SECONDS} s")
    except Exception as problem:  # what nobody is to see
        found = Outcome("FAULT", f"{type(problem).__name__}: {str(problem)[:300]}")
    if peak_memory() > max(GIGABYTES, before + GIGABYTES / 2):
        return Outcome("FAULT", f"{peak_memory():.1f} GB of memory")
    return found


def peak_memory():
    """Return the most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
