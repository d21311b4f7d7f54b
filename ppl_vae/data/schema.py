"""What the columns of a table are: `Schema`, a line for each, which people edit and keep, and which reads and writes.

A table becomes x [N, D], one number for each column that is modelled: numbers as they are, categories as their place
0 .. C - 1 in the column's list of names, NaN where a cell is missing. The text is TOML, `name = "type"` on a line.
"""

import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.cells import Cells, frame_of, text_of
from ppl_vae.errors import InputError, check_path, did_you_mean, reason, shown
from ppl_vae.utils.arrays import array_of
from ppl_vae.utils.files import read_file

NUMBERS = ("real", "positive", "count")
BY_NAME = ("binary", "categorical", "ordinal")
LEFT_OUT = "left out"
TYPES = (*NUMBERS, *BY_NAME, LEFT_OUT)
PARTS = ("type", "categories", "missing")  # of what a schema says of a column
ALL = "*"  # columns
EXAMPLE = f'Write "{ALL}" = {{ missing = ["-999"] }}.'
IN_WORDS = {"count": ("count", "counts"), "categorical": ("category", "categories")}
BARE = re.compile(r"[A-Za-z0-9_-]+")  # a name that TOML takes without quotes
MOST_TEXT = 2**26  # bytes of a schema
DIGITS = 6  # of a number that a model gave: those of single precision


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: as the table has it.
        type: real, positive (above zero), count (0, 1, 2, ...), binary, categorical, ordinal, or "left out": it is no
            part of x, and kept in what is written.
        categories: the names of the values of a binary, categorical or ordinal column, the lowest first.
        missing: cells that mean a missing value, besides the usual ones.
        why: a remark.
    """

    name: str
    type: str
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    why: str = field(default="", compare=False)

    @classmethod
    def of(cls, name: str, said: Any) -> "Column":
        """Return what a schema says of a column: its type, or a mapping of type, categories and missing."""
        parts = {"type": said} if isinstance(said, str) else said
        if not isinstance(parts, Mapping) or not isinstance(parts.get("type"), str):
            inner = list(parts) if isinstance(parts, Mapping) else []
            dotted = f" A name with a point in it stands in quotes: {_key(f'{name}.{inner[0]}')}." if inner else ""
            raise InputError(
                f"Expected a type of column {shown(name)}, one of {', '.join(TYPES)}, or a mapping with one; got "
                f"{shown(said)}.{dotted}"
            )
        if unknown := [key for key in parts if key not in PARTS]:
            raise InputError(f"Unknown {unknown[0]!r} of column {shown(name)}: {did_you_mean(unknown[0], PARTS)}.")
        if parts["type"] not in TYPES:
            raise InputError(
                f"Unknown type {parts['type']!r} of column {shown(name)}: {did_you_mean(parts['type'], TYPES)}."
            )
        categories, missing = (_names(name, part, parts.get(part, ())) for part in PARTS[1:])
        return cls(name, parts["type"], categories, missing)._checked()

    @property
    def is_left_out(self) -> bool:
        """Whether it is no part of x."""
        return self.type == LEFT_OUT

    @property
    def code(self) -> str:
        """What `likelihoods.Columns` calls it: its type, with the number of its categories, but of two."""
        return self.type if self.type in (*NUMBERS, "binary") else f"{self.type}:{len(self.categories)}"

    def to_json(self) -> Any:
        """Return what `of` makes it of, as plain values."""
        more = {part: list(getattr(self, part)) for part in PARTS[1:] if getattr(self, part)}
        return {"type": self.type} | more if more else self.type

    def encode(self, cells: Cells, where: str) -> np.ndarray[Any, Any]:
        """Return one number for each cell, NaN where it is missing."""
        cells = cells.without(self.missing)
        if self.type in NUMBERS:
            return self._numbers(cells, where)
        codes = {name: float(code) for code, name in enumerate(self.categories)}
        found = cells.lookup(codes)
        if (unknown := np.isnan(found) & ~cells.missing).any():
            many = f" (and {int(unknown.sum()) - 1} more)" if unknown.sum() > 1 else ""
            listed = ", ".join(map(repr, self.categories[:8])) + ", ..." * (len(self.categories) > 8)
            raise InputError(
                f"Expected one of the {len(codes)} categories {listed} in column {shown(self.name)} of {where}; got "
                f"{cells.at(unknown)}{many}. Mend or empty the cell, or train anew with its category."
            )
        return found

    def _numbers(self, cells: Cells, where: str) -> np.ndarray[Any, Any]:
        values, observed = cells.numbers, ~cells.missing
        is_count = (values >= 0) & (values == np.floor(values))
        wrong = {
            "numbers": observed & np.isnan(values),
            "finite numbers": observed & np.isinf(values),
            "numbers above zero": (values <= 0) & (self.type == "positive"),
            "whole numbers from 0 on": observed & ~is_count & (self.type == "count"),
        }
        for what, bad in wrong.items():
            if bad.any():
                other = replace(self, type="categorical" if what == "numbers" else "real")
                or_else = "" if what == "finite numbers" else f", or name another type: {other.line}"
                raise InputError(
                    f"Expected {what} in column {shown(self.name)} of {where}; got {cells.at(bad)}. Mend or empty the "
                    f"cell{or_else}."
                )
        return values

    def decode(self, values: np.ndarray[Any, Any]) -> list[Any]:
        """Return what stands in each cell for its number: the nearest that the column can have; None for NaN."""
        named: list[Any] = list(map(_as_written, self.categories))
        if len(set(map(type, named))) > 1:
            named = list(self.categories)

        def cell(value: float) -> Any:
            if math.isnan(value):
                return None
            if self.type == "count":
                return max(0, round(value))
            if self.type in NUMBERS:
                return float(f"{value:.{DIGITS}g}")
            return named[min(max(round(value), 0), len(named) - 1)]

        return [cell(value) for value in values.tolist()]

    def __str__(self) -> str:
        said = self.to_json()
        if isinstance(said, str):
            return _quoted(said)
        lists = {part: ", ".join(map(_quoted, value)) for part, value in said.items() if part != "type"}
        inner = [f"type = {_quoted(self.type)}", *(f"{part} = [{names}]" for part, names in lists.items())]
        return f"{{ {', '.join(inner)} }}"

    @property
    def line(self) -> str:
        """Its line of a schema."""
        return f"{_key(self.name)} = {self}"

    def _checked(self) -> "Column":
        needed = 2 if self.type == "binary" else 0
        if self.categories and (self.type not in BY_NAME or (needed and len(self.categories) != needed)):
            what = "two categories" if needed else "no categories"
            raise InputError(
                f"Expected {what} of column {shown(self.name)}, which is {self.type}; got {len(self.categories)}. "
                f"Mend them, or name another type."
            )
        if len(self.categories) == 1 or len(set(self.categories)) < len(self.categories):
            raise InputError(
                f"Expected categories of column {shown(self.name)} that differ, two or more; got "
                f"{', '.join(map(repr, self.categories[:8]))}. Mend them."
            )
        return self


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in their order: what each is, and how its cells become numbers and numbers cells.

    Attributes:
        columns: all of them, those that are left out of x, too.
        label: the name of the one that is y, if there is one.
        missing: cells of any column that mean a missing value; a file says it by `"*" = { missing = ["-999"] }`.

    >>> import pandas as pd
    >>> schema = Schema.of({"age": "count", "sex": {"type": "binary", "categories": ["f", "m"]}})
    >>> x = schema.encode(pd.DataFrame({"sex": ["m", None], "age": [30, 41]}))
    >>> x
    tensor([[30.,  1.],
            [41., nan]])
    >>> schema.to_frame(x).to_dict("list")
    {'age': [30, 41], 'sex': ['m', None]}
    >>> print(schema)
    age = "count"
    sex = { type = "binary", categories = ["f", "m"] }
    """

    columns: tuple[Column, ...]
    label: str | None = None
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Any, label: str | None = None) -> Self:
        """Return a schema of a file that holds one, of a mapping such as that file's, or of a schema.

        Raises:
            InputError: no such file, one that is no TOML, an unknown type, or categories that are none.
        """
        if isinstance(given, Schema):
            return cls(given.columns, label or given.label, given.missing)
        if isinstance(given, Mapping):
            named = {text_of(name): said for name, said in given.items()}
            missing = _missing_of_all(named.pop(ALL, {}))
            return cls(tuple(Column.of(name, said) for name, said in named.items()), label, missing)
        check_path("schema", given)
        try:
            return cls.of_text(read_file(Path(given), MOST_TEXT).decode("utf-8-sig"), label)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise InputError(
                f'Expected lines such as age = "count" in the schema {os.fspath(given)} (TOML); got: '
                f"{reason(problem)}. Put types, and names with other letters than A-Z, in quotes."
            ) from None
        except InputError as problem:
            raise InputError(f"{problem} (This is of the schema {os.fspath(given)}.)") from None
        except OSError as problem:
            raise InputError(
                f"Expected a schema in {os.fspath(given)}; got: {problem.strerror or problem}. Name another file."
            ) from None

    @classmethod
    def of_text(cls, text: str, label: str | None = None) -> Self:
        """Return the schema that a text is of, lines as those of `str(schema)`."""
        return cls.of(tomllib.loads(text), label)

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns of x."""
        return tuple(c for c in self.columns if not c.is_left_out and c.name != self.label)

    @property
    def codes(self) -> tuple[str, ...]:
        """What `likelihoods.Columns` is made of: "real", "categorical:7", ..., one for each column of x."""
        return tuple(column.code for column in self.modelled)

    @property
    def labels(self) -> Column | None:
        """The column that is y."""
        return None if self.label is None else self[self.label]

    def __getitem__(self, name: str) -> Column:
        found = next((column for column in self.columns if column.name == name), None)
        if found is None:
            raise InputError(f"Unknown column {shown(name)}: {did_you_mean(name, [c.name for c in self.columns])}.")
        return found

    def __contains__(self, name: object) -> bool:
        return any(column.name == name for column in self.columns)

    def to_json(self) -> dict[str, Any]:
        """Return what `of` makes it of, as plain values."""
        of_all = {ALL: {"missing": list(self.missing)}} if self.missing else {}
        return of_all | {column.name: column.to_json() for column in self.columns}

    def cells(self, table: Any, name: str) -> Cells:
        """Return the cells of a column of a pandas table; what means missing in all of them is missing."""
        return Cells(table[name]).without(self.missing)

    def encode(self, frame: Any, where: str = "the table") -> Tensor:
        """Return the columns of x of a table (pandas, Polars, Arrow) by their names, as x [N, D]; NaN is missing.

        Raises:
            InputError: a column that is not there or there twice, a category that is not in the schema, a cell that is
                no number, or none that its column can have; the column, the row (from 1 on) and the cell are named.
        """
        table = frame_of(frame)
        check_names(table.columns, where)
        if not self.modelled:
            raise InputError("Expected a schema with columns that are modelled; got none. Name types of columns.")
        absent = [column.name for column in self.modelled if column.name not in table.columns]
        if absent:
            nor = f" (nor {', '.join(map(repr, absent[1:5]))})" if absent[1:] else ""
            raise InputError(
                f"Expected a column {shown(absent[0])} in {where}; got none{nor}: "
                f"{did_you_mean(absent[0], table.columns)}. Add it, with empty cells if nothing is known."
            )
        numbers = [column.encode(self.cells(table, column.name), where) for column in self.modelled]
        x = torch.from_numpy(np.stack(numbers, 1)).to(torch.get_default_dtype())
        positive = torch.tensor([column.type == "positive" for column in self.modelled])
        if bool((beyond := x.isinf() | ((x == 0) & positive)).any()):
            row, index = (int(i[0]) for i in beyond.nonzero(as_tuple=True))
            limits, which = torch.finfo(x.dtype), "larger" if bool(x[row, index]) else "smaller"
            raise InputError(
                f"Expected numbers that {x.dtype} holds, from {limits.tiny:.2g} and below {limits.max:.2g}; got a "
                f"{which} one in column {shown(self.modelled[index].name)} of {where}, row {row + 1}. Give it in "
                f"another unit."
            )
        return x

    def encode_label(self, frame: Any, where: str = "the table") -> Tensor:
        """Return y [N] of a table: the places of its categories, -1 where it is missing; or numbers, if it has none."""
        column = self.labels
        assert column is not None
        if column.name not in (table := frame_of(frame)):
            raise InputError(f"Expected the label, a column {shown(column.name)}, in {where}; got none. Add it.")
        y = column.encode(self.cells(table, column.name), where)
        if column.type in BY_NAME:
            return torch.from_numpy(np.where(np.isnan(y), -1, y)).long()
        if np.isnan(y).any():
            raise InputError(
                f"Expected a number in each cell of the label {shown(column.name)} of {where}; got an empty one in row "
                f"{int(np.isnan(y).argmax()) + 1}. Leave such rows out, or name another label."
            )
        return torch.from_numpy(y).to(torch.get_default_dtype())

    def to_frame(self, x: Any, y: Any = None) -> Any:
        """Return x [N, D] as a pandas table in the person's own columns, units and names of categories.

        Each number becomes the nearest that its column can have: a whole one for a count, a category for its place.
        Columns that are left out are not there; y [N] is the column of the label.
        """
        import pandas as pd

        numbers = array_of("x", x)
        if numbers.ndim != 2 or numbers.shape[1] != len(self.modelled):
            raise InputError(
                f"Expected x [N, {len(self.modelled)}], one number for each column; got {numbers.shape}. Give it that "
                f"shape."
            )
        columns = {c.name: c.decode(numbers[:, i]) for i, c in enumerate(self.modelled)}
        if y is not None and self.labels is not None:
            places = array_of("y", y)
            if places.shape != numbers.shape[:1]:
                raise InputError(f"Expected y [{len(numbers)}], one number a row; got {places.shape}. Give that shape.")
            columns[self.labels.name] = self.labels.decode(np.where(places < 0, np.nan, places))
        order = [column.name for column in self.columns if column.name in columns]
        return pd.DataFrame({name: pd.Series(columns[name], dtype=_dtype_of(columns[name])) for name in order})

    def in_words(self) -> str:
        """Return how many columns there are of each type.

        >>> Schema.of({"a": "real", "b": "real", "c": "count", "id": "left out"}).in_words()
        '4 columns: 2 real, 1 count, 1 left out'
        """
        types = [column.type for column in self.columns if column.name != self.label]
        counts = {t: types.count(t) for t in TYPES if t in types}
        said = ", ".join(f"{count} {IN_WORDS.get(t, (t, t))[count > 1]}" for t, count in counts.items())
        label = "" if self.label is None else f"{', ' if said else ''}label {self.label}"
        return f"{len(self.columns)} column{'s' * (len(self.columns) != 1)}: {said}{label}"

    def __str__(self) -> str:
        keys = [_key(column.name) for column in self.columns]
        width = min(24, max(map(len, keys), default=0))
        codes = ", ".join(map(_quoted, self.missing))
        of_all = [f'"{ALL}" = {{ missing = [{codes}] }}'] if codes else []
        remarks = [f"  # {_plain(column.why)}" if column.why else "" for column in self.columns]
        lines = zip(keys, self.columns, remarks, strict=True)
        return "\n".join([*of_all, *(f"{key:<{width}} = {column}{why}" for key, column, why in lines)])


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse a table with two columns of one name."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names, 1):
        places.setdefault(name, []).append(place)
    for name, found in places.items():
        if len(found) > 1:
            raise InputError(
                f"Expected a name of its own for each column of {where}; got {shown(name)} for columns "
                f"{', '.join(map(str, found))}. Rename them."
            )


def _missing_of_all(said: Any) -> tuple[str, ...]:
    if not isinstance(said, Mapping) or set(said) - {"missing"}:
        raise InputError(f'Expected of all columns, "{ALL}", what means missing; got {shown(said)}. {EXAMPLE}')
    return _names(ALL, "missing", said.get("missing", ()))


def _names(column: str, part: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"Expected a list as {part} of column {shown(column)}; got {shown(given)}. Write [{given!r}].")
    return tuple(map(text_of, given))


def _as_written(name: str) -> Any:
    """Return the name of a category as the value that it names: a whole number, True or False, or a word."""
    if name in ("True", "False"):
        return name == "True"
    return int(name) if re.fullmatch(r"0|-?[1-9]\d{0,17}", name) else name


def _dtype_of(values: list[Any]) -> str:
    """Return the pandas dtype of a column: that of its values, with missing ones."""
    kinds = {type(value) for value in values if value is not None}
    return {frozenset({int}): "Int64" if None in values else "int64", frozenset({float}): "float64"}.get(
        frozenset(kinds), "object"
    )


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    """Return text as a TOML string: JSON's, but for one letter that JSON lets pass."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(text: str) -> str:
    """Return a remark as TOML lets it stand behind #."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
