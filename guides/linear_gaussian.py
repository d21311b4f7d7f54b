"""The exact posterior of `models/linear_gaussian.py` as a guide: with it the ELBO is log P(x)."""

from typing import Any

import pyro
from torch import Tensor

from ppl_vae.base import Guide, Model


class LinearGaussian(Guide):
    """Q(z | x) = P(z | x) = N(z; M^-1 W^T (x - b), sigma^2 M^-1), with M = W^T W + sigma^2 I.

    It has no parameters of its own: it reads the model's. Shapes: x [N, *event_shape], z [N, latent_dim].
    Source: Tipping & Bishop, Probabilistic Principal Component Analysis, JRSS B 61 (1999).

    >>> from ppl_vae.models import LinearGaussian as Model
    >>> import torch
    >>> LinearGaussian(Model((20,), latent_dim=4))(torch.zeros(5, 20)).shape
    torch.Size([5, 4])
    """

    reads_missing = True  # the posterior given what is observed

    model: Any

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        if not hasattr(model, "exact_posterior"):
            self.refuse(model, "a model with an exact_posterior(x)")
        self.refer_to(model=model)

    def forward(self, x: Tensor) -> Tensor:
        """Sample z given x."""
        with self.plate(x):
            return pyro.sample("z", self.model.exact_posterior(x))
