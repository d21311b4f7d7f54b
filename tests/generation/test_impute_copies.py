"""A program of one batch dimension: said before it is fitted, and imputed with copies of the data."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import MeanField

import ppl_vae
from ppl_vae.base import Model
from ppl_vae.missing import Observed
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
X[::3, 0], X[1, 1:3] = np.nan, np.nan


class OfBatch(dist.Normal):
    """Its log_prob is for a batch [N, D] only."""

    def log_prob(self, value):
        return dist.Normal(self.loc.expand(value.shape), self.scale).log_prob(value)

    def expand(self, shape, _instance=None):
        return OfBatch(self.loc.expand(shape), self.scale.expand(shape))


class Own(Model):
    family = OfBatch

    def __init__(self, event_shape):
        super().__init__(event_shape)
        self.prior = StandardNormal(2)
        self.decoder = MLP(self.prior.event_shape, event_shape, hidden=4)

    def forward(self, x=None, *, size=None):
        with self.plate(x, size):
            z = pyro.sample("z", self.prior())
            h = self.decoder(z)
            return pyro.sample("x", Observed(self.family(h, torch.ones_like(h)), 1), obs=x)


class Usual(Own):
    family = dist.Normal


def pair(cls):
    torch.manual_seed(0)
    model = cls((4,))
    return model, MeanField(model)


def test_a_fit_says_that_there_is_one_batch_dimension_only(recwarn):
    with pytest.warns(UserWarning, match=r"can be fitted, but do not run under one more plate .*OfBatch\.log_prob"):
        ppl_vae.fit(*pair(Own), X, epochs=1, progress=False)
    recwarn.clear()
    ppl_vae.fit(*pair(Usual), X, epochs=1, progress=False)
    assert not [w for w in recwarn if "one more plate" in str(w.message)]


def test_what_is_imputed_with_copies_is_what_is_imputed_in_a_plate():
    usual = ppl_vae.impute(*pair(Usual), X, num_samples=400, seed=3)
    with pytest.warns(UserWarning, match="drawn as copies of the data"):
        copied = ppl_vae.impute(*pair(Own), X, num_samples=400, seed=3)
    missing = np.isnan(X)
    assert copied.draws.shape == usual.draws.shape and not copied.mean.isnan().any()
    np.testing.assert_array_equal(copied.draws[:, ~missing], usual.draws[:, ~missing])
    off = (copied.mean - usual.mean)[missing].abs() / (copied.mcse**2 + usual.mcse**2)[missing].sqrt()
    assert off.max() < 6  # 9 means with 400 samples each: less often than one in 10^7, were they others' draws
    np.testing.assert_allclose(copied.ess.mean(), usual.ess.mean(), rtol=0.05)
