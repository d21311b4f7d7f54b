"""Densities, grids and draws of one number each, in NumPy: what the oracle of the fuzz knows, and Pyro has no part in.

A family has `log_density(value, *args)`; `grid(*args)`, the values of one more axis with log of (density times the
measure of each node), so that their log-sum-exp is 0; and `draw(rng, *args)`. Continuous ones stand on panels of
Gauss-Legendre nodes in a coordinate in which they are smooth, relative to their own arguments: kinks are at the ends of
panels, and what is narrow is resolved, wherever it is. Discrete ones are enumerated.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

ORDER = 6  # nodes of a panel; the oracle's own error is seen with one fewer
MOST = 45  # the largest count that a Poisson latent is enumerated to


class Family(NamedTuple):
    log_density: Callable[..., Any]
    grid: Callable[..., Any]
    draw: Callable[..., Any]
    space: str  # real, positive, unit, interval, circle, binary, category, count


def panels(edges, order):
    """Nodes and log-weights of Gauss and Legendre's rule on each panel between edges."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    low, high = np.asarray(edges[:-1])[:, None], np.asarray(edges[1:])[:, None]
    half = (high - low) / 2
    return ((low + high) / 2 + half * nodes).ravel(), np.log(half * weights).ravel()


def _last(args):
    return [np.asarray(a, dtype=float)[..., None] for a in args]


def _smooth(log_density, edges, value_of, log_slope_of):
    """The grid of a family whose value is a smooth function of a coordinate on panels."""

    def grid(*args, order=ORDER):
        t, log_w = panels(edges, order)
        args = _last(args)
        value = value_of(t, *args)
        return value, log_density(value, *args) + log_slope_of(t, value, *args) + log_w

    return grid


def normal(v, loc, scale):
    return -0.5 * ((v - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def laplace(v, loc, scale):
    return -np.abs(v - loc) / scale - np.log(2 * scale)


def student(v, df, loc, scale):
    const = special.gammaln((df + 1) / 2) - special.gammaln(df / 2) - 0.5 * np.log(df * math.pi) - np.log(scale)
    return const - (df + 1) / 2 * np.log1p(((v - loc) / scale) ** 2 / df)


def log_normal(v, loc, scale):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(v > 0, normal(np.log(v), loc, scale) - np.log(v), -np.inf)


def gamma(v, shape, rate):
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = shape * np.log(rate) + (shape - 1) * np.log(v) - rate * v - special.gammaln(shape)
    return np.where(v > 0, inside, -np.inf)


def half_normal(v, scale):
    return np.where(v >= 0, normal(v, 0.0, scale) + math.log(2), -np.inf)


def exponential(v, rate):
    return np.where(v >= 0, np.log(rate) - rate * v, -np.inf)


def beta(v, a, b):
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = special.xlogy(a - 1, v) + special.xlog1py(b - 1, -v) - special.betaln(a, b)
    return np.where((v > 0) & (v < 1), inside, -np.inf)


def uniform(v, low, high):
    return np.where((v >= low) & (v <= high), -np.log(high - low), -np.inf)


def von_mises(v, loc, concentration):
    return concentration * (np.cos(v - loc) - 1) - math.log(2 * math.pi) - np.log(special.i0e(concentration))


def logit_normal(v, loc, scale):
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = normal(special.logit(v), loc, scale) - np.log(v) - np.log1p(-v)
    return np.where((v > 0) & (v < 1), inside, -np.inf)


def interval_normal(v, loc, scale, low, high):
    return logit_normal((v - low) / (high - low), loc, scale) - np.log(high - low)


def bernoulli(v, p):
    return special.xlogy(v, p) + special.xlog1py(1 - v, -p)


def categorical(v, *probs):
    total = sum(probs)
    return sum(np.where(v == i, np.log(p / total), 0.0) for i, p in enumerate(probs))


def poisson(v, rate):
    return special.xlogy(v, rate) - rate - special.gammaln(v + 1)


def _states(log_density, count):
    def grid(*args, order=ORDER):
        states = np.arange(float(count(args)))
        return states, log_density(states, *_last(args))

    return grid


def _pick(rng, *probs):
    probs = np.stack(np.broadcast_arrays(*probs), -1)
    return (rng.random(probs.shape[:-1])[..., None] > np.cumsum(probs / probs.sum(-1, keepdims=True), -1)).sum(-1) * 1.0


WIDE = np.linspace(-9.0, 9.0, 25)
TAILS = np.concatenate([-np.geomspace(0.4, 40, 18)[::-1], [0.0], np.geomspace(0.4, 40, 18)])
LOGS = np.linspace(-24.0, 4.5, 39)
LOGITS = np.linspace(-22.0, 22.0, 45)
UNIT = np.linspace(0.0, 1.0, 17)
TURN = np.linspace(-math.pi, math.pi, 17)


def _scaled(t, loc, scale):
    return loc + scale * t


FAMILIES = {
    "Normal": Family(
        normal,
        _smooth(normal, WIDE, _scaled, lambda t, v, loc, scale: np.log(scale)),
        lambda rng, loc, scale: rng.normal(loc, scale),
        "real",
    ),
    "Laplace": Family(
        laplace,
        _smooth(laplace, TAILS, _scaled, lambda t, v, loc, scale: np.log(scale)),
        lambda rng, loc, scale: rng.laplace(loc, scale),
        "real",
    ),
    "StudentT": Family(
        student,
        _smooth(
            student,
            np.linspace(-10.5, 10.5, 57),
            lambda t, df, loc, scale: loc + scale * np.sinh(t),
            lambda t, v, df, loc, scale: np.log(scale * np.cosh(t)),
        ),
        lambda rng, df, loc, scale: loc + scale * rng.standard_t(df),
        "real",
    ),
    "LogNormal": Family(
        log_normal,
        _smooth(
            log_normal,
            WIDE,
            lambda t, loc, scale: np.exp(loc + scale * t),
            lambda t, v, loc, scale: np.log(scale) + np.log(v),
        ),
        lambda rng, loc, scale: rng.lognormal(loc, scale),
        "positive",
    ),
    "Gamma": Family(
        gamma,
        _smooth(gamma, LOGS, lambda t, shape, rate: np.exp(t) / rate, lambda t, v, shape, rate: np.log(v)),
        lambda rng, shape, rate: rng.gamma(shape, 1 / rate),
        "positive",
    ),
    "HalfNormal": Family(
        half_normal,
        _smooth(half_normal, np.linspace(0.0, 9.0, 19), lambda t, scale: scale * t, lambda t, v, scale: np.log(scale)),
        lambda rng, scale: np.abs(rng.normal(0.0, scale)),
        "positive",
    ),
    "Exponential": Family(
        exponential,
        _smooth(exponential, LOGS, lambda t, rate: np.exp(t) / rate, lambda t, v, rate: np.log(v)),
        lambda rng, rate: rng.exponential(1 / rate),
        "positive",
    ),
    "Beta": Family(
        beta,
        _smooth(beta, LOGITS, lambda t, a, b: special.expit(t), lambda t, v, a, b: np.log(v) + np.log1p(-v)),
        lambda rng, a, b: rng.beta(a, b),
        "unit",
    ),
    "Uniform": Family(
        uniform,
        _smooth(uniform, UNIT, lambda t, low, high: low + (high - low) * t, lambda t, v, low, high: np.log(high - low)),
        lambda rng, low, high: rng.uniform(low, high),
        "interval",
    ),
    "VonMises": Family(
        von_mises,
        _smooth(von_mises, TURN, lambda t, loc, k: t + 0 * loc, lambda t, v, loc, k: 0 * v),
        lambda rng, loc, k: rng.vonmises(loc, k),
        "circle",
    ),
    "Bernoulli": Family(bernoulli, _states(bernoulli, lambda a: 2), lambda rng, p: rng.binomial(1, p) * 1.0, "binary"),
    "Categorical": Family(categorical, _states(categorical, len), _pick, "category"),
    "OneHotCategorical": Family(categorical, _states(categorical, len), _pick, "category"),
    "Poisson": Family(poisson, _states(poisson, lambda a: MOST), lambda rng, rate: rng.poisson(rate) * 1.0, "count"),
    # Of guides only: what Pyro writes as a transformed Normal.
    "LogitNormal": Family(logit_normal, None, lambda rng, loc, scale: special.expit(rng.normal(loc, scale)), "unit"),
    "IntervalNormal": Family(
        interval_normal,
        None,
        lambda rng, loc, scale, low, high: low + (high - low) * special.expit(rng.normal(loc, scale)),
        "interval",
    ),
}
DISCRETE = {"Bernoulli", "Categorical", "OneHotCategorical", "Poisson"}
