"""Data ranked by log P(x), the least probable first, each with a conformal p-value: `Scores`."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppl_vae.criticism.conformal import benjamini_hochberg, p_values, range_of_p
from ppl_vae.errors import InputError, real_number, shown
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.scale import GIVEN
from ppl_vae.utils.report import Array, Report, Reported, number

SHOWN = 10  # rows that are printed
FEWER = 0.05  # of the observed numbers, by which new data differ by chance where some are missing
FAR = 1e100  # nats, for an error that has no end
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Reported):
    """log P(x) of M new data beside that of n calibration data, and what follows from both; print it.

    Attributes:
        new, calibration: the estimates of both.
        alpha: the rate of false alarms: how often a datum like those of calibration is flagged.
        fdr: the false discovery rate of `discovered`, or None.
        calibrated_on: what the calibration data are, in words.
    """

    new: Evidence
    calibration: Evidence
    alpha: float
    fdr: float | None
    calibrated_on: str

    def __len__(self) -> int:
        return len(self.new)

    @property
    def log_px(self) -> Array:
        """Log P(x) of each new datum, [M], in nats."""
        return self.new.log_px

    @cached_property
    def p_value(self) -> Array:
        """The conformal p-value of each, (1 + #{calibration data with no more than its log P(x)}) / (n + 1), [M]."""
        return p_values(self.calibration.log_px, self.log_px)

    @cached_property
    def p_range(self) -> tuple[Array, Array]:
        """The least and the largest p-value within two Monte Carlo errors of both log P(x), [M] each.

        Where a datum's log P(x) is in doubt, it is rather too low, and its p-value may be as large as 1.
        """
        sides = [(e.log_px, np.nan_to_num(e.mcse, posinf=FAR)) for e in (self.calibration, self.new)]
        low, high = range_of_p(sides[0], sides[1])
        return np.minimum(low, self.p_value), np.where(self.in_doubt, 1.0, np.maximum(high, self.p_value))

    @cached_property
    def flagged(self) -> Flags:
        """Which data have a p-value of at most `alpha`, [M]."""
        return self.p_value <= self.alpha

    @cached_property
    def discovered(self) -> Flags:
        """Which data Benjamini and Hochberg's procedure finds at `fdr`, [M]; none without."""
        return np.zeros(len(self), dtype=bool) if self.fdr is None else benjamini_hochberg(self.p_value, self.fdr)

    @cached_property
    def movable(self) -> Flags:
        """Which flags errors or doubts of log P(x) could turn, [M]: p-values that may be on either side of alpha."""
        low, high = self.p_range
        return (low <= self.alpha) & (high > self.alpha)

    @cached_property
    def in_doubt(self) -> Flags:
        """Which data have a log P(x) in doubt, [M]."""
        doubted = np.zeros(len(self), dtype=bool)
        doubted[[doubt.datum for doubt in self.new.doubts()]] = True
        return doubted

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas table with a row for each new datum, the least probable first; its index, `row`, from 0.

        Columns: log_px, mcse, p_value, p_low, p_high (see `p_range`), flagged, movable, in_doubt, and with an fdr
        discovered.
        """
        low, high = self.p_range
        columns: dict[str, Any] = {"log_px": self.log_px, "mcse": self.new.mcse, "p_value": self.p_value}
        columns |= {"p_low": low, "p_high": high, "flagged": self.flagged, "movable": self.movable}
        columns |= {"in_doubt": self.in_doubt} | ({} if self.fdr is None else {"discovered": self.discovered})
        table = pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="row"))
        return table.iloc[np.argsort(self.log_px, kind="stable")]

    def report(self) -> Report:
        """Return what is printed: the least probable rows, how many are flagged, and what that rests on."""
        what, worst = self.new.quantity, self.to_frame().head(SHOWN)
        headline = (
            f"{what} of {len(self)} new data, the lowest first, beside {len(self.calibration)} data that were not "
            f"trained on ({self.calibrated_on})"
        )
        head = ("row", f"{what}, nats", "MCSE", "p-value", "from", "to", "")
        rows = [
            (
                str(row), f"{one['log_px']:.3f}", number(one["mcse"]), f"{one['p_value']:.4f}", f"{one['p_low']:.4f}",
                f"{one['p_high']:.4f}", self._remark(one),
            )
            for row, one in zip(worst.index, worst.to_dict("records"), strict=True)
        ]  # fmt: skip
        return Report(headline, words=[head, *rows], lines=self._lines())

    def _remark(self, one: Any) -> str:
        said = ["flagged"] if one["flagged"] else []
        said += ["discovered"] if one.get("discovered") else []
        said += ["in doubt"] if one["in_doubt"] else ["may be otherwise"] if one["movable"] else []
        return ", ".join(said)

    def _lines(self) -> list[str]:
        count, expected, movable = int(self.flagged.sum()), self.alpha * len(self), int(self.movable.sum())
        lines = [
            f"{count} of {len(self)} have a p-value of at most {self.alpha:g}; of data like those of calibration "
            f"{expected:.3g} would, on average over calibration data."
        ]
        if self.fdr is not None:
            found = int(self.discovered.sum())
            lines.append(f"{found} are discoveries at a false discovery rate of {self.fdr:g} (Benjamini-Hochberg).")
            if not found and 1 / (len(self.calibration) + 1) > self.fdr / len(self):
                lines.append(
                    f"A single datum cannot be one: {len(self.calibration)} calibration data have no p-value below "
                    f"{1 / (len(self.calibration) + 1):.2g}."
                )
        if movable:
            doubted = int((self.movable & self.in_doubt).sum())
            lines.append(
                f"{movable} could be on the other side of {self.alpha:g} by the error of {self.new.quantity}"
                f"{f', {doubted} of them as it is in doubt, and then rather too low' * bool(doubted)}."
            )
        lines += self._of_other_numbers()
        return [*lines, f"Calibration: {self.calibration.verdict()}", f"New data: {self.new.verdict()}"]

    def _of_other_numbers(self) -> list[str]:
        here, there = self.new.event_size, self.calibration.event_size
        if abs(here - there) <= FEWER * there:
            return []
        return [
            f"New data have {here:.4g} observed numbers in the mean, those of calibration {there:.4g}: log P of fewer "
            f"numbers is another score, and p-values are no longer of the stated rate."
        ]


def scores_of(new: Evidence, calibration: Evidence, *, alpha: float, fdr: float | None, calibrated_on: str) -> Scores:
    """Return scores of two estimates by one model, made in one way, once they are seen to be of one kind."""
    if (new.quantity, new.scored.endswith(GIVEN)) != (calibration.quantity, calibration.scored.endswith(GIVEN)):
        raise InputError(
            f"Expected new data and those of calibration with the same conditions; got {new.quantity} and "
            f"{calibration.quantity}. Give both their y, or neither."
        )
    if new.fingerprint == calibration.fingerprint:
        raise InputError(
            f"Expected new data; got those of calibration ({calibrated_on}), whose p-values say nothing. Give others."
        )
    return Scores(new, calibration, alpha, fdr, calibrated_on)


def check_rates(alpha: Any, fdr: Any, num_calibration: int | None = None) -> tuple[float, float | None]:
    """Return both rates, once they are seen to be between 0 and 1, and not below what so many data can say."""
    rates = {"alpha": alpha} | ({} if fdr is None else {"fdr": fdr})
    for name, rate in rates.items():
        if not 0 < (real_number(rate) or 0.0) < 1:
            raise InputError(f"Expected {name} to be a rate between 0 and 1, such as 0.05; got {shown(rate)}.")
    if num_calibration is not None and float(alpha) < 1 / (num_calibration + 1):
        raise InputError(
            f"Expected alpha of at least {1 / (num_calibration + 1):.3g}, the smallest p-value beside "
            f"{num_calibration} calibration data; got {alpha}. Raise it, or calibrate on more data."
        )
    return float(alpha), None if fdr is None else float(fdr)
