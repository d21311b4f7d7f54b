"""Bands for uniform ranks against another recursion and simulation; shapes against the ones that made the ranks."""

import numpy as np
import pytest
import torch
from bounds import FALSE_ALARM
from scipy import stats

from ppl_vae.criticism.uniformity import (
    PLACES,
    counts_below,
    detectable,
    inside_band,
    shape_of,
    simultaneous_band,
    surprise,
)


def draws(*shape):
    return torch.rand(*shape, dtype=torch.double).numpy()


def probability_by_binomials(num_ranks, low, high):
    """P(low <= N_i <= high at all places): N_(i+1) given N_i is N_i and a binomial number of the others."""
    mass, before = {0: 1.0}, 0.0
    for place, least, most in zip(PLACES, low, high, strict=True):
        share = (place - before) / (1 - before)
        reached = dict.fromkeys(range(least, most + 1), 0.0)
        for n, p in mass.items():
            for m in range(max(n, least), most + 1):
                reached[m] += p * stats.binom.pmf(m - n, num_ranks - n, share)
        mass, before = reached, place
    return sum(mass.values())


@pytest.mark.parametrize(("num_ranks", "level"), [(20, 0.9), (50, 0.95), (45, 0.999)])
def test_the_probability_of_a_band_is_exact(num_ranks, level):
    band = simultaneous_band(num_ranks, level)
    assert band.probability == pytest.approx(probability_by_binomials(num_ranks, band.low, band.high), abs=1e-9)
    assert level <= band.probability < level + (1 - level) / 2
    assert (band.low <= num_ranks * PLACES).all() and (band.high >= num_ranks * PLACES).all()
    np.testing.assert_array_equal(band.low, num_ranks - band.high[::-1])


@pytest.mark.parametrize(("num_ranks", "level"), [(100, 0.5), (1000, 0.9)])
def test_uniform_ranks_leave_the_band_as_often_as_it_says(num_ranks, level):
    """Of 2,000 sets a binomial number, with the band's exact probability: at both ends once in a million."""
    ranks = draws(2000, num_ranks)
    alarms = sum(not inside_band(one, level) for one in ranks)
    expected = stats.binom(2000, 1 - simultaneous_band(num_ranks, level).probability)
    assert expected.ppf(FALSE_ALARM / 2) <= alarms <= expected.isf(FALSE_ALARM / 2)


def test_what_is_detectable_is_found():
    """In 99 of 100 sets at least: of 400 fewer than the quantile once in a million only."""
    least = stats.binom.ppf(FALSE_ALARM, 400, 0.99)
    for num_ranks, level in ((1000, 0.95), (300, 0.99)):
        width, bias = detectable(num_ranks, level)
        z = stats.norm.ppf(draws(400, num_ranks))
        for scores in (width * z, bias + z):
            assert sum(not inside_band(one, level) for one in stats.norm.cdf(scores)) >= least
        assert all(inside_band(stats.norm.cdf(width**0.1 * one), 1 - FALSE_ALARM / 400) for one in z)


@pytest.mark.parametrize("bias", [0.0, -0.4, 2.0])
@pytest.mark.parametrize("width", [0.5, 1.0, 1.3, 3.0, 20.0])
def test_the_shape_is_the_one_that_made_the_ranks(bias, width):
    scores = bias + width * stats.norm.ppf(draws(4000))
    found = shape_of(stats.norm.cdf(scores), scores)
    most = stats.norm.isf(FALSE_ALARM) * 1.6  # the parts keep less than all of it, where many lie at the ends
    assert abs(found.bias - bias) < most * found.bias_error
    assert abs(np.log(found.width / width)) < most * found.log_width_error


def test_ranks_that_say_nothing_of_the_width():
    """All true values at one end of Q, and Q without any width: nothing is made up."""
    assert np.isnan(shape_of(np.full(50, 0.001), np.full(50, np.nan))).all()
    assert np.isnan(shape_of(np.full(50, 0.001), np.full(50, 3.0))).all()
    assert np.isfinite(shape_of(np.full(50, 0.505), np.zeros(50))).all()
    assert surprise(np.full(50, 0.001)) > surprise((np.arange(50) + 0.5) / 50)
    assert counts_below(np.full(50, 0.001)).tolist() == [50] * 99
