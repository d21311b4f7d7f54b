"""The one table: a row for each thing that is measured against another, the sizes of it side by side in one cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .timing import Times

HEAD = ("work", "against", "ours", "theirs", "ours / theirs", "best: ours", "best: theirs", "ratio", "aim")
Number = float | None


@dataclass(frozen=True)
class Row:
    """One row; None is what was not measured.

    Attributes:
        work: what was done, with its unit and its sizes.
        against: what ours is held against.
        ours, theirs: medians over rounds, one for each size.
        ratios: medians over rounds of the ratio within a round.
        best_ours, best_theirs: of the best round.
        aim: the bound on the ratio for each size; negative where it is one from below.
    """

    work: str
    against: str
    ours: Sequence[Number] = ()
    theirs: Sequence[Number] = ()
    ratios: Sequence[Number] = ()
    best_ours: Sequence[Number] = ()
    best_theirs: Sequence[Number] = ()
    aim: Sequence[Number] = field(default=())

    def cells(self) -> list[str]:
        """Return the row in words."""
        of_best = [
            None if a is None or b is None else a / b for a, b in zip(self.best_ours, self.best_theirs, strict=True)
        ]
        numbers = (self.ours, self.theirs, self.ratios, self.best_ours, self.best_theirs, of_best)
        return [self.work, self.against, *map(joined, numbers), self._aims()]

    def _aims(self) -> str:
        """Return the aims and whether the medians reach them."""
        if not any(bound is not None for bound in self.aim):
            return ""
        words = []
        for ratio, bound in zip(self.ratios, self.aim, strict=True):
            if bound is None or ratio is None:
                words.append("-")
            else:
                reached = ratio <= bound if bound > 0 else ratio >= -bound
                words.append(f"{'at most' if bound > 0 else 'at least'} {abs(bound):g}: {'yes' if reached else 'NO'}")
        return " / ".join(dict.fromkeys(words) if len(set(words)) == 1 else words)


def of_times(
    work: str,
    against: str,
    ours: Sequence[Times | None],
    theirs: Sequence[Times | None],
    unit: float = 1e3,
    aim: Sequence[Number] = (),
) -> Row:
    """Return the row of two competitors' times at several sizes, in milliseconds or another unit."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True)]
    return Row(
        work,
        against,
        [a and a.median * unit for a in ours],
        [b and b.median * unit for b in theirs],
        [a.over(b) if a and b else None for a, b in pairs],
        [a and a.least * unit for a in ours],
        [b and b.least * unit for b in theirs],
        aim or [None] * len(pairs),
    )


def of_rates(work: str, against: str, ours: Times, theirs: Times, per: float, aim: Number = None) -> Row:
    """Return the row of two competitors' rates, units a second divided by `per`: more is better."""
    rates = [1 / (value * per) for value in (ours.median, theirs.median, ours.least, theirs.least)]
    return Row(work, against, rates[:1], rates[1:2], [theirs.over(ours)], rates[2:3], rates[3:], [aim])


def joined(values: Sequence[Number]) -> str:
    """Return numbers side by side, nothing if there are none."""
    return " / ".join(map(shown, values)) if any(value is not None for value in values) else ""


def shown(value: Number) -> str:
    """Return a number in about three digits."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{digits}f}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, with columns in line where it is read as text."""
    lines = [list(HEAD), *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    rule = ["-" * width for width in widths]
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [lines[0], rule, *lines[1:]]
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
