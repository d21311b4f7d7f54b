"""Probabilistic principal component analysis: the model whose log P(x) and posterior are known exactly."""

import math
from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import LowRankMultivariateNormal, MultivariateNormal
from torch import Tensor

from ppl_vae.base import Model
from ppl_vae.likelihoods import Gaussian
from ppl_vae.missing import filled, is_missing_in
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
        """Return W [D, latent_dim], b [D] and sigma^2 (a scalar), in units of x."""
        zero = torch.zeros(1, *self.prior.event_shape).to(self.likelihood.log_sigma)
        bias = self.likelihood(self.decoder(zero)).mean.flatten()
        columns = self.likelihood(self.decoder(torch.eye(self.prior.latent_dim).to(zero))).mean.flatten(1) - bias
        return columns.T, bias, self.likelihood.sigma**2

    def exact_log_px(self, x: Tensor) -> Tensor:
        """Return log P(x) = log N(x; b, W W^T + sigma^2 I) of what is observed, in nats, [N], x [N, *event_shape]."""
        loading, residual, num_missing = self._observed(x)
        variance = self.likelihood.sigma**2
        diagonal = variance.expand(residual.shape[1])
        log_p = LowRankMultivariateNormal(torch.zeros_like(residual[0]), loading, diagonal).log_prob(residual)
        # Where x is missing its row of W is zero, and so its residual counts as a draw of N(0, sigma^2) that is zero.
        return log_p + num_missing * (2 * math.pi * variance).log() / 2

    def exact_posterior(self, x: Tensor) -> MultivariateNormal:
        """Return P(z | x) = N(M^-1 W^T (x - b), sigma^2 M^-1) with M = W^T W + sigma^2 I, batch shape [N].

        Where a number of x is missing (NaN), it and its row of W are left out.
        """
        loading, residual, _ = self._observed(x)
        variance = self.likelihood.sigma**2
        factor = torch.linalg.cholesky(loading.mT @ loading / variance + torch.eye(loading.shape[-1]).to(loading))
        if loading.dim() == 2:
            mean = torch.cholesky_solve(loading.T @ residual.T / variance, factor).T
        else:  # a matrix M for each datum
            mean = torch.cholesky_solve(loading.mT @ residual.unsqueeze(-1) / variance, factor).squeeze(-1)
        return MultivariateNormal(mean, precision_matrix=factor @ factor.mT)

    def _observed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return W and x - b with zeros where x is missing, [N, D, latent_dim] or W itself, and how many are, [N]."""
        loading, bias, _ = self.weights()
        flat = x.flatten(1)
        if not is_missing_in(flat):
            return loading, flat - bias, torch.zeros(len(flat)).to(loading)
        missing = flat.isnan()
        residual = torch.where(missing, 0.0, filled(flat) - bias)
        return torch.where(missing.unsqueeze(-1), 0.0, loading), residual, missing.sum(-1)
