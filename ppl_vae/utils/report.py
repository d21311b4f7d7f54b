"""Results as people read them: one small table of means, with what is to be said above and below it."""

import html
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDTH = 120  # of what is shown
WIDTHS = (19, 11, 9, 9)  # of the columns of a table of means


@dataclass(frozen=True, repr=False)
class Mean:
    """A mean over the data, in nats unless said otherwise.

    Attributes:
        value: the mean.
        se: its standard error as an estimate for the population the data come from, sd / sqrt(N).
        mcse: its Monte Carlo standard error, from drawing K samples only.
    """

    value: float
    se: float
    mcse: float

    def __repr__(self) -> str:
        return f"Mean({_value(self.value)}, se={number(self.se)}, mcse={number(self.mcse)})"

    @classmethod
    def of(cls, values: Array, mcse: Array) -> "Mean":
        """Return the mean of one number per datum, [N], each with its own Monte Carlo standard error, [N]."""
        n = len(values)
        with np.errstate(invalid="ignore"):  # the log P(x) of a datum that the model cannot make is minus infinity
            se = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
            return cls(float(values.mean()), se, float(np.sqrt((mcse**2).sum()) / n))


Row = tuple[str, Mean, str]  # a label, the mean, a remark


@dataclass(frozen=True)
class Report:
    """A headline, a table of means or of words, and lines below it; as text and as HTML.

    Attributes:
        headline: what it is of.
        rows: a label, its mean, and a remark.
        lines: what stands below.
        words: instead of `rows`, the cells of a table, its header first; the first column is of labels.
    """

    headline: str
    rows: Sequence[Row] = ()
    lines: Sequence[str] = ()
    words: Sequence[Sequence[str]] = ()

    def __str__(self) -> str:
        return "\n".join([self.headline, *self._table(), *self.lines])

    def wrapped(self) -> str:
        """Return the same with lines of at most 120 characters."""
        indent = " " * (sum(WIDTHS) + 2) if self.rows else "  "
        table = [part for line in self._table() for part in _wrapped(line, indent)]
        return "\n".join([*_wrapped(self.headline), *table, *(part for line in self.lines for part in _wrapped(line))])

    def html(self) -> str:
        """Return the same as HTML."""
        (_, *head), *rows = self._cells() or [("",)]
        heads = "".join(f"<th>{html.escape(text)}</th>" for text in ("", *head))
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>{''.join(map(self._cell, texts))}</tr>"
            for label, *texts in rows
        )
        table = f"<tr>{heads}</tr>{cells}" if rows else ""
        return (
            f"<table><caption style='text-align:left'>{html.escape(self.headline)}</caption>{table}</table>"
            f"<p>{'<br>'.join(map(html.escape, self.lines))}</p>"
        )

    @staticmethod
    def _cell(text: str) -> str:
        side = "" if text[-1:].isdigit() or text in ("", "-") else " style='text-align:left'"
        return f"<td{side}>{html.escape(text)}</td>"

    def _cells(self) -> list[tuple[str, ...]]:
        if not self.rows:
            return [tuple(row) for row in self.words]
        shown = [(label, _value(m.value), number(m.se), number(m.mcse), note) for label, m, note in self.rows]
        return [("", "mean", "s.e.", "MCSE", ""), *shown]

    def _table(self) -> list[str]:
        cells = self._cells()
        if self.rows:
            a, b, c, d = WIDTHS
            return [f"{label:<{a}}{v:>{b}}{se:>{c}}{mcse:>{d}}  {e}".rstrip() for label, v, se, mcse, e in cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        padded = ([f"{text:<{width}}" for text, width in zip(row, widths, strict=True)] for row in cells)
        return ["  ".join(row).rstrip() for row in padded]


class Words(str):
    """A sentence that is shown as it is written, not in quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(_wrapped(self))


class Reported(ABC):
    """A result that is printed, and shown in a notebook, as its report; at a prompt in lines that are not too long."""

    @abstractmethod
    def report(self) -> Report:
        """Return what is printed."""

    def __str__(self) -> str:
        return str(self.report())

    def __repr__(self) -> str:
        return self.report().wrapped()

    def _repr_html_(self) -> str:
        return self.report().html()


def number(value: float) -> str:
    """Write an error or a diagnostic: three decimals where they say something.

    >>> [number(x) for x in (0.25, 0.0, 2e-5, 123456.0, float("nan"))]
    ['0.250', '0', '2e-05', '1.2e+05', '-']
    """
    if not np.isfinite(value):
        return "-" if np.isnan(value) else f"{value}"
    if value == 0:
        return "0"
    if abs(value) < 0.0005:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.2g}"


def spread(values: Array, digits: int = 2) -> str:
    """Write the median and the range of one number per datum, of those that are finite.

    >>> spread(np.array([1.0, 2.0, 30.0]))
    'median 2.00, from 1.00 to 30.00'
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return "not known"
    low, middle, high = values.min(), np.median(values), values.max()
    return f"median {middle:.{digits}f}, from {low:.{digits}f} to {high:.{digits}f}"


def counted(reasons: Mapping[str, int], num_data: int) -> str:
    """Write how many data each reason holds for.

    >>> counted({"k-hat above 0.67": 3, "effective sample size below 10": 1}, 50)
    '3 of 50 data have k-hat above 0.67, 1 effective sample size below 10'
    """
    (first, count), *rest = reasons.items()
    have = "has" if count == 1 else "have"
    return ", ".join([f"{count} of {num_data} data {have} {first}", *(f"{n} {text}" for text, n in rest)])


def _value(value: float) -> str:
    if 0 < abs(value) < 0.0005:
        return number(value)
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.4g}"


def _wrapped(line: str, indent: str = "") -> list[str]:
    """Return a line as lines of at most `WIDTH` characters, with what stands before its first word."""
    if len(line) <= WIDTH:
        return [line]
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, drop_whitespace=True, replace_whitespace=False)
