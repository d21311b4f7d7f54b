"""Guides with flows that have no inverse: what needs their own draws only runs, what needs more says so."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence
from pyro.distributions.transforms import conditional_planar, conditional_radial, planar, radial, sylvester

from ppl_vae import InputError, estimate_evidence, explain_gap, fit, latent_use
from ppl_vae.objectives import IWAE, StickingTheLanding

FLOWS = {
    "planar": lambda: planar(2),
    "radial": lambda: radial(2),
    "sylvester": lambda: sylvester(2, 2),
    "conditional planar": lambda: conditional_planar(2, 3, [4]),
    "conditional radial": lambda: conditional_radial(2, 3, [4]),
}


def model(x):
    """x_j = z_1 + z_2 + e_j, so that log P(x) is a Gaussian's with covariance 2 1 1^T + I."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)


def guide_with(flow):
    def guide(x):
        pyro.module("flow", flow)
        loc = pyro.param("loc", torch.tensor([0.25, 0.25]))
        own = flow.condition(x) if hasattr(flow, "condition") else flow
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc * x.mean(-1, keepdim=True), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [own]))

    return guide


@pytest.fixture(params=FLOWS)
def pair(request):
    guide, x = guide_with(FLOWS[request.param]()), 1.5 * torch.randn(6, 3)
    truth = torch.distributions.MultivariateNormal(torch.zeros(3), 2 * torch.ones(3, 3) + torch.eye(3)).log_prob(x)
    fit(model, guide, x, epochs=1, learning_rate=1e-3, progress=False)
    return guide, x, truth.numpy()


def test_what_needs_its_draws_only_runs(pair):
    guide, x, truth = pair
    check_evidence(estimate_evidence(model, guide, x, num_samples=2000, progress=False), truth)
    check_evidence(
        estimate_evidence(model, guide, x, num_samples=500, proposal="refined", progress=False), truth, slack=0.05
    )
    gap = explain_gap(model, guide, x, num_samples=50, num_steps=5, progress=False)
    assert np.isfinite(gap.gap).all()
    fit(model, guide, x, objective=IWAE(3), epochs=1, progress=False)


def test_what_needs_any_z_says_so(pair):
    guide, x, truth = pair
    options = dict(num_temperatures=100, num_samples=50, progress=False)
    with pytest.raises(InputError, match=r"any z, for annealing; got site 'z', where .* no inverse. .*'prior'"):
        estimate_evidence(model, guide, x, method="ais", **options)
    with pytest.raises(InputError, match=r"any z, for StickingTheLanding; got site 'z'"):
        fit(model, guide, x, objective=StickingTheLanding(), epochs=1)
    with pytest.raises(InputError, match=r"any z, .*; got site 'z'"):
        latent_use(model, guide, x, num_samples=10, progress=False)
    check_evidence(estimate_evidence(model, guide, x[:2], method="ais", proposal="prior", **options), truth[:2])
