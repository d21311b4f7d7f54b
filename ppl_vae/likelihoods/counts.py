"""Likelihoods of counts, x in {0, 1, 2, ...}: photons, reads of genes, words in a document."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae.distributions import counts
from ppl_vae.errors import positive_int
from ppl_vae.parts import Likelihood

SMALLEST_R = 1e-6  # of the r of a negative binomial


class Binomial(Likelihood):
    """Counts out of a known number n, P(x | h) = prod_i Binomial(x_i; n, sigmoid(h_i)), x in {0, ..., n}.

    Args:
        total_count: n.

    Raises:
        InputError: a total_count below 1.

    >>> Binomial(16).bind((3,))(torch.zeros(3)).mean
    tensor([8., 8., 8.])
    """

    def __init__(self, total_count: int = 1) -> None:
        super().__init__()
        self.total_count = positive_int("total_count", total_count)

    @classmethod
    def options_for(cls, x: Tensor) -> dict[str, Any] | None:
        """Return the largest count as the total."""
        fits = bool(constraints.nonnegative_integer.check(x).all())
        return {"total_count": max(1, int(x.max()))} if fits else None

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return counts.Binomial(torch.full_like(logits, self.total_count), logits=logits)


class Poisson(Likelihood):
    """Counts, P(x | h) = prod_i Poisson(x_i; exp(h_i)): their variance is their mean.

    >>> Poisson().bind((3,))(torch.zeros(3)).mean
    tensor([1., 1., 1.])
    """

    def distribution(self, log_rate: Tensor) -> TorchDistribution:
        return dist.Poisson(log_rate.exp())


class NegativeBinomial(Likelihood):
    """Counts that vary more than Poisson's, P(x | h) = prod_i NB(x_i; mean exp(a_i), r_i), with (a, b) = h.

    The variance is mu + mu^2 / r with mu = exp(a) and r = softplus(b) + 1e-6: a Poisson distribution whose rate
    has a gamma distribution.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> NegativeBinomial().bind((3,))(torch.zeros(6)).mean
    tensor([1., 1., 1.])
    """

    num_params = 2

    def distribution(self, a: Tensor, b: Tensor) -> TorchDistribution:
        return _negative_binomial(a, b)


class ZeroInflatedPoisson(Likelihood):
    """Counts with more zeros than Poisson's: zero with probability sigmoid(g), else Poisson(exp(a)), (g, a) = h.

    Source: Lambert, Zero-inflated Poisson regression, Technometrics 34 (1992).

    >>> ZeroInflatedPoisson().bind((3,))(torch.zeros(6)).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    num_params = 2

    def distribution(self, gate: Tensor, log_rate: Tensor) -> TorchDistribution:
        return counts.ZeroInflated(dist.Poisson(log_rate.exp()), gate_logits=gate)


class ZeroInflatedNegativeBinomial(Likelihood):
    """Counts with more zeros than `NegativeBinomial`: zero with probability sigmoid(g), (g, a, b) = h.

    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> ZeroInflatedNegativeBinomial().bind((3,))(torch.zeros(9)).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    num_params = 3

    def distribution(self, gate: Tensor, a: Tensor, b: Tensor) -> TorchDistribution:
        return counts.ZeroInflated(_negative_binomial(a, b), gate_logits=gate)


class Multinomial(Likelihood):
    """A bag of words: how often each of D words stands in a document of n, P(x | h, n) = Multinomial(x; n, softmax(h)).

        log P(x | h, n) = log n! - sum_i log x_i! + sum_i x_i log softmax(h)_i,    n = sum_i x_i

    n is read from x: the length of a document is given, not modelled.

    Args:
        total_count: n of what is generated.

    Raises:
        InputError: a total_count below 1.

    Source: Miao et al., arXiv 1511.06038; Liang et al., arXiv 1802.05814.

    >>> Multinomial(total_count=6).bind((3,))(torch.zeros(5, 3)).sample().sum(-1)
    tensor([6., 6., 6., 6., 6.])
    """

    def __init__(self, total_count: int = 100) -> None:
        super().__init__()
        self.total_count = positive_int("total_count", total_count)

    @property
    def support(self) -> Any:
        return constraints.nonnegative_integer

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return counts.Multinomial(logits, self.total_count, len(self.event_shape))


def _negative_binomial(a: Tensor, b: Tensor) -> TorchDistribution:
    """Return the negative binomial of mean exp(a): its odds are exp(a) / r."""
    r = softplus(b) + SMALLEST_R
    return dist.NegativeBinomial(r, logits=a - r.log())
