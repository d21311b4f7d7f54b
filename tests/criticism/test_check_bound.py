"""The chain of bounds holds for right pairs and is broken by wrong ones."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import hierarchical_guide, hierarchical_log_px, hierarchical_model
from ppl_vae.guides import MeanField

from ppl_vae import InputError, check_bound


def test_the_chain_in_words(linear_gaussian):
    model, x = linear_gaussian
    text = check_bound(model, MeanField(model), x)
    assert text.startswith("ELBO -")
    assert "<= IWAE_1000 -" in text
    assert "(exact) on 64 data" in text


def test_without_an_exact_answer_it_is_held_against_annealing():
    assert "annealed from the prior" in check_bound(hierarchical_model, hierarchical_guide, torch.randn(4, 3))
    x = torch.randn(30, 3)
    assert "exact" in check_bound(hierarchical_model, hierarchical_guide, x, log_px=hierarchical_log_px(x))


def test_a_guide_that_states_a_wrong_density_breaks_it(linear_gaussian):
    model, x = linear_gaussian

    def wrong(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            z = posterior.sample()
            pyro.sample("z", dist.Delta(z, posterior.log_prob(z) - 5.0, event_dim=1))

    with pytest.raises(AssertionError, match="nats the wrong way"):
        check_bound(model, wrong, x)


def test_a_wrong_log_px_is_noticed_on_both_sides(linear_gaussian):
    model, x = linear_gaussian
    truth = model.exact_log_px(x)
    for wrong in (truth - 3, truth + 3):
        with pytest.raises(AssertionError, match="nats the wrong way"):
            check_bound(model, _wide(model), x, log_px=wrong)
    one = truth.detach().clone()
    one[5] -= 2
    with pytest.raises(AssertionError, match="for datum 5"):
        check_bound(model, _wide(model), x, log_px=one)
    with pytest.raises(InputError, match="each of the 64 data; got 3"):
        check_bound(model, _wide(model), x, log_px=truth[:3])


def _wide(model):
    def guide(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, 1.3 * posterior.stddev).to_event(1))

    return guide
