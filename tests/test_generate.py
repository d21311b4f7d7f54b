"""Samples, reconstructions and maps come from the right distributions; figures are figures."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PyroTutorialVAE, mean_model
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import VAE, LinearGaussian

import ppl_vae
from ppl_vae import InputError, plots
from ppl_vae.checkpoint import History
from ppl_vae.priors import Mixture, StandardNormal


def test_sample(small_pair):
    model, _ = small_pair
    x = ppl_vae.sample(model, 50)
    assert x.shape == (50, 1, 8, 8)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    mean = ppl_vae.sample(model, 50, mean=True)
    assert 0 < mean.min() < mean.max() < 1
    assert torch.equal(ppl_vae.sample(model, 50), x)
    assert not torch.equal(ppl_vae.sample(model, 50, seed=1), x)


def test_conditions_are_passed_on():
    def model(x=None, y=None, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("x", dist.Normal(y, 0.01), obs=x)

    x = ppl_vae.sample(model, 3, y=torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(x, [1, 2, 3], atol=0.1)
    with pytest.raises(InputError, match="takes label"):
        ppl_vae.sample(model, 3, label=torch.zeros(3))
    with pytest.raises(InputError, match="takes size"):
        ppl_vae.sample(mean_model, 3)


def test_reconstruct_is_the_mean_under_the_posterior(linear_gaussian):
    model, x = linear_gaussian
    draws = torch.stack([ppl_vae.reconstruct(model, ExactPosterior(model), x, seed=s) for s in range(300)])
    with torch.no_grad():
        expected = model.decoder(model.exact_posterior(x).mean)
    np.testing.assert_allclose(draws.mean(0), expected, atol=0.15)
    noisy = ppl_vae.reconstruct(model, ExactPosterior(model), x, mean=False)
    assert float((noisy - draws[0]).std()) == pytest.approx(0.7, rel=0.1)


def test_reconstruct_plain_functions(digits):
    vae = PyroTutorialVAE()
    again = ppl_vae.reconstruct(vae.model, vae.guide, digits.test[:7])
    assert again.shape == (7, 1, 8, 8)


def test_manifold_runs_over_the_quantiles_of_the_prior():
    model = LinearGaussian((2,), latent_dim=2)
    with torch.no_grad():
        model.decoder.layers[0].weight.copy_(torch.eye(2))
        model.decoder.layers[0].bias.zero_()
    grid = ppl_vae.manifold(model, grid=9)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(9) + 0.5) / 9)
    np.testing.assert_allclose(grid[4, :, 0], quantiles, atol=0.03)  # to the right
    np.testing.assert_allclose(grid[:, 4, 1], quantiles.flip(0), atol=0.03)  # upwards
    assert ppl_vae.manifold(VAE((1, 4, 4), prior=Mixture(2)), grid=4).shape == (4, 4, 1, 4, 4)
    with pytest.raises(InputError, match=r"two dimensions.*\(3,\)"):
        ppl_vae.manifold(VAE((1, 4, 4), prior=StandardNormal(3)))


@pytest.mark.parametrize("call", [lambda m: ppl_vae.sample(m, 0), lambda m: ppl_vae.manifold(m, grid=0)])
def test_sizes_below_one(small_pair, call):
    with pytest.raises(InputError, match="got 0"):
        call(small_pair[0])


def test_tiles_show_every_image():
    x = np.random.default_rng(0).random((7, 1, 3, 4))
    canvas = plots.tile(x, columns=3)
    assert canvas.shape == (3 * 4 + 1, 3 * 5 + 1)
    np.testing.assert_array_equal(canvas[1:4, 1:5], x[0, 0])
    np.testing.assert_array_equal(canvas[9:12, 1:5], x[6, 0])
    assert plots.tile(np.zeros((4, 3, 2, 2)), columns=2).shape == (7, 7, 3)
    with pytest.raises(InputError, match=r"\[N, C, H, W\].*got \(4, 5, 2, 2\)"):
        plots.tile(np.zeros((4, 5, 2, 2)), columns=2)


def test_figures(tmp_path):
    x = np.random.default_rng(0).random((40, 1, 8, 8))
    rows = [(i + 1.0, -50.0 / (i + 1), -52.0 / (i + 1), 1e-3) for i in range(10)]
    figures = [
        plots.images(torch.from_numpy(x)),
        plots.reconstructions(x, x),
        plots.reconstructions(x[:5], x[:5]),
        plots.manifold(x[:36].reshape(6, 6, 1, 8, 8)),
        plots.history(History.of(rows)),
        plots.history(History.of([(*r[:2], float("nan"), r[3]) for r in rows])),
    ]
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 2000
    with pytest.raises(InputError, match="one shape"):
        plots.reconstructions(x, x[:3])
