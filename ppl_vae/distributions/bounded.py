"""Densities of numbers above zero, and between 0 and 1, whose draws and means stay inside whatever the parameters.

In exact arithmetic a draw is never at an end; rounded it is, where the density is zero or infinite.
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to


class OpenUnitInterval(constraints.Constraint):
    """The numbers between 0 and 1, neither of them included.

    >>> OPEN_UNIT_INTERVAL.check(torch.tensor([0.0, 0.5, 1.0]))
    tensor([False,  True, False])
    """

    is_discrete = False
    event_dim = 0

    def __str__(self) -> str:
        return "numbers above 0 and below 1"

    def check(self, value: Tensor) -> Tensor:
        """Return which numbers are inside."""
        return (value > 0) & (value < 1)


OPEN_UNIT_INTERVAL = OpenUnitInterval()
biject_to.register(OpenUnitInterval, lambda _: biject_to(constraints.unit_interval))
transform_to.register(OpenUnitInterval, lambda _: transform_to(constraints.unit_interval))


class LogNormal(dist.LogNormal):
    """PyTorch's log-normal, with finite draws and a finite mean."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, at most the largest number there is."""
        return _representable(super().rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """exp(m + sigma^2 / 2)."""
        return _representable((self.loc + self.scale**2 / 2).exp())


class Gamma(dist.Gamma):
    """PyTorch's gamma distribution over numbers above zero; zero has no density, or an infinite one."""

    support: Any = constraints.positive


class Beta(dist.Beta):
    """PyTorch's beta distribution between 0 and 1; at both the density is zero or infinite."""

    support: Any = OPEN_UNIT_INTERVAL

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, none of them rounded to 0 or 1."""
        limits = torch.finfo(self.concentration1.dtype)
        return super().rsample(torch.Size(sample_shape)).clamp(limits.tiny, 1 - limits.eps)


def _representable(x: Tensor) -> Tensor:
    limits = torch.finfo(x.dtype)
    return x.clamp(limits.tiny, limits.max)
