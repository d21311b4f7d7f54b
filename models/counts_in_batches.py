"""Counts of a size that varies, measured in batches: cells of several donors, runs or laboratories."""

from collections.abc import Sequence

import pyro
from torch import Tensor

from ppl_vae.architectures import Architecture
from ppl_vae.conditional import ConditionalModel
from ppl_vae.conditions import Condition, Label
from ppl_vae.likelihoods import Likelihood, NegativeBinomial, of_shares
from ppl_vae.priors import LibrarySize, Prior, StandardNormal


class CountsInBatches(ConditionalModel):
    """P(x, z, l, y) = P(x | h = f(z, y), l) P(z) P(l) P(y): `Counts` in batches y.

    The mean of x_i is l softmax(log mu + a)_i, with (a, ...) = h; log l = m + s u, P(u) = N(0, 1), with m and s those
    of the totals of the training data.
    Shapes: y [N], u [N], z [N, latent_dim], h [N, *likelihood.h_shape], x [N, *event_shape].
    Args: likelihood: of counts, which takes l: negative binomial (the usual one), zero-inflated, Poisson.
    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018).

    >>> import torch
    >>> CountsInBatches((20,), Label(3))(y=torch.tensor([0, 2])).shape
    torch.Size([2, 20])
    """

    completes = False
    default_condition, default_prior, default_likelihood = Label, StandardNormal, NegativeBinomial

    def __init__(
        self,
        event_shape: Sequence[int],
        condition: Condition | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        networks: Architecture | None = None,
    ) -> None:
        super().__init__(event_shape, condition, prior, of_shares(likelihood or NegativeBinomial()), networks)
        self.library = LibrarySize(self.event_shape)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x and y, or x alone; or generate `size` of them, given y or with y drawn, too."""
        with self.plate(x, size, y):
            y = pyro.sample("y", self.condition(), obs=y, infer=self.condition.infer)
            c = self.condition.encode(y)
            z = pyro.sample("z", self.prior(c))
            log_l = self.library.log_size(pyro.sample("u", self.library()))
            return pyro.sample("x", self.likelihood(self.decoder(z, c), log_l), obs=x)
