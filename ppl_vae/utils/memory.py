"""Memory: what cannot fit is refused before it is taken, since a system that runs out of it ends the process."""

import math
import os
from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae.errors import InputError

BYTES = 4  # of a number
COPIES = 8  # of each weight while it is trained: its gradient, what the optimizer and the best epoch keep of it, files


def check_fits(shape: Sequence[int], what: str, *, copies: int = 1) -> None:
    """Refuse a tensor of which so many copies would take more than all memory.

    >>> check_fits((10**9, 10**9), "draws")
    Traceback (most recent call last):
    ...
    ppl_vae.errors.InputError: Expected draws that fit into memory; got shape (1000000000, 1000000000). Take fewer.
    """
    if math.prod(shape) * BYTES * copies > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise InputError(f"Expected {what} that fit into memory; got shape {tuple(shape)}. Take fewer.")


class FittingWeights(TorchDispatchMode):
    """Within it, a tensor that could not be trained in memory is not made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the size of a new tensor, and make it."""
        first = next(iter(func._schema.arguments), None)
        if args and first is not None and first.name == "size":
            check_fits(args[0], "weights", copies=COPIES)
        return func(*args, **(kwargs or {}))
