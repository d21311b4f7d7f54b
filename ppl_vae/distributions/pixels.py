"""Distributions of grey levels that likelihoods of the same names are made of, and their support."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid, softplus

LOG_FLOOR = -7.0  # of log s: narrower than a level by far, and its gradients do not explode
NEAR_ZERO = 0.05  # logits of a continuous Bernoulli for which a series is more exact than its formula
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


class _OverLevels(TorchDistribution):
    """A distribution over `num_levels` levels."""

    num_levels: int

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        """The levels."""
        return Levels(self.num_levels)


class DiscretizedLogistic(_OverLevels):
    """A logistic variable rounded to levels, elementwise; mean and log_scale are of 2 x - 1."""

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012

    def __init__(self, mean: Tensor, log_scale: Tensor, num_levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = broadcast_all(mean, log_scale)
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def _log_s(self) -> Tensor:
        """Log s, kept above its floor smoothly: a gradient that is cut off would never come back."""
        return torch.logaddexp(self.log_scale, torch.full_like(self.log_scale, LOG_FLOOR))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        """Return the same with a larger batch shape."""
        params = (self.loc.expand(batch_shape), self.log_scale.expand(batch_shape))
        return DiscretizedLogistic(*params, self.num_levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(level), by log(S(a) - S(b)) = log S(a) + log S(-b) + log(1 - e^(b - a))."""
        if self._validate_args:
            self._validate_sample(value)
        log_s, half = self._log_s, 1 / (self.num_levels - 1)  # half the width of a level on the scale of 2 x - 1
        centred, per_s = 2 * value - 1 - self.loc, torch.exp(-log_s)
        below, above = logsigmoid((centred + half) * per_s), logsigmoid((half - centred) * per_s)
        width = torch.log(-torch.expm1(-2 * half * per_s))
        first, last = value < half / 2, value > 1 - half / 2
        # There is one addend only at either end, where the tail beyond it counts, too.
        return torch.where(first, below, torch.where(last, above, below + above + width))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return rounded draws."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            logistic = torch.logit(u, eps=torch.finfo(u.dtype).eps)
            x = (self.loc + self._log_s.exp() * logistic + 1) / 2
            return (x * (self.num_levels - 1)).round().clamp(0, self.num_levels - 1) / (self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x] = sum_k P(level >= k) / (L - 1), one level after the other to save memory."""
        steps, per_s = self.num_levels - 1, torch.exp(-self._log_s)
        total = torch.zeros_like(self.loc)
        for k in range(1, self.num_levels):
            total = total + torch.sigmoid((self.loc + 1 - (2 * k - 1) / steps) * per_s)
        return total / steps


class DiscretizedLogisticMixture(dist.MixtureSameFamily):  # type: ignore[misc]
    """A mixture of distributions over levels, with the levels as its support."""

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        """The levels."""
        levels: Levels = self.component_distribution.support
        return levels


class Categorical(_OverLevels):
    """A probability for each level, elementwise; logits are [..., num_levels]."""

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}  # noqa: RUF012

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.num_levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Categorical":
        """Return the same with a larger batch shape."""
        logits = self.logits.expand(*batch_shape, self.num_levels)
        return Categorical(logits, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(level)."""
        if self._validate_args:
            self._validate_sample(value)
        level = (value * (self.num_levels - 1)).round().long().unsqueeze(-1)
        shape = torch.broadcast_shapes(level.shape[:-1], self.batch_shape)
        return self.logits.expand(*shape, -1).gather(-1, level.expand(*shape, 1)).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws."""
        level = dist.Categorical(logits=self.logits.detach()).sample(sample_shape)
        return level.to(self.logits) / (self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x], [*batch_shape]."""
        return self.logits.exp() @ torch.linspace(0, 1, self.num_levels).to(self.logits)


class ContinuousBernoulli(dist.ContinuousBernoulli):  # type: ignore[misc]
    """PyTorch's continuous Bernoulli, computed from its logits l, not from p, in single precision 1 from l = 17 on."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return l x - log(1 + e^l) + log C(l)."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - softplus(self.logits) + _log_normalizer(self.logits)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - e^-l) - 1 / l, which is 1/2 for l = 0."""
        l = self.logits  # noqa: E741
        far = _far(l, 0.5)
        return torch.where(l.abs() < 0.5, 0.5 + l / 12 - l**3 / 720 + l**5 / 30240, -1 / torch.expm1(-far) - 1 / far)

    def icdf(self, value: Tensor) -> Tensor:
        """Return log(1 + u (e^l - 1)) / l, the inverse of the cumulative distribution at u; draws are made by it."""
        size = self.logits.abs()
        u = torch.where(self.logits < 0, 1 - value, value)
        far = _far(size, 0.01)
        x = torch.where(size < 0.01, u + size / 2 * u * (1 - u), 1 + torch.log(u + (1 - u) * torch.exp(-far)) / far)
        return torch.where(self.logits < 0, 1 - x, x).clamp(0, 1)


def _log_normalizer(logits: Tensor) -> Tensor:
    """Return log C = log(l / tanh(l / 2)), which is log 2 for l = 0."""
    far = _far(logits.abs(), NEAR_ZERO)
    near = math.log(2) + logits**2 / 12 - 7 * logits**4 / 1440
    return torch.where(logits.abs() < NEAR_ZERO, near, far.log() - torch.tanh(far / 2).log())


def _far(logits: Tensor, nearest: float) -> Tensor:
    """Return the logits with 1 for those near zero, where a formula has no finite gradient and is not used."""
    return torch.where(logits.abs() < nearest, torch.ones_like(logits), logits)
