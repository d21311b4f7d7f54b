"""Progress bars: one kind for all long work, shown where somebody looks.

tqdm's own lock, made with the first bar, is one of multiprocessing, and settles how processes are started for good:
`set_start_method` would be refused afterwards. Bars of ours have another one.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm as plain_tqdm
from tqdm.auto import tqdm


class _Bar(tqdm):  # type: ignore[type-arg]
    _lock = threading.RLock()


@contextmanager
def bars_of_others() -> Iterator[None]:
    """Within it PyTorch's compiler may make bars, which nobody sees, and settles nothing by them."""
    if hasattr(plain_tqdm, "_lock"):
        yield
        return
    bars: Any = plain_tqdm
    interval = bars.monitor_interval  # the thread that looks after bars would make the lock later
    bars._lock, bars.monitor_interval = threading.RLock(), 0
    try:
        yield
    finally:
        del bars._lock
        bars.monitor_interval = interval


def progress_bar(total: int, description: str, unit: str, progress: bool | None, *, initial: int = 0) -> Any:
    """Return a progress bar that goes away at its end; with `progress=None` in a terminal and in a notebook only.

    >>> with progress_bar(3, "fit", "epoch", progress=False) as bar:
    ...     _ = bar.update(1)
    """
    seen = False if "ipykernel" in sys.modules else None  # tqdm's None asks whether it writes to a terminal
    disable = seen if progress is None else not progress
    if sys.stderr is None:  # it is closed
        disable = True
    return _Bar(total=total, desc=description, unit=unit, leave=False, disable=disable, initial=initial)
