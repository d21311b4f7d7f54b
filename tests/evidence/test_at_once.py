"""Programs that do not run under one more plate are found in the first seconds, and estimated all the same."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_errors, check_evidence, check_sandwich
from torch import nn

from ppl_vae import InputError, estimate_evidence, explain_gap, latent_use, to_arviz


class OneBatchDimension(nn.Module):
    """z ~ N(0, I), x = A z + e in two batch-minded programs, as they are written in a first hour."""

    def __init__(self, width=3.0):
        super().__init__()
        self.matrix, self.width = nn.Parameter(torch.randn(6, 2) / 2), width

    def model(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            mean = (z.view(z.size(0), -1) @ self.matrix.T).view(z.size(0), 2, 3)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

    def guide(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x)):
            posterior, mean = self.posterior(x.view(x.size(0), -1))
            pyro.sample("z", dist.MultivariateNormal(mean, self.width * posterior))

    def posterior(self, x):
        covariance = torch.linalg.inv(torch.eye(2) + self.matrix.T @ self.matrix)
        return covariance, x @ self.matrix @ covariance

    def log_px(self, x):
        covariance = torch.eye(6) + self.matrix @ self.matrix.T
        return (
            torch.distributions.MultivariateNormal(torch.zeros(6), covariance).log_prob(x.flatten(1)).detach().numpy()
        )


@pytest.fixture
def both():
    return OneBatchDimension(), 1.3 * torch.randn(9, 2, 3)


SAID = r"Samples are drawn as copies of the data, as .* do not run under one more plate"


@pytest.mark.parametrize("options", [{}, {"tolerance": 0.05}, {"proposal": "prior"}, {"chunk_size": 90}])
def test_copies_of_the_data_stand_for_samples(both, options):
    own, x = both
    with pytest.warns(UserWarning, match=SAID):
        evidence = estimate_evidence(own.model, own.guide, x, num_samples=400, **options)
    check_evidence(evidence, own.log_px(x))


def test_draws_of_copies_are_from_the_posterior(both):
    own, x = both
    with pytest.warns(UserWarning, match=SAID):
        container = to_arviz(own.model, own.guide, x, num_samples=4000, num_draws=2000)
    z = container["posterior"]["z"].values[0]
    covariance, mean = (value.detach().numpy() for value in own.posterior(x.flatten(1)))
    assert z.shape == (2000, 9, 2)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.15)
    np.testing.assert_allclose(np.stack([np.cov(z[:, n].T) for n in range(9)]), np.stack([covariance] * 9), atol=0.15)
    np.testing.assert_array_equal(container["observed_data"]["x"], x)


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_chains_are_copies_as_well(both, proposal):
    own, x = both
    options = dict(num_temperatures=100, num_chains=64, num_samples=50, proposal=proposal, compile=False)
    with pytest.warns(UserWarning, match=SAID):
        evidence = estimate_evidence(own.model, own.guide, x[:3], method="sandwich", **options)
    check_evidence(evidence, own.log_px(x[:3]))
    check_sandwich(evidence.sandwich, own.log_px(torch.as_tensor(evidence.sandwich.x)))


def test_what_latents_are_used_for_by_copies(both):
    """As of the same programs written for any leading dimensions, for the same draws."""
    own, x = both
    with pytest.warns(UserWarning, match=SAID):
        use = latent_use(own.model, own.guide, x, num_samples=4000, progress=False)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z @ own.matrix.T).unflatten(-1, (2, 3)), 1.0).to_event(2), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            posterior, mean = own.posterior(x.flatten(1))
            pyro.sample("z", dist.MultivariateNormal(mean, own.width * posterior))

    plated = latent_use(model, guide, x, num_samples=4000, progress=False, seed=1)
    for name in ("kl", "marginal_kl"):
        one, other = (getattr(u, name) for u in (use, plated))
        error = np.hypot(*(getattr(u, f"{name}_mcse") for u in (use, plated)))
        check_errors(one, other, error, slack=0.01)
    assert list(use.sites["z"].variance) == pytest.approx(list(plated.sites["z"].variance), rel=0.2)


def test_a_refined_guide_and_the_gap_are_drawn_one_by_one(both):
    own, x = both
    with pytest.warns(UserWarning, match="Samples are drawn one in a run"):
        evidence = estimate_evidence(
            own.model, own.guide, x[:2], method="importance", num_samples=30, proposal="refined"
        )
    check_evidence(evidence, own.log_px(x[:2]))
    with pytest.warns(UserWarning, match="Samples are drawn one in a run"):
        gap = explain_gap(own.model, own.guide, x[:2], num_samples=30, num_steps=20)
    assert (gap.gap > 0).all()


def test_who_runs_under_a_plate_hears_nothing_and_gets_the_same(linear_gaussian):
    model, x = linear_gaussian

    def guide(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, 1.3 * posterior.stddev).to_event(1))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = [
            estimate_evidence(model, guide, x, method="importance", num_samples=50, vectorize=how).log_px
            for how in ("auto", True)
        ]
    np.testing.assert_array_equal(*found)


def test_asked_for_it_is_refused_or_done_one_by_one(both):
    own, x = both
    with pytest.raises(InputError, match="one more plate"):
        estimate_evidence(own.model, own.guide, x, num_samples=50, vectorize=True)
    check_evidence(
        estimate_evidence(own.model, own.guide, x, num_samples=50, vectorize=False, num_draws=3), own.log_px(x)
    )
