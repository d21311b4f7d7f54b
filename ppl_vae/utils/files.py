"""Files: a person's own arrays read with an error that says what is wrong, results written whole."""

import lzma
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ppl_vae.errors import InputError, reason

Array = np.ndarray[Any, Any]
IN_MEMORY = 2**30  # bytes; a larger .npy file is memory-mapped
UNREADABLE = (  # what numpy and zipfile raise for broken files
    ValueError, OSError, EOFError, KeyError, AttributeError, TypeError, NotImplementedError, RuntimeError, MemoryError,
    SyntaxError, OverflowError, UnicodeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` only once it is complete.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as problem:
        raise InputError(
            f"Expected to write {path}; got: {problem.strerror or problem}. Choose another place, or free some space."
        ) from None
    finally:
        if temporary.exists():
            temporary.unlink()


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


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a `.npz` file by name, or of a `.npy` file as x.

    What a header says of shapes is held against the size of the file before memory is taken for it.

    Raises:
        InputError: the file is of another kind, corrupt or truncated, or holds Python objects or nothing.
    """
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"Expected a .npy or .npz file or a folder of images; got {path}.")
    size = regular_file(path, f"a {path.suffix} file").stat().st_size
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                _check_header(file, size)
            return {"x": _native(np.load(path, mmap_mode="r" if size > IN_MEMORY else None, allow_pickle=False))}
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, size)
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: _native(arrays[key]) for key in arrays.files}
    except UNREADABLE as problem:
        raise InputError(
            f"Expected {path} to be a whole {path.suffix} file of numbers; got one that cannot be read "
            f"({reason(problem)}). Write it again with numpy.save{'z' * (path.suffix == '.npz')}."
        ) from None
    if not found:
        raise InputError(f"Expected arrays in {path}; got none. Write it again with numpy.savez.")
    return found


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive of more than one can hold, or whose arrays are not as long as they say."""
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(IN_MEMORY // 4, 200 * size):
        raise ValueError(f"{size} bytes that would be {unpacked}, too many to unpack")
    for member in members:
        if member.filename.endswith(".npy"):  # numpy gives the others as bytes
            with archive.open(member) as file:
                _check_header(file, member.file_size)


def _check_header(file: IO[bytes], size: int) -> None:
    """Refuse an array whose header speaks of more bytes than there are."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Python objects")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"a header of shape {shape!s:.60} and {dtype} in {size} bytes")


def _native(array: Array) -> Array:
    # PyTorch takes numbers in this machine's byte order only, and floats of 64 bits at most.
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    dtype = np.dtype(np.float64) if wide else array.dtype.newbyteorder("=")
    return array if array.dtype == dtype else array.astype(dtype)


def write_array(path: Path, array: Array) -> None:
    """Write an array to a `.npy` file, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
