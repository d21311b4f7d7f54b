"""Tables as files: csv, tsv, Parquet and Arrow, read as they are written, and written whole.

The cells of a text file stay text, so that what is observed can be written again just as it was. The separator is
looked for; numbers in the first line mean that the columns have no names.
"""

import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ppl_vae.data.cells import MISSING, with_named_index
from ppl_vae.errors import InputError, reason
from ppl_vae.utils.faults import warn
from ppl_vae.utils.files import read_file, regular_file, written_whole

TEXT = {".csv": ",;\t|", ".tsv": "\t"}  # by suffix: what may separate cells
COLUMNAR = (".parquet", ".pq", ".feather", ".arrow", ".ipc")
SUFFIXES = (*TEXT, *COLUMNAR)
MOST_BYTES = 2**33
LINES = 200  # that are looked at for a separator
SEPARATOR = re.compile(r"sep=(.)\r?\n")


def is_table_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a table, by the end of its name."""
    return Path(path).suffix.lower() in SUFFIXES


def read_frame(path: Path, names: frozenset[str] = frozenset(), *, say: bool = True) -> Any:
    """Return a file as a pandas table, with the columns named by text; the cells of csv and tsv are text.

    Args:
        path: the file, .csv, .tsv, .parquet, .feather or .arrow.
        names: names of columns that are known: a first line of these is one of names, even if they are numbers.
        say: warn of what was made of it.

    Raises:
        InputError: no such file, another encoding, lines of several lengths, no rows.
    """
    regular_file(path, "a table")
    try:
        if path.suffix.lower() in COLUMNAR:
            frame = with_named_index(_read_columnar(path))
        else:
            frame = _read_text(path, names, say)
    except OSError as problem:
        raise InputError(f"Expected a table in {path}; got: {problem.strerror or problem}.") from None
    if not len(frame) or not len(frame.columns):
        raise InputError(f"Expected at least one row in {path}; got none. Write the file again.")
    return frame


def _read_text(path: Path, names: frozenset[str], say: bool) -> Any:
    import pandas as pd

    text = _decoded(path, read_file(path, MOST_BYTES), say)
    if not text.strip():
        raise InputError(f"Expected a table in {path}; got an empty file. Write it again.")
    said = SEPARATOR.match(text)  # as Excel writes it
    text = text if said is None else text[said.end() :]
    separator = _separator(text, TEXT[path.suffix.lower()]) if said is None else said[1]
    return _named(path, pd.DataFrame(_rows(path, text, separator), dtype=object), names, say)


def _rows(path: Path, text: str, separator: str) -> list[list[str]]:
    """Return the cells of each line; blank lines are none, but of a table of one column, where a cell may be empty."""
    reader = csv.reader(
        io.StringIO(text.rstrip("\r\n"), newline=""),
        delimiter=separator,
        skipinitialspace=separator != "\t",
        strict=True,
    )
    rows: list[list[str]] = []
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                rows.append(row)
            elif rows and len(rows[0]) == 1:
                rows.append([""])
            if rows and len(rows[-1]) != len(rows[0]):
                title = " Leave out what stands above the names of the columns, if it is that." * (len(rows) == 2)
                raise InputError(
                    f"Expected {len(rows[0])} cell{'s' * (len(rows[0]) != 1)} in each line of {path}, as in the first; "
                    f"got {len(rows[-1])} in line {reader.line_num} (separator {separator!r}). Mend that line: an "
                    f"empty cell needs its separator, and a cell with the separator in it stands in quotes.{title}"
                )
    except csv.Error as problem:
        raise InputError(
            f"Expected a table in {path}; got one that cannot be read ({reason(problem)}, line {reader.line_num}). "
            f"Mend that line; a quote inside a quoted cell is written twice."
        ) from None
    return rows


def _named(path: Path, frame: Any, names: frozenset[str], say: bool) -> Any:
    """Return a table with its first line as the names of its columns, if it is none of cells."""
    first = [cell.strip() for cell in frame.iloc[0]]
    if not (names and names <= set(first)) and (held := _cells_in(frame, first)):
        if say:
            warn(
                f"The first line of {path} holds {held}, so the columns are named 1 to {len(first)}. If it holds "
                f"names, give a schema with them."
            )
        return frame.set_axis([str(i + 1) for i in range(len(first))], axis=1)
    frame = frame.iloc[1:].reset_index(drop=True).set_axis(first, axis=1)
    there = [bool(name) or not bool(frame.iloc[:, i].str.strip().isin(MISSING).all()) for i, name in enumerate(first)]
    return frame.loc[:, there]  # a separator at the end of each line makes no column


def _cells_in(frame: Any, first: list[str]) -> str:
    """Return what the first line holds if it is none of names: numbers alone, or words that are cells of other lines.

    Beside numbers, which may be names (of years), one such word is enough; lines that repeat the first are none.
    """
    known = [(i, cell) for i, cell in enumerate(first) if cell not in MISSING]
    words = [(i, cell) for i, cell in known if not _is_number(cell)]
    if not words:
        return "numbers" if known else ""
    below, line = frame.iloc[1:], frame.iloc[0]
    come_back = (below[below.iloc[:, i].str.strip() == cell].ne(line).any(axis=None) for i, cell in words)
    if len(words) == len(known):
        return "words that are cells of other lines" if len(words) > 1 and all(come_back) else ""
    return "numbers and words that are cells of other lines" if any(come_back) else ""


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _decoded(path: Path, raw: bytes, say: bool) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    if b"\0" in raw[:4096]:
        raise InputError(f"Expected text in {path}; got zero bytes. Save the table as UTF-8 text, or as Parquet.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        if say:
            warn(
                f"{path} is no UTF-8 (byte {problem.start}) and is read as Latin-1 (Windows-1252). If letters are "
                f"wrong, save it as UTF-8."
            )
        return raw.decode("cp1252", errors="replace")


def _separator(text: str, candidates: str) -> str:
    """Return what separates the cells: that by which most of the first lines have the same number of them."""
    start = text[: 2**20]
    best = (0.0, 1, candidates[0])
    for separator in candidates:
        lengths = []
        try:
            lines = io.StringIO(start, newline="")
            for line in csv.reader(lines, delimiter=separator, skipinitialspace=separator != "\t"):
                if line:
                    lengths.append(len(line))
                if len(lengths) == LINES:
                    break
        except csv.Error:
            continue
        most = max(set(lengths), key=lengths.count, default=1)
        if most > 1:
            best = max(best, (lengths.count(most) / len(lengths), most, separator))
    return best[2]


def _read_columnar(path: Path) -> Any:
    arrow = _pyarrow(f"read {path}")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pandas()
        import pyarrow.feather

        try:
            return pyarrow.feather.read_table(path, memory_map=False).to_pandas()
        except arrow.ArrowInvalid:
            with path.open("rb") as file:
                return arrow.ipc.open_stream(file).read_all().to_pandas()
    except (arrow.ArrowException, ValueError, KeyError, OSError) as problem:  # Arrow's own are two of these each
        raise InputError(
            f"Expected a table in {path}; got one that cannot be read ({reason(problem)}). Write it again."
        ) from None


def _pyarrow(purpose: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise InputError(
            f'Expected the package pyarrow, to {purpose}; got none. Install it: pip install "ppl-vae[tables]", or use '
            f".csv."
        ) from None
    return pyarrow


def _write_arrow(frame: Any, path: Path) -> None:
    _pyarrow(f"write {path}")
    import pyarrow.feather

    pyarrow.feather.write_feather(frame.reset_index(drop=True), path)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False, lineterminator="\n"),
    ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t", lineterminator="\n"),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".pq": lambda frame, path: frame.to_parquet(path, index=False),
} | dict.fromkeys((".feather", ".arrow", ".ipc"), _write_arrow)


def check_can_write_frame(path: Path) -> None:
    """Refuse, before any work, a table in a format that cannot be written here."""
    if path.suffix.lower() in COLUMNAR:
        _pyarrow(f"write {path}")


def write_frame(path: Path, frame: Any) -> None:
    """Write a pandas table to a file of any of `SUFFIXES`, whole or not at all."""
    check_can_write_frame(path)
    with written_whole(path) as temporary:
        WRITERS[path.suffix.lower()](frame, temporary)
