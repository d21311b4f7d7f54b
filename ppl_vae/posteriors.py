"""Posterior families Q(z | h): modules whose `forward(h)` returns a distribution over z.

h is what a guide's encoder gives for one datum, of shape [..., h_dim], with any leading batch
dimensions. A family is where a guide ends; the guide is the whole program Q(z | x).
"""

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.errors import positive_int


class Posterior(nn.Module):
    """Q(z | h) for z of shape [latent_dim]: subclasses implement `forward(h)` and say their `h_dim`."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_int("latent_dim", latent_dim)

    @property
    def h_dim(self) -> int:
        """How many numbers the encoder must give."""
        raise TypeError(f"{type(self).__name__} has to define h_dim.")

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return Q(z | h) for h of shape [..., h_dim]."""
        raise TypeError(f"{type(self).__name__} has to define forward(h) and return Q(z | h).")


class DiagonalNormal(Posterior):
    """Independent Gaussians, Q(z | h) = N(z; m, diag(s^2)) with (m, r) = h and s = softplus(r) + 1e-6.

    Source: Kingma & Welling, arXiv 1312.6114.

    >>> import torch
    >>> family = DiagonalNormal(8)
    >>> family(torch.zeros(5, family.h_dim)).rsample().shape
    torch.Size([5, 8])
    """

    @property
    def h_dim(self) -> int:
        """A mean and a scale for each dimension of z."""
        return 2 * self.latent_dim

    def forward(self, h: Tensor) -> TorchDistribution:
        """Return N(m, diag(s^2)) for h of shape [..., 2 * latent_dim]."""
        loc, raw = h.chunk(2, dim=-1)
        return dist.Normal(loc, softplus(raw) + 1e-6).to_event(1)
