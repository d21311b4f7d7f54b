"""Pyro pairs that ppl-vae has never seen: plain functions, methods, odd plates, several sites."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import nn


class PyroTutorialVAE(nn.Module):
    """A VAE in the style of Pyro's own tutorial: methods that call `pyro.module`, x flattened inside."""

    def __init__(self, num_pixels=64, z_dim=3, hidden=16):
        super().__init__()
        self.num_pixels, self.z_dim = num_pixels, z_dim
        self.encoder = nn.Sequential(nn.Linear(num_pixels, hidden), nn.Softplus(), nn.Linear(hidden, 2 * z_dim))
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden), nn.Softplus(), nn.Linear(hidden, num_pixels), nn.Sigmoid()
        )

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            z_scale = x.new_ones(torch.Size((x.shape[0], self.z_dim)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(loc_img).to_event(1), obs=x.reshape(-1, self.num_pixels))
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_raw = self.encoder(x.reshape(-1, self.num_pixels)).chunk(2, -1)
            pyro.sample("latent", dist.Normal(z_loc, z_raw.exp()).to_event(1))


def off_by(model, offset=0.2, factor=1.2):
    """The exact posterior of a linear-Gaussian model, off by `offset` in its mean and `factor` in its scale."""

    def guide(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            loc, tril = posterior.mean + offset, factor * posterior.scale_tril
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))

    return guide


def normal_model(x):
    """z ~ N(0, 1), x ~ N(z, 1): log P(x) = log N(x; 0, 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def isotropic_model(x):
    """z ~ N(0, I) of four numbers, x ~ N(z, I): log P(x) = log N(x; 0, 2 I)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def mean_model(x):
    """x ~ N(z, 1) with z ~ N(mu, 1) and mu a parameter: log P(x) = log N(x; mu, 2)."""
    mu = pyro.param("mu", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def mean_guide(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    shift = pyro.param("shift", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x + shift, scale))


def hierarchical_model(x):
    """z1 ~ N(0, 1), z2 ~ N(z1, 1), x_j ~ N(z2, 1) for 3 pixels in a plate of their own, right of the data's."""
    with pyro.plate("data", len(x), dim=-2):
        z1 = pyro.sample("z1", dist.Normal(torch.zeros(()), 1.0))
        z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
        with pyro.plate("pixels", 3, dim=-1):
            pyro.sample("x", dist.Normal(z2, 1.0), obs=x)


def hierarchical_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        z1 = pyro.sample("z1", dist.Normal(0.3 * x.sum(-1, keepdim=True) / 3, 1.2))
        pyro.sample("z2", dist.Normal(0.5 * z1 + 0.5 * x.mean(-1, keepdim=True), 0.9))


def hierarchical_log_px(x):
    """x is Gaussian with mean 0 and covariance 2 * 11^T + I."""
    covariance = 2 * torch.ones(3, 3) + torch.eye(3)
    return torch.distributions.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)


MEANS, SHARES = torch.tensor([-2.0, 1.0, 4.0]), torch.tensor([0.5, 0.3, 0.2])


def mixture_model(x):
    """x_j ~ N(mean_c + z, 0.5^2) for 2 pixels j, with c ~ Categorical enumerable and z ~ N(0, 1)."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample(
            "x", dist.Normal((MEANS[c] + z)[..., None].expand(*(MEANS[c] + z).shape, 2), 0.5).to_event(1), obs=x
        )


def mixture_guide(x):
    """Of z alone: c is left to be enumerated."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.5))


def mixture_log_px(x):
    """A mixture of Gaussians with covariance 1 1^T + 0.25 I."""
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.ones(2, 2) + 0.25 * torch.eye(2))
    return torch.logsumexp(normal.log_prob(x[:, None] - MEANS[:, None]) + SHARES.log(), -1)


def clusters_model(x):
    """x ~ N(mean_c, 1): a Gaussian mixture whose only latent is discrete."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(MEANS[c], 1.0), obs=x)


def clusters_guide(x):
    """A guess at c, the same for all x."""
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.3, 0.4])))


def no_guide(x):
    """Nothing: every latent is left to be enumerated."""


def clusters_log_px(x):
    """A mixture of three Gaussians of variance 1."""
    return torch.logsumexp(torch.distributions.Normal(MEANS, 1.0).log_prob(x[:, None]) + SHARES.log(), -1)


def either_sign_model(x):
    """x is near z or near -z: P(z | x) has two modes of one height, and log P(x) = log N(x; 0, 1.09 I)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
        both = dist.Normal(torch.stack([z, -z], -2), 0.3).to_event(1)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), both), obs=x)


def either_sign_guide(x):
    """The mode on the side of x alone."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 1.09, 0.3).to_event(1))


def either_sign_log_px(x):
    return dist.Normal(0.0, 1.09**0.5).log_prob(x).sum(1).numpy()


def constrained_model(x):
    """A scale with a Gamma prior, a simplex, and a lower bound that depends on the scale."""
    with pyro.plate("data", len(x)):
        s = pyro.sample("s", dist.Gamma(3.0, 2.0))
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        low = pyro.sample("low", dist.Uniform(torch.zeros_like(s), s))
        pyro.sample("x", dist.Normal(low + p[..., 0], 0.3 + s), obs=x)


def constrained_guide(x):
    with pyro.plate("data", len(x)):
        s = pyro.sample("s", dist.Gamma(torch.full((len(x),), 2.0), 1.0))
        pyro.sample("p", dist.Dirichlet(torch.ones(len(x), 3)))
        pyro.sample("low", dist.Uniform(torch.zeros_like(s), s))


def inner_mixture_model(x):
    """Each of 3 pixels has a component of its own, inside a plate: a product of sums."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("pixels", 3, dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + 2.0 * c, 0.5), obs=x)


def inner_mixture_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True) - 0.6, 1.2))


def inner_mixture_log_px(x):
    """By quadrature over z."""
    z = torch.linspace(-9, 9, 20_001, dtype=torch.double)[:, None, None]
    normal = torch.distributions.Normal
    low, high = (normal(z + shift, 0.5).log_prob(x.double()) for shift in (0.0, 2.0))
    log_likelihood = torch.logaddexp(low + math.log(0.7), high + math.log(0.3)).sum(-1)
    return torch.logsumexp(log_likelihood + normal(0.0, 1.0).log_prob(z[..., 0]), 0) + math.log(18 / 20_000)


def two_discrete_model(x):
    """c1 chooses the chances of c2, c2 the mean: two enumerated sites, one given the other; z besides."""
    with pyro.plate("data", len(x)):
        c1 = pyro.sample("c1", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
        c2 = pyro.sample("c2", dist.Bernoulli(0.2 + 0.6 * c1), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(c1, 1.0))
        pyro.sample("x", dist.Normal(z + 3 * c2, 0.5), obs=x)


def two_discrete_guide(x):
    """Of c2 and z, which it draws given c2; c1 is left to be enumerated."""
    with pyro.plate("data", len(x)):
        c2 = pyro.sample("c2", dist.Bernoulli((x > 1.5).float() * 0.6 + 0.2))
        pyro.sample("z", dist.Normal(x - 3 * c2, 1.0))


def two_discrete_log_px(x):
    """Four Gaussians of variance 1.25."""
    total = []
    for c1, p1 in ((0, 0.6), (1, 0.4)):
        for c2, p2 in ((0, 0.8 - 0.6 * c1), (1, 0.2 + 0.6 * c1)):
            total.append(math.log(p1 * p2) + torch.distributions.Normal(c1 + 3.0 * c2, 1.25**0.5).log_prob(x))
    return torch.logsumexp(torch.stack(total), 0)


def subsampled_inside(model, guide, num_data, size):
    """The pair with plates that take a random subset themselves, from all the data they are given."""

    def model_of_all(x):
        pyro.module("model", model)
        with pyro.plate("data", num_data, subsample_size=size) as index:
            z = pyro.sample("z", model.prior())
            pyro.sample("x", model.likelihood(model.decoder(z)), obs=x[index])

    def guide_of_all(x):
        with pyro.plate("data", num_data, subsample_size=size) as index:
            pyro.sample("z", guide(x[index]))

    return model_of_all, guide_of_all


def subsample_passed(model, guide, num_data):
    """The pair given a batch, with plates that stand for all the data: scale num_data / batch size."""

    def model_of_batch(x):
        pyro.module("model", model)
        with pyro.plate("data", num_data, subsample=torch.arange(len(x))):
            z = pyro.sample("z", model.prior())
            pyro.sample("x", model.likelihood(model.decoder(z)), obs=x)

    def guide_of_batch(x):
        with pyro.plate("data", num_data, subsample=torch.arange(len(x))):
            pyro.sample("z", guide(x))

    return model_of_batch, guide_of_batch
