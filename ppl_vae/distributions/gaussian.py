"""Gaussians that priors and posterior families are made of: a diagonal one, and a mixture of many.

The mixture is evaluated by matrix products, in double precision, as its square is taken apart:

    log p(z) = log sum_c pi_c N(z; m_c, diag(s_c^2)),
    -2 log N = z^2 . s_c^-2 - 2 z . (m_c s_c^-2) + m_c^2 . s_c^-2 + 2 sum log s_c + D log 2 pi
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

SMALLEST_SCALE = 1e-6


def diagonal_normal(h: Tensor) -> TorchDistribution:
    """Return N(m, diag(s^2)) over vectors of size D, with (m, r) = h and s = softplus(r) + 1e-6, for h [..., 2 D]."""
    loc, raw = h.chunk(2, dim=-1)
    return dist.Normal(loc, positive_scale(raw)).to_event(1)


def positive_scale(raw: Tensor) -> Tensor:
    """Return softplus(r) + 1e-6, elementwise."""
    return softplus(raw) + SMALLEST_SCALE


class GaussianMixture(TorchDistribution):
    """A mixture of diagonal Gaussians, with log pi_c up to a constant, [C], m_c and s_c, [*batch, C, D].

    >>> mixture = GaussianMixture(torch.zeros(3), torch.zeros(3, 2), torch.ones(3, 2))
    >>> round(mixture.log_prob(torch.zeros(2)).item(), 4), mixture.sample((5,)).shape
    (-1.8379, torch.Size([5, 2]))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.logits, self.loc, self.scale = logits.log_softmax(-1), loc, scale
        super().__init__(loc.shape[:-2], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GaussianMixture":
        """Return the same mixture with another batch shape."""
        batch_shape, loc, scale = Size(batch_shape), self.loc, self.scale
        if self.batch_shape:
            loc, scale = (t.expand(batch_shape + t.shape[-2:]) for t in (loc, scale))
        new = GaussianMixture(self.logits, loc, scale)  # one mixture for all stays one: nothing is repeated
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z) in nats for z [..., D]."""
        z, loc, scale = value.double(), self.loc.double(), self.scale.double()
        precision = scale**-2
        constant = (loc**2 * precision + 2 * scale.log()).sum(-1) + loc.shape[-1] * math.log(2 * math.pi)
        rows = torch.cat([precision, -2 * loc * precision], -1)
        squared = _products(torch.cat([z**2, z], -1), rows) + constant
        log_p = (self.logits - (squared / 2).to(value.dtype)).logsumexp(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z, [*sample_shape, *batch_shape, D]."""
        with torch.no_grad():
            shape = Size(sample_shape) + self.batch_shape
            which = torch.multinomial(self.logits.exp(), max(1, shape.numel()), replacement=True)
            which = which[: shape.numel()].reshape(shape)[..., None, None].expand(*shape, 1, *self.event_shape)
            loc, scale = (t.expand(*shape, *t.shape[-2:]).gather(-2, which).squeeze(-2) for t in (self.loc, self.scale))
            return torch.normal(loc, scale)

    @property
    def mean(self) -> Tensor:
        """The mean, [*batch_shape, D]."""
        return self._average(self.loc)

    @property
    def variance(self) -> Tensor:
        """The variance of each dimension, [*batch_shape, D]."""
        return self._average(self.scale**2 + self.loc**2) - self.mean**2

    def _average(self, values: Tensor) -> Tensor:
        average = (self.logits.exp()[:, None] * values).sum(-2)
        return average.expand(self.batch_shape + self.event_shape)


def _products(z: Tensor, rows: Tensor) -> Tensor:
    """Return z . rows_c for each component, [..., C], for z [..., D] and rows [*batch, C, D]."""
    return z @ rows.T if rows.dim() == 2 else (rows @ z.unsqueeze(-1)).squeeze(-1)
