"""The mean-field guide: every latent site an independent Gaussian given x."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions.transforms import ReshapeTransform

from ppl_vae.base import Guide, Model
from ppl_vae.networks import MLP, NetworkFactory
from ppl_vae.posteriors import DiagonalNormal


class MeanField(Guide):
    """Q(z | x) = prod_s N(z_s; m_s(x), diag(s_s(x)^2)), a product over the model's latent sites.

    One encoder reads x and gives the parameters of all sites.
    Shapes: x [N, *event_shape], z_s [N, *event shape of the site].
    Source: Kingma & Welling, arXiv 1312.6114.

    >>> from ppl_vae.models import VAE
    >>> MeanField(VAE((1, 8, 8)))(torch.zeros(5, 1, 8, 8))["z"].shape
    torch.Size([5, 8])
    """

    def __init__(self, model: Model, encoder: NetworkFactory = MLP) -> None:
        super().__init__(model)
        posteriors = [DiagonalNormal(shape.numel()) for shape in self.latents.values()]
        self.posteriors = nn.ModuleList(posteriors)
        self.h_dims = [posterior.h_dim for posterior in posteriors]
        self.encoder = encoder(self.event_shape, (sum(self.h_dims),))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample every latent site given x."""
        with self.plate(x):
            parts = self.encoder(x).split(self.h_dims, dim=-1)
            return {
                name: pyro.sample(name, _shaped(posterior(h), shape))
                for (name, shape), posterior, h in zip(self.latents.items(), self.posteriors, parts, strict=True)
            }


def _shaped(q: TorchDistribution, shape: torch.Size) -> TorchDistribution:
    # A family gives a vector; a site may be a number or an array.
    return q if len(shape) == 1 else dist.TransformedDistribution(q, [ReshapeTransform(q.event_shape, shape)])
