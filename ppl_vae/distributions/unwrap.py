"""What values a number can have, as PyTorch constraints, and how to say it."""

from typing import Any

import torch
from pyro.distributions import ImproperUniform
from torch.distributions import Independent, constraints


def unwrapped(fn: Any) -> Any:
    """Return what stands under the wrappers of a distribution: it has the support of each number of x.

    >>> import pyro.distributions as dist
    >>> type(unwrapped(dist.Bernoulli(0.5).expand([3]).to_event(1).mask(False))).__name__
    'Bernoulli'
    """
    import pyro.distributions as dist

    # What these are made of has another support, or another name.
    own = (torch.distributions.TransformedDistribution, dist.ZeroInflatedDistribution)
    while hasattr(fn, "base_dist") and not isinstance(fn, own):
        fn = fn.base_dist
    return fn


def each(support: Any) -> Any:
    """Return the support of each number of x, of a support of all of x.

    >>> each(constraints.independent(constraints.unit_interval, 3)) is constraints.unit_interval
    True
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def in_words(support: Any) -> str:
    """Return what values are inside, as it is said in a message.

    >>> from ppl_vae.distributions.pixels import Levels
    >>> in_words(constraints.integer_interval(0, 16)), in_words(constraints.unit_interval), in_words(Levels(17))
    ('whole numbers from 0 to 16', '[0, 1]', '{0, 1/16, ..., 1}')
    """
    support = each(support)
    if support is constraints.boolean:
        return "{0, 1}"
    if support is constraints.nonnegative_integer:
        return "whole numbers from 0 on"
    if support is constraints.unit_interval:
        return "[0, 1]"
    if isinstance(support, constraints.integer_interval):
        low, high = (float(torch.as_tensor(bound).max()) for bound in (support.lower_bound, support.upper_bound))
        return f"whole numbers from {low:.0f} to {high:.0f}"
    return str(support)


def is_improper(fn: Any) -> bool:
    """Say whether a distribution is flat: it has no density, and nothing can be drawn from it."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, ImproperUniform)


def elementwise(fn: Any) -> Any:
    """Return a distribution of independent numbers as one for each of them, any other as it is."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def _factors(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn
