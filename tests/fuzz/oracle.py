"""log P(x) of a described program, by quadrature and enumeration: PyTorch, Pyro and ppl_vae have no part in it.

    P(x) = int P(z) prod_s P(x_s | z) prod_j [int P(u_j | z) P(x_j | z, u_j) du_j] dz

with z the latents of a datum, each on an axis of its own, and u_j those of its members j (an inner plate, a step).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from .families import FAMILIES, ORDER


@dataclass
class Site:
    """A site of a program, as it is described: a family with arguments that are expressions of the sites before."""

    name: str
    family: str
    args: tuple[str, ...]
    member: bool = False  # one for each member j of a datum
    observed: str = ""  # which data it holds: x or y
    enumerated: bool = False  # marked to be enumerated
    infer: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)  # how it is written: no part of what the oracle reads


@dataclass
class Described:
    """What the oracle reads of a model: its sites, what is given or left out, and factors besides."""

    sites: list[Site]
    members: int  # how many a datum has
    constants: dict[str, np.ndarray]  # by name: [J], one for each member
    factor: str = ""  # an expression that is added to log P
    given: tuple[str, ...] = ()  # observed sites that are no part of log P(x | y)
    seen: np.ndarray | None = None  # [N], of which data the observed sites count
    scored: np.ndarray | None = None  # [N], of which data any site counts


def _functions():
    return {
        "tanh": np.tanh, "exp": np.exp, "log": np.log, "sigmoid": special.expit, "cos": np.cos, "sin": np.sin,
        "pick": lambda c, *a: np.asarray(a)[c.astype(int)], "dot": lambda c, *a: np.asarray(a)[c.astype(int)],
    }  # fmt: skip


class Space:
    """Axes: data (or draws), one of each latent of a datum, members, one of each latent of a member."""

    def __init__(self, model, fixed):
        free = [s for s in model.sites if not s.observed and s.name not in fixed]
        self.outer = [s.name for s in free if not s.member]
        self.inner = [s.name for s in free if s.member]
        self.dims = 2 + len(self.outer) + len(self.inner)

    def axis(self, site):
        if site.member:
            return 2 + len(self.outer) + self.inner.index(site.name)
        return 1 + self.outer.index(site.name)

    def placed(self, array, member):
        """[S] or [S, J] with all axes."""
        shape = [1] * self.dims
        array = np.asarray(array)
        shape[0] = array.shape[0]
        if member:
            shape[1 + len(self.outer)] = array.shape[1]
        return array.reshape(shape)

    def members(self, array):
        shape = [1] * self.dims
        shape[1 + len(self.outer)] = len(array)
        return np.asarray(array).reshape(shape)

    def inner_axes(self):
        return tuple(range(2 + len(self.outer), self.dims))


def _reduce(log_terms, axes):
    return special.logsumexp(log_terms, axis=axes) if axes else log_terms


def log_terms(model, data, fixed=None, order=ORDER):
    """Return log of what is integrated: of the outer axes [S, ...], of the inner [S, ..., J, ...], and the values.

    `data` and `fixed` (latents that are given) are [S] or [S, J] by name.
    """
    fixed = fixed or {}
    space = Space(model, fixed)
    values = {name: space.members(constant) for name, constant in model.constants.items()}
    outer, inner = np.zeros((1,) * space.dims), np.zeros((1,) * space.dims)
    for site in model.sites:
        family = FAMILIES[site.family]
        args = [eval(a, _functions(), values) for a in site.args]
        if site.observed or site.name in fixed:
            given = data[site.observed] if site.observed else fixed[site.name]
            value = space.placed(given, site.member)
            known = ~np.isnan(value)
            term = np.where(known, family.log_density(np.where(known, value, 0.5), *args), 0.0)
            if site.name in model.given:
                term = 0.0 * term
            if site.observed and model.seen is not None:
                term = np.where(space.placed(np.resize(model.seen, len(value)), False), term, 0.0)
        else:
            axis = space.axis(site)
            value, term = family.grid(
                *(np.asarray(a, dtype=float) + np.zeros((1,) * space.dims) for a in args), order=order
            )
            value = np.broadcast_to(value, np.broadcast_shapes(value.shape, (1,) * (space.dims + 1)))
            value, term = (
                np.moveaxis(v.reshape((1,) * (space.dims + 1 - v.ndim) + v.shape), -1, axis) for v in (value, term)
            )
            value, term = value.squeeze(axis + 1), term.squeeze(axis + 1)
        values[site.name] = value
        if site.member:
            inner = inner + term
        else:
            outer = outer + term
    if model.factor:
        outer = outer + eval(model.factor, _functions(), values)
    if any(s.member for s in model.sites) and inner.shape[1 + len(space.outer)] != model.members:
        inner = inner + space.members(np.zeros(model.members))
    return outer, inner, values, space


def log_marginal(model, data, fixed=None, order=ORDER):
    """Return log P(data, fixed), the other latents integrated out, [S]."""
    outer, inner, _, space = log_terms(model, data, fixed, order)
    inner = _reduce(inner, space.inner_axes()).sum(1 + len(space.outer))
    outer = outer.reshape(outer.shape[: 1 + len(space.outer)])
    inner = inner.reshape(inner.shape[: 1 + len(space.outer)])
    total = _reduce(outer + inner, tuple(range(1, 1 + len(space.outer))))
    total = np.broadcast_to(total, (len(next(iter(data.values()))),))
    return np.where(model.scored, total, 0.0) if model.scored is not None and fixed is None else total


def posterior(model, data):
    """Return the values of each latent on its axis, and its posterior probabilities, [N, (J,) G] both, by name."""
    outer, inner, values, space = log_terms(model, data)
    m, num_data = 1 + len(space.outer), len(next(iter(data.values())))
    outer, inner = np.maximum(outer, -1e6), np.maximum(inner, -1e6)  # what has no mass has a place, too
    by_member = _reduce(inner, space.inner_axes())  # [S, ..., J]
    total = outer.reshape(outer.shape[:m]) + by_member.sum(m)
    found = {}
    for site in (s for s in model.sites if not s.observed):
        axis = space.axis(site)
        if site.member:
            rest = (total[..., None] - by_member).reshape(
                *np.broadcast_shapes(total.shape, by_member.shape[:m]), -1, *(1,) * len(space.inner)
            )
            log_p, keep = rest + inner, (0, m, axis)
        else:
            log_p, keep = total.reshape(*total.shape, *(1,) * (space.dims - m)), (0, axis)
        log_p, value = np.broadcast_arrays(log_p, values[site.name])
        log_p = log_p - log_p.max(tuple(i for i in range(1, space.dims) if i != m or not site.member), keepdims=True)
        p = np.exp(log_p)
        drop = tuple(i for i in range(space.dims) if i not in keep)
        p = np.maximum(p, 1e-250)
        mass = p.sum(drop)
        # Where the grid moves with its parents, a node's value is the mean of those that it takes.
        mean, square = (p * value).sum(drop) / mass, (p * value**2).sum(drop) / mass
        found[site.name] = tuple(
            np.broadcast_to(a, (num_data, *a.shape[1:])) for a in (mean, np.maximum(square - mean**2, 0), mass)
        )
    return found


def moments(values, spread, mass, transform=lambda v: v):
    """Return the mean and the standard deviation of a function of a latent, over its last axis."""
    p = mass / mass.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = transform(values)
        moved = np.abs(transform(values + np.sqrt(spread)) - transform(values - np.sqrt(spread))) / 2
    good = np.isfinite(t)
    t, moved = np.where(good, t, 0.0), np.where(good & np.isfinite(moved), moved, 0.0)
    mean = (p * t).sum(-1)
    return mean, np.sqrt(np.maximum((p * (t**2 + moved**2)).sum(-1) - mean**2, 1e-8))


def converged(model, data, limit=1e-5):
    """Return whether another rule gives the same log P(x), so that quadrature is exact for our purposes."""
    one, other = log_marginal(model, data), log_marginal(model, data, order=ORDER - 1)
    return bool(np.isfinite(one).all() and np.abs(one - other).max() < limit)


def normal_log_px(x, mean, covariance):
    """log N(x; mean, covariance) of each row: a closed form to test the oracle by."""
    _, logdet = np.linalg.slogdet(covariance)
    centered = x - mean
    return -0.5 * (centered * np.linalg.solve(covariance, centered.T).T).sum(1) - 0.5 * (
        logdet + x.shape[1] * math.log(2 * math.pi)
    )
