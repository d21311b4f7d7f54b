"""What the shape of a person's array says that its data are: rows of numbers, images, or series.

An array [N, A, B] is read as images of A x B pixels if A = B, or if it holds grey levels (bytes, or numbers in [0, 1])
and neither side is more than ten times the other; else, and where data end in missing steps, as series of A steps of B
numbers.

An array [N, H, W, C] of 1, 3 or 4 channels, which come last, becomes [N, C, H, W].
"""

from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppl_vae.errors import InputError, is_one_of, shown
from ppl_vae.utils.array_files import Array

Kind = Literal["images", "series", "as_stored"] | None
KINDS = ("images", "series", "as_stored")
CHANNELS = (1, 3, 4)
NARROW = 10  # how much longer than wide an image is at most
AT_ONCE = 10_000  # data that are looked at
BYTE = 255


@dataclass(frozen=True)
class Numbers:
    """What one pass over an array finds: of its numbers those that are observed, and where others are missing."""

    low: float = np.inf
    high: float = -np.inf
    whole: bool = True  # whether all are whole numbers
    black_and_white: bool = True  # whether all are 0 or 255
    ends_early: bool = True  # whether what is missing is whole steps at the end of data
    count: int = 0
    missing: int = 0
    infinite: int = 0  # data with an infinite number
    first_infinite: int = 0  # the first of them

    @property
    def grey(self) -> bool:
        """Whether they may be grey levels as they are."""
        return self.low >= 0 and self.high <= 1


def look_at(x: Any) -> Numbers:
    """Go through an array [N, ...] once."""
    return reduce(_together, (_part(np.asarray(x[i : i + AT_ONCE]), i) for i in range(0, len(x), AT_ONCE)), Numbers())


def together(*found: Numbers) -> Numbers:
    """Return what is found of several arrays together."""
    return reduce(_together, found, Numbers())


def _together(a: Numbers, b: Numbers) -> Numbers:
    return Numbers(
        min(a.low, b.low),
        max(a.high, b.high),
        a.whole and b.whole,
        a.black_and_white and b.black_and_white,
        a.ends_early and b.ends_early,
        a.count + b.count,
        a.missing + b.missing,
        a.infinite + b.infinite,
        a.first_infinite if a.infinite else b.first_infinite,
    )


def _part(x: Array, start: int) -> Numbers:
    if x.dtype.kind != "f":
        low, high = (float(x.min()), float(x.max())) if x.size else (np.inf, -np.inf)
        return Numbers(low, high, True, high == 0 or bool(((x == 0) | (x == BYTE)).all()), True, x.size)
    missing, infinite = np.isnan(x), np.isinf(x).reshape(len(x), -1).any(1)
    seen = x[~missing]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (np.inf, -np.inf)
    return Numbers(
        low,
        high,
        bool((seen == np.round(seen)).all()),
        bool(((seen == 0) | (seen == BYTE)).all()),
        _ends_early(missing),
        x.size,
        int(missing.sum()),
        int(infinite.sum()),
        start + int(infinite.argmax()) if infinite.any() else 0,
    )


def _ends_early(missing: Array) -> bool:
    """Return whether what is missing of data [N, T, ...] is whole steps, with nothing observed after them."""
    if missing.ndim < 3 or not missing.any():
        return True
    steps = missing.reshape(*missing.shape[:2], -1)
    whole: Array = np.all(steps, axis=-1)
    return bool((whole == np.any(steps, axis=-1)).all()) and not bool((whole[:, :-1] & ~whole[:, 1:]).any())


@dataclass(frozen=True)
class Reading:
    """How arrays [N, *shape] are read: the event shape, which axis holds channels that come last, and why, in words."""

    event_shape: tuple[int, ...]
    channels_last: bool = False
    why: str = ""

    def apply(self, x: Any) -> Any:
        """Return an array as it is read; no number is copied."""
        x = np.moveaxis(x, -1, 1) if self.channels_last else x
        return x.reshape(len(x), *self.event_shape)


def reading_of(path: Path, shape: tuple[int, ...], numbers: Numbers, *, is_bytes: bool, kind: Kind = None) -> Reading:
    """Return how arrays [N, *shape] with such numbers are read, or as what they are said to be.

    Raises:
        InputError: another kind than there is, or one that the arrays cannot be.
    """
    if kind is not None and not is_one_of(kind, KINDS):
        raise InputError(f"Expected kind to be {', '.join(map(repr, KINDS))} or None; got {shown(kind)}.")
    if kind == "as_stored":
        return Reading({0: (1,), 2: (1, *shape)}.get(len(shape), shape))
    if len(shape) == 2:
        return _of_two(shape, numbers, is_bytes, kind)
    if len(shape) < 2:
        if kind == "images":
            side = round(shape[0] ** 0.5) if shape else 1
            sides = f"{side}, {side}" if shape and side**2 == shape[0] else "H, W"
            raise InputError(
                f"Expected images [N, H, W] or [N, H, W, C] in {path}; got rows of {shape[0] if shape else 1} numbers. "
                f"Save x.reshape(len(x), {sides}), or leave kind out."
            )
        return Reading((*shape, 1) if kind == "series" and shape else shape or (1,))
    if kind != "series" and len(shape) == 3 and shape[-1] in CHANNELS and _is_side(shape[0]) and _is_side(shape[1]):
        alpha = "; if the fourth is transparency (RGBA), lay them on a background first" * (shape[2] == 4)
        return Reading((shape[2], *shape[:2]), True, f"their channels, which were last, come first{alpha}")
    return Reading(shape)


def _is_side(length: int) -> bool:
    return length > max(CHANNELS)


def _of_two(shape: tuple[int, ...], numbers: Numbers, is_bytes: bool, kind: Kind) -> Reading:
    """Return how an array [N, A, B] is read."""
    a, b = shape
    as_images = Reading((1, a, b))
    if kind is not None:
        return as_images if kind == "images" else Reading(shape)
    if numbers.missing and numbers.ends_early:
        return Reading(shape, why="read as series, as data end in missing steps; kind='images' reads images")
    if a == b:
        return as_images
    if max(a, b) > NARROW * min(a, b):
        return Reading(shape, why=f"read as series, as images are not {a} x {b}; kind='images' reads images")
    if is_bytes or numbers.grey:
        return replace(as_images, why="read as images, as they hold grey levels; kind='series' reads series")
    return Reading(shape, why="read as series, as they hold no grey levels; kind='images' reads images")
