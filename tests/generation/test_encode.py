"""z by the guide: means against closed forms, exact where Q says them, else within their errors."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import Conditional
from ppl_vae.guides import LinearGaussian as Posterior
from ppl_vae.models import CVAE
from tiny import IMAGES, LABELS, SHAPE, SMALL

from ppl_vae import InputError, encode
from ppl_vae.conditions import Label

X = torch.linspace(-2, 2, 12).reshape(4, 3)
QUIET = {"progress": False}


def test_the_mean_of_an_exact_posterior(linear_gaussian):
    """E[z | x] = M^-1 W^T (x - b) / sigma^2 of probabilistic PCA; draws to 6 standard errors each."""
    model, x = linear_gaussian
    found = encode(model, Posterior(model), x, num_draws=500, **QUIET)
    with torch.no_grad():
        exact = model.exact_posterior(x).mean
    np.testing.assert_allclose(found.mean["z"], exact, rtol=1e-4, atol=1e-5)
    assert not found.mcse["z"].any() and len(found) == 64
    error = found.draws["z"].std(0) / 500**0.5
    assert (np.abs(found.draws["z"].mean(0) - found.mean["z"]) < 6 * error).all()
    assert "exact" in str(found) and found.names() == ["z[0]", "z[1]", "z[2]", "z[3]"]


def model(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a[..., None] * torch.ones(2), 1.0).to_event(1))
        k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(b.sum(-1)[..., None] + k[..., None], torch.ones(3)).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.LogNormal(x[:, 0], 0.25))
        pyro.sample("b", dist.Normal(torch.stack([a**2, x[:, 1]], -1), 0.1).to_event(1))
        pyro.sample("k", dist.Categorical(torch.ones(3) / 3))


def test_a_mean_that_depends_on_another_site_has_an_error():
    """E[a^2] of a log-normal is exp(2 m + 2 s^2); 4 data to 8 standard errors."""
    found = encode(model, guide, X, num_samples=400, num_draws=3, **QUIET)
    np.testing.assert_allclose(found.mean["a"], torch.exp(X[:, 0] + 0.03125), rtol=1e-5)
    off = np.abs(found.mean["b"][:, 0] - torch.exp(2 * X[:, 0] + 0.125).numpy())
    assert (off < 8 * found.mcse["b"][:, 0]).all()
    exact = torch.exp(2 * X[:, 0] + 0.125).numpy() * (np.exp(0.25) - 1) ** 0.5 / 400**0.5
    share = found.mcse["b"][:, 0] / exact  # of a standard deviation of 400 draws: 7% off in the mean, 6 times that here
    assert (share > 0.6).all() and (share < 1.9).all()
    assert (found.mcse["b"][:, 1] < 1e-6).all()  # x itself
    assert np.isnan(found.mean["k"]).all() and set(found.draws["k"].ravel()) <= {0, 1, 2}
    assert found.draws["b"].shape == (3, 4, 2) and "categories" in str(found)
    table = found.to_frame(draws=True)
    assert list(table.columns[:4]) == ["a", "b[0]", "b[1]", "k"]
    assert {"b[0] (MCSE)", "b[0] (draw 3)"} <= set(table.columns)


def test_seeds_and_numbers_of_draws(linear_gaussian):
    model, x = linear_gaussian
    one, same, other = (
        encode(model, Posterior(model), x, num_draws=1, seed=seed, num_samples=1, **QUIET) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.draws["z"], same.draws["z"]) and not np.array_equal(one.draws["z"], other.draws["z"])
    assert one.draws["z"].shape[0] == 1 and not one.mcse["z"].any()


def test_conditional_models_are_given_y():
    model = CVAE(SHAPE, Label(3), **SMALL)
    found = encode(model, Conditional(model), (IMAGES, LABELS), num_draws=2, **QUIET)
    assert found.draws["z"].shape[:2] == (2, 6) and not found.mcse["z"].any()
    swapped = encode(model, Conditional(model), (IMAGES, LABELS.flip(0)), num_draws=2, **QUIET)
    assert not np.allclose(found.mean["z"], swapped.mean["z"])


def test_a_guide_without_latents_is_refused():
    def observes(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, torch.ones(3)).to_event(1), obs=x)

    with pytest.raises(InputError, match="samples latent sites"):
        encode(observes, lambda x: None, X, **QUIET)
    for wrong in ({"num_draws": 0}, {"num_samples": 0}, {"seed": -1}):
        with pytest.raises(InputError, match="whole number"):
            encode(model, guide, X, **wrong, **QUIET)
