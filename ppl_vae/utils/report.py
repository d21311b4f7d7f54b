"""Results as people read them: one small table of means, with what is to be said above and below it."""

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
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

    @classmethod
    def of(cls, values: Array, mcse: Array) -> "Mean":
        """Return the mean of one number per datum, [N], each with its own Monte Carlo standard error, [N]."""
        n = len(values)
        se = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return cls(float(values.mean()), se, float(np.sqrt((mcse**2).sum()) / n))


Row = tuple[str, Mean, str]  # a label, the mean, a remark


@dataclass(frozen=True)
class Report:
    """A headline, a table of means, and lines below it; as text and as HTML."""

    headline: str
    rows: Sequence[Row]
    lines: Sequence[str]

    def __str__(self) -> str:
        table = [f"{a:<19}{b:>11}{c:>9}{d:>9}  {e}".rstrip() for a, b, c, d, e in self._cells()]
        return "\n".join([self.headline, *table, *self.lines])

    def html(self) -> str:
        """Return the same as HTML."""
        (_, *head, _), *rows = self._cells()
        heads = "".join(f"<th>{text}</th>" for text in ("", *head, ""))
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(a)}</th><td>{b}</td><td>{c}</td><td>{d}</td>"
            f"<td style='text-align:left'>{html.escape(e)}</td></tr>"
            for a, b, c, d, e in rows
        )
        return (
            f"<table><caption style='text-align:left'>{html.escape(self.headline)}</caption>"
            f"<tr>{heads}</tr>{cells}</table><p>{'<br>'.join(map(html.escape, self.lines))}</p>"
        )

    def _cells(self) -> list[tuple[str, str, str, str, str]]:
        shown = [(label, _value(m.value), number(m.se), number(m.mcse), note) for label, m, note in self.rows]
        return [("", "mean", "s.e.", "MCSE", ""), *shown]


class Reported(ABC):
    """A result that is printed, and shown in a notebook, as its report."""

    @abstractmethod
    def report(self) -> Report:
        """Return what is printed."""

    def __str__(self) -> str:
        return str(self.report())

    __repr__ = __str__

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
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.4g}"
