"""Counts of a size that varies: reads of genes in cells, words in documents."""

from collections.abc import Sequence

import pyro
from torch import Tensor

from ppl_vae.base import Model
from ppl_vae.errors import InputError, is_one_of, shown
from ppl_vae.likelihoods import Likelihood, NegativeBinomial, of_shares
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.priors import LibrarySize, Prior, StandardNormal


class Counts(Model):
    """P(x, z, l) = P(x | h = f(z), l) P(z) P(l): the mean of x_i is l softmax(log mu + a)_i, with (a, ...) = h.

    l is the library size of a cell. Latent, log l = m + s u, P(u) = N(0, 1), with m and s those of the totals of the
    training data. Observed, l is the total of x itself, which is given and not scored: the answer is log P(x | l), no
    log P(x); what is generated has an l of that prior.
    Shapes: u [N], z [N, latent_dim], h [N, *likelihood.h_shape], x [N, *event_shape].
    Args: likelihood: of counts, which takes l: negative binomial (the usual one), zero-inflated, Poisson.
        library: "latent" or "observed".
    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> Counts((20,))(size=5).shape
    torch.Size([5, 20])
    """

    default_prior, default_likelihood = StandardNormal, NegativeBinomial

    def __init__(
        self,
        event_shape: Sequence[int],
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        decoder: NetworkFactory = MLP,
        *,
        library: str = "latent",
    ) -> None:
        super().__init__(event_shape)
        if not is_one_of(library, ("latent", "observed")):
            raise InputError(f"Expected library to be 'latent' or 'observed'; got {shown(library)}.")
        self.prior = prior or StandardNormal(8)
        self.library = LibrarySize(self.event_shape)
        self.is_given = is_one_of(library, ["observed"])
        self.conditions_on = "l = sum_i x_i" if self.is_given else None
        self.likelihood = of_shares(likelihood or NegativeBinomial()).bind(event_shape)
        self.decoder = network_of(decoder, self.prior.event_shape, self.likelihood.h_shape)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x, or generate `size` of them."""
        with self.plate(x, size):
            z = pyro.sample("z", self.prior())
            if x is not None and self.is_given:
                log_l = self.library.observed(x)
            else:
                log_l = self.library.log_size(pyro.sample("u", self.library()))
            return pyro.sample("x", self.likelihood(self.decoder(z), log_l), obs=x)
