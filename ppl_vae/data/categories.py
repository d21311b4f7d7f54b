"""Labels that are names: codes 0 .. C - 1 in their sorted order, with the names kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.errors import InputError, did_you_mean
from ppl_vae.utils.array_files import Array

UNKNOWN = -1  # the code of an empty name: a label that is not known


def is_named(y: Array | None) -> bool:
    """Return whether labels are names."""
    return y is not None and y.dtype.kind in "US" and y.ndim == 1


def coded(
    path: Path, labels: Sequence[Array | None], names: Sequence[str] | None = None
) -> tuple[list[Array | None], tuple[str, ...] | None]:
    """Return labels of several parts as codes, and their names in the order of the codes; numbers stay, without names.

    Args:
        path: where they are from, for messages.
        labels: those of each part, [N], or None.
        names: those that the codes are of; None takes the names that occur, sorted (by their number, if they are such).

    Raises:
        InputError: names and numbers beside each other, one name for all data, a name for each datum, an unknown name.
    """
    named = [is_named(y) for y in labels]
    if not any(named):
        return list(labels), None
    if not all(one or y is None for one, y in zip(named, labels, strict=True)):
        raise InputError(f"Expected labels of one kind in {path}; got names and numbers. Write all as names.")
    words = [None if y is None else _words(y) for y in labels]
    found = sorted({w for some in words if some is not None for w in some.tolist()} - {""}, key=_order)
    total = sum(len(some) for some in words if some is not None)
    if names is None and (len(found) < 2 or len(found) == total):
        dtype = next(y.dtype for y in labels if y is not None)
        got = f"{found[0]!r} for all data" if len(found) == 1 else f"another one for each of {total} data"
        raise InputError(
            f"Expected labels in {path} that tell classes apart; got an array 'y' of dtype {dtype} with "
            f"{got if found else 'empty names only'}. Leave it out, or encode it as numbers."
        )
    known = list(names) if names is not None else found
    if unknown := [word for word in found if word not in known]:
        raise InputError(f"Unknown label {unknown[0]!r} in {path}: {did_you_mean(unknown[0], known)}.")
    codes: dict[str, int] = {name: code for code, name in enumerate(known)} | {"": UNKNOWN}
    return [None if some is None else np.array([codes[w] for w in some.tolist()]) for some in words], tuple(known)


def _words(y: Array) -> Array:
    plain: Array = np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y
    return np.char.strip(plain)


def _order(name: str) -> tuple[bool, int, str]:
    """Return what names are sorted by: numbers by their size, before other names."""
    is_number = name.isdecimal() and len(name) < 19
    return not is_number, int(name) if is_number else 0, name


def code_of(label: Any, names: Sequence[str] | None) -> int:
    """Return the code of a label that is given by its name, or as a number.

    >>> code_of("dog", ("cat", "dog")), code_of(7, None)
    (1, 7)
    """
    word = str(label)
    matching = [code for code, name in enumerate(names or ()) if name == word]
    matching += [code for code, name in enumerate(names or ()) if name.lower() == word.lower()]
    if matching:
        return matching[0]
    if not isinstance(label, str):
        return int(label)
    if word.removeprefix("-").isdecimal() and len(word) < 19:
        return int(word)
    known = did_you_mean(word, names) if names else "these labels have no names; give a whole number"
    raise InputError(f"Unknown label {word!r}: {known}.")
