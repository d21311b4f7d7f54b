"""A person's own table, a file or a frame of pandas, Polars or Arrow: its schema, guessed or given, and its parts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data.cells import frame_of, is_frame, text_of
from ppl_vae.data.column_types import as_label, check_rounding, completed, guess
from ppl_vae.data.own_files import split_at_random
from ppl_vae.data.schema import Column, Schema, check_names
from ppl_vae.data.splits import Split
from ppl_vae.data.table_files import is_table_file, read_frame
from ppl_vae.errors import InputError, did_you_mean, shown
from ppl_vae.utils.faults import warn

SHOWN = 5  # problems, or columns, in one message


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it came, and what its columns are.

    Attributes:
        frame: a pandas table with all its columns; the cells of a text file are text.
        schema: what they are.
        where: its file, or what it is, in words.
    """

    frame: Any
    schema: Schema
    where: str

    def __len__(self) -> int:
        return len(self.frame)

    def split(self) -> Split:
        """Return all rows as one split, x and y."""
        x = self.schema.encode(self.frame, self.where)
        y = None if self.schema.label is None else self.schema.encode_label(self.frame, self.where)
        hidden = y is not None and not y.is_floating_point() and bool((y < 0).any())
        return Split(x, torch.arange(len(x)), y, hidden=hidden)

    def parts(self) -> tuple[Split, ...]:
        """Return three splits, 80 / 10 / 10 at random, always the same way."""
        whole = self.split()
        tenth = max(1, len(whole) // 10)
        parts = split_at_random(whole.values, (tenth, tenth), whole.y)
        return tuple(replace(part, hidden=whole.hidden) for part in parts)


def is_table(thing: Any) -> bool:
    """Return whether something is a table: a frame, or the name of a file of one."""
    return is_frame(thing) or (isinstance(thing, str | os.PathLike) and is_table_file(os.fspath(thing)))


def read_table(thing: Any, schema: Any = None, label: str | None = None) -> Table:
    """Return a table with its schema: what is given of it, and of the other columns what they seem to be.

    Raises:
        InputError: a file that cannot be read, a schema or a label with columns that are not there, and columns of
            which nobody can tell what they are, each with the row and the cell.
    """
    given = Schema.of({} if schema is None else schema, label)
    if is_frame(thing):
        frame, where = frame_of(thing), f"the {type(thing).__module__.partition('.')[0]} table"
    else:
        path = Path(thing)
        known = frozenset(column.name for column in given.columns)
        frame, where = read_frame(path, known, say=schema is None), path.name
    if len(frame) < 3:
        raise InputError(f"Expected at least 3 rows in {where}, one for each split; got {len(frame)}. Add some.")
    check_names(frame.columns, where)
    for name in [column.name for column in given.columns] + ([given.label] if given.label else []):
        if name not in frame.columns:
            raise InputError(f"Unknown column {shown(name)} of {where}: {did_you_mean(name, frame.columns)}.")
    columns = _each(frame, lambda name: _column(frame, name, given, where))
    found = Schema(tuple(columns), given.label, given.missing)
    _say_remarks(found, given, where)
    if not found.modelled:
        apart = "Separate cells by a comma or a tab, or name its type" if len(columns) == 1 else "Name types"
        raise InputError(
            f"Expected a column that says something of each datum in {where}; got {_left_out_in_words(found)}. {apart} "
            f"in a schema."
        )
    return Table(frame, found, where)


def new_rows(thing: Any, schema: Schema) -> Table:
    """Return a table of new rows, read by the schema of other ones."""
    if is_frame(thing):
        return Table(frame_of(thing), schema, "the table")
    path = Path(thing)
    return Table(read_frame(path, frozenset(c.name for c in schema.columns), say=False), schema, path.name)


def summary(table: Table, x: Tensor) -> str:
    """Return in a line what was understood: "500 rows, 13 columns: 11 real, 2 categories; 3.1% missing".

    >>> import pandas as pd
    >>> table = read_table(pd.DataFrame({"a": [0.5, None, 2.0, -1.0], "b": list("xyxy")}))
    >>> summary(table, table.split().values)
    '4 rows, 2 columns: 1 real, 1 binary; 12.5% missing'
    """
    missing = float(x.isnan().float().mean())
    rows = f"{len(table)} row{'s' * (len(table) != 1)}"
    return f"{rows}, {table.schema.in_words()}; {missing:.1%} missing"


def completed_frame(rows: Any, schema: Schema, x: Tensor, missing: Tensor) -> Any:
    """Return a pandas table with some cells of the columns of x filled in, and all others as they are.

    Args:
        rows: a pandas table of N rows.
        schema: of its columns.
        x: numbers for the columns of x, [N, D].
        missing: which of them are to be filled in, [N, D].

    >>> import pandas as pd
    >>> table = read_table(pd.DataFrame({"id": list("abc"), "n": ["1.50", "", "2"], "s": ["f", "m", None]}),
    ...                    {"id": "left out", "n": "real", "s": "categorical"})
    >>> x = torch.tensor([[0.0, 0.0], [7.25, 0.0], [0.0, 1.0]])
    >>> completed_frame(table.frame, table.schema, x, table.split().x.isnan()).to_dict("list")
    {'id': ['a', 'b', 'c'], 'n': ['1.50', '7.25', '2'], 's': ['f', 'm', 'm']}
    """
    filled = rows.copy()
    for index, column in enumerate(schema.modelled):
        holes = missing[:, index].numpy()
        if not holes.any():
            continue
        own = rows[column.name]
        values = column.decode(x[:, index].double().numpy()[holes])
        is_text = own.dtype == object and any(isinstance(each, str) for each in own)
        cells = own.astype(object).to_numpy(copy=True)
        cells[holes] = [text_of(value) for value in values] if is_text else values
        filled[column.name] = _as_it_was(cells, own)
    return filled


def _as_it_was(cells: Any, own: Any) -> Any:
    """Return cells as a column of the type that it had, if they are of it."""
    import pandas as pd

    column = pd.Series(cells, index=own.index, dtype=object)
    try:
        return column.astype(own.dtype)
    except (TypeError, ValueError):
        return column.infer_objects()


def concatenated(frames: Sequence[Any]) -> Any:
    """Return pandas tables of the same columns below each other."""
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def _column(frame: Any, name: str, given: Schema, where: str) -> Column:
    """Return what a column is, given or guessed."""
    cells = given.cells(frame, name)
    column = completed(given[name], cells, where) if name in given else guess(name, cells, where)
    check_rounding(column, cells, where)
    return as_label(column, cells, where) if name == given.label else column


def _each(frame: Any, make: Callable[[str], Column]) -> list[Column]:
    """Return what is made of each column; all that cannot be told of several is said at once."""
    columns, problems = [], {}
    for name in frame.columns:
        try:
            columns.append(make(name))
        except InputError as problem:
            problems[name] = problem
    if problems:
        first, *others = problems
        also = f" (The same or the like is to be said of {', '.join(map(shown, others[:SHOWN]))}.)" if others else ""
        raise InputError(f"{problems[first]}{also}", options="--schema FILE")
    return columns


def _say_remarks(found: Schema, given: Schema, where: str) -> None:
    """Say which columns are left out of x that nobody has left out, and what is odd about others."""
    for column in found.columns:
        which = f"Column {shown(column.name)} of {where}"
        if column.name in given or not column.why:
            continue
        if column.is_left_out:
            warn(f"{which} is left out of the model: {column.why}. It is kept in what is written.")
        else:
            warn(f"{which} is {column.type}: {column.why}")


def _left_out_in_words(schema: Schema) -> str:
    said = [f"{column.name} ({column.why or 'left out'})" for column in schema.columns if column.is_left_out]
    return ", ".join(said[:SHOWN]) or "the label alone"
