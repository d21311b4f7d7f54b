"""Probabilistic principal component analysis: the model whose log P(x) and posterior are known exactly."""

from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import LowRankMultivariateNormal, MultivariateNormal
from torch import Tensor

from ppl_vae.base import Model
from ppl_vae.likelihoods import Gaussian
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal


class LinearGaussian(Model):
    """P(x, z) = N(x; W z + b, sigma^2 I) N(z; 0, I), so that P(x) = N(x; b, W W^T + sigma^2 I).

    Shapes: z [N, latent_dim], x [N, *event_shape]; W is [D, latent_dim] with D the size of one x.
    Args: sigma as in `likelihoods.Gaussian` (None: learned, starting at 1).
    Source: Tipping & Bishop, Probabilistic Principal Component Analysis, JRSS B 61 (1999).

    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> model.exact_log_px(torch.zeros(5, 20)).shape
    torch.Size([5])
    """

    def __init__(self, event_shape: Sequence[int], latent_dim: int = 8, sigma: float | None = None) -> None:
        super().__init__(event_shape)
        self.prior = StandardNormal(latent_dim)
        self.likelihood = Gaussian(sigma, initial_sigma=1.0).bind(event_shape)
        self.decoder = MLP(self.prior.event_shape, self.likelihood.h_shape, hidden=())

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Observe x, or generate `size` of them."""
        with self.plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return W [D, latent_dim], b [D] and sigma^2 (a scalar)."""
        zero = torch.zeros(1, *self.prior.event_shape).to(self.likelihood.log_sigma)
        bias = self.decoder(zero).flatten()
        columns = self.decoder(torch.eye(self.prior.latent_dim).to(zero)).flatten(1) - bias
        return columns.T, bias, self.likelihood.sigma**2

    def exact_log_px(self, x: Tensor) -> Tensor:
        """Return log P(x) = log N(x; b, W W^T + sigma^2 I) in nats, [N], for x [N, *event_shape]."""
        loading, bias, variance = self.weights()
        return LowRankMultivariateNormal(bias, loading, variance.expand_as(bias)).log_prob(x.flatten(1))

    def exact_posterior(self, x: Tensor) -> MultivariateNormal:
        """Return P(z | x) = N(M^-1 W^T (x - b), sigma^2 M^-1) with M = W^T W + sigma^2 I, batch shape [N]."""
        loading, bias, variance = self.weights()
        identity = torch.eye(loading.shape[1]).to(loading)
        factor = torch.linalg.cholesky(loading.T @ loading / variance + identity)
        mean = torch.cholesky_solve(loading.T @ (x.flatten(1) - bias).T / variance, factor).T
        return MultivariateNormal(mean, precision_matrix=factor @ factor.T)
