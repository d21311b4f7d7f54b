"""What annealing evaluates, compiled: the numbers of the recorded, one compilation for all chunks, closed forms."""

import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence, check_sandwich
from pairs import hierarchical_guide, hierarchical_log_px, hierarchical_model
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

from ppl_vae import InputError, estimate_evidence
from ppl_vae.compilation import capture
from ppl_vae.evidence import tempered
from ppl_vae.networks import MLP
from ppl_vae.priors import Mixture

SHORT = dict(num_temperatures=20, num_chains=4, num_leapfrog=2, num_samples=50, progress=False)


@pytest.fixture
def compilations(monkeypatch):
    """Count what is given to the compiler, which does not know any of it yet."""
    calls = []
    plain = capture._compiled
    monkeypatch.setattr(capture, "_known", {})

    def counting(graph, inputs):
        before = len(capture._known)
        result = plain(graph, inputs)
        calls.extend([graph] * (len(capture._known) - before))
        return result

    monkeypatch.setattr(capture, "_compiled", counting)
    return calls


def too_wide(model):
    def guide(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, 1.5 * posterior.stddev).to_event(1))

    return guide


def numbers(evidence):
    bounds = evidence.sandwich
    return [evidence.log_px, evidence.diagnostics["acceptance"], *([bounds.lower, bounds.upper] if bounds else [])]


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_captured_annealing_gives_the_numbers_of_the_recorded_one(uncompiled, proposal):
    model = VAE((1, 4, 4), prior=Mixture(2), decoder=partial(MLP, hidden=(8,)))
    # In double precision: rounding would turn an acceptance now and then, and the chain ends elsewhere.
    pair = model.double(), MeanField(model, encoder=partial(MLP, hidden=(8,))).double()
    x = torch.rand(5, 1, 4, 4).round().double()
    options = SHORT | {"method": "sandwich", "proposal": proposal, "chunk_size": 12, "num_temperatures": 3}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        both = [numbers(estimate_evidence(*pair, x, compile=compile, **options)) for compile in (True, False)]
    for got, expected in zip(*both, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    said = [str(w.message) for w in heard if issubclass(w.category, UserWarning)]
    assert [s for s in said if "not compiled" in s] == []


def test_several_sites_and_plates(uncompiled):
    x = 1.5 * torch.randn(8, 3)
    options = SHORT | {"num_temperatures": 60, "num_chains": 32}
    evidence = estimate_evidence(hierarchical_model, hierarchical_guide, x, method="ais", compile=True, **options)
    check_evidence(evidence, hierarchical_log_px(x))


def test_compiled_annealing_is_right_and_compiled_once(linear_gaussian, compilations):
    """Three chunks, the last of them short, of the data and of simulated ones: one compilation serves them all."""
    model, x = linear_gaussian
    options = SHORT | {"method": "sandwich", "num_temperatures": 40, "num_chains": 16, "chunk_size": 16 * 30}
    evidence = estimate_evidence(model, too_wide(model), x, compile=True, **options)
    assert len(compilations) == 2  # of importance sampling, which comes first, and of annealing
    with torch.no_grad():
        truth, simulated = (model.exact_log_px(torch.as_tensor(v)).numpy() for v in (x, evidence.sandwich.x))
    check_evidence(evidence, truth)
    check_sandwich(evidence.sandwich, simulated)
    plain = estimate_evidence(model, too_wide(model), x, compile=False, **options)
    for got, expected in zip(numbers(evidence), numbers(plain), strict=True):
        # Rounding may turn an acceptance: a chain or two of 1,024 then end elsewhere.
        assert np.isclose(got, expected, rtol=1e-3, atol=1e-3).mean() > 0.9


def looking_at_values(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        float(z.detach().sum())
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def wide_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


@pytest.mark.parametrize("compile", [True, "auto"])
def test_what_cannot_be_compiled_is_said_in_one_line(monkeypatch, compile):
    monkeypatch.setattr(capture, "compiling_pays", lambda seconds, speedup: True)
    x = torch.randn(9)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        evidence = estimate_evidence(
            looking_at_values, wide_guide, x, method="ais", compile=compile, **SHORT | {"chunk_size": 12}
        )
    said = [str(w.message) for w in heard if "not compiled" in str(w.message)]
    assert len(said) == 1
    assert "\n" not in said[0]
    truth = torch.distributions.Normal(0.0, 2**0.5).log_prob(x).numpy()
    check_evidence(evidence, truth)


def test_little_work_is_not_compiled_and_nothing_is_said(monkeypatch, linear_gaussian):
    def never(*args, **options):
        raise AssertionError

    model, x = linear_gaussian
    monkeypatch.setattr(tempered, "capture", never)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        estimate_evidence(model, too_wide(model), x, method="ais", **SHORT)


def test_an_unknown_wish_is_refused_before_the_work(linear_gaussian):
    model, x = linear_gaussian
    for method in ("importance", "ais", "sandwich"):
        with pytest.raises(InputError, match="Expected compile to be True, False or 'auto'; got 'yes'"):
            estimate_evidence(model, too_wide(model), x, method=method, compile="yes")


SHARES, MEANS, SCALES = torch.tensor([[0.3, 0.7], [0.5, 0.5]]), torch.tensor([[-1.0, 1.0], [0.0, 2.0]]), 0.5


def mixed(means, scales):
    return dist.MixtureSameFamily(dist.Categorical(SHARES.expand(means.shape)), dist.Normal(means, scales)).to_event(1)


@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_a_mixture_for_each_dimension(proposal):
    """z_d is a mixture of two normal distributions in the model, and another one in the guide; x = z + e."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", mixed(MEANS, SCALES))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", mixed(x[..., None] / 2 + torch.tensor([-0.3, 0.3]), 0.8))

    x = 1.5 * torch.randn(5, 2)
    terms = SHARES.log() + torch.distributions.Normal(MEANS, (SCALES**2 + 1) ** 0.5).log_prob(x[..., None])
    options = SHORT | {"num_temperatures": 60, "num_chains": 16, "num_leapfrog": 4}
    evidence = estimate_evidence(model, guide, x, method="ais", proposal=proposal, **options)
    check_evidence(evidence, terms.logsumexp(-1).sum(-1).numpy())
