"""What K log-weights of a datum say: log P(x), its error, and whether to believe it.

Log-weights are [K, N], draws x data; what is returned is one number for each datum, [N], in nats. Too few draws show in
the Monte Carlo standard error and the bias, a proposal narrower than the posterior in Pareto's k of the tail.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_vae.evidence.arviz_versions import psislw
from ppl_vae.utils.report import Array, Mean, Report

LOW_ESS = 10.0  # effective samples: below it the weights of a datum rest on a handful of draws
ROUNDING = 1e-3
MIN_SAMPLES = 25  # draws that leave the five largest for a fit of their tail: a fifth of them, or 3 sqrt(K)
EQUAL = 1e-2  # nats; no tail of log-weights that are all closer than this can matter


class Curve(NamedTuple):
    """The bound IWAE_k = E log (1/k) sum_{j <= k} w_j for growing k, from the ELBO (k = 1) up to all draws.

    Attributes:
        num_samples: k, [P].
        bound: IWAE_k per datum, [P, N], in nats; NaN where a datum had fewer draws.
        mcse: its Monte Carlo standard error, [P, N].
    """

    num_samples: NDArray[np.int64]
    bound: Array
    mcse: Array

    def __repr__(self) -> str:
        return self.report().wrapped()

    def report(self) -> Report:
        """Return what is printed: the mean of the bound over the data for each number of samples."""
        rows = [
            (f"K = {count}", Mean.of(bound[known], mcse[known]), f"nats, of {int(known.sum())} data")
            for count, bound, mcse, known in zip(*self, ~np.isnan(self.bound), strict=True)
        ]
        return Report("The bound IWAE_K on log P(x), from the ELBO (K = 1) on", rows)


def estimates(log_weights: Array) -> dict[str, Array]:
    """Return log_px, elbo, mcse, elbo_mcse, ess and bias, each [N], for log-weights [K, N].

        log P(x) ~ log (1/K) sum_k w_k,    ESS = (sum_k w_k)^2 / sum_k w_k^2,
        MCSE^2 = (1/ESS - 1/K) K / (K - 1),    bias = (K - 1) (mean_k L_(-k) - L)

    MCSE is the delta method's, the bias of L, the logarithm of the average, the jackknife's: L_(-k) is without draw k.
    Source: Owen, Monte Carlo theory, methods and examples, chapter 9; Burda et al., arXiv 1509.00519, for the
    bound; Nowozin, Debiasing Evidence Approximations (ICLR 2018), for the jackknife.

    >>> {k: v.tolist() for k, v in estimates(np.full((4, 1), -2.0)).items()}
    {'log_px': [-2.0], 'elbo': [-2.0], 'mcse': [0.0], 'elbo_mcse': [0.0], 'ess': [4.0], 'bias': [0.0]}
    """
    count = len(log_weights)
    largest = log_weights.max(0)
    relative = np.exp(log_weights - np.where(np.isfinite(largest), largest, 0.0))
    total = relative.sum(0)
    elbo = log_weights.mean(0)
    correction = count / (count - 1) if count > 1 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of zero have an infinite logarithm
        share = relative / total
        ess = np.where(total > 0, 1 / (share**2).sum(0), 0.0)
        without = np.log1p(-np.minimum(share, 1.0)).mean(0) - math.log1p(-1 / count) if count > 1 else np.nan * elbo
        return {
            "log_px": np.log(total / count) + largest,
            "elbo": elbo,
            "mcse": np.sqrt(np.maximum(1 / ess - 1 / count, 0.0) * correction),
            "elbo_mcse": np.sqrt(((log_weights - elbo) ** 2).sum(0) * correction) / count,
            "ess": ess,
            "bias": (count - 1) * np.minimum(without, 0.0),
        }


def pareto(log_weights: Array) -> dict[str, Array]:
    """Return khat and log_px_psis, each [N]: how heavy the tail of the weights is, and the estimate with it smoothed.

    Above k = 1/2 the weights have no variance, above 1 no mean. A tail of equal weights, as discrete latents have, is
    none: k is minus infinity. With fewer than 25 draws both are NaN.
    Computed by ArviZ. Source: Vehtari et al., Pareto smoothed importance sampling, arXiv 1507.02646.

    >>> heavy = np.random.default_rng(0).exponential(0.8, size=(40_000, 1))  # weights whose tail is Pareto's, k = 0.8
    >>> bool(abs(pareto(heavy)["khat"][0] - 0.8) < 0.1)
    True
    """
    count, num_data = log_weights.shape
    khat, smoothed = np.full(num_data, np.nan), np.full(num_data, np.nan)
    for n, column in enumerate(log_weights.T if count >= MIN_SAMPLES else ()):
        if np.isfinite(column.max()):
            khat[n], smoothed[n] = _smoothed(np.ascontiguousarray(column))
    return {"khat": khat, "log_px_psis": smoothed}


def khat_threshold(num_samples: int | Array) -> Any:
    """Return the k-hat above which an estimate from so many draws is not to be trusted, min(1 - 1 / log10 K, 0.7).

    >>> khat_threshold(100), khat_threshold(10**6)
    (0.5, 0.7)
    """
    threshold = np.minimum(1 - 1 / np.log10(np.maximum(num_samples, 10.0)), 0.7)
    return threshold if threshold.ndim else float(threshold)


def doubtful_weights(ess: Array, khat: Array, num_samples: int | Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each datum whether k-hat is above its limit, and whether the effective sample size is below 10, [N].

    >>> doubtful_weights(np.array([5.0, 50.0]), np.array([0.1, 0.9]), 100)
    (array([False,  True]), array([ True, False]))
    """
    return khat > khat_threshold(num_samples), ess < LOW_ESS - ROUNDING


def within(mcse: Array, bias: Array, tolerance: float) -> NDArray[np.bool_]:
    """Return for each datum whether its error and its bias are inside the tolerance, [N]."""
    with np.errstate(invalid="ignore"):
        return (mcse <= tolerance) & (np.abs(bias) <= tolerance)


def bound_curve(log_weights: Array, base: int) -> Curve:
    """Return the bound for 1, 2, 4, ... draws below `base`, and for base, 2 base, 4 base, ... up to all, [K, N].

    IWAE_k is the average over the K / k disjoint groups of k draws.

    >>> bound_curve(np.zeros((40, 3)), base=10).num_samples.tolist()
    [1, 2, 4, 8, 10, 20, 40]
    """
    points, bounds, errors = [], [], []
    for start, stop in ((1, base), (base, len(log_weights) + 1)):
        groups, size = _grouped(log_weights, start), start
        while size < stop and len(groups):
            points.append(size)
            bounds.append(groups.mean(0))
            count = len(groups)
            with np.errstate(invalid="ignore"):  # a mean of minus infinity has no error
                errors.append(groups.std(0, ddof=1) / math.sqrt(count) if count > 1 else estimates(log_weights)["mcse"])
            groups, size = _grouped(groups, 2), 2 * size
    return Curve(np.array(points), np.stack(bounds), np.stack(errors))


def _grouped(log_weights: Array, size: int) -> Array:
    """Return the logarithm of the average weight of each group of `size` draws, [K // size, N]."""
    groups = log_weights[: len(log_weights) // size * size].reshape(-1, size, log_weights.shape[1])
    return np.logaddexp.reduce(groups, axis=1) - math.log(size)


def _smoothed(column: Array) -> tuple[float, float]:
    """Return Pareto's k of one datum's log-weights and the logarithm of the average smoothed weight."""
    raw = float(estimates(column[:, None])["log_px"][0])
    tail = np.sort(column)[-max(5, int(min(len(column) / 5, 3 * math.sqrt(len(column))))) :]
    if np.ptp(tail) < EQUAL:  # the largest weight has been drawn again and again, as that of a discrete latent is
        return -math.inf, raw
    weights, khat = psislw(column)
    if not math.isfinite(khat):
        return math.inf, raw  # too few weights that matter for a tail to be fitted: one or two have it all
    # Some ArviZ normalize what they return; a weight below the tail is left as it was but for that.
    body = np.argsort(column)[len(column) // 2]
    if not math.isfinite(column[body]):
        return khat, raw
    normalized = weights - weights.max()
    shift = column[body] - normalized[body]
    return khat, float(shift + np.log(np.exp(normalized).mean()))


class Statistics(NamedTuple):
    """What the log-weights of n data say: numbers by name, each [n], and the curve of the bound."""

    numbers: dict[str, Array]
    curve: Curve

    @classmethod
    def of(cls, log_weights: Array, base: int) -> "Statistics":
        """Return those of log-weights [K, n]; the curve has points at `base` and its doubles.

        >>> sorted(Statistics.of(np.zeros((4, 2)), base=4).numbers)
        ['bias', 'draws', 'elbo', 'elbo_mcse', 'ess', 'khat', 'log_px', 'log_px_psis', 'mcse']
        """
        draws = np.full(log_weights.shape[1], float(len(log_weights)))
        numbers = {"draws": draws, **estimates(log_weights), **pareto(log_weights)}
        return cls(numbers, bound_curve(log_weights, base))

    @classmethod
    def joined(cls, parts: Sequence["Statistics"], order: Any = slice(None)) -> "Statistics":
        """Put them side by side, in this order of data; a curve that ends at fewer samples has NaN from there."""
        numbers = {key: np.concatenate([part.numbers[key] for part in parts])[order] for key in parts[0].numbers}
        points = max((part.curve.num_samples for part in parts), key=len)
        bound, mcse = (
            np.concatenate([_padded(getattr(part.curve, name), len(points)) for part in parts], axis=1)[:, order]
            for name in ("bound", "mcse")
        )
        return cls(numbers, Curve(points, bound, mcse))


def _padded(values: Array, length: int) -> Array:
    return np.pad(values, ((0, length - len(values)), (0, 0)), constant_values=np.nan)
