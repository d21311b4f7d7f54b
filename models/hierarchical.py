"""Two stochastic layers: a latent z1 whose mean and scale a second latent z2 decides."""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor

from ppl_vae.base import Model
from ppl_vae.distributions.gaussian import diagonal_normal
from ppl_vae.errors import positive_int
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.networks import MLP, NetworkFactory, is_maker, made_for_images, network_of
from ppl_vae.priors import Prior, StandardNormal


class Hierarchical(Model):
    """P(x, z1, z2) = P(x | h = f(z1, z2)) N(z1; m(z2), diag(s(z2)^2)) P(z2).

    The prior is of z2, `latent_dim` the size of z1, by default the same; `decoder` makes both networks, f and
    (m, s); where it is one of images, or a network that is made already, an MLP makes the second.
    Shapes: z2 [N, prior.latent_dim], z1 [N, latent_dim], h [N, *likelihood.h_shape], x [N, *event_shape].
    Source: Tomczak & Welling, arXiv 1705.07120, section 4.

    >>> Hierarchical((1, 8, 8), prior=StandardNormal(2), latent_dim=4)(size=5).shape
    torch.Size([5, 1, 8, 8])
    """

    default_guide = "hierarchical"
    default_prior, default_likelihood = StandardNormal, Bernoulli

    def __init__(
        self,
        event_shape: Sequence[int],
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        decoder: NetworkFactory = MLP,
        latent_dim: int | None = None,
    ) -> None:
        super().__init__(event_shape)
        self.prior = prior or StandardNormal(8)
        self.likelihood = (likelihood or Bernoulli()).bind(event_shape)
        top = self.prior.latent_dim
        bottom = top if latent_dim is None else positive_int("latent_dim", latent_dim)
        between = decoder if is_maker(decoder) and not made_for_images(decoder) else MLP
        self.between = network_of(between, (top,), (2 * bottom,))
        self.decoder = network_of(decoder, (top + bottom,), self.likelihood.h_shape)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x, or generate `size` of them."""
        with self.plate(x, size):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", diagonal_normal(self.between(z2)))
            h = self.decoder(torch.cat([z1, z2], dim=-1))
            return pyro.sample("x", self.likelihood(h), obs=x)
