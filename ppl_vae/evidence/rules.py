"""What a method knows of its own estimates: the words they are printed in, and the rules by which they are doubted."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_vae.evidence.diagnostics import Array
from ppl_vae.evidence.numbers import Numbers
from ppl_vae.utils.report import Row, number


class Rule(NamedTuple):
    """A reason to doubt some of the data."""

    short: str  # it in a few words, for the count of the data it holds for
    breaks: NDArray[np.bool_]  # which data are doubted, [N]
    words: list[str]  # the reason of each datum


def each(text: str, *columns: Array) -> list[str]:
    """Return a text filled in for each datum.

    >>> each("{:.0%} of {:.0f}", np.array([0.5, 0.1]), np.array([8.0, 9.0]))
    ['50% of 8', '10% of 9']
    """
    return [text.format(*values) for values in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Diagnostics(ABC):
    """What is said of the numbers of one method; a new method has a class of its own."""

    numbers: Numbers

    @abstractmethod
    def headline(self) -> str:
        """Return what was estimated, of how many data, and how."""

    @abstractmethod
    def lines(self) -> list[str]:
        """Return what is printed below the table."""

    @abstractmethod
    def too_few(self) -> str:
        """Say why so few samples do not show their own error; nothing if they do."""

    @abstractmethod
    def remedy(self) -> str:
        """Say what to do about doubtful data."""

    def rows(self) -> list[Row]:
        """Return rows of the table that other methods do not have."""
        return []

    def rules(self) -> Iterator[Rule]:
        """Yield the reasons to doubt a datum."""
        what, log_px = self.numbers.quantity, self.numbers.log_px
        yield Rule(f"no finite {what}", ~np.isfinite(log_px), each(what + " is {:.0f}", log_px))

    def refuted(self) -> str:
        """Say what speaks against the whole, whatever the single data look like; nothing if nothing does."""
        return ""

    def undoubted(self) -> str:
        """Say what is to be believed where no datum is in doubt."""
        return f"To be believed: nothing speaks against any of the {len(self.numbers)} data.{self.blind_spot()}"

    def blind_spot(self) -> str:
        """Say what could be wrong without a sign of it, and who can tell."""
        other = "method='sandwich'" if self.numbers.proposal == "prior" else "method='ais' with proposal='prior'"
        return f" What the proposal never visits would not show: {other} can tell."

    def source(self) -> str:
        """Return what z was drawn from, in words."""
        given = f"Q(z | {self.numbers.observed})"
        sources = {"guide": f"the guide {given}", "prior": "the prior P(z)", "refined": f"the refined guide {given}"}
        return sources[self.numbers.proposal]

    def bias(self) -> str:
        """Return the mean bias of log P(x), in words."""
        return number(float(self.numbers.diagnostics["bias"].mean()))
