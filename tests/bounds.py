"""How far an estimate may be from the truth: by the number of comparisons and the tails of what is compared.

Each check fails by chance once in a million at most (`FALSE_ALARM`), however many numbers it compares. Two things make
"within four standard errors" fail far more often: many data, of which any may be off; and weights, whose tail to the
right makes an average that is too low claim too small an error.
"""

import math

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6


def limit(comparisons=1, dof=math.inf, false_alarm=FALSE_ALARM):
    """Return how many standard errors any of so many means may be off: Student's quantile, shared among them.

    >>> round(limit(), 1), round(limit(640), 1), round(limit(640, dof=99), 1)
    (4.9, 6.0, 6.7)
    """
    return float(stats.t.isf(false_alarm / (2 * comparisons), dof))


def check_means(draws, expected, slack=0.0):
    """Independent draws [R, ...] have these expected values [...], up to `slack` that is no noise."""
    draws, expected = np.asarray(draws, dtype=float), np.asarray(expected, dtype=float)
    error = draws.std(0, ddof=1) / math.sqrt(len(draws))
    check_errors(draws.mean(0), expected, error, len(draws) - 1, slack)


def check_errors(found, expected, error, dof=math.inf, slack=0.0):
    """Numbers with standard errors from so many degrees of freedom are what they should be, up to `slack`."""
    found, expected, error = np.broadcast_arrays(*(np.asarray(a, dtype=float) for a in (found, expected, error)))
    off = np.abs(found - expected) - slack
    most = limit(found.size, dof) * error
    assert (off <= most).all(), f"{np.abs(found - expected)} off, of {most + slack} at most"


def check_spread(draws, stated):
    """Independent normal draws [R, ...] have the standard deviations [...] that were stated: each, and all together."""
    draws = np.asarray(draws, dtype=float)
    square = (np.var(draws, axis=0, ddof=1) / np.square(stated)).ravel()
    for found, dof in ((square, len(draws) - 1), (square.mean(), square.size * (len(draws) - 1))):
        share = FALSE_ALARM / (4 * np.size(found))
        low, high = stats.chi2.ppf([share, 1 - share], dof) / dof
        assert ((found >= low) & (found <= high)).all(), f"Variances {found} times those stated: {low} to {high}"


def check_log_px(log_px, mcse, truth, num_draws, slack=1e-4, false_alarm=FALSE_ALARM):
    """K weights of each datum [N], of importance sampling or annealing, have mean P(x): each alone, and all together.

    A mean r of K weights w / P(x), each at least 0 and with mean one, is too low by Bernstein's inequality, as 1 - w is
    at most one: P(r < 1 - d) <= exp(-K d^2 / 2 (V + d / 3)). The variance V is the larger of the datum's own and the
    mean over data: an average that is too low claims too small a one. Too high it is by Student's t, whose error grows
    with it. With fewer than 16 weights V has to be below one. `test_bounds.py` tries how often it fails.
    Source: Boucheron, Lugosi and Massart, Concentration Inequalities (2013), corollary 2.11.
    """
    log_px, mcse, truth, draws = (np.atleast_1d(a).astype(float) for a in (log_px, mcse, truth, num_draws))
    ratio, draws = np.exp(log_px - truth), np.broadcast_to(draws, log_px.shape)
    square, count = mcse**2, len(ratio)
    variance = np.maximum(square, (square * draws).mean() / draws)
    _between(ratio, variance, 1 / draws, mcse * ratio, draws, false_alarm / count, slack)
    error = math.sqrt(((mcse * ratio) ** 2).sum()) / count
    _between(ratio.mean(), square.mean() / count, 1 / draws.min() / count, error, draws.sum(), false_alarm, slack)


def check_evidence(evidence, truth, slack=1e-4):
    """`check_log_px` of what `estimate_evidence` returned."""
    draws = evidence.diagnostics.get("draws", evidence.num_samples)
    check_log_px(evidence.log_px, evidence.mcse, truth, np.asarray(draws), slack)


def check_sandwich(sandwich, truth):
    """The mean bounds on log P(x) of simulated data have the mean truth between them."""
    bounds = sandwich.means()
    for name, sign in (("lower", 1), ("upper", -1)):
        above = sign * (bounds[name].value - float(np.mean(np.asarray(truth)))) - 1e-4
        assert above <= limit(2) * bounds[name].mcse, f"the {name} bound is off by {above:.3f}: {bounds[name]}"


def _between(ratio, variance, largest, error, num_draws, false_alarm, slack):
    """Hold means with one as their expectation to a fourth of the false alarm rate at each end.

    `variance` is the mean's own, `largest` what one draw can take from it at most, `error` what it claims.
    """
    tail = math.log(4 / false_alarm)
    low = 1 - tail * largest / 3 - np.sqrt((tail * largest / 3) ** 2 + 2 * tail * variance) - slack
    high = 1 + stats.t.isf(false_alarm / 4, num_draws - 1) * error + slack
    with np.errstate(invalid="ignore", divide="ignore"):
        found = f"log P(x) is off by {np.log(ratio)}, of {np.log(low)} to {np.log(high)}"
    assert (ratio >= low).all() and (ratio <= high).all(), found
