"""Mixtures fitted to each datum, on posteriors that are known: Gaussian, gamma, of many dimensions, in odd plates."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence
from pairs import (
    constrained_guide,
    constrained_model,
    either_sign_guide,
    either_sign_model,
    hierarchical_guide,
    hierarchical_log_px,
    hierarchical_model,
    mixture_guide,
    mixture_log_px,
    mixture_model,
)
from ppl_vae.guides import MeanField
from ppl_vae.models import LinearGaussian

from ppl_vae import InputError, estimate_evidence
from ppl_vae.evidence import laplace, surface
from ppl_vae.evidence.laplace import WIDER, Laplace
from ppl_vae.evidence.prepare import prepared
from ppl_vae.utils.threads import Threads


def fitted(model, guide, x, proposal="guide"):
    """Return what is fitted to all data, without samples that move it."""
    with prepared(model, guide, x, proposal=proposal, seed=0) as ready, Threads(1) as threads:
        laplace = Laplace(ready, proposal, False, threads)
        return laplace.fit(next(laplace.prepared.chunks(len(x))))


def test_slopes_and_curvature_are_compiled(monkeypatch):
    """What is recorded of a function of u is called with u and x, of the curvature with directions between them."""
    captured = []
    monkeypatch.setattr(surface, "capture", lambda function, *examples: captured.append(len(examples)) or function)
    monkeypatch.setattr(laplace, "CURVATURE_ROWS", 16)  # four data at once
    model = LinearGaussian((20,), latent_dim=4)
    with (
        prepared(model, MeanField(model), torch.randn(64, 20), proposal="guide", seed=0) as ready,
        Threads(1) as threads,
    ):
        found = Laplace(ready, "guide", True, threads)
        found.fit(next(found.prepared.chunks(64)))
    assert set(captured) == {2, 3}


def test_rows_at_which_the_program_fails_do_not_end_the_climbs_of_others(monkeypatch):
    """A program is evaluated for many data at once; where some make it fail, these have no way up."""
    model, at_rows = LinearGaussian((20,), latent_dim=4), Laplace._at_rows

    def fails(self, kind, chunk, rows, u, *more):
        if bool((u[:, 0] > 1).any()):
            raise ValueError("no number")
        return at_rows(self, kind, chunk, rows, u, *more)

    torch.manual_seed(0)
    u, rows = torch.randn(64, 4), torch.arange(64)
    u[::7, 0], x = 2.0, torch.randn(64, 20)
    with (
        prepared(model, MeanField(model), x, proposal="guide", seed=0) as ready,
        Threads(1) as threads,
    ):
        found = Laplace(ready, "guide", False, threads)
        chunk = next(found.prepared.chunks(64))
        every, slopes = found._slope_of(chunk)(u, rows)
        monkeypatch.setattr(Laplace, "_at_rows", fails)
        value, gradient = found._slope_of(chunk)(u, rows)
    works = u[:, 0] <= 1
    assert 0 < works.sum() < 64 and torch.isneginf(value[~works]).all() and not gradient[~works].any()
    torch.testing.assert_close(value[works], every[works])
    torch.testing.assert_close(gradient[works], slopes[works])


def test_few_rows_have_the_slopes_that_they_have_among_many():
    torch.manual_seed(0)
    model = LinearGaussian((20,), latent_dim=4)
    with (
        prepared(model, MeanField(model), torch.randn(64, 20), proposal="guide", seed=0) as ready,
        Threads(1) as threads,
    ):
        found = Laplace(ready, "guide", False, threads)
        chunk, u = next(found.prepared.chunks(64)), torch.randn(3, 64, 4)
        every = found.slopes(chunk, u, 1)
        for count in (1, 5, 63):
            rows = torch.randperm(64)[:count]
            for few, all_of_them in zip(found.slopes(chunk.select(rows), u[:, rows], 100), every, strict=True):
                np.testing.assert_allclose(few, all_of_them[:, rows], rtol=1e-4, atol=1e-4)


def test_what_is_recorded_of_whether_numbers_tell_latents_apart():
    """Of the logit u of a number between 0 and 1, those above some 17 are one in single precision."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    u = torch.linspace(-10, 60, 71)[:, None, None].expand(-1, 8, 1).clone()
    with prepared(model, None, torch.randn(8), proposal="prior", seed=0) as ready, Threads(1) as threads:
        found = surface.Surface(ready, "prior", False, threads)
        chunk = next(found.prepared.chunks(8))
        plain, recorded = (found(surface.resolved, chunk, u, calls=100)[0] for _ in range(2))
    (record,) = found._fast.values()
    assert isinstance(record, torch.fx.GraphModule) and torch.equal(plain, recorded)
    assert plain[u[..., 0] < 5].all() and not plain[u[..., 0] > 30].any()


def covariance_of(found):
    """Return the covariance of the first component, as the curvature says it, [N, D, D]."""
    m = found.mixture
    vectors, squares = m.directions[0], (m.roots[0] / WIDER) ** 2
    inner = torch.eye(m.scale.shape[1]) + vectors @ ((squares - 1)[..., None] * vectors.mT)
    return m.scale[..., None] * inner * m.scale[..., None, :]


@pytest.mark.parametrize("size", [4, 150])
def test_a_gaussian_posterior_is_found_exactly(size):
    """Of 150 latents at most 20 directions are seen in x: those of largest curvature, and the prior's in all others."""
    torch.manual_seed(0)
    model = LinearGaussian((20,), latent_dim=size, sigma=0.5)
    with torch.no_grad():
        x = model(size=6)
        decode = torch.func.jacrev(model.decoder)(torch.zeros(size)).reshape(20, size)
        exact = torch.linalg.inv(torch.eye(size) + decode.T @ decode / 0.5**2)
        found = fitted(model, MeanField(model), x)
        mean = model.exact_posterior(x).mean
        log_px = model.exact_log_px(x)
    assert found.mixture.log_shares.isfinite().sum() == 6  # one component each
    deviation = exact.diagonal().sqrt()
    assert (((found.mixture.means[0] - mean) / deviation).abs() < 0.2).all()
    spread = covariance_of(found)
    known = 5 * 2 * (0.93 / 516) ** 0.5  # of a variance: five standard errors, from quantiles of 516 draws of the prior
    np.testing.assert_allclose(spread, exact.expand_as(spread), atol=known if size > 100 else 0.01)
    if size < 100:
        np.testing.assert_allclose(found.log_evidence[0], log_px, atol=0.03)  # Laplace's formula is exact there
    options = {"method": "importance", "proposal": "laplace", "num_samples": 30}
    report = str(estimate_evidence(model, MeanField(model), x, **options))
    assert ("curvature of 150 latents in its 48 steepest directions" in report) == (size > 100)


def test_on_a_positive_latent_it_is_that_of_the_logarithm():
    """z ~ Gamma(a, b), x ~ Poisson(z): over u = log z the mode is log((a + x) / (b + 1)), the curvature a + x."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0), 0.5))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(torch.full((len(x),), 1.0), 1.0))

    x = torch.tensor([0.0, 1.0, 4.0, 30.0])
    found = fitted(model, guide, x)
    np.testing.assert_allclose(found.mixture.means[0, :, 0], ((2 + x) / 1.5).log(), atol=0.05)
    np.testing.assert_allclose(covariance_of(found)[:, 0, 0], 1 / (2 + x), rtol=0.05)
    truth = dist.NegativeBinomial(2.0, torch.tensor(1 / 1.5)).log_prob(x).numpy()
    check_evidence(estimate_evidence(model, guide, x, method="importance", proposal="laplace"), truth)


PAIRS = {
    "two sites and plates": (hierarchical_model, hierarchical_guide, hierarchical_log_px, (20, 3)),
    "an enumerated component": (mixture_model, mixture_guide, mixture_log_px, (30, 2)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("guided", [True, False])
def test_several_sites_plates_and_enumerated_ones(name, guided):
    model, guide, log_px, shape = PAIRS[name]
    torch.manual_seed(0)
    x = 1.5 * torch.randn(shape)
    how = dict(method="importance", proposal="laplace", num_samples=500)
    evidence = estimate_evidence(model, guide if guided else None, x, **how)
    check_evidence(evidence, log_px(x).numpy())
    assert np.median(evidence.ess) > 200 and evidence.verdict().startswith("To be believed")


def test_bounded_latents_whose_support_depends_on_others():
    x = torch.tensor([-1.0, 0.5, 2.0, 4.0])
    truth = estimate_evidence(constrained_model, constrained_guide, x, method="importance", num_samples=200_000)
    evidence = estimate_evidence(
        constrained_model, constrained_guide, x, method="importance", proposal="laplace", num_samples=4000
    )
    assert (abs(evidence.log_px - truth.log_px) < 5 * np.hypot(evidence.mcse, truth.mcse) + 0.02).all()


def views(model):
    """The model, and one that takes one batch dimension only: samples of it are drawn as copies of the data."""

    def one_dimension(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1))
            h = model.decoder(z.view(len(x), 4))
            pyro.sample("x", dist.Normal(h, 0.7).to_event(1), obs=x)

    def part_of_the_data(x):
        with pyro.plate("data", len(x), subsample_size=16) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(model.decoder(z), 0.7).to_event(1), obs=x[index])

    return {"copies": one_dimension, "subsample": part_of_the_data}


@pytest.mark.parametrize("view", ["copies", "subsample"])
@pytest.mark.filterwarnings("ignore")
def test_programs_that_take_no_more_plates_or_no_part_of_the_data(linear_gaussian, view):
    model, x = linear_gaussian
    with torch.no_grad():
        truth = model.exact_log_px(x).numpy()

    def guide(x):
        size = {"subsample_size": 16} if view == "subsample" else {}
        with pyro.plate("data", len(x), **size) as index:
            some = x[index] if size else x
            pyro.sample("z", dist.Normal(torch.zeros(len(some), 4), 1.0).to_event(1))

    for how in (dict(method="importance", proposal="laplace"), dict(method="auto")):
        check_evidence(estimate_evidence(views(model)[view], guide, x, num_samples=300, **how), truth)


def test_draws_of_the_posterior_are_those_of_the_closed_form(linear_gaussian):
    model, x = linear_gaussian
    x = x[:5]
    how = dict(method="importance", proposal="laplace", num_samples=2000, num_draws=1000)
    evidence = estimate_evidence(model, MeanField(model), x, **how)
    with torch.no_grad():
        posterior = model.exact_posterior(x)
        z = torch.from_numpy(evidence.draws.posterior["z"])
        expected = dist.Normal(model.decoder(z), 0.7).log_prob(x).sum(-1)
    error = posterior.stddev / math.sqrt(500)
    assert ((z.mean(0) - posterior.mean).abs() < 6 * error).all()
    np.testing.assert_allclose(evidence.draws.log_likelihood, expected, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_fitted_is_refused():
    def counts(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Poisson(torch.tensor(3.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Poisson(torch.full((len(x),), 3.0)))

    x = torch.randn(5) + 3
    with pytest.raises(InputError, match="without enumerate_support"):
        estimate_evidence(counts, guide, x, method="importance", proposal="laplace")
    evidence = estimate_evidence(counts, guide, x)
    assert evidence.method == "importance" and "without enumerate_support" in str(evidence)


def signs_of(mixture):
    """Return the signs, as x has them, of the first two components of each datum."""
    return torch.sign((mixture.means[:2] * mixture.means[:1]).sum(-1))


@pytest.mark.parametrize("size", [3, 12])
def test_a_second_look_finds_modes_that_the_first_did_not(size):
    """Of draws of the prior one half climbs to the mode on the other side; a mixture that has it stays as it is."""
    torch.manual_seed(0)
    x = 1.09**0.5 * torch.randn(200, size)
    x = x[x.norm(dim=-1) > 1.5]  # so that the two are apart
    with prepared(either_sign_model, either_sign_guide, x, proposal="guide", seed=0) as ready, Threads(1) as threads:
        laplace = Laplace(ready, "guide", False, threads)
        chunk = next(laplace.prepared.chunks(len(x)))
        full = laplace.first_look(chunk)
        again, new = laplace.second_look(chunk, full)
        has_both = full.heights.isfinite().sum(0) == 2
        assert has_both.float().mean() > 0.6 and not new[has_both].any()
        assert torch.equal(again.mixture.means[:2, has_both], full.mixture.means[:, has_both])

        mean = laplace._drawn(chunk, 16)[1].mean(0)
        width = full.mixture.scale
        one = laplace._mixture(chunk, *laplace._climbed(chunk, mean[None], width), width)
        assert one.mixture.num_components == 1
        found, new = laplace.second_look(chunk, one)
        assert new.float().mean() > 0.5 and (new.float().mean() < 1 or size == 3)
        assert (signs_of(found.mixture.select(new.nonzero()[:, 0])) == torch.tensor([[1.0], [-1.0]])).all()
        assert not found.mixture.log_shares[1:, ~new].isfinite().any()


def test_a_climb_that_ends_below_a_known_mode_would_have_gone_there():
    torch.manual_seed(0)
    x = 1.09**0.5 * torch.randn(100, 12)
    with prepared(either_sign_model, either_sign_guide, x, proposal="guide", seed=0) as ready, Threads(1) as threads:
        laplace = Laplace(ready, "guide", False, threads)
        chunk = next(laplace.prepared.chunks(len(x)))
        fitted, starts = laplace.fit(chunk), laplace._drawn(chunk, 4)[0]
        width = fitted.mixture.scale
        ended = laplace._climbed(chunk, starts, width, fitted)[1].isinf()
        position, height = laplace._climbed(chunk, starts, width)
        near = torch.stack([fitted.mixture.distances(position, j, torch.arange(len(x))) < 1 for j in range(2)])
        same = (height - fitted.heights[:2, None]).abs() < 0.2
        assert ended.float().mean() > 0.9
        assert (near & same).any(0)[ended].all()
