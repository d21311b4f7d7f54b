"""The variational autoencoder: a latent z of a simple prior, decoded by a network."""

from collections.abc import Sequence

import pyro
from torch import Tensor

from ppl_vae.base import Model
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.priors import Prior, StandardNormal


class VAE(Model):
    """P(x, z) = P(x | h = f(z)) P(z), with f a network.

    Shapes: z [N, latent_dim], h [N, *likelihood.h_shape], x [N, *event_shape].
    Source: Kingma & Welling, arXiv 1312.6114; Doersch, arXiv 1606.05908.

    >>> VAE((1, 8, 8), prior=StandardNormal(2))(size=5).shape
    torch.Size([5, 1, 8, 8])
    """

    default_prior, default_likelihood = StandardNormal, Bernoulli

    def __init__(
        self,
        event_shape: Sequence[int],
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        decoder: NetworkFactory = MLP,
    ) -> None:
        super().__init__(event_shape)
        self.prior = prior or StandardNormal(8)
        self.likelihood = (likelihood or Bernoulli()).bind(event_shape)
        self.decoder = network_of(decoder, self.prior.event_shape, self.likelihood.h_shape)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x, or generate `size` of them."""
        with self.plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)
