"""Digests: one short word for a tree of numbers, by which it is known again."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST = 2_000_000  # values in values; what is shared in many places counts in each


def digest_of(value: Any) -> str:
    """Return the SHA-256 of tensors, arrays, numbers and strings in dicts, lists and tuples, to the last bit.

    The order of a dict does not count; a tuple is a list.

    Raises:
        ValueError: there are more than two million values.

    >>> digest_of({"a": torch.zeros(2), "b": 1}) == digest_of({"b": 1, "a": torch.zeros(2)})
    True
    >>> digest_of([1, 2]) == digest_of([[1], 2])
    False
    """
    found = hashlib.sha256()
    _add(found, value, itertools.count())
    return found.hexdigest()


def bytes_of(value: Tensor) -> Any:
    """Return the bytes of a tensor's numbers in their order, as an array; also where one number stands for all."""
    numbers = value.detach().cpu().contiguous().reshape(-1)
    if numbers.stride(0) != 1:  # a single number that was expanded
        numbers = numbers.clone(memory_format=torch.contiguous_format)
    return numbers.view(torch.uint8).numpy()


def _add(found: Any, value: Any, count: Iterator[int]) -> None:
    if next(count) > MOST:
        raise ValueError(f"more than {MOST} values")
    if isinstance(value, Mapping):
        _head(found, "dict", len(value))
        for key in sorted(value, key=lambda key: (type(key).__name__, key)):
            _add(found, key, count)
            _add(found, value[key], count)
    elif isinstance(value, list | tuple):
        _head(found, "list", len(value))
        for one in value:
            _add(found, one, count)
    elif isinstance(value, Tensor):
        _head(found, str(value.dtype), tuple(value.shape))
        found.update(bytes_of(value))
    elif isinstance(value, np.ndarray):
        _head(found, str(value.dtype), value.shape)
        found.update(np.ascontiguousarray(value).tobytes())
    else:
        plain = value.item() if isinstance(value, np.generic) else value
        words = repr(plain)
        _head(found, type(plain).__name__, len(words))
        found.update(words.encode(errors="backslashreplace"))


def _head(found: Any, kind: str, size: Any) -> None:
    found.update(f"{kind} {size}:".encode())
