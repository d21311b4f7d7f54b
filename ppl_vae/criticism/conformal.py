"""Conformal p-values: how unusual a datum is beside data that are known to be usual, at a stated rate of false alarms.

    p = (1 + #{i: s_i <= s}) / (n + 1)

of a score s that is lower, the more unusual a datum is, and the scores s_1, ..., s_n of calibration data. Where the new
datum and these are exchangeable, P(p <= a) <= a for every a, whatever the score is and however badly a model fits: over
calibration data and the datum together (marginally). Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random
World (2005); Bates, Candes, Lei, Romano & Sesia, arXiv 2104.08279.
"""

import numpy as np
from numpy.typing import NDArray

from ppl_vae.errors import InputError
from ppl_vae.utils.report import Array


def p_values(calibration: Array, scores: Array) -> Array:
    """Return the conformal p-value of each score, [M], beside those of calibration data, [n].

    >>> p_values(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 9.0])).tolist()
    [0.25, 0.75, 1.0]
    """
    if not len(calibration):
        raise InputError("Expected calibration data; got none. Give at least one.")
    below = np.searchsorted(np.sort(calibration), scores, side="right")
    return np.asarray((1.0 + below) / (len(calibration) + 1.0))


def range_of_p(
    calibration: tuple[Array, Array], scores: tuple[Array, Array], *, errors: float = 2.0
) -> tuple[Array, Array]:
    """Return the least and the largest p-value, [M] each, that scores may have where they are known up to an error.

    Args:
        calibration, scores: log P(x) and its Monte Carlo standard error, [n] and [M].
        errors: how many of them a score may be off, each of the calibration data in the other direction.

    >>> low, high = range_of_p((np.array([1.0, 2.0]), np.zeros(2)), (np.array([1.9]), np.array([0.1])))
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([0.67], [1.0])
    """
    (known, known_error), (new, new_error) = calibration, scores
    low = p_values(known + errors * known_error, new - errors * new_error)
    return low, p_values(known - errors * known_error, new + errors * new_error)


def benjamini_hochberg(p: Array, fdr: float) -> NDArray[np.bool_]:
    """Return which of some p-values, [M], are discoveries with a false discovery rate of at most `fdr`.

        p_(k) <= fdr k / M for the largest such k: this p-value and all below it

    Conformal p-values of one calibration set depend on each other, positively (PRDS): the rate holds all the same.
    Source: Benjamini & Hochberg, JRSS B 57 (1995); Bates et al., arXiv 2104.08279, theorem 2.

    >>> benjamini_hochberg(np.array([0.01, 0.9, 0.04, 0.03]), 0.1).tolist()
    [True, False, True, True]
    """
    order = np.sort(p)
    below = np.flatnonzero(order <= fdr * np.arange(1, len(p) + 1) / len(p))
    limit = order[below[-1]] if len(below) else -np.inf
    return np.asarray(p <= limit)
