"""Priors P(z): modules whose `forward()` returns a distribution over one latent.

The prior says what z is, so it holds the size of z. A new prior is one class here and one row in
`tests/test_parts.py`; the command line finds it by its class name in snake case.
"""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.errors import positive_int


class Prior(nn.Module):
    """P(z) for z of shape [latent_dim]: subclasses implement `forward()`.

    `forward()` returns a distribution with an empty batch shape and event shape [latent_dim]; the
    plates of the program that samples from it give it its batch dimensions. `zeros` [latent_dim] is there to
    build on: it moves with the module to another device or precision.
    """

    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one z."""
        return torch.Size([self.latent_dim])

    def forward(self) -> TorchDistribution:
        """Return P(z)."""
        raise TypeError(f"{type(self).__name__} has to define forward() and return P(z).")


class StandardNormal(Prior):
    """The standard normal prior, P(z) = N(0, I).

    Args:
        latent_dim: the size of z.

    Source: Kingma & Welling, arXiv 1312.6114.

    >>> StandardNormal(8)().sample().shape
    torch.Size([8])
    """

    def __init__(self, latent_dim: int = 8) -> None:
        super().__init__(latent_dim)

    def forward(self) -> TorchDistribution:
        """Return N(0, I) with event shape [latent_dim]."""
        return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class Mixture(Prior):
    """A learned mixture of diagonal Gaussians, P(z) = sum_c pi_c N(z; mu_c, diag(s_c^2)).

    Weights, means and scales are parameters of the model and are fitted with it.

    Args:
        latent_dim: the size of z.
        num_components: the number of Gaussians.

    Source: the "mixture of Gaussians" prior of Tomczak & Welling, arXiv 1705.07120.

    >>> Mixture(8, num_components=3)().log_prob(torch.zeros(5, 8)).shape
    torch.Size([5])
    """

    def __init__(self, latent_dim: int = 8, num_components: int = 10) -> None:
        super().__init__(latent_dim)
        self.num_components = positive_int("num_components", num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> TorchDistribution:
        """Return the mixture with event shape [latent_dim]."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)
