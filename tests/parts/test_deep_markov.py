"""The deep Markov model and its guide: chains against their joint Gaussian, holes, ends of series, flows, starts."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_log_px, check_means, limit
from ppl_vae.guides import DeepMarkov as Guide
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE, DeepMarkov
from pyro import poutine
from scipy import stats
from torch import nn

import ppl_vae
from ppl_vae import InputError
from ppl_vae.distributions.chains import Chain, Where
from ppl_vae.distributions.unwrap import is_real
from ppl_vae.likelihoods import Gaussian
from ppl_vae.posteriors import InverseAutoregressive
from ppl_vae.priors import GatedTransition, Mixture, Prior, StandardNormal
from ppl_vae.traces.pair import Pair

A, S, R, T = 0.8, 0.6, 0.5, 6


class Walk(Prior):
    """P(z_1) = N(0, S^2), P(z_t | z_(t-1)) = N(A z_(t-1), S^2)."""

    def forward(self, c=None):
        return dist.Normal(self.zeros if c is None else A * c, S).to_event(1)


def walk_model():
    return DeepMarkov((T, 1), prior=Walk(1), likelihood=Gaussian(sigma=R), decoder=nn.Identity())


def covariance(steps=T):
    """Of z_1, ..., z_T of the walk."""
    powers = np.tril(A ** np.abs(np.subtract.outer(np.arange(steps), np.arange(steps))))
    return S**2 * powers @ powers.T


def tiny(**options):
    torch.manual_seed(1)
    model = DeepMarkov((T, 3), prior=GatedTransition(2, hidden=(8,)))
    return model, Guide(model, hidden=8, **options)


def test_a_chain_is_the_gaussian_that_it_is_made_of():
    chain = Chain(Walk(1), T).expand((20_000,))
    z = chain.sample()
    joint = stats.multivariate_normal(np.zeros(T), covariance())
    np.testing.assert_allclose(chain.log_prob(z)[:50], joint.logpdf(z[:50, :, 0]), rtol=1e-4)
    check_means(z[..., None, 0] * z[..., None, :, 0], covariance())
    assert chain.log_prob(torch.zeros(4, 1, T, 1)).shape == (4, 20_000)


def test_a_step_is_asked_for_alone():
    """log P(z) is the sum of the steps that a filter asks for, of any chain: that of a guide, too."""
    model, guide = tiny()
    x = model(size=4).detach()
    x[1, 3:], x[2, 1] = math.nan, math.nan
    with torch.no_grad():
        for program in (model, guide):
            chain = poutine.trace(program).get_trace(x).nodes["z"]["fn"]
            z = torch.randn(5, 4, T, 2)
            steps = [chain.at(t, z[..., t - 1 : t, :] if t else None).log_prob(z[..., t : t + 1, :]) for t in range(T)]
            total = sum(step.expand(5, 4, 1) for step in steps)[..., 0]
            torch.testing.assert_close(total, chain.expand((5, 4)).log_prob(z))
    pyro.clear_param_store()


def test_where_is_each_of_both():
    condition = torch.tensor([True, False]).expand(10_000, 2)
    both = Where(condition, dist.Normal(torch.full((2, 1), 3.0), 0.5).to_event(1), Walk(1)().expand((2,)))
    z = both.sample()
    check_means(z[..., 0], [3.0, 0.0])
    expected = dist.Normal(torch.tensor([3.0, 0.0]), torch.tensor([0.5, S])).log_prob(z[..., 0])
    torch.testing.assert_close(both.log_prob(z), expected)


def test_a_chain_is_what_its_steps_are():
    """Its support, by which guides and estimators choose, and whether draws have gradients, which training asks."""
    real = Chain(Walk(1), T)
    positive = Chain(lambda before: dist.Gamma(torch.ones(1, 1), 1.0).to_event(1), T)
    assert is_real(real) and not is_real(positive) and positive.support.event_dim == 2
    assert not bool(positive.expand((4,)).support.check(-torch.ones(4, T, 1)).any())
    mixed = Chain(lambda before: Mixture(1)(), T)
    both = Chain(lambda before: Where(torch.tensor([True]), Walk(1)(before), Mixture(1)()), T)
    assert real.has_rsample and not mixed.has_rsample and not both.expand((3,)).has_rsample
    assert both.expand((3,))().shape == (3, T, 1)


def test_the_end_of_a_series_contributes_nothing():
    """Of NaN to the end, the ELBO and the weights are those of the shorter series, whatever is drawn there."""
    model, guide = tiny()
    x = model(size=50).detach()
    cut, padded = x[:, :3], torch.cat([x[:, :3], torch.full((50, 5, 3), math.nan)], 1)
    found = [
        ppl_vae.estimate_evidence(
            model, guide, data, method="importance", num_samples=200, compile=False, progress=False
        )
        for data in (cut, padded)
    ]
    error = np.hypot(found[0].elbo_mcse, found[1].elbo_mcse)
    assert (np.abs(found[0].elbo - found[1].elbo) <= limit(50, dof=199) * error + 1e-4).all()
    np.testing.assert_allclose(found[0].elbo_mcse.mean(), found[1].elbo_mcse.mean(), rtol=0.2)
    with torch.no_grad(), Pair(model, guide).running():  # there the guide is the model
        q, p = (poutine.trace(program).get_trace(padded).nodes["z"]["fn"] for program in (guide, model))
        before, z = torch.randn(2, 50, 1, 2)
        torch.testing.assert_close(*(chain.at(5, before).log_prob(z) for chain in (q, p)))
        assert not torch.allclose(*(chain.at(2, before).log_prob(z) for chain in (q, p)))


def test_log_px_by_importance_sampling_is_the_closed_form():
    """With numbers missing inside, and at the end: x is Gaussian, and its log P is known."""
    model = walk_model()
    guide, x = Guide(model, hidden=8), model(size=5).detach()
    x[1, 4:], x[2, 1], x[3, :2] = math.nan, math.nan, math.nan
    seen, cov, exact = ~x[..., 0].isnan().numpy(), covariance() + R**2 * np.eye(T), []
    for row, known in zip(x[..., 0].numpy(), seen, strict=True):
        exact.append(stats.multivariate_normal(np.zeros(known.sum()), cov[np.ix_(known, known)]).logpdf(row[known]))
    options = dict(num_samples=20_000, proposal="prior", method="importance", progress=False, compile=False)
    evidence = ppl_vae.estimate_evidence(model, guide, x, **options)
    check_log_px(evidence.log_px, evidence.mcse, exact, 20_000)


def test_a_start_is_continued_by_imputing_the_rest():
    """E[x_t | x_1, ..., x_s] of the walk, of steps to come, by NaN where they are."""
    model = walk_model()
    guide, x = Guide(model, hidden=8), model(size=3).detach()
    longer = torch.cat([x[:, :4], torch.full((3, 4, 1), math.nan)], 1)
    found = ppl_vae.impute(model, guide, longer, num_samples=20_000, num_draws=2, progress=False)
    cov, inner = covariance(8), covariance(4) + R**2 * np.eye(4)
    expected = x[:, :4, 0].numpy() @ np.linalg.solve(inner, cov[:4, 4:])
    error = found.mcse[:, 4:, 0].numpy()
    good = np.asarray(found.ess) > 50  # else the guide, which is not fitted, says little of its error
    off = np.abs(found.mean[:, 4:, 0].numpy() - expected)
    assert (off[good] <= limit(12, dof=49) * error[good] + 1e-3).all() and good.any()
    assert torch.equal(found.draws[0, :, :4], x[:, :4]) and found.draws.shape == (2, 3, 8, 1)


def test_a_start_from_series_of_another_length():
    """What networks read, and the likelihood, start from the steps of the data, however many a series has of them."""
    model = DeepMarkov((T, 3), prior=GatedTransition(2, hidden=(8,)), likelihood=Gaussian())
    guide, x = Guide(model, hidden=8), 5 + 3 * torch.randn(30, 9, 3)
    x[0, 4:] = math.nan
    ppl_vae.fit(model, guide, x, epochs=1, progress=False)
    torch.testing.assert_close(guide.preprocessing.data_mean, x.flatten(0, 1).nanmean(0))
    torch.testing.assert_close(model.likelihood.data_mean.flatten(), x.flatten(0, 1).nanmean(0))


@pytest.mark.parametrize("kind", ["neural_spline", "masked_autoregressive"])
def test_a_flow_at_each_step(kind):
    """It knows the density of what it draws, and of any other z, and gradients reach all of it."""
    family = partial(InverseAutoregressive, kind=kind, hidden=8, context_dim=2, transforms=1)
    model, guide = tiny(posterior=family)
    x = model(size=4).detach()
    x[1, 3:] = math.nan
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    torch.testing.assert_close(
        site["fn"].log_prob(site["value"]), site["fn"].log_prob(site["value"].clone()), rtol=1e-3, atol=1e-3
    )
    pyro.clear_param_store()
    before = {name: p.clone() for name, p in guide.named_parameters()}
    ppl_vae.fit(model, guide, x, epochs=2, learning_rate=0.01, schedule="constant", progress=False)
    assert all(bool((p != before[name]).any()) and bool(p.isfinite().all()) for name, p in guide.named_parameters())
    evidence = ppl_vae.estimate_evidence(model, guide, x, method="smc", num_samples=20, compile=False, progress=False)
    assert np.isfinite(evidence.log_px).all()


REFUSED = [
    (lambda: DeepMarkov((1, 5, 3)), r"series of event_shape \(T, D\).*got \(1, 5, 3\).*\[N, T, D\]"),
    (lambda: DeepMarkov((5,)), r"series of event_shape \(T, D\)"),
    (lambda: DeepMarkov((5, 3))(torch.zeros(2, 5, 4)), r"\[N, 5, 3\].*got \(2, 5, 4\)"),
    (lambda: DeepMarkov((5, 3))(torch.zeros(2, 0, 3)), r"\[N, 5, 3\].*got \(2, 0, 3\)"),
    (lambda: Guide(VAE((5, 3))), "a latent chain z"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_refused_in_one_sentence(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_steps_may_be_independent():
    """A prior that reads no z_(t-1) makes them so; any guide of vectors serves."""
    model = DeepMarkov((T, 3), prior=StandardNormal(2))
    guide, x = MeanField(model), model(size=3).detach()
    assert ppl_vae.reconstruct(model, guide, x).shape == x.shape
