"""Ranks that should be uniform: a band that holds at all places at once, and what a departure from it means.

If z* and K draws z_k come from one distribution, the rank of z* among them, its place made random between its
neighbours, is uniform on (0, 1). How many of M such ranks are below p is binomial at each p; a band that holds at all p
at once is wider than that of a single one, by how much is computed exactly. Ranks of a Q that is too narrow lie
at both ends, of one that is too low at the upper end: mean and width are those of the normal distribution under which
the ranks, as quantiles of N(0, 1), are most likely.

Source: Saeilynoja, Buerkner & Vehtari, arXiv 2103.10522, for simultaneous bands of an ECDF.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from ppl_vae.utils.report import Array

PARTS = 100  # the ECDF is looked at between so many parts of (0, 1)
PLACES = np.arange(1, PARTS) / PARTS
FAR = 12.0  # standard deviations of a Poisson variable from which on its tail is left out
MOST_AT_ENDS = 0.5  # share of ranks in the first and the last part: with more the rest says little of width and mean
MAD = float(stats.norm.ppf(0.75))  # the median absolute deviation of N(0, 1)


class Band(NamedTuple):
    """Counts between which the ECDF of M uniform ranks lies at all places at once.

    Attributes:
        low, high: the least and the largest number of ranks that are below each of `PLACES`.
        probability: that all of them are inside, at least the level asked for.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    probability: float


@lru_cache(maxsize=256)
def simultaneous_band(num_ranks: int, level: float) -> Band:
    """Return the narrowest band of binomial quantiles that holds M uniform ranks at all 99 places with this level.

    Its probability is exact: given their sum, the numbers of ranks in the parts of (0, 1) are independent Poisson
    variables, whose partial sums are followed from place to place inside the band.

    >>> band = simultaneous_band(1000, 0.95)
    >>> int(band.low[49]), int(band.high[49]), round(band.probability, 3)
    (453, 547, 0.95)
    """

    def band(log_tail: float) -> Band:
        tail = math.exp(log_tail)
        low, high = (f(tail, num_ranks, PLACES).astype(int) for f in (stats.binom.ppf, stats.binom.isf))
        return Band(low, high, _probability(num_ranks, low, high))

    # Tails from those of one place to those shared by all of them, which are wide enough.
    narrow, wide = math.log((1 - level) / 2), math.log((1 - level) / 2 / PARTS)
    for _ in range(20):
        middle = (narrow + wide) / 2
        narrow, wide = (middle, wide) if band(middle).probability < level else (narrow, middle)
    return band(wide)


def _probability(num_ranks: int, low: NDArray[np.int64], high: NDArray[np.int64]) -> float:
    """Return the probability that M uniform ranks stay between these counts at all places."""
    rate = num_ranks / PARTS
    spread = FAR * math.sqrt(rate) + FAR
    steps = np.arange(max(0, math.floor(rate - spread)), math.ceil(rate + spread) + 1)
    kernel = stats.poisson.pmf(steps, rate)
    start, mass = 0, np.ones(1)  # of partial sums from `start` on
    for least, most in zip((*low, num_ranks), (*high, num_ranks), strict=True):
        reached = np.convolve(mass, kernel)
        index = np.arange(least, most + 1) - start - steps[0]
        inside = (index >= 0) & (index < len(reached))
        mass = np.where(inside, reached[index.clip(0, len(reached) - 1)], 0.0)
        start = least
    return float(mass[0] / stats.poisson.pmf(num_ranks, num_ranks))


def counts_below(ranks: Array) -> NDArray[np.int64]:
    """Return how many ranks [M] are below each of the 99 places.

    >>> counts_below(np.array([0.003, 0.5, 0.986]))[[0, 48, 50, 98]].tolist()
    [1, 1, 2, 3]
    """
    return np.searchsorted(np.sort(ranks), PLACES)


def inside_band(ranks: Array, level: float) -> bool:
    """Return whether ranks [M] in (0, 1) are uniform as far as a band of this level says."""
    counts, band = counts_below(ranks), simultaneous_band(len(ranks), level)
    return bool(((counts >= band.low) & (counts <= band.high)).all())


def surprise(ranks: Array) -> float:
    """Return how unlikely the most unlikely place of the ECDF is by itself: -log of its two-sided p-value."""
    counts = counts_below(ranks)
    below, above = (f(counts, len(ranks), PLACES) for f in (stats.binom.logcdf, _logsf))
    return -float(np.minimum(below, above).min()) - math.log(2)


def _logsf(counts: NDArray[np.int64], num_ranks: int, places: Array) -> Array:
    return stats.binom.logsf(counts - 1, num_ranks, places)


@lru_cache(maxsize=256)
def detectable(num_ranks: int, level: float) -> tuple[float, float]:
    """Return by which factor the width, and by how many standard deviations the mean of Q must be off to be seen.

    At least one place of the ECDF of M ranks then leaves the band in 99 of 100 cases.

    >>> [round(float(n), 2) for n in detectable(1000, 0.95)]
    [1.25, 0.21]
    """
    band, normal = simultaneous_band(num_ranks, level), stats.norm.ppf(PLACES)

    def seen(width: float, bias: float) -> bool:
        shares = stats.norm.cdf((normal - bias) / width)
        sd = stats.norm.ppf(0.99) * np.sqrt(num_ranks * shares * (1 - shares))
        return bool(((num_ranks * shares - sd > band.high) | (num_ranks * shares + sd < band.low)).any())

    widths, biases = np.exp(np.linspace(0.01, 5, 500)), np.linspace(0.01, 5, 500)
    width = next((w for w in widths if seen(w, 0.0)), math.inf)
    return float(width), float(next((b for b in biases if seen(1.0, b)), math.inf))


class Shape(NamedTuple):
    """What ranks say of Q: where the true values lie among its draws, in standard deviations of Q.

    Attributes:
        bias: the mean; above zero Q lies too low.
        width: the standard deviation; above one Q is too narrow.
        bias_error, log_width_error: standard errors of the mean, and of the logarithm of the width.
    """

    bias: float
    width: float
    bias_error: float
    log_width_error: float


def shape_of(ranks: Array, scores: Array) -> Shape:
    """Return bias and width from ranks [M] and, where most ranks are at the very ends, from scores (z* - mean) / sd.

    The ranks count in 100 parts: N(bias, width^2) is fitted to them, as quantiles of N(0, 1), by maximum likelihood,
    which no outlier sways and monotone functions of z do not change. Scores count by their median and the median of
    their absolute deviations.

    >>> z = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    >>> [round(float(n), 2) for n in shape_of(stats.norm.cdf(0.4 + 1.3 * z), 0.4 + 1.3 * z)[:2]]
    [0.4, 1.3]
    """
    counts, count = np.diff([0, *counts_below(ranks), len(ranks)]), len(ranks)
    if counts[0] + counts[-1] > MOST_AT_ENDS * count:
        return _robust(scores[np.isfinite(scores)])
    edges = stats.norm.ppf(np.concatenate([[0.0], PLACES, [1.0]]))

    def loss(at: Array) -> float:
        log_cdf = stats.norm.cdf((edges - at[0]) / math.exp(at[1]))
        return -float(counts @ np.log(np.maximum(np.diff(log_cdf), 1e-300)))

    normal = stats.norm.ppf(np.clip(ranks, 1 / PARTS, 1 - 1 / PARTS))
    start = np.array([normal.mean(), math.log(max(normal.std(), 1e-3))])
    found = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-4})
    bias, log_width = found.x
    return Shape(float(bias), math.exp(log_width), math.exp(log_width) / math.sqrt(count), 1 / math.sqrt(2 * count))


def _robust(scores: Array) -> Shape:
    """Return the median, and the width by the median absolute deviation; NaN where that is 0 and says nothing."""
    middle = float(np.median(scores)) if len(scores) else math.nan
    width = float(np.median(np.abs(scores - middle))) / MAD if len(scores) else math.nan
    if not width > 0:
        return Shape(*4 * (math.nan,))
    root = math.sqrt(len(scores))
    return Shape(middle, width, 1.25 * width / root, 1.17 / root)  # errors of a normal distribution
