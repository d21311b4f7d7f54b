"""Guides that are random beside their sites: z ~ N(0, 1), x ~ N(z, 1), so that log P(x) = log N(x; 0, 2)."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence
from pairs import normal_model as model
from pyro import poutine

from ppl_vae import InputError, estimate_evidence, latent_use

X = torch.linspace(-2.0, 2.5, 9)
TRUTH = dist.Normal(0.0, math.sqrt(2)).log_prob(X)


def by_torch(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + 0.3 * torch.randn(len(x)), 0.9))


def blocked(x):
    with pyro.plate("data", len(x)):
        with poutine.block():
            noise = pyro.sample("noise", dist.Normal(torch.zeros(len(x)), 0.3))
        pyro.sample("z", dist.Normal(x / 2 + noise, 0.9))


@pytest.mark.parametrize("guide", [by_torch, blocked])
def test_a_guide_that_is_random_beside_its_sites(guide):
    """For any noise u, E[P(x, z) / Q(z | u)] = P(x); but Q(z | x), a mixture over u, is not known."""
    options = dict(progress=False, compile=False)
    check_evidence(estimate_evidence(model, guide, X, num_samples=3000, **options), TRUTH)
    with pytest.raises(InputError, match=r"for annealing; got one whose density at site 'z' is another"):
        estimate_evidence(model, guide, X, method="ais", num_temperatures=5, **options)
    with pytest.raises(InputError, match=r"for I\(x; z\); got one whose density at site 'z' is another"):
        latent_use(model, guide, X, progress=False)
