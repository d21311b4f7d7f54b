"""Files: a person's own arrays read with an error that says what is wrong, results written whole."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.errors import InputError, reason

Array = np.ndarray[Any, Any]
IN_MEMORY = 2**30  # bytes; a larger .npy file is memory-mapped


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


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a `.npz` file by name, or of a `.npy` file as x.

    Raises:
        InputError: the file is of another kind, corrupt or truncated, or holds Python objects.
    """
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"Expected a .npy or .npz file or a folder of images; got {path}.")
    try:
        if path.suffix == ".npy":
            large = path.stat().st_size > IN_MEMORY
            return {"x": _native(np.load(path, mmap_mode="r" if large else None, allow_pickle=False))}
        with np.load(path, allow_pickle=False) as archive:
            return {key: _native(archive[key]) for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, AttributeError) as problem:
        raise InputError(
            f"Expected {path} to be a whole {path.suffix} file of numbers; got one that cannot be read "
            f"({reason(problem)}). Write it again with numpy.save."
        ) from None


def _native(array: Array) -> Array:
    # PyTorch takes numbers in this machine's byte order only, and floats of 64 bits at most.
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    dtype = np.dtype(np.float64) if wide else array.dtype.newbyteorder("=")
    return array if array.dtype == dtype else array.astype(dtype)


def write_array(path: Path, array: Array) -> None:
    """Write an array to a `.npy` file, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
