"""The deep Markov model: a chain of latents, one for each step of a series, and what each of them emits."""

from collections.abc import Sequence

import pyro
from torch import Tensor

from ppl_vae.base import Model
from ppl_vae.distributions.chains import Chain
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import Bernoulli, Likelihood
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.priors import GatedTransition, Prior


class DeepMarkov(Model):
    """P(x, z) = prod_t P(z_t | z_(t-1)) P(x_t | h_t = f(z_t)), with f a network and the prior that of one step.

    The prior gives P(z_1) without, and P(z_t | z_(t-1)) with z_(t-1). A series may have any number of steps; of one
    that ends sooner, the rest is missing (NaN), which contributes nothing. A start is continued by `ppl_vae.impute`.
    Shapes: z [N, T, latent_dim], h [N, T, *likelihood.h_shape], x [N, T, D]; event_shape is (T, D).
    Source: Krishnan, Shalit & Sontag, arXiv 1609.09869.

    >>> DeepMarkov((20, 3), prior=GatedTransition(2))(size=5).shape
    torch.Size([5, 20, 3])
    """

    any_length = True
    default_guide = "deep_markov"
    default_prior, default_likelihood = GatedTransition, Bernoulli

    def __init__(
        self,
        event_shape: Sequence[int],
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        decoder: NetworkFactory = MLP,
    ) -> None:
        super().__init__(event_shape)
        if len(self.event_shape) != 2:
            raise InputError(
                f"Expected series of event_shape (T, D), T steps of D numbers; got {tuple(self.event_shape)}. Reshape "
                f"the data to [N, T, D], or load them with kind='series'."
            )
        self.prior = prior or GatedTransition(8)
        self.likelihood = (likelihood or Bernoulli()).bind(self.event_shape[1:])
        self.decoder = network_of(decoder, self.prior.event_shape, self.likelihood.h_shape)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x, or generate `size` of them."""
        num_steps, prior = self.event_shape[0] if x is None else x.shape[1], self.prior
        with self.plate(x, size):
            z = pyro.sample("z", Chain(prior, num_steps))
            return pyro.sample("x", self.likelihood(self.decoder(z)).to_event(1), obs=x)
