"""Forked processes: they have none of their parent's OpenMP threads, and would wait for them for ever.

Known from the first import of ppl_vae on, and without PyTorch, which may be imported later.
"""

import os
import sys

_forked: set[int] = set()


def is_forked() -> bool:
    """Return whether this process was forked from one that had PyTorch; then it uses one OpenMP thread."""
    return os.getpid() in _forked


def _in_a_child() -> None:
    if "torch" in sys.modules:
        _forked.add(os.getpid())
        sys.modules["torch"].set_num_threads(1)


def watch_forks() -> None:
    """Take note of forks from here on."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=_in_a_child)
