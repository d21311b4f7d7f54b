"""The result: its numbers, its tables, its files, and comparing two of them."""

import html.parser
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import LinearGaussian

from ppl_vae import InputError, compare, estimate_evidence
from ppl_vae.evidence.diagnostics import bound_curve, estimates, khat_threshold, pareto, within
from ppl_vae.evidence.evidence import Evidence


def evidence_of(log_weights, **changes):
    log_weights = np.asarray(log_weights, dtype=float)
    values = estimates(log_weights)
    count, num_data = log_weights.shape
    own = {"bias": values.pop("bias"), "draws": np.full(num_data, float(count))} | pareto(log_weights)
    options = dict(num_samples=count, proposal="guide", event_size=10, fingerprint="f", seed=0, diagnostics=own)
    return Evidence(**values, **(options | changes))


def test_numbers_from_weights_by_hand():
    w = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])
    e = evidence_of(np.log(w))
    np.testing.assert_allclose(e.log_px, np.log(w.mean(0)))
    np.testing.assert_allclose(e.elbo, np.log(w).mean(0))
    np.testing.assert_allclose(e.ess, [81 / 35, 3.0])
    np.testing.assert_allclose(e.mcse, w.std(0, ddof=1) / np.sqrt(3) / w.mean(0), atol=1e-9)
    np.testing.assert_allclose(e.elbo_mcse, np.log(w).std(0, ddof=1) / np.sqrt(3), atol=1e-12)
    np.testing.assert_allclose(e.gap, e.log_px - e.elbo)


def test_extreme_weights():
    e = evidence_of([[-1e5, 800.0, -np.inf, -np.inf], [-1e5, -800.0, 0.0, -np.inf]])
    np.testing.assert_allclose(e.log_px, [-1e5, 800 - math.log(2), -math.log(2), -np.inf])
    np.testing.assert_allclose(e.ess, [2, 1, 1, 0])


def test_the_jackknife_by_hand():
    rng = np.random.default_rng(0)
    w = rng.exponential(size=(12, 3))
    full = np.log(w.mean(0))
    without = np.stack([np.log(np.delete(w, k, axis=0).mean(0)) for k in range(12)])
    np.testing.assert_allclose(estimates(np.log(w))["bias"], 11 * (without.mean(0) - full), rtol=1e-9)
    assert estimates(np.array([[0.0], [-1e5]]))["bias"][0] == -np.inf
    assert np.isnan(estimates(np.zeros((1, 2)))["bias"]).all()


def test_the_jackknife_finds_the_bias_of_repeated_estimates():
    """The mean of log-normal weights is known: log E w = 1/2 for log w ~ N(0, 1)."""
    log_weights = np.random.default_rng(0).normal(size=(20, 40_000))
    found = estimates(log_weights)
    np.testing.assert_allclose(found["bias"].mean(), found["log_px"].mean() - 0.5, rtol=0.2)


@pytest.mark.parametrize("k", [0.2, 0.7, 1.2])
def test_khat_of_weights_whose_tail_is_known(k):
    log_weights = np.random.default_rng(0).exponential(k, size=(20_000, 4))  # Pareto weights of shape k
    found = pareto(log_weights)
    np.testing.assert_allclose(found["khat"].mean(), k, atol=0.12)
    if k < 0.5:
        np.testing.assert_allclose(found["log_px_psis"], -np.log(1 - k), atol=0.03)


def test_khat_where_there_is_no_tail_or_too_few_draws():
    equal = pareto(np.full((100, 1), -3.0) + 1e-5 * np.random.default_rng(0).normal(size=(100, 1)))
    assert equal["khat"] == [-np.inf]
    np.testing.assert_allclose(equal["log_px_psis"], -3.0, atol=1e-4)
    one = np.full((100, 1), -1e4)
    one[7] = 5.0
    assert pareto(one)["khat"] == [np.inf]
    np.testing.assert_allclose(pareto(one)["log_px_psis"], 5 - math.log(100))
    assert np.isnan(pareto(np.random.default_rng(0).normal(size=(24, 1)))["khat"]).all()
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="at least 25 weights for each datum for k-hat; got 10"):
        _ = evidence_of(np.zeros((10, 2))).khat


@pytest.mark.filterwarnings("ignore")
def test_the_smoothed_estimate_from_arvizs_normalized_weights():
    """Weights below the tail are only normalized, so any of them gives back the logarithm of the sum."""
    arviz = pytest.importorskip("arviz")
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1.0 and later have no psislw with this signature")
    log_weights = np.random.default_rng(1).normal(0, 3, size=(500, 5)) - 40
    for n, column in enumerate(log_weights.T):
        smoothed, _ = arviz.psislw(column.copy())
        smallest = column.argmin()
        expected = column[smallest] - (smoothed - np.logaddexp.reduce(smoothed))[smallest] - math.log(500)
        assert pareto(log_weights)["log_px_psis"][n] == pytest.approx(expected, abs=1e-9)
        assert abs(expected - estimates(log_weights)["log_px"][n]) > 1e-3


def test_a_tolerance_is_for_the_error_and_for_the_bias():
    mcse, bias = np.array([0.01, 0.2, 0.01, np.nan]), np.array([-0.01, -0.01, -0.2, -0.01])
    assert within(mcse, bias, 0.05).tolist() == [True, False, False, False]


def test_the_bound_rises_from_the_elbo_to_all_draws():
    log_weights = np.random.default_rng(0).normal(size=(100, 300))
    curve = bound_curve(log_weights, base=100)
    assert curve.num_samples.tolist() == [1, 2, 4, 8, 16, 32, 64, 100]
    np.testing.assert_allclose(curve.bound[0], log_weights.mean(0))
    np.testing.assert_allclose(curve.bound[1], np.logaddexp(log_weights[::2], log_weights[1::2]).mean(0) - math.log(2))
    np.testing.assert_allclose(curve.bound[-1], estimates(log_weights)["log_px"])
    assert (np.diff(curve.bound.mean(1)) > 0).all()
    np.testing.assert_allclose(curve.mcse[0], log_weights.std(0, ddof=1) / 10)


def test_means_and_bits():
    rng = np.random.default_rng(0)
    e = evidence_of(rng.normal(-20, 1, (50, 200)))
    means = e.means()
    assert means["log_px"].value == pytest.approx(e.log_px.mean())
    assert means["log_px"].se == pytest.approx(e.log_px.std(ddof=1) / math.sqrt(200))
    assert means["log_px"].mcse == pytest.approx(math.sqrt((e.mcse**2).sum()) / 200)
    assert means["gap"].value == pytest.approx(means["log_px"].value - means["elbo"].value)
    assert means["bits_per_dim"].value == pytest.approx(-e.log_px.mean() / 10 / math.log(2))


def test_the_text_says_what_matters():
    rng = np.random.default_rng(0)
    good, bad = evidence_of(rng.normal(0, 1e-6, (100, 5))), evidence_of(rng.normal(0, 9, (100, 5)))
    assert "log P(x) of 5 data by importance sampling, K = 100 samples from the guide" in str(good)
    assert "To be believed: nothing speaks against any of the 5 data" in str(good)
    assert good.doubts() == []
    assert "Not to be believed: 5 of 5 data have" in str(bad)
    assert "effective sample size below 10" in str(bad)
    assert [doubt.datum for doubt in bad.doubts()] == [0, 1, 2, 3, 4]
    assert "the proposal is narrower than the posterior, or lies elsewhere" in bad.doubts()[0].reason
    assert "from the prior P(z)" in str(replace(bad, proposal="prior"))
    assert "log P(x) is the ELBO" in str(evidence_of(np.zeros((1, 5))))
    assert "k-hat needs 25 samples or more" in str(evidence_of(np.zeros((10, 5))))
    for label in ("log P(x)", "ELBO", "gap", "bits per dim", "k-hat"):
        assert label in str(good)


@pytest.mark.parametrize("num_samples", [1, 2, 10, 24])
def test_with_few_samples_nothing_is_believed(num_samples):
    evidence = evidence_of(np.random.default_rng(0).normal(0, 1e-3, (num_samples, 5)))
    assert evidence.verdict().startswith("Cannot be judged: ")


def test_weights_that_are_one_number_show_no_error():
    """As of a guide that draws one z again and again: log P(x, z) of it, whatever the posterior is like."""
    equal = np.broadcast_to(np.random.default_rng(0).normal(-3, 1, 5), (100, 5))
    evidence = evidence_of(equal)
    assert evidence.verdict().startswith("Cannot be judged: all weights of a datum are one number")
    assert replace(evidence, is_exact=True).verdict() == "Exact: nothing is estimated."
    assert replace(evidence, proposal="prior").verdict().startswith("To be believed")  # the model does not use z


def test_a_mean_that_is_too_low_for_lack_of_samples_is_said_to_be():
    """Each datum is fine, and all err to one side: log w ~ N(0, 1) has a mean weight of exp(0.5)."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (40, 20_000))
    found = estimates(weights)
    numbers = {"bias": found.pop("bias"), "draws": np.full(20_000, 40.0), "khat": np.zeros(20_000)}
    options = dict(num_samples=40, proposal="guide", event_size=10, fingerprint="f", seed=0)
    numbers["log_px_psis"] = found["log_px"]
    few = Evidence(**found, **options, diagnostics=numbers)
    few = replace(few, ess=np.full(20_000, 20.0))
    off = 0.5 - few.log_px.mean()
    assert off == pytest.approx((math.e - 1) / 80, rel=0.25)  # the next order is left out
    assert "their mean is too low by about 0.02 nats" in few.verdict()
    gone_on = replace(few, diagnostics=numbers | {"stopping": np.full(20_000, -0.04)})
    assert "their mean is too low by about 0.06 nats" in gone_on.verdict()
    assert "of going on until the tolerance about -0.040" in str(gone_on)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_samples", [1, 2, 100])
@pytest.mark.parametrize("num_data", [1, 4])
def test_weights_of_zero_are_told_in_words(num_samples, num_data):
    log_weights = np.random.default_rng(0).normal(size=(num_samples, num_data))
    log_weights[:, 0] = -np.inf
    nothing, text = evidence_of(log_weights), str(evidence_of(log_weights))
    assert "log P(x) of 1 data is minus infinity: no draw has a weight above zero" in text
    assert not any(f"{word} nats" in text.split("bits per dim")[1] for word in ("inf", "nan"))
    assert "no draw has a weight above zero" in nothing.doubts()[0].reason
    assert "To be believed" not in text and "median nan" not in text and "median inf" not in text
    if num_data > 1:
        assert f"of the other 3 the mean is {nothing.log_px[1:].mean():.3f}" in text
    log_weights[0, 0] = 0.0  # one draw has it all
    one = evidence_of(log_weights)
    assert "To be believed" not in str(one) and "inf nats" not in str(one).split("bits per dim")[1]
    if num_samples == 100:
        assert "one draw of 100 has all the weight" in one.doubts()[0].reason


def test_the_effective_sample_size_is_of_the_datums_own_draws():
    rng = np.random.default_rng(0)
    evidence = evidence_of(rng.normal(0, 1, (100, 3)))
    draws = np.array([100.0, 6400.0, 6400.0])
    evidence = replace(
        evidence, ess=np.array([30.0, 2000.0, 1800.0]), diagnostics=evidence.diagnostics | {"draws": draws}
    )
    assert "smallest 30.0, of the 100 of that datum" in str(evidence)
    assert "above their limits, 0.50 to 0.70" in str(evidence)


def test_a_few_doubtful_data_do_not_spoil_the_mean():
    log_weights = np.random.default_rng(0).normal(0, 0.1, (100, 50))
    log_weights[:, 7] *= 15
    evidence = evidence_of(log_weights)
    assert [doubt.datum for doubt in evidence.doubts()] == [7]
    assert evidence.verdict().startswith("To be believed as a mean, to about 0.01 nats: 1 of 50 data has")
    log_weights[:, 7] *= 10  # one datum that is off by much moves the mean of fifty
    assert evidence_of(log_weights).verdict().startswith("Not to be believed: 1 of 50 data has")


def test_the_html_is_a_whole_table():
    class Check(html.parser.HTMLParser):
        open_tags, seen = [], []

        def handle_starttag(self, tag, attrs):
            self.seen.append(tag)
            if tag != "br":
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    parser = Check()
    parser.feed(evidence_of(np.zeros((100, 5)))._repr_html_())
    assert parser.open_tags == []
    assert parser.seen.count("tr") == 5


def test_saved_and_loaded(tmp_path):
    e = evidence_of(np.random.default_rng(0).normal(0, 1, (30, 7)), proposal="prior", seed=3)
    e.save(tmp_path / "e.nc")
    again = Evidence.load(tmp_path / "e.nc")
    for name, value in vars(e).items():
        np.testing.assert_equal(getattr(again, name), value)
        assert type(getattr(again, name)) is type(value)
    assert [p.name for p in tmp_path.iterdir()] == ["e.nc"]
    (tmp_path / "e.nc").write_bytes(b"no netcdf")
    with pytest.raises(InputError, match="none that can be read"):
        Evidence.load(tmp_path / "e.nc")
    with pytest.raises(InputError, match=r"by ppl_vae\.evaluate"):
        Evidence.load(tmp_path / "missing.nc")


def test_that_it_is_exact_is_kept_as_it_always_was(tmp_path):
    """Files of all versions say so among the settings."""
    e = evidence_of(np.zeros((2, 3)), is_exact=True, settings={"a": 2.0})
    e.save(tmp_path / "e.nc")
    assert json.loads(e.to_dataset().attrs["settings"]) == {"a": 2.0, "exact": 1.0}
    again = Evidence.load(tmp_path / "e.nc")
    assert (again.is_exact, again.settings) == (True, {"a": 2.0})
    assert again.verdict() == "Exact: nothing is estimated."
    assert "exactly: no latent site is sampled" in str(again) and "ELBO" not in str(again)


@pytest.mark.parametrize(("quantity", "given"), [("log P(x | y)", "x, y"), ("log P(x, y)", "x, y"), ("log P(x)", "x")])
def test_everything_printed_is_about_the_quantity(quantity, given):
    e = evidence_of(np.random.default_rng(0).normal(0, 9, (100, 5)), quantity=quantity)
    others = {"log P(x)", "log P(x | y)", "log P(x, y)"} - {quantity}
    assert f"from the guide Q(z | {given})" in str(e) and f"KL(Q || P(z | {given}))" in str(e)
    assert not any(other in text for other in others for text in (str(e), e.verdict(), e._repr_html_()))


def test_compare_is_paired(linear_gaussian):
    model, x = linear_gaussian
    other = LinearGaussian((20,), latent_dim=4, sigma=0.7)
    evidences = {
        "other": estimate_evidence(other, ExactPosterior(other), x, num_samples=10),
        "truth": estimate_evidence(model, ExactPosterior(model), x, num_samples=10),
    }
    table = compare(evidences)
    assert list(table.index) == ["truth", "other"]
    assert list(table["rank"]) == [0, 1]
    difference = evidences["truth"].log_px - evidences["other"].log_px
    assert table.loc["other", "log_px_diff"] == pytest.approx(difference.mean())
    assert table.loc["other", "dse"] == pytest.approx(difference.std(ddof=1) / 8)
    assert table.loc["truth", "log_px_diff"] == 0


def test_compare_knows_data_in_another_shape_or_dtype_and_estimates_of_older_versions(linear_gaussian):
    model, x = linear_gaussian
    square = LinearGaussian((4, 5), latent_dim=4)
    flat = estimate_evidence(model, ExactPosterior(model), x.double().numpy(), num_samples=2)
    shaped = estimate_evidence(square, ExactPosterior(square), x.reshape(-1, 4, 5), num_samples=2)
    assert len(compare({"flat": flat, "shaped": shaped})) == 2
    old = replace(flat, fingerprint="f5a5fd42d16a2030")
    assert len(compare({"a": old, "b": replace(old)})) == 2
    with pytest.raises(InputError, match="got 'old', kept by an older version"):
        compare({"new": flat, "old": old})


def test_compare_refuses_other_data(linear_gaussian):
    model, x = linear_gaussian
    guide = ExactPosterior(model)
    a = estimate_evidence(model, guide, x, num_samples=2)
    b = estimate_evidence(model, guide, x.flip(0), num_samples=2)
    same = estimate_evidence(model, guide, x, num_samples=3, chunk_size=5)
    assert a.fingerprint == same.fingerprint
    with pytest.raises(InputError, match="same data"):
        compare({"a": a, "b": b})
    with pytest.raises(InputError, match="got none"):
        compare({})
    with pytest.raises(InputError, match="Expected evidence for 'a'; got Tensor"):
        compare({"a": x})
