"""Likelihoods P(x | h): modules whose `forward(h)` returns a distribution over one datum x.

h is what the decoder gives: it has the shape of x, with the first dimension `num_params` times as
long, and any leading batch dimensions (samples x data).
"""

from typing import Any

from torch import Tensor

from ppl_vae.likelihoods import bounded, codes
from ppl_vae.likelihoods.bounded import Beta, Gamma, LogNormal
from ppl_vae.likelihoods.codes import Nominal, Ordinal
from ppl_vae.likelihoods.columns import Columns
from ppl_vae.likelihoods.counts import (
    Binomial,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from ppl_vae.likelihoods.counts import of_shares as of_shares
from ppl_vae.likelihoods.pixels import Bernoulli, Categorical, DiscretizedLogistic, DiscretizedLogisticMixture
from ppl_vae.likelihoods.real import ContinuousBernoulli, Gaussian, Laplace, StudentT
from ppl_vae.parts import Likelihood

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gamma",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "Multinomial",
    "NegativeBinomial",
    "Nominal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "that_take",
]


def that_take(x: Tensor) -> dict[type[Likelihood], dict[str, Any]]:
    """Return the likelihoods on the shelf whose support holds all numbers of x, with the options they need for it.

    For whole numbers only those of counts, if there are any: a density of counts says little. Those that are made for
    columns of tables come last.

    >>> import torch
    >>> [cls.__name__ for cls in that_take(torch.tensor([0.5, 0.123]))]
    ['ContinuousBernoulli', 'Gaussian', 'Laplace', 'StudentT', 'Beta', 'Gamma', 'LogNormal']
    >>> that_take(torch.tensor([0.0, 0.25, 1.0]))[DiscretizedLogistic]
    {'num_levels': 5}
    """
    listed: list[Any] = [globals()[name] for name in __all__]
    shelf = [cls for cls in listed if isinstance(cls, type) and issubclass(cls, Likelihood) and cls is not Likelihood]
    shelf.sort(key=lambda cls: cls.__module__ in (bounded.__name__, codes.__name__))
    taking = {cls: own for cls in shelf if (own := cls.options_for(x)) is not None}
    discrete = {cls: own for cls, own in taking.items() if cls(**own).support.is_discrete}
    whole = bool((x == x.round()).all())
    return discrete if whole and discrete else discrete | taking
