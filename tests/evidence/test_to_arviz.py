"""ArviZ: the container and its files, what its own functions make of it, and its comparison beside ours."""

import arviz
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.guides import MeanField
from ppl_vae.models import LinearGaussian

from ppl_vae import InputError, compare, estimate_evidence, to_arviz
from ppl_vae.criticism.comparison import stacking

matplotlib.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore")  # ArviZ tells of its next version, and of NaN in plots
REWRITTEN = "InferenceData" not in vars(arviz)
UNROUNDED = {"round_to": "none"} if REWRITTEN else {}


def groups_of(container):
    return set(container.children if REWRITTEN else container.groups())


def test_posterior_draws_against_the_exact_posterior():
    """Of x ~ N(z, 1), z ~ N(0, 1) the posterior is N(x / 2, 1 / 2); the guide's are far too wide and off."""
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    container = to_arviz(pairs.mean_model, pairs.mean_guide, x, num_samples=4000, num_draws=4000)
    z = container["posterior"]["z"]
    assert z.dims == ("chain", "draw", "datum")
    error = np.sqrt(0.5 / container["evidence"]["ess"].values)
    assert (abs(z.mean(("chain", "draw")).values - x.numpy() / 2) < 5 * error).all()
    np.testing.assert_allclose(z.var(("chain", "draw")), 0.5, atol=0.1)
    of_draws = torch.distributions.Normal(torch.tensor(z.values[0]), 1.0).log_prob(x)
    np.testing.assert_allclose(container["log_likelihood"]["x"].values[0], of_draws, atol=1e-5)
    weights = container["importance"]["log_weights"]
    assert weights.dims == ("sample", "datum")
    averages = np.logaddexp.reduce(weights.values.astype(float), axis=0) - np.log(4000)
    np.testing.assert_allclose(averages, container["evidence"]["log_px"], atol=1e-5)
    np.testing.assert_array_equal(container["observed_data"]["x"], x)


@pytest.fixture(scope="module")
def pair():
    """A linear-Gaussian model of 20 dimensions, a guide that is bad, and 64 data."""
    torch.manual_seed(1)
    model = LinearGaussian((20,), latent_dim=4, sigma=0.7)
    return model, MeanField(model), model(size=64).detach()


@pytest.fixture(scope="module")
def evidences(pair):
    model, _, x = pair
    others = {"truth": model} | {f"sigma {s}": LinearGaussian((20,), latent_dim=4, sigma=s) for s in (0.75, 0.9)}
    with torch.no_grad():
        for other in others.values():
            other.load_state_dict(model.state_dict() | {k: v for k, v in other.state_dict().items() if "sigma" in k})
    return {
        k: estimate_evidence(m, ExactPosterior(m), x, method="importance", num_samples=30) for k, m in others.items()
    }


def test_names_of_dimensions_and_groups(pair):
    container = to_arviz(*pair, num_samples=50, num_draws=7)
    assert groups_of(container) == {"posterior", "log_likelihood", "observed_data", "importance", "evidence"}
    assert dict(container["posterior"]["z"].sizes) == {"chain": 1, "draw": 7, "datum": 64, "z_dim_0": 4}
    assert dict(container["log_likelihood"]["x"].sizes) == {"chain": 1, "draw": 7, "datum": 64}
    assert dict(container["observed_data"]["x"].sizes) == {"datum": 64, "x_dim_0": 20}
    for group in groups_of(container):
        np.testing.assert_array_equal(container[group]["datum"], range(64))
    many = to_arviz(pairs.constrained_model, pairs.constrained_guide, torch.rand(3), num_samples=50, num_draws=7)
    assert many["posterior"]["s"].shape == many["posterior"]["low"].shape == (1, 7, 3)
    assert many["posterior"]["p"].dims == ("chain", "draw", "datum", "p_dim_0")


def odd_model(x, y):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("draw", dist.Normal(torch.zeros(len(x)), 1.0))
        w = pyro.sample("a/w", dist.Normal(z, 1.0))
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)
        pyro.sample("b/y", dist.Normal(w[..., None], torch.ones(2)).to_event(1), obs=y)


def odd_guide(x, y):
    with pyro.plate("rows", len(x)):
        pyro.sample("draw", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("a/w", dist.Normal(x, 1.0))


def test_odd_names_and_two_observed_sites(tmp_path):
    x, y = torch.randn(5), torch.randn(5, 2)
    container = to_arviz(odd_model, odd_guide, (x, y), num_samples=50, num_draws=7)
    assert set(container["posterior"].data_vars) == {"draw_", "a.w"}
    assert container["observed_data"]["b.y"].dims == ("datum", "b.y_dim_0")
    w = torch.tensor(container["posterior"]["a.w"].values[0])
    both = dist.Normal(w, 1.0).log_prob(x) + dist.Normal(w[..., None], 1.0).log_prob(y).sum(-1)
    np.testing.assert_allclose(container["log_likelihood"]["x_and_b.y"].values[0], both, rtol=1e-4)
    container.to_netcdf(str(tmp_path / "odd.nc"))
    np.testing.assert_array_equal(arviz.from_netcdf(str(tmp_path / "odd.nc"))["posterior"]["a.w"][0], w)


@pytest.mark.parametrize("num_draws", [0, 20])
def test_saved_and_loaded_by_arviz(pair, tmp_path, num_draws):
    model, guide, x = pair
    container = estimate_evidence(model, guide, x, method="importance", num_samples=40, num_draws=num_draws).to_arviz()
    container.to_netcdf(str(tmp_path / "a.nc"))
    again = arviz.from_netcdf(str(tmp_path / "a.nc"))
    assert groups_of(again) == groups_of(container)
    for group in groups_of(container):
        for name, values in container[group].data_vars.items():
            np.testing.assert_array_equal(again[group][name], values)
            assert again[group][name].dims == values.dims
        assert dict(again[group].attrs) == dict(container[group].attrs)


def test_summary(pair):
    container = to_arviz(*pair, num_samples=100, num_draws=50)
    table = arviz.summary(container, **UNROUNDED)
    assert len(table) == 64 * 4
    means = container["posterior"]["z"].mean(("chain", "draw")).values
    np.testing.assert_allclose(table["mean"].astype(float), means.reshape(-1), atol=1e-3)  # old ArviZ: 3 decimals


def test_without_draws_there_is_the_evidence(evidences):
    evidence = evidences["truth"]
    container = evidence.to_arviz()
    assert groups_of(container) == {"evidence", "log_likelihood"}
    for name in ("log_px", "elbo", "mcse", "ess", "khat"):
        np.testing.assert_array_equal(container["evidence"][name], getattr(evidence, name))
    assert container["evidence"].attrs["num_samples"] == 30
    assert container["log_likelihood"]["log_px"].dims == ("chain", "draw", "datum")
    np.testing.assert_array_equal(container["log_likelihood"]["log_px"][0, 0], evidence.log_px)


def test_one_call_is_the_two(pair):
    model, guide, x = pair
    container = to_arviz(model, guide, x, num_samples=30, num_draws=5, proposal="prior", seed=3)
    options = dict(num_samples=30, num_draws=5, proposal="prior", seed=3)
    evidence = estimate_evidence(model, guide, x, method="importance", **options)
    np.testing.assert_array_equal(container["evidence"]["log_px"], evidence.log_px)
    np.testing.assert_array_equal(container["posterior"]["z"][0], evidence.draws.posterior["z"])
    for wrong, text in (
        ({"method": "ais"}, "method='importance' for draws"),
        ({"num_draws": 0}, "num_draws to be a whole number"),
        ({"num_sample": 3}, "num_samples"),
        ({"proposal": "posterior"}, "proposal"),
    ):
        with pytest.raises(InputError, match=text):
            to_arviz(model, guide, x, **wrong)


def test_elpd_and_the_picture_of_khat(pair):
    model, guide, x = pair
    evidence = estimate_evidence(model, guide, x, method="importance", num_samples=200)
    evidence.diagnostics["khat"][:2] = -np.inf, np.inf
    elpd = evidence.to_elpd()
    assert elpd["elpd" if REWRITTEN else "elpd_loo"] == pytest.approx(evidence.log_px.sum())
    assert elpd["se"] == pytest.approx(8 * evidence.log_px.std())
    assert elpd["warning"] is bool(evidence.doubts()) is True
    np.testing.assert_array_equal(elpd["elpd_i" if REWRITTEN else "loo_i"], evidence.log_px)
    assert "very bad" in str(elpd) and f"{evidence.log_px.sum():.2f}" in str(elpd)
    khat = elpd["pareto_k"].values
    np.testing.assert_array_equal(khat[2:], evidence.khat[2:])
    assert khat[0] == -1 and khat[1] == max(2, khat[2:].max())
    arviz.plot_khat(elpd)
    np.testing.assert_allclose(plt.gcf().axes[0].collections[0].get_offsets()[:, 1], khat)
    plt.close("all")


def test_elpd_where_there_is_no_khat(pair, evidences):
    model, guide, x = pair
    few = estimate_evidence(model, guide, x, method="importance", num_samples=10)
    annealed = estimate_evidence(model, guide, x, method="ais", num_temperatures=3, num_chains=2, num_samples=30)
    for evidence in (few, annealed):
        table = arviz.compare({"few": evidence.to_elpd(), "truth": evidences["truth"].to_elpd()})
        assert list(table.index) == ["truth", "few"]
    equal = evidences["truth"].to_elpd()["pareto_k"]
    assert (equal == -1).all()


def test_our_comparison_by_hand_and_beside_arviz(evidences):
    table = compare(dict(reversed(evidences.items())))
    best, *_ = order = sorted(evidences, key=lambda name: -evidences[name].log_px.mean())
    assert list(table.index) == order  # of 64 data: the truth need not be the best
    columns = "rank log_px log_px_diff weight se dse warning mcse num_samples method elbo gap num_runs run_sd"
    assert list(table.columns) == columns.split()
    assert list(table["rank"]) == [0, 1, 2]
    theirs = arviz.compare({k: e.to_elpd() for k, e in evidences.items()}, method="stacking", **UNROUNDED)
    assert list(theirs.index) == list(table.index)
    for name, evidence in evidences.items():
        row, difference = table.loc[name], evidences[best].log_px - evidence.log_px
        assert row["log_px"] == pytest.approx(evidence.log_px.mean())
        assert row["log_px_diff"] == pytest.approx(difference.mean())
        assert row["se"] == pytest.approx(evidence.log_px.std(ddof=1) / 8)
        assert row["dse"] == pytest.approx(difference.std(ddof=1) / 8)
        assert row["gap"] == pytest.approx(row["log_px"] - row["elbo"])
        assert (row["num_samples"], row["method"], row["warning"]) == (30, "importance", False)
        other, finite = theirs.loc[name], np.sqrt(63 / 64)  # ArviZ: sums, and variances over N
        assert other["elpd" if REWRITTEN else "elpd_loo"] == pytest.approx(64 * row["log_px"])
        assert abs(other["elpd_diff"]) == pytest.approx(64 * row["log_px_diff"])
        assert other["se"] == pytest.approx(64 * row["se"] * finite)
        assert other["dse"] == pytest.approx(64 * row["dse"] * finite)
        assert other["weight"] == pytest.approx(row["weight"], abs=1e-3)


def test_arviz_draws_our_table(evidences):
    """In sums over the data, as its own: the shade of its next version is four nats wide, of all data together."""
    models = {"<other>": evidences["sigma 0.9"], "truth": evidences["truth"]}
    table = compare(models)
    ours = table.to_arviz()
    theirs = arviz.compare({k: e.to_elpd() for k, e in models.items()}, method="stacking", **UNROUNDED)
    assert list(ours.index) == list(theirs.index) and set(ours.columns) == set(theirs.columns)
    for name, factor in (("elpd" if REWRITTEN else "elpd_loo", 1), ("se", np.sqrt(64 / 63)), ("dse", np.sqrt(64 / 63))):
        np.testing.assert_allclose(ours[name].astype(float), theirs[name].astype(float) * factor, rtol=1e-6)
    np.testing.assert_allclose(ours["elpd_diff"].astype(float), theirs["elpd_diff"].astype(float), rtol=1e-6)
    if "p_worse" in theirs:
        np.testing.assert_allclose(ours["p_worse"], theirs["p_worse"].astype(float), atol=0.01)
        assert list(ours["diag_diff"]) == list(theirs["diag_diff"])
    arviz.plot_compare(ours)
    labels = [label.get_text() for label in plt.gcf().axes[0].get_yticklabels()]
    assert set(models) <= set(labels)
    plt.close("all")


def test_the_warning_is_of_the_model_in_doubt(pair, evidences):
    model, guide, x = pair
    table = compare(
        {"bad": estimate_evidence(model, guide, x, method="importance", num_samples=30), "good": evidences["truth"]}
    )
    assert dict(table["warning"]) == {"good": False, "bad": True}


def test_stacking_against_a_grid_and_arviz():
    """Each of two models is better for some of the data: the best mixture is found by trying all of them."""
    rng = np.random.default_rng(0)
    log_px = rng.normal([[-1.0], [-1.1]], 0.8, size=(2, 100))
    shares = np.linspace(0, 1, 100_001)[1:-1]
    score = sum(np.logaddexp(np.log(shares) + a, np.log1p(-shares) + b) for a, b in log_px.T)
    weights = stacking(log_px)
    np.testing.assert_allclose(weights, [shares[score.argmax()], 1 - shares[score.argmax()]], atol=1e-4)
    assert 0.2 < weights[1] < 0.45
    np.testing.assert_allclose(stacking(log_px - 2000), weights, atol=1e-9)  # ArviZ's exp would be 0
    three = np.concatenate([log_px, rng.normal(-1.2, 0.8, size=(1, 100))])
    found = stacking(three)
    at_best = np.exp(three - np.logaddexp.reduce(three + np.log(found)[:, None])).mean(1)
    np.testing.assert_allclose(at_best[found > 1e-6], 1, atol=1e-4)  # the conditions of an optimum
    assert (at_best < 1 + 1e-8).all() and found.sum() == pytest.approx(1)


def test_stacking_where_something_cannot_be():
    none = -np.inf
    np.testing.assert_allclose(stacking(np.array([[none, -1.0, none], [-1.0, none, none]])), 0.5)
    np.testing.assert_allclose(stacking(np.array([[none, -1.0], [-1.0, -1.0]])), [0, 1], atol=1e-6)
    np.testing.assert_allclose(stacking(np.full((2, 3), none)), 0.5)
    np.testing.assert_allclose(stacking(np.full((4, 3), -700.0)), 0.25)
