"""What is missing: programs are judged by what they make of it, whichever way they take."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_log_px
from ppl_vae.guides import FullCovariance, MeanField
from ppl_vae.models import VAE
from torch.utils.data import DataLoader

import ppl_vae
from ppl_vae import InputError, likelihoods, priors
from ppl_vae.data.holes import find_holes
from ppl_vae.data.sources import TensorSource


def with_holes(num_data=300, num_dims=4):
    x = torch.randn(num_data, 1) + 0.5 * torch.randn(num_data, num_dims)
    x[torch.rand(num_data, num_dims) < 0.3] = math.nan
    return x


def model_of(observe):
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            observe(z[..., None].expand(*z.shape, x.shape[-1]), scale, x)

    return model


def masked(loc, scale, x):
    pyro.sample("x", dist.Normal(loc, scale).mask(~x.isnan()).to_event(1), obs=x.nan_to_num(0.0))


def nan_masked(loc, scale, x):
    pyro.sample("x", dist.NanMaskedNormal(loc, scale).to_event(1), obs=x)


def nan_masked_vector(loc, scale, x):
    pyro.sample("x", dist.NanMaskedMultivariateNormal(loc, covariance_matrix=scale**2 * torch.eye(x.shape[-1])), obs=x)


def observed(loc, scale, x):
    pyro.sample("x", ppl_vae.missing.Observed(dist.Normal(loc, scale), 1), obs=x)


def guide(x):
    weight = pyro.param("weight", torch.tensor(0.2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(weight * x.nan_to_num(0.0).sum(-1), 0.7))


def exact(x):
    """log N(x_o; 0, 11' + I) of what is observed."""
    result = []
    for row in x.double():
        seen = row[~row.isnan()]
        covariance = torch.ones(len(seen), len(seen)) + torch.eye(len(seen))
        p = dist.MultivariateNormal(torch.zeros(len(seen)).double(), covariance.double())
        result.append(p.log_prob(seen) if len(seen) else torch.zeros(()))
    return torch.stack(result)


@pytest.mark.parametrize("observe", [masked, nan_masked, nan_masked_vector, observed])
def test_programs_that_see_to_it_themselves(observe):
    x, model = with_holes(), model_of(observe)
    few = x[:20]
    evidence = ppl_vae.estimate_evidence(model, guide, few, num_samples=4000)
    for n, truth in enumerate(exact(few)):
        check_log_px(evidence.log_px[n], evidence.mcse[n], truth, 4000)
    fitted = ppl_vae.fit(model, guide, x, epochs=2, compile=False)
    assert all(map(math.isfinite, fitted.history.train_elbo))


def too_late(loc, scale, x):
    """The log-probability is a number, its gradient is none."""
    log_prob = dist.Normal(loc, scale).log_prob(x)
    pyro.factor("x", torch.where(x.isnan(), 0.0, log_prob).sum(-1))
    pyro.sample("known", dist.Normal(loc[..., 0], 1.0), obs=x[..., 0].nan_to_num(0.0))


def test_gradients_have_to_be_numbers_where_it_is_fitted():
    with pytest.raises(InputError, match=r"gradient of .*(scale|weight) is NaN.*nan_to_num"):
        ppl_vae.fit(model_of(too_late), guide, with_holes(), epochs=1)


def as_numbers(loc, scale, x):
    """NaN becomes some whole number as a class is looked up."""
    pyro.sample("x", dist.Poisson(scale.expand(loc.shape)).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        (lambda loc, s, x: pyro.sample("x", dist.Normal(loc, s).to_event(1), obs=x), "as Normal cannot leave them out"),
        (as_numbers, "as Poisson cannot leave them out"),
        (lambda loc, s, x: masked(loc + x.sum(), s, x), "makes x of it"),
    ],
)
def test_programs_that_do_not(observe, message):
    x = with_holes().abs().round()
    with pytest.raises(InputError, match=f"{message}|Expected complete data"):
        ppl_vae.fit(model_of(observe), guide, x, epochs=1)


def test_patterns_are_those_of_data_and_together_have_all_holes():
    x = torch.zeros(2500, 3)
    x[7, 0] = x[7, 1] = x[2100, 2] = x[9, 0] = math.nan
    found = find_holes(TensorSource((x,)))[0]
    assert [pattern.tolist() for pattern in found.patterns] == [[True, True, False]] * 2 + [[False, False, True]]


def test_a_datum_without_any_value_does_not_hide_what_programs_make_of_others():
    x = with_holes().abs()
    x[5] = math.nan
    with pytest.raises(InputError, match="makes x of it"):
        ppl_vae.fit(model_of(lambda loc, scale, x: masked(loc + x.sum(), scale, x)), guide, x, epochs=1)


def of_means(loc, scale, x):
    """The mean of what is observed: there is none where nothing is, and there is no such datum."""
    seen = ~x.isnan()
    mean = x.nan_to_num(0.0).sum(-1) / seen.sum(-1)
    pyro.sample("x", dist.Normal(loc + 0 * mean[..., None], scale).mask(seen).to_event(1), obs=x.nan_to_num(0.0))


def test_only_what_occurs_has_to_be_understood():
    x = torch.randn(50, 2)
    x[3, 0] = x[4, 1] = math.nan
    assert ppl_vae.fit(model_of(of_means), guide, x, epochs=1, compile=False)


SHELF = [
    getattr(likelihoods, name) for name in likelihoods.__all__ if name not in ("Columns", "Likelihood", "that_take")
]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("cls", SHELF, ids=lambda cls: cls.__name__)
def test_values_outside_the_support_are_refused_beside_missing_ones(cls, missing):
    """Whole numbers and a half, of which some are negative: they are in the support of real numbers only."""
    x = torch.randint(1, 7, (60, 5)) - 3.5
    if missing:
        x[0, 0] = math.nan
    model = VAE((5,), priors.StandardNormal(2), cls())
    if cls().support is torch.distributions.constraints.real:
        assert ppl_vae.fit(model, MeanField(model), x, epochs=1, compile=False)
        return
    with pytest.raises(InputError, match=r"Expected x in .* for .*; got values from -2\.5 to (1|2|-0)\.5"):
        ppl_vae.fit(model, MeanField(model), x, epochs=1)


@pytest.mark.parametrize("make", [MeanField, FullCovariance])
def test_a_posterior_is_that_of_what_there_is(make):
    model = VAE((6,))
    x = torch.rand(9, 6).round()
    x[2, 3] = math.nan
    found, filled = (make(model).eval() for _ in range(2))
    filled.load_state_dict(found.state_dict())
    for name, q in found.posterior(x).items():
        torch.testing.assert_close(q.mean, filled.posterior(x.nan_to_num(0.0))[name].mean)


def test_batches_of_series_padded_each_by_itself_are_refused_with_what_pads_them_alike():
    series = [torch.randn(3 + i, 2) for i in range(4)]

    def padded(batch):
        return torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=torch.nan)

    model = VAE((4, 2), likelihood=likelihoods.Gaussian())
    for data, got in (
        (DataLoader(series, batch_size=2, collate_fn=padded), r"batches of \(4, 2\) and \(6, 2\)"),
        (DataLoader(series, batch_size=2), "several"),
        (series, "several"),
        (np.array([one.numpy() for one in series], dtype=object), "ndarray of ndarray"),
        ([one.tolist() for one in series], "a list of several"),
    ):
        with pytest.raises(
            InputError, match=rf"^Expected .*; got {got}.*pad_sequence\(series, batch_first=True, .*nan\)"
        ):
            ppl_vae.fit(model, MeanField(model), data, epochs=1, progress=False)
