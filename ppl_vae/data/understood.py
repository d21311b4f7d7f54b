"""What data were understood to be, in one line: how many of which shape, their numbers, what is missing, their labels.

One function for all kinds of data: a shape of one number is rows, of two series, of three images.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ppl_vae.data.shapes import CHANNELS, Numbers, look_at, together
from ppl_vae.data.splits import Split, whole_labels

MOST_NAMES = 8  # classes that are named
FEW = 0.0005  # of the values, below which those that are missing are counted


def understood(parts: Sequence[Split]) -> str:
    """Return what the stored parts of a data set are, in words.

    >>> understood([Split(torch.eye(5, 13), torch.arange(5))])
    '5 rows, 13 columns, 0 and 1'
    """
    first, total = parts[0], sum(map(len, parts))
    numbers = together(*(look_at(values) for values in {id(part.values): part.values for part in parts}.values()))
    said = [_shape(total, tuple(first.event_shape)), *_missing(numbers), _numbers(first, numbers)]
    notes = [note for note in (first.reading, _labels(parts)) if note]
    return "; ".join([", ".join(said), *notes])


def _shape(total: int, shape: tuple[int, ...]) -> str:
    size = " x ".join(map(str, shape))
    if len(shape) == 1:
        return f"{_count(total, 'row')}, {_count(shape[0], 'column')}"
    if len(shape) == 2:
        return f"{total:,} series of {_count(shape[0], 'step')} x {shape[1]:,}"
    if len(shape) == 3 and shape[0] in CHANNELS:
        return f"{_count(total, 'image')} of {size}"
    return f"{_count(total, 'array')} of {size}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _missing(numbers: Numbers) -> list[str]:
    share = numbers.missing / max(1, numbers.count)
    if not numbers.missing:
        return []
    return [f"{share:.1%} missing" if share >= FEW else f"{_count(numbers.missing, 'value')} missing"]


def _numbers(part: Split, numbers: Numbers) -> str:
    if part.num_levels is not None:
        return f"{part.num_levels} grey levels"
    low, high = (value / part.scale for value in (numbers.low, numbers.high))
    if part.binary or (numbers.whole and part.scale == 1 and (low, high) == (0, 1)):
        return "0 and 1"
    if low == high:
        return f"all {low:.4g}"
    return f"{'whole ' * (numbers.whole and part.scale == 1)}numbers from {low:.4g} to {high:.4g}"


def _labels(parts: Sequence[Split]) -> str:
    """Return what is said of labels; nothing where there are none."""
    labels = [part.y for part in parts if part.y is not None]
    if not labels:
        return ""
    without = sum(len(part) if part.y is None else int((~part.labelled).sum()) for part in parts)
    lacking = f", {without:,} data without" if without else ""
    known = [part.y[part.labelled] for part in parts if part.y is not None]
    classes: Any = next((part.classes for part in parts if part.classes), None)
    if classes is not None:
        more = ", ..." * (len(classes) > MOST_NAMES)
        return f"y: {len(classes)} class{'es' * (len(classes) != 1)}, {', '.join(classes[:MOST_NAMES])}{more}{lacking}"
    whole = [whole_labels(y) for y in known]
    if any(y is None for y in whole):
        shape = tuple(labels[0].shape[1:])
        return f"y: {'numbers' if not shape else f'arrays of shape {shape}'}{lacking}"
    found = torch.cat([y for y in whole if y is not None]).unique()
    if not len(found):
        return f"y: no label is known{lacking}"
    return f"y: {_count(len(found), 'label')} from {int(found[0])} to {int(found[-1])}{lacking}"
