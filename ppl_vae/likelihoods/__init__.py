"""Likelihoods P(x | h): modules whose `forward(h)` returns a distribution over one datum x.

h is what the decoder gives: it has the shape of x, with the first dimension `num_params` times as
long, and any leading batch dimensions (samples x data).
"""

from typing import Any

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.likelihoods.counts import (
    Binomial,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from ppl_vae.likelihoods.pixels import Categorical, DiscretizedLogistic, DiscretizedLogisticMixture
from ppl_vae.likelihoods.real import ContinuousBernoulli, Gaussian, Laplace, StudentT
from ppl_vae.parts import Likelihood

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "that_take",
]


class Bernoulli(Likelihood):
    """Black and white pixels, P(x | h) = prod_i Bernoulli(x_i; sigmoid(h_i)), x in {0, 1}.

    Grey pixels are refused (`fit` and `estimate_evidence` check): binarize them, or use a likelihood
    for grey levels.

    >>> import torch
    >>> Bernoulli().bind((1, 8, 8))(torch.zeros(5, 1, 8, 8)).log_prob(torch.ones(1, 8, 8)).shape
    torch.Size([5])
    """

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return dist.Bernoulli(logits=logits)


def that_take(x: Tensor) -> dict[type[Likelihood], dict[str, Any]]:
    """Return the likelihoods on the shelf whose support holds all numbers of x, with the options they need for it.

    For whole numbers only those of counts, if there are any: a density of counts says little.

    >>> import torch
    >>> [cls.__name__ for cls in that_take(torch.tensor([0.5, 0.123]))]
    ['ContinuousBernoulli', 'Gaussian', 'Laplace', 'StudentT']
    >>> that_take(torch.tensor([0.0, 0.25, 1.0]))[DiscretizedLogistic]
    {'num_levels': 5}
    """
    listed: list[Any] = [globals()[name] for name in __all__]
    shelf = [cls for cls in listed if isinstance(cls, type) and issubclass(cls, Likelihood) and cls is not Likelihood]
    taking = {cls: own for cls in shelf if (own := cls.options_for(x)) is not None}
    discrete = {cls: own for cls, own in taking.items() if cls(**own).support.is_discrete}
    whole = bool((x == x.round()).all())
    return discrete if whole and discrete else discrete | taking
