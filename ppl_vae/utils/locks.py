"""A folder that is held by one process, so that two cannot write a run into it at once."""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppl_vae.errors import InputError
from ppl_vae.utils.files import is_there

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: dict[tuple[int, int], tuple[int, int]] = {}  # folders by device and number: the thread, and how often
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)  # they are the parent's


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, for the work within: nobody else can, in this process or another.

    The lock is on the folder itself, so that nothing is left of it, and ends with the process. Where there is none
    (Windows, some network file systems) nobody is kept out.

    Raises:
        InputError: somebody else holds it, or it cannot be made.
    """
    if fcntl is None:
        yield
        return
    missing = [place for place in (folder, *folder.parents) if not is_there(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as problem:
        raise InputError(
            f"Expected to write into {folder}; got: {problem.strerror or problem}. Choose another folder (out).",
            options="--out DIR",
        ) from None
    try:
        with _turn(folder, descriptor):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # one that was made for nothing goes again, before it is free
                    for place in missing:
                        place.rmdir()
    finally:
        os.close(descriptor)


@contextmanager
def _turn(folder: Path, descriptor: int) -> Iterator[None]:
    """Lock an open folder, once for all turns of one thread that are inside of each other."""
    status = os.fstat(descriptor)
    key, here = (status.st_dev, status.st_ino), threading.get_ident()
    thread, count = _held.get(key, (here, 0))
    if thread != here or not (count or (_locks(descriptor) and is_there(folder))):
        raise InputError(
            f"Expected a folder in which nobody trains; got {folder}, where another training is going on. Wait for "
            f"its end, or choose another folder (out).",
            options="--out DIR",
        )
    _held[key] = thread, count + 1
    try:
        yield
    finally:
        _held[key] = thread, count
        if not count:
            del _held[key]
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # not by closing it: forked workers have it open, too


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without such locks
        return True
    return True
