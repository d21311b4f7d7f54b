"""What a file holds, checked, as the parts of a data set: a person's own arrays and images, and fixed splits."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_vae.data.array_names import key_of_all, labels_of, split_keys, usual_names
from ppl_vae.data.categories import coded
from ppl_vae.data.cells import GAP, is_code
from ppl_vae.data.image_files import read_image_folder
from ppl_vae.data.shapes import BYTE, Kind, Numbers, look_at, reading_of, together
from ppl_vae.data.splits import Split, hidden_in_words, is_known, whole_labels
from ppl_vae.errors import InputError
from ppl_vae.missing import with_mask
from ppl_vae.utils.array_files import Array, read_arrays
from ppl_vae.utils.faults import warn
from ppl_vae.utils.files import kind_of

_SEED = 19  # of the fixed splits


def split_at_random(values: Any, sizes: tuple[int, int], y: Any = None, scale: float = 1.0) -> tuple[Split, ...]:
    """Split at random, always the same way, into the rest, `sizes[0]` and `sizes[1]`."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(_SEED))
    counts = [len(values) - sum(sizes), *sizes]
    if min(counts) < 1:
        raise InputError(f"Expected at least 3 data, one for each split; got {len(values)}.")
    labels = None if y is None else torch.as_tensor(y)
    return tuple(Split(values, r, None if labels is None else labels[r], scale) for r in order.split(counts))


def own_data(path: Path, kind: Kind = None) -> tuple[Split, ...]:
    """Return the three parts of a person's own file or folder."""
    arrays, noted = _arrays(path, kind)
    keys = split_keys(arrays)
    if not keys or (len(keys) < 3 and "x" in arrays):
        key = key_of_all(path, arrays)
        _say_unread(path, arrays, [key])
        whole = checked_parts(path, arrays, [key], kind=kind, noted=noted)[0]
        tenth = max(1, len(whole) // 10)
        chosen = split_at_random(whole.values, (tenth, tenth), whole.y, whole.scale)
        return tuple(replace(whole, rows=part.rows, y=part.y) for part in chosen)
    _say_unread(path, arrays, keys)
    named = dict(zip(keys, checked_parts(path, arrays, keys, kind=kind, noted=noted), strict=True))
    for lacking in (name for name in ("validation", "test") if name not in named):
        named |= _held_out(named["train"], lacking)
    return named["train"], named["validation"], named["test"]


def _held_out(train: Split, lacking: str) -> dict[str, Split]:
    """Take a tenth of the training data, always the same, for a part that a file does not hold."""
    tenth = max(1, len(train) // 10)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_SEED))
    if len(train) - tenth < 1:
        raise InputError(f"Expected at least 2 training data, of which one is for {lacking}; got {len(train)}.")
    said = f"a tenth of train is taken for {lacking}"
    train = replace(train, reading="; ".join(filter(None, (train.reading, said))))
    return {"train": train[order[tenth:].sort().values], lacking: train[order[:tenth].sort().values]}


def read(path: str | os.PathLike[str], kind: Kind = None, classes: Sequence[str] | None = None) -> Split:
    """Read a person's own data without splitting them: `x` (with `x_mask` and `y`) of a file, or a folder of images.

    Args:
        path: the file or the folder.
        kind: what its arrays are, as in `ppl_vae.data.load`.
        classes: the names of labels that are known already, in the order of their codes.
    """
    arrays, noted = _arrays(Path(path), kind)
    if "x" not in arrays:
        raise InputError(f"Expected {path} to hold x; got {', '.join(arrays) or 'nothing'}. Rename its array.")
    _say_unread(Path(path), arrays, ["x"])
    return checked_parts(Path(path), arrays, ["x"], kind=kind, noted=noted, classes=classes)[0]


def _say_unread(path: Path, arrays: dict[str, Array], keys: Sequence[str]) -> None:
    """Say which arrays of a file count for nothing: a mask or labels under another name would be dropped unseen."""
    read = {name for key in keys for name in (key, labels_of(key), f"{key}_mask")}
    if unread := [name for name in arrays if name not in read]:
        warn(
            f"{path} holds arrays that are not read: {', '.join(unread)}. Beside {', '.join(keys)}, "
            f"{labels_of(keys[0])} (labels) and {keys[0]}_mask (1 where a value is known) would be."
        )


def _arrays(path: Path, kind: Kind) -> tuple[dict[str, Array], str]:
    """Return the arrays of a file or a folder by their usual names, and what was done to images, in words."""
    found = kind_of(path, "a data file or folder")
    if not found:
        raise InputError(f"Expected a data file or folder; got {path}, which does not exist.")
    if found == "folder":
        return read_image_folder(path, as_stored=kind == "as_stored")
    arrays = read_arrays(path)
    return usual_names(arrays, plain=kind == "as_stored"), ""


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
    """Check one array of a file, and its labels, and make a split of it, as it is stored."""
    return checked_parts(path, arrays, [key], kind="as_stored")[0]


def checked_parts(
    path: Path,
    arrays: dict[str, Array],
    keys: Sequence[str],
    *,
    kind: Kind = None,
    noted: str = "",
    classes: Sequence[str] | None = None,
) -> tuple[Split, ...]:
    """Check arrays of a file, and their labels, and make a split of each: all are read in the same way."""
    labels, names = [arrays.get(labels_of(key)) for key in keys], None
    if kind != "as_stored":
        if any(y is not None for y in labels) and all(y is None or _is_one_hot(y) for y in labels):
            labels = [None if y is None else y.argmax(1) for y in labels]
            noted = "; ".join(filter(None, (noted, "y is one-hot, and read as labels")))
        labels, names = coded(path, [_flat(y) for y in labels], classes)
    for key, y in zip(keys, labels, strict=True):
        _check_arrays(path, key, arrays[key], y)
    xs = [_masked(arrays[key], arrays.get(f"{key}_mask")) for key in keys]
    numbers = together(*(_checked_numbers(path, x) for x in xs))
    if kind != "as_stored":
        _say_code(path, xs, numbers)
    shapes = [x.shape[1:] for x in xs]
    if len(set(shapes)) > 1:
        raise InputError(f"Expected data of one shape in {path}; got {shapes} in its parts. Make them equal.")
    of_bytes = {arrays[key].dtype == np.uint8 for key in keys}
    if len(of_bytes) > 1 and numbers.high > 1 and kind != "as_stored":
        dtypes = ", ".join(dict.fromkeys(str(arrays[key].dtype) for key in keys))
        raise InputError(
            f"Expected numbers of one kind in the parts of {path}; got {dtypes}. Store all as bytes, or none."
        )
    levels = True in of_bytes and numbers.high > 1
    reading = reading_of(path, shapes[0], numbers, is_bytes=False not in of_bytes, kind=kind)
    how: dict[str, Any] = {
        "scale": float(BYTE) if levels else 1.0,
        "binary": bool(levels and numbers.black_and_white and kind != "as_stored"),
        "classes": names,
        "reading": "; ".join(filter(None, (noted, reading.why, _unscaled(reading.event_shape, levels, numbers)))),
    }
    parts = [
        Split(_stored(reading.apply(x)), torch.arange(len(x)), None if y is None else _tensor(y), **how)
        for x, y in zip(xs, labels, strict=True)
    ]
    return _with_whole_labels(path, parts)


def _unscaled(event_shape: tuple[int, ...], levels: bool, numbers: Numbers) -> str:
    """Return what is said of images whose numbers are whole, but are not stored as bytes: nobody scales them."""
    if len(event_shape) != 3 or levels or not numbers.whole or not 1 < numbers.high <= BYTE or numbers.low < 0:
        return ""
    return "not divided by 255, as they are no bytes; save x.astype('uint8') for grey levels in [0, 1]"


def _is_one_hot(y: Array) -> bool:
    """Return whether labels [N, C] have a single 1 in each row, and else zeros."""
    numbers = y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "buif"
    return numbers and bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all())


def _flat(y: Array | None) -> Array | None:
    """Return labels [N, 1] as [N], if they are names or whole numbers."""
    one = y is not None and y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in "buiUS"
    return y.reshape(-1) if y is not None and one else y


def _check_arrays(path: Path, key: str, x: Array, y: Array | None) -> None:
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


def _masked(x: Array, mask: Array | None) -> Array:
    return x if mask is None else with_mask(np.ascontiguousarray(x), mask).numpy()


def _checked_numbers(path: Path, x: Array) -> Numbers:
    """Refuse data with infinite values, or with none that is observed; NaN is a missing value."""
    numbers = look_at(x)
    if numbers.infinite:
        raise InputError(
            f"Expected finite numbers in {path}; got infinity in {numbers.infinite} data, first in row "
            f"{numbers.first_infinite}. Remove or replace them; NaN marks what is missing."
        )
    largest = torch.finfo(torch.get_default_dtype()).max
    if numbers.count > numbers.missing and max(-numbers.low, numbers.high) > largest:
        raise InputError(
            f"Expected numbers in {path} below {largest:.2g}, as {torch.get_default_dtype()} holds; got values from "
            f"{numbers.low:.3g} to {numbers.high:.3g}. Give them in another unit."
        )
    if numbers.missing == numbers.count:
        raise InputError(f"Expected numbers in {path}; got NaN only. Write the file again.")
    return numbers


def _say_code(path: Path, xs: Sequence[Array], numbers: Numbers) -> None:
    """Say which number comes back far from all others, as the code of a missing value does: -999."""
    for code in {numbers.low, numbers.high}:
        if not np.isfinite(code) or not is_code(code):
            continue
        others = together(*(look_at(_without(x, code)) for x in xs))
        count = others.missing - numbers.missing
        near = min(abs(code - others.low), abs(code - others.high))
        if count > 1 and others.count > others.missing and near > GAP * (others.high - others.low):
            warn(
                f"{path} holds {code:g} in {count} values, where all others are from {others.low:.4g} to "
                f"{others.high:.4g}. If it stands for a missing value, save np.where(x == {code:g}, np.nan, x)."
            )


def _without(x: Array, code: float) -> Array:
    return np.where(x == code, np.nan, x)


def _stored(values: Any) -> Any:
    return values if isinstance(values, np.memmap) else _tensor(values)


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
