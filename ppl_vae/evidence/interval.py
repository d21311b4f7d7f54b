"""Where log P(x) lies, with everything that may move it: the data, the draws, the bias of a finite K, data in doubt.

    L - b -+ t se,    se^2 = var_n(L_n) / N,    b = mean_n(b_n + c_n)

with L_n the estimates, whose spread over the data holds their Monte Carlo error, too, t the quantile of Student's
distribution with N - 1 degrees of freedom, b_n the jackknife's estimate of the bias of a finite K, and c_n how far
datum n is off because it went on when an answer of it was in doubt. Of these data alone it is L - b -+ z MCSE. Both
data in doubt and modes that no climb found make L too low: what they could add makes the upper end higher. A difference
of two terms may be too high as well, and then the lower end is lower, too.
"""

import math
from dataclasses import dataclass

from scipy import stats

from ppl_vae.utils.report import Report, Reported, number


@dataclass(frozen=True, repr=False)
class Interval(Reported):
    """An interval for the mean log P(x), in nats, and each of its parts.

    Attributes:
        level: how often such an interval holds log P(x).
        low, high: the interval for the population that the data come from.
        low_of_data, high_of_data: that for the mean of these data alone.
        mean: the mean of the estimates.
        sampling: half of the width that is due to which data there are; NaN of a single datum.
        monte_carlo: half of the width that is due to finitely many draws.
        bias: how far the mean of the estimates is above log P(x) for a finite K.
        went_on: how far it is for data that went on when they were in doubt, beside that; 0 where none did.
        doubtful: how far data in doubt could raise the mean.
        two_sided: whether they could lower it as far, as those of log P(x_A | x_B).
        unseen: how far modes that no climb found could: as far as those of the second look did.
        num_doubtful, num_data: how many are in doubt, of how many.
        quantity: what it is of, "log P(x)".
    """

    level: float
    low: float
    high: float
    low_of_data: float
    high_of_data: float
    mean: float
    sampling: float
    monte_carlo: float
    bias: float
    went_on: float
    doubtful: float
    two_sided: bool
    unseen: float
    num_doubtful: int
    num_data: int
    quantity: str

    @classmethod
    def of(
        cls,
        level: float,
        *,
        mean: float,
        se: float,
        mcse: float,
        bias: float,
        went_on: float = 0.0,
        doubtful: float,
        two_sided: bool = False,
        unseen: float = 0.0,
        num_doubtful: int,
        num_data: int,
        quantity: str,
    ) -> "Interval":
        """Return the interval from a mean with its errors, all in nats."""
        tail = (1 - level) / 2
        by_draws = float(stats.norm.isf(tail)) * mcse
        by_all = float(stats.t.isf(tail, num_data - 1)) * max(se, mcse) if num_data > 1 else math.nan
        by_data = math.sqrt(max(0.0, by_all**2 - by_draws**2)) if num_data > 1 else math.nan
        centre, below = mean - bias - went_on, doubtful if two_sided else 0.0
        return cls(
            level,
            centre - by_all - below,
            centre + by_all + doubtful + unseen,
            centre - by_draws - below,
            centre + by_draws + doubtful + unseen,
            mean,
            by_data,
            by_draws,
            bias,
            went_on,
            doubtful,
            two_sided,
            unseen,
            num_doubtful,
            num_data,
            quantity,
        )

    def report(self) -> Report:
        """Return what is printed: the interval, and each part with what it rests on."""

        def half(value: float) -> str:
            return f"-+ {number(value)}" if math.isfinite(value) else "not known"

        share = f"{100 * self.level:.4g}%"
        weights = "weights of a finite variance: k-hat below its limit, or chains whose weights are alike"
        twice = "a second set of climbs raised it by so much; less is left if that set finds half of what is there"
        first = "their first answers, which no choice touched; the difference is taken off"
        side = "off" if self.two_sided else "too low"
        most = "error, bias, what smoothing adds, or what other samples find, at most"
        words = [
            ("", "nats", "it rests on"),
            ("sampling of the data", half(self.sampling), f"{self.num_data} independent draws of one population"),
            ("Monte Carlo", half(self.monte_carlo), weights),
            ("bias of a finite K", number(self.bias), "the jackknife: it falls as 1 / K; it is taken off"),
            *([("data that went on", number(self.went_on), first)] if self.went_on else []),
            (
                "data in doubt",
                f"up to {number(self.doubtful)}",
                f"{self.num_doubtful} of {self.num_data}: {side} by {most}",
            ),
            *([("modes not found", f"up to {number(self.unseen)}", twice)] if self.unseen else []),
        ]
        lines = [
            f"{share} of such intervals hold {self.quantity} of the population: {self.in_words()}; of these data alone "
            f"[{self.low_of_data:.3f}, {self.high_of_data:.3f}]"
            if math.isfinite(self.mean)
            else f"There is no interval: {self.quantity} is not finite for some data."
        ]
        return Report(f"{self.quantity} {self.mean:.3f} nats: what moves it", words=words, lines=lines)

    def in_words(self) -> str:
        """Return the interval for the population, or, of a single datum, that it is not known."""
        return f"[{self.low:.3f}, {self.high:.3f}]" if math.isfinite(self.low) else "not known of a single datum"
