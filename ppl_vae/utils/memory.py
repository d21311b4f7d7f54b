"""What would need more memory than the machine has is refused before any work, in a sentence."""

import os

from ppl_vae.errors import InputError

BYTES = 4  # of a number in single precision
BATCH = 100  # data that there is to be room for at once


def check_memory(what: str, numbers: int, fix: str = "Ask for fewer.") -> None:
    """Raise an InputError if so many numbers in single precision do not fit into this machine.

    >>> check_memory("2 weights", 2)
    >>> check_memory("layers", 10**18)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ppl_vae.errors.InputError: Expected layers that fit into memory; got 1e+18 numbers, where ... Ask for fewer.
    """
    if numbers * BYTES > (there := _of_the_machine()):
        raise InputError(
            f"Expected {what} that fit into memory; got {float(numbers):.2g} numbers, where this machine has room for "
            f"{there // BYTES:.2g}. {fix}"
        )


def _of_the_machine() -> int:
    """Return how many bytes of memory the machine has; without end where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return 2**63
