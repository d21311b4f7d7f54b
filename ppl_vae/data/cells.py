"""The cells of one column of a table: what stands there as text and as a number, and which of them are missing."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ppl_vae.errors import InputError, shown

# What people and programs write where they know nothing, those of C and of spreadsheets among it.
MISSING = frozenset(
    (
        "", "NA", "N/A", "n/a", "na", "#N/A", "#NA", "<NA>", "NaN", "nan", "-nan", "-NaN", "NAN", "NaT", "NULL", "null",
        "Null", "?", "-", "–", ".", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "#DIV/0!", "#VALUE!", "#REF!", "#NUM!",
    )
)  # fmt: skip
# ... and what may be a category, but means nothing else among numbers.
MISSING_NUMBERS = frozenset(("None", "none", "missing", "Missing", "unknown", "Unknown", "nil"))
CODE = re.compile(r"-?9{2,}|-?8{2,}|-?7{2,}|-[1-9]")  # of a missing value
GAP = 2.0  # of such a code to the other values, in ranges of these
EXACT = 2**53  # up to here whole numbers are those of double precision
WHOLE = re.compile(r"[-+]?(\d+)")

Array = np.ndarray[Any, Any]


class Cells:
    """The cells of a pandas column, its place in the table being `row` 1, 2, ..

    Attributes:
        series: the column.
        missing: which cells are missing, [N].
    """

    def __init__(self, series: Any, missing: Array | None = None, texts: Array | None = None) -> None:
        self.series = series
        if texts is not None:
            self._texts = texts
        self.missing: Array = self._empty() if missing is None else missing

    def __len__(self) -> int:
        return len(self.series)

    @cached_property
    def is_typed(self) -> bool:
        """Whether the column was stored as numbers, not as text."""
        kind = getattr(self.series.dtype, "kind", "O")
        return kind in "iuf" and not hasattr(self.series.dtype, "categories")

    @cached_property
    def _texts(self) -> Array:
        return np.array([text_of(each) for each in self.series.tolist()], dtype=object)

    @cached_property
    def words(self) -> Array:
        """What stands in each cell, as text, [N]; "" where it is missing."""
        return np.where(self.missing, "", self._texts)

    @cached_property
    def numbers(self) -> Array:
        """The number in each cell, [N]; NaN where there is none, or it is missing."""
        import pandas as pd

        if self.is_typed:
            values = self.series.to_numpy(dtype=float, na_value=np.nan)
        else:
            values = np.asarray(pd.to_numeric(pd.Series(self.words, dtype=object), errors="coerce"), dtype=float)
        return np.where(self.missing, np.nan, values)

    @cached_property
    def are_codes(self) -> bool:
        """Whether whole numbers are names: some have zeros before them (01067), or more digits than numbers keep."""
        if self.is_typed:
            is_whole = getattr(self.series.dtype, "kind", "f") in "iu"
            return is_whole and bool((np.abs(self.numbers[~self.missing]) >= EXACT).any())
        words: list[str] = self.words[~self.missing].tolist()
        if not all(map(WHOLE.fullmatch, words)):
            return False
        digits = (word.lstrip("+-") for word in words)
        return any(len(d) > 1 and (d[0] == "0" or int(d) >= EXACT) for d in digits)

    def without(self, codes: Sequence[str]) -> "Cells":
        """Return the cells of which those that hold one of these codes are missing, too."""
        if not codes:
            return self
        missing = self.missing | ~np.isnan(self.lookup(dict.fromkeys(codes, 0.0)))
        return Cells(self.series, missing, self._texts)

    def lookup(self, places: Mapping[str, float]) -> Array:
        """Return what a mapping says of the text of each cell, or of its number as `text_of` writes it; else NaN."""
        import pandas as pd

        found = np.array(pd.Series(self.words, dtype=object).map(dict(places)), dtype=float)
        rest = np.isnan(found) & ~self.missing
        if rest.any():
            rest &= ~np.isnan(self.numbers)
            found[rest] = [places.get(text_of(number), np.nan) for number in self.numbers[rest].tolist()]
        found[self.missing] = np.nan
        return found

    def at(self, chosen: Array) -> str:
        """Return the first of some chosen cells in words, with its row: '12.3x' in row 17."""
        row = int(chosen.argmax())
        return f"{shown(self.words[row])} in row {row + 1}"

    def _empty(self) -> Array:
        import pandas as pd

        missing: Array = np.asarray(pd.isna(self.series), dtype=bool).copy()
        if getattr(self.series.dtype, "kind", "O") in "biufmM" and not hasattr(self.series.dtype, "categories"):
            return missing
        texts = pd.Series(self._texts, dtype=object)
        missing |= texts.isin(MISSING).to_numpy()
        vague = missing | texts.isin(MISSING_NUMBERS).to_numpy()
        if vague.sum() > missing.sum() and not vague.all():
            rest = Cells(self.series, vague, self._texts)
            if not np.isnan(rest.numbers[~vague]).any():
                return vague
        return missing


def text_of(value: Any) -> str:
    """Return what stands in a cell as text; a whole number without a point.

    >>> text_of(" a "), text_of(3.0), text_of(0.5), text_of(True), text_of(b"a")
    ('a', '3', '0.5', 'True', 'a')
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else repr(number)
    return str(value).strip()


def is_code(number: float) -> bool:
    """Return whether a number looks like the code of a missing value: -999, 99, -1.

    >>> [is_code(number) for number in (-999.0, 99.0, -1.0, 100.0)]
    [True, True, True, False]
    """
    return CODE.fullmatch(text_of(float(number))) is not None


def is_frame(thing: Any) -> bool:
    """Return whether something is a table of pandas, Polars or Arrow."""
    kind = type(thing)
    return (kind.__module__.partition(".")[0], kind.__name__) in (
        ("pandas", "DataFrame"), ("polars", "DataFrame"), ("polars", "LazyFrame"), ("pyarrow", "Table"),
    )  # fmt: skip


def frame_of(thing: Any) -> Any:
    """Return a table of pandas, Polars or Arrow as one of pandas, its columns named by text, an index with a name too.

    Raises:
        InputError: no table, one that is not computed yet, or one whose columns have names in several levels.
    """
    import pandas as pd

    kind = type(thing).__name__
    if not is_frame(thing):
        raise InputError(f"Expected a table of pandas, Polars or Arrow; got {kind}. Make one: pandas.DataFrame(...).")
    if kind == "LazyFrame":
        raise InputError("Expected a table with its rows; got a LazyFrame. Pass frame.collect().")
    if kind == "Table":
        return with_named_index(thing.to_pandas())
    if not isinstance(thing, pd.DataFrame):
        return pd.DataFrame({name: _of_polars(thing[name]) for name in thing.columns})
    if thing.columns.nlevels > 1:
        raise InputError(
            f"Expected one name for each column; got names in {thing.columns.nlevels} levels. Join them: "
            f"frame.columns = ['-'.join(map(str, name)) for name in frame.columns]."
        )
    return with_named_index(thing)


def with_named_index(frame: Any) -> Any:
    """Return a pandas table with its columns named by text, and an index that has a name as one of them."""
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index(allow_duplicates=True)
    names = [text_of(name) for name in frame.columns]
    return frame if names == list(frame.columns) else frame.set_axis(names, axis=1)


def _of_polars(series: Any) -> Any:
    """Return a column of Polars as one of pandas, without the package that joins them."""
    import pandas as pd

    kind = str(series.dtype)
    if series.dtype.is_numeric() and not kind.startswith("Decimal"):
        return (
            pd.Series(series.to_numpy())
            if series.null_count() == 0 or series.dtype.is_float()
            else pd.Series(series.to_list(), dtype="Int64" if kind.startswith("Int") else "UInt64")
        )
    values = series.to_list()
    if kind.startswith("Enum"):
        return pd.Series(pd.Categorical(values, categories=series.dtype.categories.to_list()))
    if kind.startswith(("Date", "Time")) and not kind.startswith("Time("):
        return pd.Series(values, dtype=object) if kind == "Time" else pd.to_datetime(pd.Series(values), errors="coerce")
    return pd.Series(values, dtype=object)
