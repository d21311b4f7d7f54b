"""What a column of a table seems to be: `guess`, and what speaks against taking it as it is.

Nothing is guessed where a wrong guess would be silent: a text among numbers, numbers with commas, a code such as -999
are refused in one sentence that says what to write instead. What no model can learn from (a column that is never
observed, constant, an identifier, a date, free text) is left out, with the reason.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ppl_vae.data.cells import EXACT, GAP, Array, Cells, is_code, text_of
from ppl_vae.data.schema import BY_NAME, LEFT_OUT, NUMBERS, Column
from ppl_vae.errors import InputError, shown

ENOUGH = 10  # cells that differ by chance no more
FEW = 20  # values of a scale; categories that stand among numbers
ON_A_SCALE = 5  # data for each of its values, at least
MOST_CATEGORIES = 100
MOST_LABELS = 1000
LARGE = 1e6  # a count above it is a quantity
LEAST_SPREAD = 0.5  # variance of counts beside their mean: no count model has years, which vary less
ROUNDED = 1e-3  # of the range, which rounding may take
DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?"  # 2021-03-04T12:30
    r"|\d{1,2}[-/.]\d{1,2}[-/.](\d{2}|\d{4})([T ].*)?"  # 4.3.2021
    r"|\d{1,2}[. -]+[^\W\d_]{3,}[., -]+(\d{2}|\d{4})([T ].*)?"  # 4. March 2021, 04-Mar-21
    r"|[^\W\d_]{3,}\.? \d{1,2}(st|nd|rd|th)?,? \d{4}([T ].*)?"  # March 4, 2021
    r"|(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"  # 20210304
    r"|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(\s?[AaPp][Mm])?"  # 12:30
)
FIRST_DAY, LAST_DAY = 19000101, 20991231
MEASURED = re.compile(r"[-+]?\d+([.,]\d+)*\s?([^\d\s.,]{1,8})")  # 12.5 kg
DECORATED = re.compile(r"[-+]?[€$£¥]?\s?[-+]?\d+([.,'’ \u00a0\u202f]\d+)*\s?[%€$£¥]?")


def guess(name: str, cells: Cells, where: str) -> Column:
    """Return what a column seems to be.

    Raises:
        InputError: it cannot be told: a text among numbers, numbers with commas, infinity, a code such as -999.
    """
    if why := _no_values(cells):
        return Column(name, LEFT_OUT, why=why)
    observed = ~cells.missing
    declared = getattr(cells.series.dtype, "categories", None)
    if declared is not None:
        return _of_categorical(name, cells, [text_of(each) for each in declared])
    if cells.are_codes:
        return _of_words(name, cells)
    if not np.isnan(cells.numbers[observed]).any():
        return _of_numbers(name, cells, where)
    _refuse_text_among_numbers(name, cells, where)
    return _of_words(name, cells)


def completed(column: Column, cells: Cells, where: str) -> Column:
    """Return what a person says of a column, with its categories, if they are not said, as the cells have them.

    Raises:
        InputError: an ordinal column of words, whose order nobody knows; fewer than two categories, or not two of a
            binary column.
    """
    if column.type not in BY_NAME or column.categories:
        return column
    cells = cells.without(column.missing)
    observed = ~cells.missing
    declared = getattr(cells.series.dtype, "categories", None)
    found = [text_of(each) for each in declared] if declared is not None else _names(cells, column.type == "ordinal")
    are_numbers = not np.isnan(cells.numbers[observed]).any()
    if column.type == "ordinal" and not are_numbers and not getattr(cells.series.dtype, "ordered", False):
        line = Column(column.name, "ordinal", tuple(found[:FEW])).line
        raise InputError(
            f"Expected the order of the categories of column {shown(column.name)} of {where}, the lowest first; got "
            f"words. Write it, for instance {line}."
        )
    if len(found) < 2 or (column.type == "binary" and len(found) != 2):
        count = "two" if column.type == "binary" else "two or more"
        raise InputError(
            f"Expected {count} categories in column {shown(column.name)} of {where}, which is to be {column.type}; got "
            f"{len(found)}{': ' if found else ''}{', '.join(map(repr, found[:5]))}. Name another type."
        )
    return Column(column.name, column.type, tuple(found), column.missing)


def check_rounding(column: Column, cells: Cells, where: str) -> None:
    """Refuse numbers that the default precision makes equal, such as seconds since 1970 that differ by milliseconds.

    Raises:
        InputError: their rounding errors are not far below their spread.
    """
    if column.type not in NUMBERS:
        return
    values = (known := cells.without(column.missing).numbers)[~np.isnan(known)]
    dtype = torch.get_default_dtype()
    rounded = torch.from_numpy(values).to(dtype).double().numpy()
    lost, spread = np.abs(values - rounded).max(initial=0.0), np.ptp(values) if len(values) else 0.0
    if np.isfinite(lost) and spread and lost > ROUNDED * spread:
        raise InputError(
            f"Expected numbers in column {shown(column.name)} of {where} that {dtype} tells apart; got values from "
            f"{values.min():.15g} to {values.max():.15g}, which it rounds by up to {lost:.1g}. Subtract a constant, "
            f"give them in another unit, or leave the column out: {Column(column.name, LEFT_OUT).line}."
        )


def as_label(column: Column, cells: Cells, where: str) -> Column:
    """Return what a column is as a label: whole numbers that are few are classes.

    Raises:
        InputError: a column of which nothing can be learnt.
    """
    if column.is_left_out:
        raise InputError(
            f"Expected a label that says something of each datum; got {shown(column.name)} of {where}, {column.why}. "
            f"Name another column."
        )
    if column.type == "count" and len(found := _names(cells, on_a_scale=False)) <= MOST_CATEGORIES:
        return Column(column.name, "categorical", tuple(found), column.missing)
    return column


def _no_values(cells: Cells) -> str:
    """Return why cells are neither numbers nor words, if they are not."""
    observed = ~cells.missing
    if not observed.any():
        return "never observed"
    if any(isinstance(each, list | tuple | dict | set | np.ndarray) for each in cells.series[observed][:ENOUGH]):
        return "several values in a cell"
    return f"dates, such as {cells.words[observed.argmax()]}" if _is_date(cells) else ""


def _of_categorical(name: str, cells: Cells, names: Sequence[str]) -> Column:
    """Return what a column is whose type in pandas says its categories."""
    occurring = set(cells.words[~cells.missing])
    if len(occurring) == 1:
        return _constant(name, cells)
    if len(names) == 2:
        return Column(name, "binary", tuple(names))
    return Column(name, "ordinal" if cells.series.dtype.ordered else "categorical", tuple(names))


def _of_numbers(name: str, cells: Cells, where: str) -> Column:
    """Return what a column of numbers seems to be."""
    values = cells.numbers[~cells.missing]
    if np.isinf(values).any():
        raise InputError(
            f"Expected finite numbers in column {shown(name)} of {where}; got {cells.at(np.isinf(cells.numbers))}. "
            f"Empty the cell, if it is not known, or leave the column out: {Column(name, LEFT_OUT).line}."
        )
    distinct, counts = np.unique(values, return_counts=True)
    whole = bool((distinct == np.floor(distinct)).all()) and abs(values).max() < EXACT  # all larger ones are
    if len(distinct) == 1:
        return _constant(name, cells)
    if whole and len(distinct) == len(values) >= 2 * ENOUGH:
        return Column(name, LEFT_OUT, why=f"an identifier: all {len(values)} values differ")
    _refuse_codes(name, cells, where, distinct, counts)
    if len(distinct) == 2:
        return Column(name, "binary", tuple(_names(cells, on_a_scale=False)))
    low, high = distinct[0], distinct[-1]
    if whole and low > 0 and high <= FEW and len(values) >= ON_A_SCALE * (high - low + 1):
        return Column(name, "ordinal", tuple(_names(cells, on_a_scale=True)))
    if whole and low >= 0 and high <= LARGE and (low == 0 or values.var() >= LEAST_SPREAD * values.mean()):
        return Column(name, "count")
    return Column(name, "positive" if low > 0 else "real")


def _of_words(name: str, cells: Cells) -> Column:
    """Return what a column of words seems to be."""
    words, kind = cells.words[~cells.missing], "codes" if cells.are_codes else "texts"
    names = _names(cells, on_a_scale=False)
    if len(names) == 1:
        return _constant(name, cells)
    if len(names) == len(words) >= ENOUGH:
        return Column(name, LEFT_OUT, why=f"an identifier: all {len(words)} {kind} differ")
    if len(names) > MOST_CATEGORIES or len(names) > max(ENOUGH, len(words) / 2):
        return Column(name, LEFT_OUT, why=f"free {kind}: {len(names)} different ones in {len(words)} rows")
    return Column(name, "binary" if len(names) == 2 else "categorical", tuple(names), why=_alike(names))


def _alike(names: Sequence[str]) -> str:
    """Return what is to be said of categories that differ by capitals and spaces alone: a typo, or none."""
    plain = [" ".join(name.casefold().split()) for name in names]
    twice = next((one for one in plain if plain.count(one) > 1), None)
    same = [name for name, one in zip(names, plain, strict=True) if one == twice]
    return f"{' and '.join(map(repr, same))} differ by capitals or spaces: are they one?" if same else ""


def _names(cells: Cells, on_a_scale: bool) -> list[str]:
    """Return the categories of a column by name: numbers in their order, words in that of the alphabet.

    Of whole numbers on a scale those between are there, too, if they are not many.
    """
    observed = ~cells.missing
    words, numbers = cells.words[observed], cells.numbers[observed]
    found = sorted(set(words.tolist()))
    if cells.are_codes:
        return sorted(found, key=lambda word: (int(word), word))
    if not found or np.isnan(numbers).any():
        return found
    if any(text_of(float(word)) != word for word in found) and not on_a_scale and not cells.is_typed:
        same = {text_of(float(word)) for word in found}
        if len(same) == len(found):  # 01 and 02 are names; 1 and 1.0 are one number
            return sorted(found, key=float)
    values = np.unique(numbers)
    scale = np.arange(values[0], values[-1] + 1) if on_a_scale and values[-1] - values[0] < FEW else values
    whole = bool((values == np.floor(values)).all())
    return [text_of(float(value)) for value in (scale if whole else values)]


def _constant(name: str, cells: Cells) -> Column:
    word = cells.words[(~cells.missing).argmax()]
    return Column(name, LEFT_OUT, why=f"constant: {word if len(word) <= FEW else shown(word)} wherever it is observed")


def _is_date(cells: Cells) -> bool:
    """Return whether a column holds dates or times, by its type or as text."""
    if getattr(cells.series.dtype, "kind", "O") in "mM" or "date" in str(cells.series.dtype):
        return True
    numbers = cells.numbers[~cells.missing]
    if cells.is_typed and not (FIRST_DAY <= numbers.min() <= numbers.max() <= LAST_DAY):
        return False
    words: list[Any] = cells.words[~cells.missing].tolist()
    return all(DATE.fullmatch(word) for word in words[:ENOUGH]) and all(map(DATE.fullmatch, words))


def _refuse_text_among_numbers(name: str, cells: Cells, where: str) -> None:
    """Refuse a column of numbers in which some cells are none, or of numbers written in another way than with a point.

    Few values that each come back, some of which are numbers, are categories (0, 1, 2, 3+).
    """
    no_number = ~cells.missing & np.isnan(cells.numbers)
    total = int((~cells.missing).sum())
    words, counts = np.unique(cells.words[~cells.missing].astype(str), return_counts=True)
    odd = cells.words[no_number].tolist()
    units = [MEASURED.fullmatch(word) for word in odd]
    measured = len(odd) == total and len({unit and unit[2] for unit in units}) == 1 and all(units)
    if len(words) > 2 and (measured or all(map(DECORATED.fullmatch, odd))):
        unit = "a unit after it (say it in the name of the column)"
        other = "1.234,5 or $1,234.50 (pandas.read_csv has decimal= and thousands= for it)"
        raise InputError(
            f"Expected numbers written with a point and nothing else in column {shown(name)} of {where}; got "
            f"{cells.at(no_number)}. Write 1234.5 for {f'one with {unit}' if measured else other}, or say in a schema "
            f"what else it is: {Column(name, 'categorical').line}, or {Column(name, LEFT_OUT).line}."
        )
    if 2 * len(odd) > total:
        return
    if len(words) <= FEW and len(words) * ENOUGH <= total and (counts > 1).all():
        return
    more = f" (and {len(odd) - 1} other cells that are none)" if len(odd) > 1 else ""
    raise InputError(
        f"Expected numbers in column {shown(name)} of {where}, as in {total - len(odd)} of its {total} cells; got "
        f"{cells.at(no_number)}{more}. Mend the cell, or empty it if its value is not known; or, if these are "
        f"categories, say so in a schema: {Column(name, 'categorical').line}."
    )


def _refuse_codes(name: str, cells: Cells, where: str, values: Array, counts: Array) -> None:
    """Refuse a column in which a number that is far from all others comes back, as the code of a missing value does."""
    for code, others, count in ((values[0], values[1:], counts[0]), (values[-1], values[:-1], counts[-1])):
        if count < 2 or len(others) < 2:
            continue
        gap = abs(code - (others[0] if code < others[0] else others[-1]))
        far = gap > GAP * (others[-1] - others[0]) and (is_code(code) or abs(code) > LARGE)
        negative = code < 0 <= others[0] and is_code(code) and len(others) > 2
        if far or negative:
            word, (low, high) = text_of(float(code)), (text_of(float(others[i])) for i in (0, -1))
            rest = _of_numbers(name, cells.without((word,)), where)
            raise InputError(
                f"Expected values of one kind in column {shown(name)} of {where}; got {word} in {count} cells, the "
                f"first in row {int((cells.numbers == code).argmax()) + 1}, where all others are from {low} to {high}. "
                f"If it stands for a missing value, say so in a schema: {replace(rest, missing=(word,)).line} (or for "
                f'all columns: "*" = {{ missing = ["{word}"] }}); if it is a value: {Column(name, "real").line}.'
            )
