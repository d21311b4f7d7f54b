"""One contract for every model with every guide, and the closed forms of the linear-Gaussian model."""

from functools import partial

import numpy as np
import pyro
import pytest
import torch
from bounds import check_means
from contracts.rows import MODELS
from pyro import poutine

import ppl_vae
from ppl_vae import InputError, guides, models
from ppl_vae.likelihoods import Gaussian
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal

SMALL = partial(MLP, hidden=(8,))
SHAPE = (1, 4, 4)
PAIRS = [(name, guide) for name, (_, guides_of) in MODELS.items() for guide in guides_of]


@pytest.mark.parametrize(("name", "make_guide"), PAIRS)
def test_model_and_guide(name, make_guide):
    make, _ = MODELS[name]
    model = make()
    guide = make_guide(model)
    x = model(size=6).detach()
    assert x.shape == (6, *model.event_shape)

    # Both work under one more plate to the left, each of K samples its own.
    with pyro.plate("samples", 5, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(x)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    model_trace.compute_log_prob()
    for latent in guide.latents:
        assert model_trace.nodes[latent]["value"].shape == (5, 6, *guide.latents[latent])
    assert model_trace.nodes["x"]["log_prob"].shape == (5, 6)
    pyro.clear_param_store()

    # Fitting reaches every parameter, and ELBO <= log P(x).
    before = {k: v.clone() for m in (model, guide) for k, v in m.named_parameters()}
    ppl_vae.fit(model, guide, x, epochs=3, learning_rate=0.01, schedule="constant", progress=False)
    for module in (model, guide):
        for k, v in module.named_parameters():
            assert torch.isfinite(v).all()
            assert (v != before[k]).any(), k
    evidence = ppl_vae.estimate_evidence(model, guide, x, method="importance", num_samples=200)
    assert (evidence.gap > -4 * np.hypot(evidence.mcse, evidence.elbo_mcse) - 1e-4).all()

    # Saved and loaded into another pair, it gives the same numbers.
    other = make()
    other_guide = make_guide(other)
    other.load_state_dict(model.state_dict())
    other_guide.load_state_dict(guide.state_dict())
    again = ppl_vae.estimate_evidence(other, other_guide, x, method="importance", num_samples=200)
    np.testing.assert_array_equal(again.log_px, evidence.log_px)
    assert ppl_vae.sample(model, 3).shape == (3, *model.event_shape)
    assert ppl_vae.reconstruct(model, guide, x).shape == x.shape


def test_linear_gaussian_against_dense_algebra(linear_gaussian):
    """log P(x) and the posterior from the joint covariance of (x, z), with NumPy and SciPy."""
    from scipy.stats import multivariate_normal

    model, x = linear_gaussian
    layer = model.decoder.layers[0]
    w, b = layer.weight.detach().numpy().astype(float), layer.bias.detach().numpy().astype(float)
    cov = w @ w.T + 0.7**2 * np.eye(20)
    with torch.no_grad():
        np.testing.assert_allclose(model.exact_log_px(x), multivariate_normal(b, cov).logpdf(x), rtol=1e-5)
        posterior = model.exact_posterior(x)
    gain = w.T @ np.linalg.inv(cov)
    np.testing.assert_allclose(posterior.mean, (x.numpy() - b) @ gain.T, atol=1e-4)
    np.testing.assert_allclose(posterior.covariance_matrix[0], np.eye(4) - gain @ w, atol=1e-5)


def test_samples_of_the_linear_gaussian_have_its_moments():
    model = models.LinearGaussian((3,), latent_dim=2, sigma=0.5)
    x = ppl_vae.sample(model, 50_000)
    w, b, variance = (t.detach() for t in model.weights())
    check_means(x, b)
    check_means((x - b)[:, :, None] * (x - b)[:, None], w @ w.T + variance * torch.eye(3))


def test_pyros_own_svi_trains_our_pairs(digits):
    model = models.VAE(digits.event_shape, decoder=SMALL)
    guide = guides.MeanField(model, encoder=SMALL)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    losses = [svi.step(digits.validation.x) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    pyro.clear_param_store()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.VAE(()), "event_shape"),
        (lambda: models.VAE((0, 3)), "event_shape"),
        (lambda: models.VAE(SHAPE)(torch.zeros(3, 5)), r"\[N, 1, 4, 4\].*got \(3, 5\)"),
        (lambda: models.VAE(SHAPE)(size=0), "size.*got 0"),
        (lambda: guides.LinearGaussian(models.VAE(SHAPE)), "exact_posterior"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_mean_field_takes_sites_of_any_shape():
    class Scalars(ppl_vae.Model):
        def forward(self, x=None, *, size=None):
            with self.plate(x, size):
                a = pyro.sample("a", pyro.distributions.Normal(0.0, 1.0))
                b = pyro.sample("b", pyro.distributions.Normal(torch.zeros(2, 3), 1.0).to_event(2))
                mean = (a[..., None, None] + b).flatten(-2)
                return pyro.sample("x", pyro.distributions.Normal(mean, 1.0).to_event(1), obs=x)

    model = Scalars((6,))
    guide = guides.MeanField(model, encoder=SMALL)
    x = ppl_vae.sample(model, 40)
    ppl_vae.fit(model, guide, x, epochs=100, learning_rate=0.02)
    covariance = torch.eye(6) * 2 + 1
    exact = torch.distributions.MultivariateNormal(torch.zeros(6), covariance).log_prob(x).numpy()
    evidence = ppl_vae.estimate_evidence(model, guide, x, num_samples=2000)
    assert (np.abs(evidence.log_px - exact) < 4 * evidence.mcse + 1e-3).mean() > 0.9


@pytest.mark.parametrize("direction", ["top_down", "bottom_up"])
def test_two_stochastic_layers_against_quadrature(direction):
    """log P(x) is the double sum over a grid of (z1, z2)."""
    model = models.Hierarchical((3,), StandardNormal(1), Gaussian(0.5), decoder=SMALL, latent_dim=1)
    guide = guides.Hierarchical(model, SMALL, direction)
    x = ppl_vae.sample(model, 300)
    ppl_vae.fit(model, guide, x, epochs=40, learning_rate=0.01)
    evidence = ppl_vae.estimate_evidence(model, guide, x[:20], num_samples=2000)
    grid = torch.linspace(-8, 8, 401)
    z2, z1 = (z.unsqueeze(-1) for z in torch.meshgrid(grid, grid, indexing="ij"))
    with torch.no_grad():
        loc, raw = model.between(z2).chunk(2, -1)
        scale = torch.nn.functional.softplus(raw) + 1e-6
        normal = torch.distributions.Normal
        log_pz = (normal(0.0, 1.0).log_prob(z2) + normal(loc, scale).log_prob(z1)).squeeze(-1)
        h, likelihood = model.decoder(torch.cat([z1, z2], -1)), model.likelihood
        mean = likelihood.data_mean + likelihood.data_scale * h  # in units of x, from which the fit started
        log_px = [(log_pz + normal(mean, 0.5).log_prob(v).sum(-1)).double().logsumexp((0, 1)) for v in x[:20]]
    exact = torch.stack(log_px).numpy() + 2 * np.log(16 / 400)
    assert np.abs(evidence.log_px - exact).max() < 5 * evidence.mcse.max()
    assert -0.005 < (exact - evidence.elbo).mean() < 0.1


def test_two_layers_need_two_sites():
    with pytest.raises(InputError, match=r"two latent vectors z1 and z2.*Use another guide"):
        guides.Hierarchical(models.VAE(SHAPE))
    with pytest.raises(InputError, match="did you mean 'top_down'"):
        guides.Hierarchical(models.Hierarchical(SHAPE), direction="topdown")
