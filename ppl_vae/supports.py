"""What values a number can have, as PyTorch constraints, and how to say it."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

TOLERANCE = 1e-3  # of a level, for k / (num_levels - 1) in single precision; one in 500 random numbers is so near


class Levels(constraints.Constraint):
    """The levels of a grey picture, x in {0, 1 / (L - 1), ..., 1} with L = num_levels.

    >>> Levels(256).check(torch.tensor([0.0, 0.5, 100 / 255]))
    tensor([ True, False,  True])
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels

    def __str__(self) -> str:
        steps = self.num_levels - 1
        return "{0, 1}" if steps == 1 else f"{{0, 1/{steps}, ..., 1}}"

    def check(self, value: Tensor) -> Tensor:
        """Return which values are levels."""
        level = value * (self.num_levels - 1)
        return (value >= 0) & (value <= 1) & ((level - level.round()).abs() < TOLERANCE)


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
