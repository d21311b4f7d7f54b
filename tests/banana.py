"""A model whose posterior is no Gaussian but a banana, known on a grid: what guides of more freedom are for.

    z ~ N(0, I) in two dimensions,    x = z_2 + z_1^2 + sigma e,    e ~ N(0, 1)

so z lies near a parabola, P(z | x) = N(z; 0, I) N(x; z_2 + z_1^2, sigma^2) / P(x).
"""

import math
from functools import partial

import torch
from ppl_vae.guides import Flow, FullCovariance, MeanField
from ppl_vae.models import VAE

import ppl_vae
from ppl_vae.likelihoods import Gaussian
from ppl_vae.networks import MLP, Network
from ppl_vae.priors import StandardNormal

SIGMA = 0.4
EDGE, NUM_NODES = 6.0, 401  # of the grid in each dimension: the trapezoidal rule is exact there up to rounding
ENCODER = partial(MLP, hidden=(32, 32), activation="silu")
GUIDES = {"mean_field": MeanField, "full_covariance": FullCovariance, "flow": partial(Flow, hidden=(32, 32))}


class Parabola(Network):
    """f(z) = z_2 + z_1^2, which has no parameters."""

    def transform(self, x):
        """Map z [..., 2] to [..., 1]."""
        return x[..., 1:] + x[..., :1] ** 2


def make_model():
    """The model, of x [1]."""
    return VAE((1,), StandardNormal(2), Gaussian(sigma=SIGMA), decoder=Parabola)


def some_data(num_data):
    """So many x of P(x), evenly spread over its quantiles, [N, 1]."""
    z = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    x = z[:, 1] + z[:, 0] ** 2 + SIGMA * torch.randn(len(z), generator=torch.Generator().manual_seed(1))
    return torch.quantile(x, (torch.arange(num_data) + 0.5) / num_data)[:, None]


def exact(model, x):
    """Return log P(x) by quadrature, [N], and log P(z | x) on the grid, [N, z_2, z_1], with its coordinates."""
    nodes = torch.linspace(-EDGE, EDGE, NUM_NODES, dtype=torch.double)
    z = torch.stack(torch.meshgrid(nodes, nodes, indexing="xy"), -1)
    prior = -0.5 * (z**2).sum(-1) - math.log(2 * math.pi)
    error = (x.double()[:, :, None] - (z[..., 1] + z[..., 0] ** 2)) / SIGMA
    log_joint = prior - 0.5 * error**2 - math.log(SIGMA) - 0.5 * math.log(2 * math.pi)
    log_px = log_joint.flatten(1).logsumexp(1) + 2 * math.log(nodes[1] - nodes[0])
    return log_px, log_joint - log_px[:, None, None], nodes


def fitted(name, x, *, epochs):
    """Return a guide that was fitted to x; the model has nothing to fit."""
    torch.manual_seed(0)
    model = make_model()
    guide = GUIDES[name](model, encoder=ENCODER)
    ppl_vae.fit(
        model,
        guide,
        x,
        epochs=epochs,
        batch_size=len(x),
        learning_rate=5e-3,
        schedule="cosine",
        progress=False,
    )
    return model, guide
