"""Conformal p-values are of the stated rate, whatever the score; what errors and doubts do to them; what is printed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ppl_vae.guides import LinearGaussian as Posterior
from ppl_vae.models import LinearGaussian
from scipy import stats

from ppl_vae import InputError, estimate_evidence
from ppl_vae.criticism.conformal import benjamini_hochberg, p_values, range_of_p
from ppl_vae.criticism.scores import Scores, check_rates, scores_of


@pytest.fixture
def rng():
    return np.random.default_rng(torch.randint(2**31, ()).item())


def test_each_rank_is_as_frequent_as_any_other(rng):
    """p is uniform on 1 / (n + 1), ..., 1 over all data: 10 counts, each within 1e-8 of its binomial."""
    n, repeats = 9, 5000
    drawn = rng.gumbel(size=(repeats, n + 1))
    p = np.array([p_values(one[:n], one[n:])[0] for one in drawn])
    counts = [int(np.isclose(p, k / (n + 1)).sum()) for k in range(1, n + 2)]
    assert sum(counts) == repeats
    low, high = stats.binom.ppf([1e-8, 1 - 1e-8], repeats, 1 / (n + 1))
    assert low <= min(counts) and max(counts) <= high


def test_how_many_are_flagged_given_one_calibration(rng):
    """Of M new data as many as of a beta-binomial; 100 sums of it, to 6 standard deviations of their mean (1e-9)."""
    n, alpha, many = 99, 0.1, 200
    k = int(alpha * (n + 1))
    flagged = [(p_values(rng.normal(size=n), rng.normal(size=many)) <= alpha).sum() for _ in range(100)]
    usual = stats.betabinom(many, k, n + 1 - k)
    assert abs(np.mean(flagged) - usual.mean()) < 6 * usual.std() / np.sqrt(len(flagged))
    assert usual.mean() == pytest.approx(alpha * many)


def test_discoveries_hold_their_rate_and_find_outliers(rng):
    """45 usual data and 5 far off: the share of false discoveries is below 0.2 in the mean, to 6 standard errors."""
    false, found = [], []
    for _ in range(100):
        scores = np.concatenate([rng.normal(size=45), rng.normal(size=5) - 9])
        discovered = benjamini_hochberg(p_values(rng.normal(size=500), scores), 0.2)
        false.append(discovered[:45].sum() / max(discovered.sum(), 1))
        found.append(discovered[45:].mean())
    assert np.mean(false) < 0.2 + 6 * np.std(false) / 10
    assert np.mean(found) > 0.99


def test_the_procedure_against_that_of_scipy(rng):
    p = rng.random(50) ** 3
    ours, theirs = benjamini_hochberg(p, 0.1), stats.false_discovery_control(p) <= 0.1
    np.testing.assert_array_equal(ours, theirs)
    assert not benjamini_hochberg(np.ones(3), 0.5).any()


def test_ties_and_what_is_impossible():
    known = np.array([-np.inf, 1.0, 1.0, 2.0])
    np.testing.assert_allclose(p_values(known, np.array([-np.inf, 1.0, 3.0])), [0.4, 0.8, 1.0])
    low, high = range_of_p((known, np.zeros(4)), (np.array([-np.inf]), np.array([1e100])))
    assert low == high == 0.4
    with pytest.raises(InputError, match="calibration data; got none"):
        p_values(np.zeros(0), known)


def exact_scores(x, new, **options):
    model = LinearGaussian((x.shape[1],), latent_dim=2)
    pair = model, Posterior(model)
    how = {"method": "importance", "num_samples": 20, "progress": False}
    found = [estimate_evidence(*pair, part, **how) for part in (new, x)]
    rates = {"alpha": 0.05, "fdr": None, "calibrated_on": "the others"} | options
    return model, scores_of(*found, **rates)


def test_scores_of_a_model_whose_log_px_is_known():
    torch.manual_seed(3)
    x = torch.randn(100, 5)
    new = torch.cat([torch.randn(20, 5), 20 + torch.randn(3, 5)])
    model, found = exact_scores(x, new, fdr=0.3)
    exact = [model.exact_log_px(part).detach().numpy() for part in (x, new)]
    np.testing.assert_allclose(found.p_value, p_values(*exact), atol=0.03)  # log P(x) is found to single precision
    table = found.to_frame()
    assert set(table.index[:3]) == {20, 21, 22} and table["log_px"].is_monotonic_increasing
    assert found.flagged[20:].all() and found.discovered[20:].all() and not found.movable[20:].any()
    text = str(found)
    assert (
        "log P(x) of 23 new data, the lowest first, beside 100 data" in text and "false discovery rate of 0.3" in text
    )
    assert text.splitlines()[2].endswith("flagged, discovered")
    assert len(text.splitlines()) == 2 + 10 + 4 + ("could be" in text)


def test_errors_and_doubts_are_carried():
    torch.manual_seed(3)
    _, found = exact_scores(torch.randn(100, 5), torch.randn(20, 5))
    worst = int(np.argmin(found.p_value))
    noisy = np.where(np.arange(20) == worst, 50.0, 0.0)
    moved = replace(found, new=replace(found.new, mcse=noisy), alpha=float(found.p_value[worst]))
    low, high = moved.p_range
    assert high[worst] == 1 and (low <= moved.p_value).all() and (moved.p_value <= high).all()
    assert moved.movable[worst] and "could be on the other side" in str(moved) and "may be otherwise" in str(moved)

    class Doubted(Scores):
        in_doubt = np.arange(20) == worst

    doubted = Doubted(found.new, found.calibration, moved.alpha, None, "the others")
    assert doubted.p_range[1][worst] == 1 and "as it is in doubt" in str(doubted)


def test_what_is_refused():
    torch.manual_seed(3)
    x = torch.randn(10, 5)
    with pytest.raises(InputError, match="got those of calibration"):
        exact_scores(x, x)
    for alpha, fdr, message in ((0, None, "alpha to be"), ("a", None, "alpha to be"), (0.1, 1.5, "fdr to be")):
        with pytest.raises(InputError, match=message):
            check_rates(alpha, fdr)
    with pytest.raises(InputError, match=r"alpha of at least 0.0909.*10 calibration data; got 0.05"):
        check_rates(0.05, None, 10)


def test_other_numbers_are_said_but_not_one_cell_more_or_less():
    _, ranked = exact_scores(torch.randn(30, 4), torch.randn(20, 4))
    for size, said in ((3.9, False), (3.0, True)):
        other = replace(ranked, new=replace(ranked.new, event_size=size))
        assert ("observed numbers in the mean" in str(other)) == said
