"""The result: its numbers, its tables, its files, and comparing two of them."""

import html.parser
import math
from dataclasses import replace

import numpy as np
import pytest
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import LinearGaussian

from ppl_vae import InputError, compare, estimate_evidence
from ppl_vae.evidence import Evidence, Moments


def evidence_of(log_weights, **changes):
    values = Moments.of(np.asarray(log_weights, dtype=float)).estimates()
    options = dict(num_samples=len(log_weights), proposal="guide", event_size=10, fingerprint="f", seed=0)
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


@pytest.mark.parametrize("cuts", [[1], [3, 4], [10, 20, 29]])
def test_sums_gathered_in_chunks_are_those_of_the_whole(cuts):
    rng = np.random.default_rng(0)
    w = rng.normal(0, 5, (30, 6)) + rng.normal(0, 300, 6)
    w[2, 0] = w[:, 1] = -np.inf
    parts = [Moments.of(part) for part in np.split(w, cuts)]
    whole, chunked = Moments.of(w).estimates(), sum(parts[1:], parts[0]).estimates()
    for name, value in whole.items():
        np.testing.assert_allclose(chunked[name], value, rtol=1e-9, err_msg=name)


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
    good, bad = evidence_of(np.zeros((100, 5))), evidence_of(np.random.default_rng(0).normal(0, 9, (100, 5)))
    assert "log P(x) of 5 data by importance sampling, K = 100 samples from the guide" in str(good)
    assert "effective sample size of 10 or more" in str(good)
    assert "5 of 5 data have an effective sample size below 10" in str(bad)
    assert "from the prior P(z)" in str(replace(bad, proposal="prior"))
    assert "its error is not known" in str(evidence_of(np.zeros((1, 5))))
    for label in ("log P(x)", "ELBO", "gap", "bits per dim"):
        assert label in str(good)


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
        np.testing.assert_array_equal(getattr(again, name), value)
        assert type(getattr(again, name)) is type(value)
    assert [p.name for p in tmp_path.iterdir()] == ["e.nc"]
    (tmp_path / "e.nc").write_bytes(b"no netcdf")
    with pytest.raises(InputError, match="none that can be read"):
        Evidence.load(tmp_path / "e.nc")
    with pytest.raises(InputError, match="ppl-vae evaluate"):
        Evidence.load(tmp_path / "missing.nc")


@pytest.mark.filterwarnings("ignore")
def test_arviz(tmp_path):
    e = evidence_of(np.random.default_rng(0).normal(0, 1, (30, 7)))
    container = e.to_arviz()
    np.testing.assert_array_equal(container["evidence"]["log_px"], e.log_px)
    assert container["log_likelihood"]["x"].dims == ("chain", "draw", "datum")
    container.to_netcdf(str(tmp_path / "a.nc"))
    assert (tmp_path / "a.nc").stat().st_size > 1000


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
    assert table.loc["other", "diff"] == pytest.approx(difference.mean())
    assert table.loc["other", "dse"] == pytest.approx(difference.std(ddof=1) / 8)
    assert table.loc["truth", "diff"] == 0


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
