"""When to show a progress bar."""

import sys


def hidden(progress: bool | None) -> bool | None:
    """Return tqdm's `disable`: None (the default) shows bars in a terminal and in a notebook only.

    >>> hidden(True), hidden(False)
    (False, True)
    """
    if progress is not None:
        return not progress
    return False if "ipykernel" in sys.modules else None  # None: tqdm asks whether it writes to a terminal
