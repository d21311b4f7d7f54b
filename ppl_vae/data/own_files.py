"""What a file holds, checked, as the parts of a data set: a person's own arrays and images, and fixed splits."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae.data.splits import Split, hidden_in_words, is_known, whole_labels
from ppl_vae.errors import InputError, reason
from ppl_vae.missing import with_mask
from ppl_vae.utils.array_files import Array, read_arrays
from ppl_vae.utils.faults import warn
from ppl_vae.utils.files import kind_of, regular_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
GREY = ("1", "L", "LA")
AT_ONCE = 10_000  # data that are looked at
_SEED = 19  # of the fixed splits


def check_finite(path: Path, x: Array) -> None:
    """Refuse data with infinite values, or with none that is observed; NaN is a missing value."""
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
    """Return all images of a folder and its subfolders in order of their names, or one image, [N, C, H, W] of bytes."""
    single = kind_of(path, "an image, or a folder of images,") != "folder"
    files = [path] if single else sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"Expected images ({', '.join(IMAGE_SUFFIXES[:3])}, ...) in {path}; got none.")
    images: list[Array] = []
    for file in files:
        regular_file(file, "an image")
        pixels = _pixels(file)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images and pixels.shape != images[0].shape:
            raise InputError(
                f"Expected images of one size and kind in {path}; got {files[0].name} with (channels, height, width) "
                f"= {images[0].shape} and {file.name} with {pixels.shape}. Resize them to one."
            )
        images.append(pixels)
    return np.stack(images)


def _pixels(file: Path) -> Array:
    """Return one image, [H, W] or [H, W, 3] of bytes."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # of more pixels than anybody looks at
            with Image.open(file) as image:
                mode = image.mode
                if mode in (*GREY, "P", "RGB", "RGBA"):
                    return np.asarray(image.convert("L" if mode in GREY else "RGB"))
    except Exception as problem:  # whatever the readers of twenty formats raise
        raise InputError(f"Expected an image in {file}; got one that cannot be read ({reason(problem)}).") from None
    raise InputError(
        f"Expected 8-bit grey or colour images; got mode {mode} in {file}. Convert it, or save the numbers as .npy."
    )


def split_at_random(values: Any, sizes: tuple[int, int], y: Any = None, scale: float = 1.0) -> tuple[Split, ...]:
    """Split at random, always the same way, into the rest, `sizes[0]` and `sizes[1]`."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(_SEED))
    counts = [len(values) - sum(sizes), *sizes]
    if min(counts) < 1:
        raise InputError(f"Expected at least 3 data, one for each split; got {len(values)}.")
    labels = None if y is None else torch.as_tensor(y)
    return tuple(Split(values, r, None if labels is None else labels[r], scale) for r in order.split(counts))


def own_data(path: Path) -> tuple[Split, ...]:
    """Return the three parts of a person's own file or folder."""
    arrays = _arrays(path)
    validation = next((key for key in ("validation", "valid", "val") if key in arrays), None)
    if "train" in arrays and "test" in arrays and validation:
        keys = ("train", validation, "test")
        _say_unread(path, arrays, keys)
        parts = [checked_part(path, arrays, key) for key in keys]
        shapes = [tuple(part.event_shape) for part in parts]
        if len(set(shapes)) > 1:
            raise InputError(f"Expected data of one shape in {path}; got {shapes} in its three parts. Make them equal.")
        scale = max(part.scale for part in parts)  # one scale for all three
        return _with_whole_labels(path, [replace(part, scale=scale) for part in parts])
    key = "x" if "x" in arrays else next((k for k, a in arrays.items() if a.ndim > 1), None)
    if key is None or (len(arrays) > 1 and key != "x"):
        raise InputError(
            f"Expected {path} to hold x (and y), or train, validation and test; got {', '.join(arrays) or 'nothing'}. "
            f"Rename its arrays."
        )
    _say_unread(path, arrays, [key])
    whole = checked_part(path, arrays, key)
    tenth = max(1, len(whole) // 10)
    return _with_whole_labels(path, split_at_random(whole.values, (tenth, tenth), whole.y, whole.scale))


def read(path: str | os.PathLike[str]) -> Split:
    """Read a person's own data without splitting them: `x` (with `x_mask` and `y`) of a file, or a folder of images."""
    arrays = _arrays(Path(path))
    if "x" not in arrays:
        raise InputError(f"Expected {path} to hold x; got {', '.join(arrays) or 'nothing'}. Rename its array.")
    _say_unread(Path(path), arrays, ["x"])
    return _with_whole_labels(Path(path), [checked_part(Path(path), arrays, "x")])[0]


def _say_unread(path: Path, arrays: dict[str, Array], keys: Sequence[str]) -> None:
    """Say which arrays of a file count for nothing: a mask or labels under another name would be dropped unseen."""
    read = {name for key in keys for name in (key, _labels_of(key), f"{key}_mask")}
    if unread := [name for name in arrays if name not in read]:
        warn(
            f"{path} holds arrays that are not read: {', '.join(unread)}. Beside {', '.join(keys)}, "
            f"{_labels_of(keys[0])} (labels) and {keys[0]}_mask (1 where a value is known) would be."
        )


def _labels_of(key: str) -> str:
    return "y" if key == "x" else f"{key}_y"


def _arrays(path: Path) -> dict[str, Array]:
    kind = kind_of(path, "a data file or folder")
    if not kind:
        raise InputError(f"Expected a data file or folder; got {path}, which does not exist.")
    return {"x": read_images(path)} if kind == "folder" else read_arrays(path)


def _with_whole_labels(path: Path, parts: Sequence[Split]) -> tuple[Split, ...]:
    """Let the labels of all parts be integers, if all are whole (also 0.0, 1.0, ..., false, true), else floats.

    Whether -1 is a label that is not known is read off all of them together, and said.
    """
    labels = [whole_labels(part.y) for part in parts]
    if any(y is None and part.y is not None for y, part in zip(labels, parts, strict=True)):
        labels = [None if part.y is None else part.y.to(torch.get_default_dtype()) for part in parts]
        return tuple(replace(part, y=y) for y, part in zip(labels, parts, strict=True))
    known = is_known(torch.cat([y for y in labels if y is not None] or [torch.empty(0, dtype=torch.int64)]))
    if unknown := int((~known).sum()):
        warn(f"{hidden_in_words(unknown, len(known))} ({path})")
    return tuple(replace(part, y=y, hidden=unknown > 0) for y, part in zip(labels, parts, strict=True))


def checked_part(path: Path, arrays: dict[str, Array], key: str) -> Split:
    """Check one array of a file, and its labels, and make a split of it."""
    x, y = arrays[key], arrays.get(_labels_of(key))
    for name, array in ((key, x), ("y", y)):
        if array is not None and (array.dtype.kind not in "buif" or array.ndim == 0):
            raise InputError(
                f"Expected numbers in {path}; got an array {name!r} of dtype {array.dtype} and shape {array.shape}. "
                f"Encode it as numbers, one entry for each datum."
            )
    if x.size == 0:
        raise InputError(f"Expected at least one datum in {path}; got an empty array {key!r} of shape {x.shape}.")
    if y is not None and len(y) != len(x):
        raise InputError(f"Expected as many labels as data in {path}; got {len(y)} for {len(x)}.")
    scale = 255.0 if x.dtype == np.uint8 and x.max() > 1 else 1.0
    if f"{key}_mask" in arrays:
        x = with_mask(np.ascontiguousarray(x), arrays[f"{key}_mask"]).numpy()
    check_finite(path, x)
    shape = {1: (1,), 3: (1, *x.shape[1:])}.get(x.ndim, x.shape[1:])  # images [N, H, W] get their channel
    values = x.reshape(len(x), *shape)
    stored = values if isinstance(x, np.memmap) else torch.from_numpy(np.ascontiguousarray(values))
    labels = None if y is None else torch.from_numpy(np.ascontiguousarray(y))
    return Split(stored, torch.arange(len(x)), labels, scale)
