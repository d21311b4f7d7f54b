"""The gap's two parts against closed forms, and the refined Q that stands between them."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_errors, check_log_px, limit
from pairs import (
    PyroTutorialVAE,
    hierarchical_guide,
    hierarchical_log_px,
    hierarchical_model,
    mean_guide,
    mean_model,
)
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.guides import MeanField, NoLatents
from ppl_vae.models import Regressor
from pyro import infer

from ppl_vae import InputError, estimate_evidence
from ppl_vae.conditions import Label
from ppl_vae.criticism.gaps import explain_gap
from ppl_vae.evidence.refine import refine
from ppl_vae.traces.log_weights import log_weights
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import structure_of
from ppl_vae.traces.run import get_traces


def shifted_guide(model, offset=0.0, factor=1.0, *, mean_field=False):
    """The exact posterior or the best factorized Gaussian, off by `offset` in its mean and `factor` in its scale."""

    def guide(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            if mean_field:
                precision = posterior.precision_matrix.diagonal(dim1=-2, dim2=-1)
                pyro.sample("z", dist.Normal(posterior.mean + offset, factor * precision**-0.5).to_event(1))
            else:
                loc, tril = posterior.mean + offset, factor * posterior.scale_tril
                pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))

    return guide


def closed_form(model, x, offset, factor, mean_field):
    """KL(Q || P(z | x)) of `shifted_guide`, and that of the best of its family, from the Gaussians' formulas."""
    with torch.no_grad():
        posterior = model.exact_posterior(x[:1])
        precision = posterior.precision_matrix[0].double()
        own = torch.diag(1 / precision.diagonal()) if mean_field else precision.inverse()
        covariance, d = factor**2 * own, torch.full((len(own),), offset, dtype=torch.double)
        kl = torch.trace(precision @ covariance) - len(d) + d @ precision @ d
        kl = 0.5 * (kl - torch.logdet(precision @ covariance))
        best = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)) if mean_field else torch.zeros(())
        return float(kl), float(best)


@pytest.mark.parametrize(
    ("offset", "factor", "mean_field"),
    [(0.0, 1.0, False), (0.0, 1.0, True), (0.5, 1.0, False), (0.7, 1.4, False), (0.7, 0.6, True)],
)
def test_both_parts_against_the_closed_form(linear_gaussian, offset, factor, mean_field):
    model, x = linear_gaussian
    gap = explain_gap(model, shifted_guide(model, offset, factor, mean_field=mean_field), x[:16], num_samples=2000)
    whole, best = closed_form(model, x, offset, factor, mean_field)
    for name, expected in (("approximation", best), ("amortization", whole - best), ("gap", whole)):
        check_errors(getattr(gap, name), expected, getattr(gap, f"{name}_mcse"), slack=2e-3)
    means = gap.means()
    assert means["approximation"].value == pytest.approx(best, abs=limit() * means["approximation"].mcse + 1e-3)
    assert means["amortization"].value == pytest.approx(whole - best, abs=limit() * means["amortization"].mcse + 1e-3)
    with torch.no_grad():
        check_log_px(gap.log_px, gap.log_px_mcse, model.exact_log_px(x[:16]), 2000)
    np.testing.assert_array_equal(gap.approximation + gap.amortization, gap.gap)
    np.testing.assert_allclose(gap.gap, gap.log_px - gap.elbo, atol=1e-9)


def test_nothing_to_explain_where_the_guide_is_the_posterior(linear_gaussian):
    model, x = linear_gaussian
    gap = explain_gap(model, ExactPosterior(model), x, num_samples=100)
    np.testing.assert_allclose(gap.approximation, 0, atol=1e-3)
    np.testing.assert_allclose(gap.amortization, 0, atol=1e-3)
    assert "No gap to speak of" in str(gap)


def test_the_stated_errors_are_the_spread_of_repeated_estimates(linear_gaussian):
    """Of the final estimate only: the refined Q is held fixed."""
    from ppl_vae.criticism.gaps import _estimates

    model, x = linear_gaussian
    x = x[:4]
    own, best = shifted_guide(model, 0.1, 1.4), shifted_guide(model, 0.0, 1.2)
    runs = []
    for seed in range(100):
        found = []
        for guide in (own, best):
            pair = Pair(model, guide)
            torch.manual_seed(seed)
            with pair.running(), torch.no_grad():
                structure = structure_of(get_traces(pair, (x,)), len(x))
                torch.manual_seed(seed)
                found.append(log_weights(pair, (x,), 300, structure).double().numpy())
        runs.append(_estimates(*found))

    def spread(values):
        return np.std(values, axis=0, ddof=1).mean()

    values = {k: np.array([r[k] for r in runs]) for k in runs[0]}
    differences = {
        "approximation": values["log_px"] - values["best_elbo"],
        "amortization": values["best_elbo"] - values["elbo"],
        "gap": values["log_px"] - values["elbo"],
    }
    for name, found in (values | differences).items():
        if f"{name}_mcse" in values:
            # A standard deviation of 100 numbers is off by 1 / sqrt(2 * 99); the data of a run have the same noise.
            off = limit(6) / math.sqrt(2 * (len(runs) - 1))
            assert values[f"{name}_mcse"].mean() == pytest.approx(spread(found), rel=off), name
    assert values["amortization_mcse"].mean() < 0.9 * math.hypot(spread(values["best_elbo"]), spread(values["elbo"]))


@pytest.mark.parametrize("vectorize", [True, False])
def test_several_sites_in_a_hierarchy(vectorize):
    """The guide's family is mean-field with a linear residual: a refined shift moves the intercepts and scales."""
    with torch.no_grad():
        x = torch.randn(6, 3) * 1.5
    options = {} if vectorize else {"num_steps": 40, "num_samples": 60}
    gap = explain_gap(hierarchical_model, hierarchical_guide, x, vectorize=vectorize, **options)
    check_log_px(gap.log_px, gap.log_px_mcse, hierarchical_log_px(x), gap.num_samples)
    assert np.all(gap.amortization >= -limit(6) * gap.amortization_mcse)
    assert np.all(gap.approximation >= -limit(6) * gap.approximation_mcse)
    if vectorize:  # P(z2 | z1, x) has slope 1 / 4 on z1, and the guide's own 1 / 2 cannot be shifted away
        mean = gap.means()
        # KL left: E_Q of the slope's mismatch, minimized over the rest; found by `best_hierarchical`.
        check_errors(mean["approximation"].value, best_hierarchical(), mean["approximation"].mcse)


def best_hierarchical():
    """min KL(Q || P(z1, z2 | x)) over Gaussians Q with z2 = z1 / 2 + c + s e, z1 = m + t e': over (s, t) by search.

    With means matched, KL = 0.5 (tr(L S) - 2 - log det(L S)), L the posterior's precision. P(z1, z2, x) has
    L = [[1 + 1, -1], [-1, 1 + 3]].
    """
    L = torch.tensor([[2.0, -1.0], [-1.0, 4.0]], dtype=torch.double)
    t, s = torch.meshgrid(torch.linspace(0.3, 1.5, 400), torch.linspace(0.2, 1.2, 400), indexing="ij")
    factor = torch.stack([torch.stack([t, 0 * t], -1), torch.stack([0.5 * t, s], -1)], -2).double()
    product = L @ factor @ factor.mT
    kl = 0.5 * (product.diagonal(dim1=-2, dim2=-1).sum(-1) - 2 - torch.logdet(product))
    return float(kl.min())


def test_plain_functions_and_parameters_shared_by_all_data():
    """A scale that is one number for all data gets a shift for each; their amortization gap is known."""
    x = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    gap = explain_gap(mean_model, mean_guide, x, num_samples=2000)
    kl = torch.distributions.kl_divergence(dist.Normal(0.1 * x, 1.0), dist.Normal(x / 2, 2**-0.5)).numpy()
    np.testing.assert_allclose(gap.amortization, kl, atol=limit(4) * gap.amortization_mcse.max())
    np.testing.assert_allclose(gap.approximation, 0, atol=1e-3)
    np.testing.assert_allclose(gap.log_px, dist.Normal(0, 2**0.5).log_prob(x).numpy(), atol=1e-3)


def test_each_datum_has_a_scale_of_its_own():
    """Posterior scales that differ from datum to datum, a guide with one scale for all."""

    def model(x, noise):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.log(), noise), obs=x)

    def guide(x, noise):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(torch.zeros(()), torch.ones(())))

    x, noise = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.3, 1.0, 2.0])
    gap = explain_gap(model, guide, (x, noise), num_samples=500)
    np.testing.assert_allclose(gap.approximation, 0, atol=1e-3)
    np.testing.assert_allclose(gap.log_px, dist.Normal(0, (1 + noise**2).sqrt()).log_prob(x).numpy(), atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dist.Normal(torch.zeros(5, 2), 1.0).to_event(1),
        lambda: dist.Normal(0.0, 1.0).expand([2]).to_event(1),
        lambda: dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        lambda: dist.LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2)),
        lambda: dist.StudentT(torch.full((5, 2), 5.0), 0.0, 1.0).to_event(1),
        lambda: dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0), dist.transforms.planar(2)),
        lambda: dist.torch_distribution.ExpandedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), (5,)),
        lambda: dist.Normal(torch.zeros(5, 2), 1.0).mask(torch.ones(5, 1) > 0).to_event(1),
    ],
)
def test_families(make):
    """A start of zero is the guide; the shifts have an entry for each datum; a few steps help."""
    from pyro import poutine

    from ppl_vae.evidence.refine import Shifted, zeros

    x = torch.randn(5, 2) + 2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", make())

    pair = Pair(model, guide)
    with pair.running(), torch.no_grad():
        structure = structure_of(get_traces(pair, (x,)), 5)
        shifts = zeros(poutine.trace(guide).get_trace(x))
        assert all(len(s) == 5 for s in shifts["z"].values())
        torch.manual_seed(1)
        own = log_weights(pair, (x,), 7, structure)
        torch.manual_seed(1)
        same = log_weights(Pair(model, Shifted(shifts)(guide)), (x,), 7, structure)
        torch.testing.assert_close(own, same, atol=1e-4, rtol=1e-4)
        refined = refine(pair, (x,), structure, num_steps=60, learning_rate=0.1)
        gain = log_weights(refined, (x,), 200, structure).mean(0) - log_weights(pair, (x,), 200, structure).mean(0)
    assert (gain > 1).all()


def test_networks_are_left_as_they_were(small_pair, digits):
    model, guide = small_pair
    guide.encoder.requires_grad_(False)
    x, pair = digits.test.x[:20], Pair(model, guide)
    before = pair.snapshot()
    with pair.running(), pair.evaluating(), torch.no_grad():
        structure = structure_of(get_traces(pair, (x,)), 20)
        refined = refine(pair, (x,), structure, num_steps=5)
        assert refined.guide is not guide
        assert log_weights(refined, (x,), 3, structure).shape == (3, 20)
    assert all(p.grad is None for p in (*model.parameters(), *guide.parameters()))
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in guide.encoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in pair.tensors().items())
    assert model.training
    assert guide.training


def test_never_worse_than_the_guide(linear_gaussian):
    """Steps so wild that the data end up worse than they began: nearly all keep the guide's own answer."""
    model, x = linear_gaussian
    gap = explain_gap(model, shifted_guide(model, mean_field=True), x, num_steps=2, learning_rate=3.0)
    assert np.mean(np.abs(gap.amortization) < 1e-5) > 0.9
    assert np.all(gap.amortization >= -limit(64) * gap.amortization_mcse - 1e-5)


def test_a_guide_with_parameters_for_each_datum():
    """Pyro's AutoNormal runs on the whole data only; its Delta sites carry what was drawn elsewhere."""
    x = torch.randn(30) * 2

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    guide = infer.autoguide.AutoNormal(model)
    with warnings.catch_warnings(), Pair(model, guide).running():
        warnings.simplefilter("ignore")
        guide(x)
    gap = explain_gap(model, guide, x, num_samples=200)
    check_log_px(gap.log_px, gap.log_px_mcse, dist.Normal(0, math.sqrt(2)).log_prob(x), 200, slack=1e-3)
    assert abs(gap.approximation.mean()) < 1e-3  # what steps on noise leave; the farther a datum, the more
    assert abs(gap.approximation).max() < 0.02
    assert gap.amortization.mean() > 0.5


def test_methods_chunks_and_subsampled_plates(digits, linear_gaussian):
    vae = PyroTutorialVAE()
    gap = explain_gap(vae.model, vae.guide, digits.test.x[:20], num_samples=20, num_steps=20, chunk_size=120)
    assert len(gap) == 20
    assert gap.amortization.mean() > 0

    model, x = linear_gaussian
    wrong = shifted_guide(model, 0.5)

    def model_of_all(x):
        with pyro.plate("data", 64, subsample_size=40) as index:
            z = pyro.sample("z", model.prior())
            pyro.sample("x", model.likelihood(model.decoder(z)), obs=x[index])

    def guide_of_all(x):
        with pyro.plate("data", 64, subsample_size=40) as index:
            posterior = model.exact_posterior(x[index])
            pyro.sample("z", dist.MultivariateNormal(posterior.mean + 0.5, scale_tril=posterior.scale_tril))

    for pair, options in (
        ((model_of_all, guide_of_all), {"num_steps": 100}),
        ((model, wrong), {"chunk_size": 300, "num_steps": 100}),
    ):
        gap = explain_gap(*pair, x, num_samples=100, **options)
        whole, _ = closed_form(model, x, 0.5, 1.0, False)
        assert len(gap) == 64
        np.testing.assert_allclose(gap.approximation, 0, atol=2e-3)
        assert gap.amortization.mean() == pytest.approx(whole, abs=limit() * gap.means()["amortization"].mcse + 1e-3)


def test_the_result_as_text_html_and_data(linear_gaussian):
    model, x = linear_gaussian
    torch.manual_seed(3)
    gap = explain_gap(model, MeanField(model), x[:5], num_samples=50, num_steps=50)
    after = torch.rand(1)
    torch.manual_seed(3)
    MeanField(model)
    assert torch.rand(1) == after
    for text in (str(gap), gap._repr_html_()):
        for word in ("log P(x)", "best ELBO", "approximation", "amortization", "K = 50"):
            assert word in text
    dataset = gap.to_dataset()
    assert dataset["approximation"].dims == ("datum",)
    assert dataset.attrs["num_samples"] == 50
    same = explain_gap(model, MeanField(model), x[:5], num_samples=50, num_steps=50, seed=1)
    assert not np.array_equal(same.elbo, gap.elbo)


def test_bad_calls(linear_gaussian):
    model, x = linear_gaussian

    def mixture(x):
        with pyro.plate("data", len(x)):
            parts = dist.Normal(torch.zeros(2, 4), 1.0).to_event(1)
            pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))

    def discrete_model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def discrete_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(0.4))

    class Unknown(dist.TorchDistribution):
        arg_constraints, support, has_rsample = {}, dist.constraints.real_vector, True

        def rsample(self, sample_shape=()):
            return torch.zeros(self.shape(sample_shape))

        def log_prob(self, value):
            return value.sum(-1) * 0

    def unknown(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Unknown((len(x),), (4,)))

    with pytest.raises(InputError, match=r"reparameterization.*'z' \(MixtureSameFamily\)"):
        explain_gap(model, mixture, x)
    with pytest.raises(InputError, match=r"reparameterization.*'c' \(Bernoulli\)"):
        explain_gap(discrete_model, discrete_guide, x[:, 0])
    with pytest.raises(InputError, match=r"'z'.*Unknown"):
        explain_gap(model, unknown, x)
    for options in ({"num_samples": 1}, {"num_steps": 0}, {"num_particles": 0}, {"learning_rate": -1.0}):
        with pytest.raises(InputError, match=f"{next(iter(options))}.*got"):
            explain_gap(model, ExactPosterior(model), x, **options)


def test_a_family_whose_support_moves_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1.0))

    with pytest.raises(InputError, match=r"support that does not depend on their parameters.*'z' \(Uniform\)"):
        explain_gap(model, guide, torch.zeros(3))
    with pytest.raises(InputError, match="a guide Q"):
        estimate_evidence(model, None, torch.zeros(3), proposal="refined")


def test_without_latents_there_is_no_gap():
    model = Regressor((1, 4, 4), Label(3))
    with pytest.raises(InputError, match="got none: the ELBO is log P"):
        explain_gap(model, NoLatents(model), (torch.zeros(5, 1, 4, 4), torch.arange(5) % 3))
