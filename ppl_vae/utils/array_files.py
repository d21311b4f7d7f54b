"""A person's own arrays as files, .npy and .npz: their headers are held against their sizes before memory is taken."""

import lzma
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from ppl_vae.errors import InputError, reason
from ppl_vae.utils.files import regular_file, written_whole
from ppl_vae.utils.formats import lines_that_convert

Array = np.ndarray[Any, Any]
IN_MEMORY = 2**30  # bytes; a larger .npy file is memory-mapped
UNREADABLE = (  # what numpy and zipfile raise for broken files
    ValueError, OSError, EOFError, KeyError, AttributeError, TypeError, NotImplementedError, RuntimeError, MemoryError,
    SyntaxError, OverflowError, UnicodeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a `.npz` file by name, or of a `.npy` file as x.

    What a header says of shapes is held against the size of the file before memory is taken for it.

    Raises:
        InputError: the file is of another kind, corrupt or truncated, or holds Python objects or nothing.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise InputError(
            f"Expected a .npy or .npz file or a folder of images; got {path}. Two lines convert it: "
            f"{lines_that_convert(path)}."
        )
    size = regular_file(path, f"a {suffix} file").stat().st_size
    try:
        if suffix == ".npy":
            with path.open("rb") as file:
                _check_header(file, size)
            return {"x": _native(np.load(path, mmap_mode="r" if size > IN_MEMORY else None, allow_pickle=False))}
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, size)
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: _native(arrays[key]) for key in arrays.files}
    except UNREADABLE as problem:
        raise InputError(
            f"Expected {path} to be a whole {suffix} file of numbers; got one that cannot be read "
            f"({reason(problem)}). Write it again with numpy.save{'z' * (suffix == '.npz')}{_as_numbers(problem)}."
        ) from None
    if not found:
        raise InputError(f"Expected arrays in {path}; got none. Write it again with numpy.savez.")
    return found


def _as_numbers(problem: Exception) -> str:
    """Return what to do about arrays of Python objects, which are strings, mostly, or numbers among them."""
    objects = "Python objects" in str(problem) or "Object arrays" in str(problem)
    return ", with .astype(float) of numbers and .astype(str) of names" if objects else ""


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
    if size == 0:
        raise EOFError("No data left in file")
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
