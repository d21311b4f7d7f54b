"""The full-covariance guide: every latent site a Gaussian given x, its dimensions correlated."""

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base import Guide, Model, suited
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.parts import Preprocessing
from ppl_vae.posteriors import MultivariateNormal, SitePosteriors


class FullCovariance(Guide):
    """Q(z | x) = prod_s N(z_s; m_s(x), L_s(x) L_s(x)^T), a product over the model's latent sites, L_s triangular.

    One encoder reads x and gives the parameters of all sites, D (D + 3) / 2 for one of D dimensions.
    Shapes: x [N, *event_shape], z_s [N, *event shape of the site].
    Source: section 3 of Kingma & Welling, arXiv 1906.02691.

    >>> import torch
    >>> from ppl_vae.models import VAE
    >>> FullCovariance(VAE((1, 8, 8)))(torch.zeros(5, 1, 8, 8))["z"].shape
    torch.Size([5, 8])
    """

    def __init__(self, model: Model, encoder: NetworkFactory = MLP, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(model, preprocessing or suited(model, encoder))
        self.posteriors = SitePosteriors(self.real_latents(), MultivariateNormal)
        self.encoder = network_of(encoder, self.preprocessing.out_shape, (self.posteriors.h_dim,))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample every latent site given x."""
        with self.plate(x):
            return {name: pyro.sample(name, q) for name, q in self.posterior(x).items()}

    def posterior(self, x: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | x) of each site, for x [..., *event_shape]."""
        return self.posteriors(self.encoder(self.preprocessing(x)))
