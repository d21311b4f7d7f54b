"""Bounds of K samples of z: the importance-weighted bound, and gradients of it of less variance."""

import math

from torch import Tensor

from ppl_vae.particles import ParticleObjective, Terms


class IWAE(ParticleObjective):
    """The importance-weighted bound, which rises to log P(x) with K, for each datum on its own.

        L_K(x) = E[log (1/K) sum_k w_k],    w_k = P(x, z_k) / Q(z_k | x),    z_1 .. z_K ~ Q(z | x)

    Latents are reparameterized in the guide, or discrete and summed out by the model. The mean over k is inside of the
    logarithm, for each datum; the sum over the data, and what a subsampled plate scales, are outside. Where data have
    missing values, P(x, z_k) scores the observed ones, and this is the bound MIWAE (arXiv 1812.02633).

    Args:
        num_particles: K.

    Raises:
        InputError: K below 1; in use, a guide with latents that are not reparameterized, sites outside of the plate
            over the data, or of different scales.

    Source: Burda, Grosse & Salakhutdinov, arXiv 1509.00519.

    >>> import torch
    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model, x = VAE((1, 8, 8)), torch.rand(40, 1, 8, 8).round()
    >>> bound = IWAE(num_particles=5)(model, MeanField(model))  # a PyTorch module, for any loop
    >>> optimizer = torch.optim.Adam(bound.parameters())
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     bound(x).backward()
    ...     optimizer.step()
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def bound(self, terms: Terms) -> Tensor:
        """Return log (1/K) sum_k w_k, [N]."""
        return terms.log_weights.logsumexp(0) - math.log(self.num_particles)
