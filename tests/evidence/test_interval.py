"""Intervals for log P(x): their parts, and how often they hold it."""

import numpy as np
import pytest
import torch
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import LinearGaussian
from scipy import stats

from ppl_vae import InputError, estimate_evidence
from ppl_vae.evidence.interval import Interval


def test_parts_are_put_together():
    parts = dict(mean=-90.0, se=0.3, mcse=0.1, bias=-0.02, doubtful=0.05, num_doubtful=3, num_data=1000, quantity="")
    found = Interval.of(0.95, **parts)
    t, z = stats.t.isf(0.025, 999), stats.norm.isf(0.025)
    np.testing.assert_allclose([found.low, found.high], [-89.98 - 0.3 * t, -89.98 + 0.3 * t + 0.05])
    np.testing.assert_allclose([found.low_of_data, found.high_of_data], [-89.98 - 0.1 * z, -89.98 + 0.1 * z + 0.05])
    np.testing.assert_allclose(found.sampling**2 + found.monte_carlo**2, (0.3 * t) ** 2)
    assert "3 of 1000" in str(found) and "went on" not in str(found)
    gone_on = Interval.of(0.95, **parts, went_on=-0.01)
    np.testing.assert_allclose([gone_on.low - found.low, gone_on.high - found.high], 0.01)
    assert "data that went on     -0.010" in str(gone_on)


def test_of_a_single_datum_the_population_is_not_known():
    found = Interval.of(
        0.9, mean=-1.0, se=np.nan, mcse=0.1, bias=0.0, doubtful=0.0, num_doubtful=0, num_data=1, quantity="log P(x)"
    )
    assert np.isnan(found.low) and found.low_of_data < -1 < found.high_of_data
    assert "not known" in str(found)


def test_an_exact_log_px_has_no_monte_carlo_error(linear_gaussian):
    model, x = linear_gaussian
    with torch.no_grad():
        truth = model.exact_log_px(x).numpy()
    found = estimate_evidence(model, ExactPosterior(model), x).interval()
    assert found.monte_carlo < 1e-4
    np.testing.assert_allclose([found.low_of_data, found.high_of_data], truth.mean(), atol=1e-3)
    np.testing.assert_allclose(found.high - found.low, 2 * stats.t.isf(0.025, 63) * stats.sem(truth), rtol=1e-3)


def test_of_data_that_cannot_be_there_is_no_interval():
    parts = dict(se=np.nan, mcse=0.1, bias=0.0, doubtful=np.inf, num_doubtful=1, num_data=9, quantity="log P(x)")
    text = str(Interval.of(0.95, mean=-np.inf, **parts))
    assert "no interval: log P(x) is not finite for some data" in text and "single datum" not in text


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_that_is_none_is_refused(linear_gaussian, level):
    model, x = linear_gaussian
    with pytest.raises(InputError, match="level between 0 and 1; got"):
        estimate_evidence(model, ExactPosterior(model), x).interval(level)


def test_it_holds_the_truth_as_often_as_it_says():
    """300 runs of 40 data: coverage within the binomial's one in a million of 95%; tests/benchmarks has all methods."""
    torch.manual_seed(3)
    model = LinearGaussian((20,), latent_dim=4, sigma=0.7)
    with torch.no_grad():
        x = model(size=12_000)
        truth = model.exact_log_px(x).double().numpy().reshape(300, 40).mean(1)

    def wide(x):
        import pyro
        import pyro.distributions as dist

        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, 1.3 * posterior.stddev).to_event(1))

    evidence = estimate_evidence(model, wide, x, method="importance", num_samples=100)
    means, errors = (values.reshape(300, 40) for values in (evidence.log_px, evidence.mcse))
    biases = evidence.diagnostics["bias"].reshape(300, 40).mean(1)
    held = 0
    for run in range(300):
        error = np.sqrt((errors[run] ** 2).sum()) / 40
        parts = dict(mean=means[run].mean(), se=1.0, mcse=error, bias=biases[run])
        found = Interval.of(0.95, **parts, doubtful=0.0, num_doubtful=0, num_data=40, quantity="")
        held += found.low_of_data <= truth[run] <= found.high_of_data
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 300, 0.95)
    assert low <= held <= high
