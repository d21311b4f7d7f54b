"""Files: a person's own arrays and images read with an error that says what is wrong, results written whole."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.errors import InputError, reason

Array = np.ndarray[Any, Any]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
GREY = ("1", "L", "LA")
AT_ONCE = 10_000  # data that are looked at
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
    # PyTorch takes numbers in this machine's byte order only.
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_finite(path: Path, x: Array) -> None:
    """Refuse data with infinite values, or with none that is observed; NaN is a missing value.

    Raises:
        InputError: there are such.
    """
    observed = False
    for start in range(0, len(x), AT_ONCE):
        part = x[start : start + AT_ONCE]
        bad = np.isinf(part).reshape(len(part), -1).any(1)
        if bad.any():
            raise InputError(
                f"Expected finite numbers in {path}; got infinity in {bad.sum()} data, first in row "
                f"{start + int(bad.argmax())}. Remove or replace them; NaN marks what is missing."
            )
        observed = observed or not bool(np.isnan(part).all())
    if not observed:
        raise InputError(f"Expected numbers in {path}; got NaN only. Write the file again.")


def read_images(path: Path) -> Array:
    """Return all images of a folder and its subfolders in order of their names, or one image, [N, C, H, W] of bytes.

    Raises:
        InputError: no images, an unreadable one, or two sizes.
    """
    from PIL import Image

    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"Expected images ({', '.join(IMAGE_SUFFIXES[:3])}, ...) in {path}; got none.")
    images: list[Array] = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode not in (*GREY, "P", "RGB", "RGBA"):
                    raise InputError(
                        f"Expected 8-bit grey or colour images; got mode {image.mode} in {file}. Convert it, or save "
                        f"the numbers as .npy."
                    )
                pixels = np.asarray(image.convert("L" if image.mode in GREY else "RGB"))
        except InputError:
            raise
        except (OSError, SyntaxError, ValueError) as problem:
            raise InputError(f"Expected an image in {file}; got one that cannot be read ({problem}).") from None
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images and pixels.shape != images[0].shape:
            raise InputError(
                f"Expected images of one size and kind in {path}; got {files[0].name} with (channels, height, width) "
                f"= {images[0].shape} and {file.name} with {pixels.shape}. Resize them to one."
            )
        images.append(pixels)
    return np.stack(images)


def write_array(path: Path, array: Array) -> None:
    """Write an array to a `.npy` file, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
