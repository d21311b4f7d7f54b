"""The mean-field guide: every latent site an independent Gaussian given x."""

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base import Guide, Model, suited
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.parts import Preprocessing
from ppl_vae.posteriors import DiagonalNormal, Family, SitePosteriors


class MeanField(Guide):
    """Q(z | x) = prod_s N(z_s; m_s(x), diag(s_s(x)^2)), a product over the model's latent sites.

    One encoder reads x and gives the parameters of all sites. Another posterior family may stand for the Gaussian.
    Shapes: x [N, *event_shape], z_s [N, *event shape of the site].
    Source: Kingma & Welling, arXiv 1312.6114.

    >>> import torch
    >>> from ppl_vae.models import VAE
    >>> MeanField(VAE((1, 8, 8)))(torch.zeros(5, 1, 8, 8))["z"].shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        model: Model,
        encoder: NetworkFactory = MLP,
        posterior: Family = DiagonalNormal,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(model, preprocessing or suited(model, encoder))
        self.posteriors = SitePosteriors(self.real_latents(), posterior)
        self.encoder = network_of(encoder, self.preprocessing.out_shape, (self.posteriors.h_dim,))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample every latent site given x."""
        with self.plate(x):
            return {name: pyro.sample(name, q) for name, q in self.posterior(x).items()}

    def posterior(self, x: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | x) of each site, for x [..., *event_shape]."""
        return self.posteriors(self.encoder(self.preprocessing(x)))
