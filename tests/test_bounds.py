"""The limits of `bounds.py`: how often they fail by chance, and what they notice."""

import numpy as np
import pytest
from bounds import check_errors, check_log_px, check_means, check_spread, limit


def failures(check, number):
    """The share of calls that fail."""
    failed = 0
    for n in range(number):
        try:
            check(n)
        except AssertionError:
            failed += 1
    return failed / number


def weighted(n, sigma, num_draws, num_data):
    """The estimate of 0 = log P(x), and its error, from log-normal weights."""
    rng = np.random.default_rng(n)
    weights = np.exp(sigma * rng.standard_normal((num_draws, num_data)) - sigma**2 / 2)
    mean = weights.mean(0)
    return np.log(mean), weights.std(0, ddof=1) / mean / num_draws**0.5


@pytest.mark.parametrize("num_data", [5, 64])
@pytest.mark.parametrize(("sigma", "num_draws"), [(0.1, 16), (0.5, 16), (0.5, 1000), (1.0, 100), (1.0, 1000)])
def test_weights_fail_no_more_often_than_said(sigma, num_draws, num_data):
    """One call in twenty may fail here; of 300 with that rate 30 would fail once in 5,000 times."""

    def check(n):
        check_log_px(*weighted(n, sigma, num_draws, num_data), 0.0, num_draws, false_alarm=0.05)

    assert failures(check, 300) < 0.1


@pytest.mark.parametrize("shift", [-0.1, 0.1])
def test_a_tenth_of_a_nat_is_noticed(shift):
    def all_data(n):
        log_px, mcse = weighted(n, 1.0, 1000, 64)
        check_log_px(log_px + shift, mcse, 0.0, 1000)

    def one_datum(n):
        log_px, mcse = weighted(n, 0.3, 1000, 64)
        check_log_px(log_px + shift * (np.arange(64) == 7), mcse, 0.0, 1000)

    assert failures(all_data, 20) == failures(one_datum, 20) == 1


def test_means_and_spreads_that_are_wrong_are_noticed():
    draws = np.random.default_rng(0).standard_normal((400, 8))
    check_means(draws, np.zeros(8))
    check_spread(draws, np.ones(8))
    check_errors(draws[0], 0, np.ones(8))
    wrong = np.where(np.arange(8) == 3, 0.5, 0)
    for check in (
        lambda: check_means(draws, wrong),
        lambda: check_spread(draws, 1 + wrong),
        lambda: check_spread(draws, np.full(8, 1.15)),  # together
        lambda: check_errors(draws[0] + 20 * wrong, 0, np.ones(8)),
    ):
        with pytest.raises(AssertionError):
            check()


def test_few_repeats_have_wider_limits():
    assert limit() < limit(10) < limit(10, dof=29) < limit(10, dof=7)
