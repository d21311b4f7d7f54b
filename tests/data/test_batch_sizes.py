"""A guide with parameters for each datum takes all data in one batch, and no others."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import InputError, estimate_evidence, fit

X = torch.randn(60, generator=torch.Generator().manual_seed(0))


def model(x):
    """x ~ N(z, 0.3^2) with z ~ N(0, 1)."""
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 0.3), obs=x)


def of_all(x):
    """One z for all data."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def by_place(x):
    """A guide of one's own that does not read x."""
    loc = pyro.param("loc", torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.3))


GUIDES = {cls.__name__: cls for cls in (AutoNormal, AutoDiagonalNormal, AutoDelta)}
GUIDES["of one's own"] = lambda model: by_place
LOADER = DataLoader(TensorDataset(X), batch_size=25)


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize(("data", "batch_size"), [(X, 30), (X, 25), (LOADER, 100)])
def test_in_batches_it_is_refused_before_any_work(kind, data, batch_size):
    started = []
    with pytest.raises(InputError, match=r"takes any batch.*places in a batch.*batch_size=60"):
        fit(model, GUIDES[kind](model), data, batch_size=batch_size, on_start=lambda: started.append(1))
    assert not started


def test_all_data_in_one_batch_are_learned():
    guide = AutoNormal(model)
    with pytest.raises(InputError, match=r"no validation data for a guide that does not read x.*60 training data"):
        fit(model, AutoNormal(model), X, validation=X[:7], batch_size=60)
    fitted = fit(model, guide, X, batch_size=60, epochs=300, learning_rate=0.05)
    exact = dist.Normal(0.0, 1.09**0.5).log_prob(X)
    assert fitted.history.train_elbo[-1] > float(exact.mean()) - 0.2
    check_evidence(estimate_evidence(model, guide, X, num_samples=500), exact)
    for others in (X[:20], torch.cat([X, X]), X[:59]):
        with pytest.raises(InputError, match=rf"that AutoNormal was fitted to.*got {len(others)} others"):
            estimate_evidence(model, guide, others, num_samples=10)


def test_a_latent_of_all_data_has_no_places():
    fitted = fit(of_all, AutoNormal(of_all), X, validation=X.flip(0), batch_size=60, epochs=2)
    assert np.isfinite(fitted.history.validation_elbo).all()


def test_programs_of_a_fixed_size_take_whole_batches_only():
    def fixed(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(20), scale), obs=x + torch.zeros(20))

    fit(fixed, lambda x: None, X, batch_size=20, epochs=1)
    with pytest.raises(InputError, match=r"run on 20 data and not on 10, as some batch has.*divides 50"):
        fit(fixed, lambda x: None, X[:50], batch_size=20)
