"""Progress bars: one kind for all long work, shown where somebody looks."""

import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int, description: str, unit: str, progress: bool | None, *, initial: int = 0) -> Any:
    """Return a progress bar that goes away at its end; with `progress=None` in a terminal and in a notebook only.

    >>> with progress_bar(3, "fit", "epoch", progress=False) as bar:
    ...     _ = bar.update(1)
    """
    seen = False if "ipykernel" in sys.modules else None  # tqdm's None asks whether it writes to a terminal
    disable = (seen if progress is None else not progress) or (sys.stderr is None or None)  # where it is closed
    return tqdm(total=total, desc=description, unit=unit, leave=False, disable=disable, initial=initial)
