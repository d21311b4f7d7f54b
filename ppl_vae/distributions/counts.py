"""Distributions of counts that Pyro lacks, or that need more care than it takes.

log P(x) is computed in double precision. It is a sum of log-factorials that nearly cancel: of a count of 100,000, or of
a negative binomial that is nearly Poisson, single precision is off by 0.1 to 1 nat, for each number.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class _InDouble:
    """A distribution that checks what it is given, and scores it by the same one in double precision."""

    _validate_args: Any
    _validate_sample: Any

    def _score(self, in_double: Any, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.as_tensor(in_double.log_prob(value.double()))


class NegativeBinomial(_InDouble, dist.NegativeBinomial):  # type: ignore[misc]
    """Pyro's negative binomial.

    >>> NegativeBinomial(torch.tensor(1e6), logits=torch.tensor(0.0)).log_prob(torch.tensor(1e6))
    tensor(-8.1733)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x) of each number, in nats."""
        r, logits = self.total_count.double(), self.logits.double()
        return self._score(dist.NegativeBinomial(r, logits=logits, validate_args=False), value).to(self.logits.dtype)


class Poisson(_InDouble, dist.Poisson):
    """Pyro's Poisson distribution.

    >>> Poisson(torch.tensor(1e6)).log_prob(torch.tensor(1e6))
    tensor(-7.8267)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x) of each number, in nats."""
        return self._score(dist.Poisson(self.rate.double(), validate_args=False), value).to(self.rate.dtype)


class Binomial(_InDouble, dist.Binomial):
    """A binomial whose total is the same everywhere, so that its support has no dimensions."""

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """The whole numbers from 0 to n."""
        return constraints.integer_interval(0, self.total_count.max())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x) of each number, in nats."""
        n, logits = self.total_count.double(), self.logits.double()
        return self._score(dist.Binomial(n, logits=logits, validate_args=False), value).to(self.logits.dtype)


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Pyro's mixture of zero and another distribution, which cannot be expanded once it was sampled."""

    def __init__(self, base_dist: Any, gate_logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(base_dist, gate_logits=gate_logits, validate_args=validate_args)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ZeroInflated":
        """Return the same with a larger batch shape."""
        logits = self.gate_logits.expand(batch_shape)
        return ZeroInflated(self.base_dist.expand(batch_shape), gate_logits=logits, validate_args=self._validate_args)


class Multinomial(TorchDistribution):
    """A multinomial that scores x of any total n, and draws x of `total_count`; events have `num_dims` dimensions."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (the logits are in a shape of their own)

    def __init__(self, logits: Tensor, total_count: int, num_dims: int, validate_args: bool | None = None) -> None:
        batch_shape, event_shape = logits.shape[:-num_dims], logits.shape[-num_dims:]
        self.logits = logits.reshape(*batch_shape, -1).log_softmax(-1).reshape(logits.shape)
        self.total_count = total_count
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> Any:
        """Counts, whatever their sum."""
        return constraints.independent(constraints.nonnegative_integer, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Multinomial":
        """Return the same with a larger batch shape."""
        logits = self.logits.expand(*batch_shape, *self.event_shape)
        return Multinomial(logits, self.total_count, len(self.event_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x | n) with n the sum of x."""
        if self._validate_args:
            self._validate_sample(value)
        dims, x = list(range(-len(self.event_shape), 0)), value.double()
        logits = self.logits.double().reshape(*self.logits.shape[: -len(dims)], -1)
        of_each = x * logits.log_softmax(-1).reshape(self.logits.shape) - torch.lgamma(x + 1)
        return (torch.lgamma(x.sum(dims) + 1) + of_each.sum(dims)).to(self.logits.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return counts that sum to total_count."""
        flat = self.logits.detach().reshape(*self.batch_shape, -1)
        counts = dist.Multinomial(self.total_count, logits=flat).sample(torch.Size(sample_shape))
        return counts.reshape(self._extended_shape(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """E[x], total_count softmax(h), [*batch_shape, *event_shape]."""
        return self.total_count * self.logits.exp()
