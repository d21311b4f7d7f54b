"""The flow guide: every latent site an inverse autoregressive flow given x, of any shape and correlation."""

import functools
from collections.abc import Sequence

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base import Guide, Model, suited
from ppl_vae.networks import MLP, NetworkFactory, network_of
from ppl_vae.parts import Preprocessing
from ppl_vae.posteriors import InverseAutoregressive, SitePosteriors


class Flow(Guide):
    """Q(z | x): z_s = m_s(x) + s_s(x) T_s(u_s; x) with u_s ~ N(0, I), for each latent site of the model.

    One encoder reads x and gives m, s and what the autoregressive T reads; where T is the identity this is mean-field.
    Drawing z and scoring it takes one pass through T, scoring any other z as many as it has dimensions: annealing is
    much faster with proposal="prior".
    Shapes: x [N, *event_shape], z_s [N, *event shape of the site].
    Source: Kingma et al., arXiv 1606.04934; Durkan et al., arXiv 1906.04032.

    >>> import torch
    >>> from ppl_vae.models import VAE
    >>> Flow(VAE((1, 8, 8)))(torch.zeros(5, 1, 8, 8))["z"].shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        model: Model,
        encoder: NetworkFactory = MLP,
        *,
        kind: str = "neural_spline",
        transforms: int = 3,
        hidden: Sequence[int] | int = (64, 64),
        context_dim: int = 32,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(model, preprocessing or suited(model, encoder))
        family = functools.partial(
            InverseAutoregressive, kind=kind, transforms=transforms, hidden=hidden, context_dim=context_dim
        )
        self.posteriors = SitePosteriors(self.real_latents(), family)
        self.encoder = network_of(encoder, self.preprocessing.out_shape, (self.posteriors.h_dim,))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample every latent site given x."""
        with self.plate(x):
            return {name: pyro.sample(name, q) for name, q in self.posterior(x).items()}

    def posterior(self, x: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | x) of each site, for x [..., *event_shape]."""
        return self.posteriors(self.encoder(self.preprocessing(x)))
