"""Loops over time of which one step is compiled, against plain Python for the same noise."""

import math

import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import DeepMarkov as Guide
from ppl_vae.models import DeepMarkov
from torch import nn

import ppl_vae
from ppl_vae.compilation import loops
from ppl_vae.compilation.capture import CannotCapture, capture
from ppl_vae.distributions.chains import Chain
from ppl_vae.priors import GatedTransition
from ppl_vae.utils.loops import looped
from ppl_vae.utils.rng import seeded

D = 3


@pytest.fixture
def compiled(monkeypatch):
    """The steps that were compiled, one for each loop."""
    steps, compile_it = [], loops.compiled_step
    monkeypatch.setattr(loops, "compiled_step", lambda *step: (steps.append(step), compile_it(*step))[1])
    return steps


def noisy(weight, *, backwards=False, by=lambda: 0.5):
    """A recurrent network with noise in each step: its last state, the sum of all squares, and the gradients."""

    def function(x):
        with torch.enable_grad():
            x, scale = x.requires_grad_(), by()

            def step(before, value):
                mean = (before @ weight + value).tanh()
                return dist.Normal(mean, scale).rsample(), mean

            results = looped(step, x[..., :1, :] * 0, x.shape[-2], x, backwards=backwards)
            loss = sum((z.square() * mean).sum() for z, mean in results)
        return loss.detach(), *torch.autograd.grad(loss, [weight, x]), results[0][0].detach()

    return function


def both(function, made, x):
    """What the function itself gives, and what was made of it, for the same noise."""
    results = []
    for call in (function, made):
        with seeded(3):
            results.append(tuple(call(x)))
    return results


def test_backwards_each_step_has_what_comes_after_it():
    x = torch.arange(5.0)[:, None]
    sums = [float(total) for (total,) in looped(lambda after, value: (after + value,), x[:1], 5, x, backwards=True)]
    assert sums == [10, 10, 9, 7, 4]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("length", [5, 40])
def test_one_compiled_step_gives_the_numbers_and_the_gradients_of_all(compiled, backwards, length):
    weight = nn.Parameter(torch.randn(D, D))
    function = noisy(weight, backwards=backwards)
    made = capture(function, torch.randn(4, length, D))
    for _ in range(2):
        expected, got = both(function, made, torch.randn(4, length, D))
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            weight.mul_(0.5)  # is read anew
    assert len(compiled) == 1


def test_a_step_that_holds_something_else_is_run_as_it_stands(compiled):
    scales = [0.5]
    function = noisy(nn.Parameter(torch.randn(D, D)), by=lambda: scales[0])
    made, x = capture(function, torch.randn(4, 6, D)), torch.randn(4, 6, D)
    for scale in (0.5, 2.0):
        scales[0] = scale
        expected, got = both(function, made, x)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert len(compiled) == 1


def test_a_loop_of_few_steps_is_written_out(compiled):
    function = noisy(nn.Parameter(torch.randn(D, D)))
    expected, got = both(function, capture(function, torch.randn(4, 2, D)), torch.randn(4, 2, D))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert not compiled


def test_a_step_that_looks_at_values_cannot_be_compiled():
    def function(x):
        return looped(lambda total, value: (total + float(value.sum()),), x[:1], len(x), x)[-1]

    with pytest.raises(CannotCapture, match="a step of its loop over time cannot be compiled"):
        capture(function, torch.ones(9, 1))


def test_what_is_drawn_at_a_step_is_what_plain_pyro_draws():
    """Of a chain, whose steps hold a module, and are given a part of the data."""
    inner = nn.Linear(2, 2)

    def function(x):
        step = lambda before, part: dist.Normal(part if before is None else inner(before) + part, 0.3).to_event(1)  # noqa: E731
        z = Chain(step, x.shape[-2], x).expand((6, len(x))).rsample()
        return z, Chain(step, x.shape[-2], x).log_prob(z)

    x = torch.randn(3, 7, 2)
    with torch.no_grad():
        expected, got = both(function, capture(function, torch.randn(3, 7, 2)), x)
    torch.testing.assert_close(got, expected)


def test_a_deep_markov_model_is_fitted_as_by_plain_pyro(compiled):
    """With ends of series, and gaps: one history and one pair of weights; the reader and the chain have a step each."""
    histories, weights = [], []
    for compile_ in (True, False):
        torch.manual_seed(0)
        model = DeepMarkov((8, 3), prior=GatedTransition(2, hidden=(8,)))
        guide = Guide(model, hidden=8)
        x = model(size=20).detach()
        x[:7, 5:], x[3, 2] = math.nan, math.nan
        fitted = ppl_vae.fit(model, guide, x, epochs=3, batch_size=10, compile=compile_, progress=False, threads=1)
        histories.append(torch.tensor(fitted.history.train_elbo))
        weights.append([*model.state_dict().values(), *guide.state_dict().values()])
    torch.testing.assert_close(*histories, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-3)
    assert len(compiled) == 2
