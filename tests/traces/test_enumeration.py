"""Discrete sites that are summed out: inside plates, given each other, some sampled by the guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence, check_sandwich
from pairs import (
    inner_mixture_guide,
    inner_mixture_log_px,
    inner_mixture_model,
    two_discrete_guide,
    two_discrete_log_px,
    two_discrete_model,
)

from ppl_vae import estimate_evidence

SHORT = dict(num_temperatures=60, num_chains=64, num_leapfrog=5, num_samples=100, compile=False)
INNER = (inner_mixture_model, inner_mixture_guide, inner_mixture_log_px)
TWO = (two_discrete_model, two_discrete_guide, two_discrete_log_px)


def data_of(pair):
    return torch.randn(7, 3) * 1.3 + 0.5 if pair is INNER else torch.linspace(-2, 6, 9)


@pytest.mark.parametrize("pair", [INNER, TWO], ids=["inner plate", "two sites"])
@pytest.mark.parametrize("chunk_size", [None, 500])
def test_importance(pair, chunk_size):
    model, guide, log_px = pair
    x = data_of(pair)
    evidence = estimate_evidence(model, guide, x, num_samples=5000, chunk_size=chunk_size)
    check_evidence(evidence, log_px(x))
    assert evidence.mcse.max() < 0.1


@pytest.mark.parametrize("pair", [INNER, TWO], ids=["inner plate", "two sites"])
@pytest.mark.parametrize("proposal", ["guide", "prior"])
def test_annealing_between_both_bounds(pair, proposal):
    model, guide, log_px = pair
    x = data_of(pair)
    evidence = estimate_evidence(model, guide, x, method="sandwich", proposal=proposal, **SHORT)
    check_evidence(evidence, log_px(x))
    assert evidence.mcse.mean() < 0.15
    check_sandwich(evidence.sandwich, log_px(torch.as_tensor(evidence.sandwich.x)))


def test_without_the_mark_it_is_drawn_and_cancels():
    """A latent that the guide forgets is drawn from the model, and a warning names it, as Pyro's own check does."""

    def unmarked(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.linspace(-1.0, 2.0, 5)
    with pytest.warns(UserWarning, match="does not sample c: drawn from the model itself"):
        evidence = estimate_evidence(unmarked, guide, x, num_samples=5000)
    means, probs = torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.4])
    check_evidence(evidence, (dist.Normal(means, 1.25**0.5).log_prob(x[:, None]) + probs.log()).logsumexp(1))
    assert not evidence.is_exact
