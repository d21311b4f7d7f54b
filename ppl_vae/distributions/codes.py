"""Distributions over the codes of categories, 0 ... C - 1, with and without an order."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

AT_INFINITY = 1e4  # a threshold, where its sigmoid is 1 in double precision, too


class Nominal(TorchDistribution):
    """A probability for each code, elementwise; logits are [..., C]."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (a category that there is not has logit -inf)

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.num_levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """The whole numbers from 0 to C - 1."""
        return constraints.integer_interval(0, self.num_levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Nominal":
        """Return the same with a larger batch shape."""
        return type(self)(self.logits.expand(*batch_shape, self.num_levels), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(code)."""
        if self._validate_args:
            self._validate_sample(value)
        code = value.long().unsqueeze(-1)
        shape = torch.broadcast_shapes(code.shape[:-1], self.batch_shape)
        return self.logits.expand(*shape, -1).gather(-1, code.expand(*shape, 1)).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, as numbers like all others."""
        draws = dist.Categorical(logits=self.logits.detach(), validate_args=False).sample(torch.Size(sample_shape))
        return draws.to(self.logits)

    @property
    def probs(self) -> Tensor:
        """The probability of each code, [*batch_shape, C]."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """E[code], [*batch_shape]; of categories without an order a number that says little."""
        return self.probs @ torch.arange(self.num_levels).to(self.logits)


class Ordinal(Nominal):
    """The same of ordered categories."""


def cumulative_logits(first: Tensor, gaps: Tensor) -> Tensor:
    """Return log P(k) for k = 0 ... C - 1, [..., C], of thresholds t_0 [...] and the gaps between them [..., C - 2].

        P(x <= k) = S(t_k),    log(S(a) - S(b)) = log S(a) + log S(-b) + log(1 - e^(b - a)),    S the sigmoid

    >>> cumulative_logits(torch.tensor(0.0), torch.tensor([1.0])).exp()
    tensor([0.5000, 0.2311, 0.2689])
    """
    thresholds = torch.cat([first.unsqueeze(-1), gaps], -1).cumsum(-1)
    below, above = logsigmoid(thresholds), logsigmoid(-thresholds)
    between = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-gaps))
    return torch.cat([below[..., :1], between, above[..., -1:]], -1)
