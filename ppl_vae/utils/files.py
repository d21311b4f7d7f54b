"""Files: read whole with an error that says what is wrong, written whole or not at all, in folders of one's own.

A file is written beside its final name, under a random one, synced, and renamed: whoever reads, kills, or pulls the
plug in between finds the previous file. What a killed process left is removed by the next one that comes by.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ppl_vae.errors import InputError, reason

DAY = 86400.0  # seconds
LEFTOVER = re.compile(r"\.ppl-vae-([0-9a-f]{8})-(\d{1,10})-[0-9a-f]{16}\.tmp")


def _place_of_processes() -> str:
    """Return a word for where a process number means something: this boot of this machine, or this container of it."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known += [str(Path("/proc/self/ns/pid").readlink()), Path("/proc/sys/kernel/random/boot_id").read_text()]
    return hashlib.sha256("".join(known).encode()).hexdigest()[:8]


HOST = _place_of_processes()
_tidied: set[Path] = set()  # folders that this process has looked through


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` only once it is complete, and on the disk.

    Raises:
        InputError: the folder cannot be written to, the disk is full, or a folder of a run leads out of it.
    """
    temporary = _temporary_in(path.parent)
    try:
        check_stays_inside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _tidied:
            remove_leftovers(path.parent)
        os.close(_made(temporary))
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as problem:
        raise InputError(
            f"Expected to write {path}; got: {problem.strerror or problem}. Choose another place, or free some space."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_in(folder: Path) -> Path:
    return folder / f".ppl-vae-{HOST}-{os.getpid()}-{secrets.token_hex(8)}.tmp"


def _made(path: Path) -> int:
    """Make a file that is not there yet, not even as a link; return its descriptor."""
    return os.open(path, os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | os.O_WRONLY, 0o666)


def check_stays_inside(path: Path) -> None:
    """Refuse to write through a link in the folder of a run, which may lead to files of somebody else."""
    if _leads_out(path.parent):
        raise InputError(
            f"Expected {path.parent} to be a folder of its run; got a symbolic link, which may lead anywhere. "
            f"Remove it."
        )


def _leads_out(folder: Path) -> bool:
    return folder.is_symlink() and (folder.parent / "run.json").exists()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # which has no way to do so
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that are no more, as far as that can be done and told."""
    _tidied.add(folder)
    with contextlib.suppress(OSError):
        if _leads_out(folder):
            return
        for entry in list(os.scandir(folder)):
            found = LEFTOVER.fullmatch(entry.name)
            if found and not entry.is_dir(follow_symlinks=False) and _is_dead(entry, found[1], int(found[2])):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def _is_dead(entry: os.DirEntry[str], host: str, process: int) -> bool:
    if host == HOST and process != os.getpid() and os.name != "nt":  # there it would be Ctrl-C
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY


def why_not_writable(folder: Path) -> str:
    """Return why files cannot be written into a folder, made if need be, in words; "" if they can."""
    temporary = _temporary_in(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _made(temporary)
        try:
            os.write(descriptor, bytes(4096))
        finally:
            os.close(descriptor)
            temporary.unlink()
    except OSError as problem:
        return problem.strerror or str(problem)
    return ""


def read_file(path: Path, most: int, *, follow: bool = True) -> bytes:
    """Return what a file holds, of at most so many bytes.

    Raises:
        OSError: as `opened`.
    """
    with opened(path, most, follow=follow) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # `most` at once would be taken from memory


def opened(path: Path, most: int, *, follow: bool = True) -> BinaryIO:
    """Open a file of at most so many bytes to be read; nothing that could wait, and no link where none is followed.

    Raises:
        OSError: there is no such file, it is none (a folder, a pipe, a device, a link), or it is larger; `strerror`
            says which.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow and path.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link, which may lead anywhere")
    descriptor = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "a folder, a pipe or a device, which is no file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size:.2g} bytes, of at most {most:.2g}")
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def kind_of(path: Path, what: str = "a file") -> str:
    """Return what is there: "file", "folder", "special" (a FIFO, a device, a socket), or "" for nothing.

    Raises:
        InputError: nobody can say, as the name is too long or is none, or stands in a folder that one may not enter.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as problem:
        raise InputError(f"Expected {what} in {path}; got: {_why(problem)}. Name another.") from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "special"


def is_there(path: Path) -> bool:
    """Return whether there is something of this name, as far as one may look."""
    try:
        return kind_of(path) != ""
    except InputError:
        return False


def regular_file(path: Path, what: str = "a file") -> Path:
    """Return the path of a file that is one: to open a FIFO or a terminal would wait, and a device may have no end.

    Raises:
        InputError: there is none, or a folder, a FIFO, a device or a socket.
    """
    kind = kind_of(path, what)
    if kind != "file":
        found = {"": "no such file", "folder": "a folder", "special": "a FIFO, a device or a socket"}[kind]
        raise InputError(f"Expected {what} in {path}; got {found}. Name a regular file.")
    return path


def check_can_write(path: Path) -> Path:
    """Return a path that can be written to as far as one can know, before the work whose result goes there.

    Raises:
        InputError: a name that is too long or taken by a folder, or a folder that cannot be made or written to.
    """
    there = kind_of(path, "a place to write to")
    folder = next(above for above in path.absolute().parents if is_there(above))
    if there not in ("", "file"):
        why = "there is a folder, a FIFO or a device of this name"
    elif not folder.is_dir():
        why = f"{folder} is no folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = f"{folder} may not be written to"
    else:
        return path
    raise InputError(f"Expected to write {path}; got: {why}. Choose another place.")


def _why(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or reason(problem)
