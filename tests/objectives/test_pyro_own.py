"""Pyro's own objectives in a fit: their history is their number, per datum, or a sentence says what it is instead."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_errors, check_means
from pyro.contrib.gp.kernels import RBF
from pyro.infer import (
    SVI,
    EnergyDistance,
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.optim import SGD

from ppl_vae import InputError, fit
from ppl_vae.objectives.pyro_own import reporting

STILL = 1e-12  # a learning rate at which nothing moves
NUM_DATA, STEPS = 8, 60


def model(x):
    shift = pyro.param("shift", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.tensor(0.3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, 0.9))


def history(objective, x, model=model, guide=guide):
    options = dict(epochs=STEPS, batch_size=len(x), learning_rate=STILL, progress=False)
    return fit(model, guide, x, objective=objective, **options).history.train_elbo


def by_pyro(objective, x):
    pyro.clear_param_store()
    svi = SVI(model, guide, SGD({"lr": STILL}), objective)
    losses = [svi.step(x) for _ in range(STEPS)]
    pyro.clear_param_store()
    return -np.array(losses) / len(x)


def log_weights(x, count):
    z = 0.3 * x + 0.9 * torch.randn(count, len(x))
    normal = torch.distributions.Normal
    return normal(0.0, 1.0).log_prob(z) + normal(z + 0.1, 1.0).log_prob(x) - normal(0.3 * x, 0.9).log_prob(z)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Trace_ELBO(num_particles=3),
        lambda: TraceMeanField_ELBO(num_particles=3),
        lambda: TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        lambda: TraceGraph_ELBO(num_particles=2),
        lambda: TraceEnum_ELBO(max_plate_nesting=1),
        JitTrace_ELBO,
    ],
)
def test_the_history_is_what_pyro_makes_of_the_same_data_per_datum(make):
    x = torch.randn(NUM_DATA)
    found, expected = history(make(), x), by_pyro(make(), x)
    error = math.hypot(found.std(ddof=1), expected.std(ddof=1)) / math.sqrt(STEPS)
    check_errors(found.mean(), expected.mean(), error, dof=STEPS - 1)
    check_means(found, float(log_weights(x, 100_000).mean()), slack=5e-3)


@pytest.mark.parametrize("alpha", [0, 0.5, 2.0])
@pytest.mark.parametrize("vectorized", [False, True])
def test_renyis_bound_is_of_each_datum(alpha, vectorized):
    x, count = torch.randn(NUM_DATA), 4
    objective = RenyiELBO(alpha, num_particles=count, vectorize_particles=vectorized, max_plate_nesting=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = history(objective, x)
    powers = (1 - alpha) * log_weights(x, count * 50_000).reshape(-1, count, NUM_DATA)
    expected = (powers.logsumexp(1) - math.log(count)) / (1 - alpha)
    check_means(found, float(expected.mean()), slack=5e-3)


def of_many(x):
    with pyro.plate("data", 10 * len(x), subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_of_many(x):
    with pyro.plate("data", 10 * len(x), subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def test_a_scale_inside_renyis_exponential_is_refused():
    with pytest.raises(InputError, match=r"without a scale for RenyiELBO.* got scale 10 at site 'z'.*IWAE"):
        fit(of_many, guide_of_many, torch.randn(6), objective=RenyiELBO(num_particles=4), epochs=1)
    fit(of_many, guide_of_many, torch.randn(6), objective=RenyiELBO(num_particles=1), epochs=1, progress=False)


def test_weights_of_a_batch_are_told():
    def with_global(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    def guide_of_both(x):
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.randn(NUM_DATA)
    with pytest.warns(UserWarning, match="RenyiELBO weighs its 2 samples .* 'w' stands outside"):
        fit(with_global, guide_of_both, x, objective=RenyiELBO(), epochs=1, progress=False)
    with pytest.warns(UserWarning, match="ReweightedWakeSleep weighs its 3 samples for all data of a batch together"):
        found = history(ReweightedWakeSleep(num_particles=3), x)
    batch = log_weights(x, 60_000).sum(1).reshape(-1, 3)
    check_means(found, float((batch.logsumexp(1) - math.log(3)).mean()) / NUM_DATA, slack=5e-3)


def test_tail_adaptive_steps_are_pyros_and_report_the_elbo():
    x = torch.randn(NUM_DATA)
    objective = TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    check_means(history(objective, x), float(log_weights(x, 100_000).mean()), slack=5e-3)
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        loss = objective.differentiable_loss(model, guide, x)
        names = sorted(pyro.get_param_store().keys())
        expected = torch.autograd.grad(loss, [pyro.param(name).unconstrained() for name in names])
        pyro.set_rng_seed(0)
        reported = reporting(objective).loss_and_grads(model, guide, x)
        assert math.isfinite(reported)
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(pyro.param(name).unconstrained().grad, gradient)
    with pytest.raises(InputError, match="num_particles=8, vectorize_particles=True"):
        fit(model, guide, x, objective=TraceTailAdaptive_ELBO(num_particles=4), epochs=1)


def test_what_is_no_bound_is_not_called_one():
    x = torch.randn(NUM_DATA)
    with pytest.warns(UserWarning, match=r"Trace_MMD is no bound of log P\(x\) here: its loss .*a distance of samples"):
        fit(model, guide, x, objective=Trace_MMD(RBF(1), max_plate_nesting=1), epochs=1, progress=False)
    with pytest.raises(InputError, match=r"a bound of log P.* to report.* got EnergyDistance"):
        fit(model, guide, x, objective=EnergyDistance(), epochs=1)


def test_what_is_recorded_for_one_size_is_given_one_size():
    with pytest.raises(InputError, match=r"one size for JitTrace_ELBO.* got 6, 2.*divides .* or use Trace_ELBO"):
        fit(model, guide, torch.randn(NUM_DATA), objective=JitTrace_ELBO(), batch_size=6, epochs=1)
