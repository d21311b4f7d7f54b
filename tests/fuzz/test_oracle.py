"""The oracle of the fuzz, against closed forms; and its judgement: an estimate that is off by 0.3 nats is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from fuzz import grammar
from fuzz.families import DISCRETE, FAMILIES
from fuzz.grammar import Pair, described
from fuzz.judge import judged, simulated_weights
from fuzz.oracle import Described, Site, log_marginal, moments, normal_log_px, posterior
from fuzz.source import programs, reproduction
from scipy import special, stats

import ppl_vae

X = np.array([-1.3, 0.2, 2.5])


def log_px(*sites, members=1, x=X, constants=None):
    return log_marginal(Described(list(sites), members, constants or {}), {"x": np.asarray(x, dtype=float)})


def test_linear_gaussian():
    """Two latents, one given the other, and three members with weights of their own."""
    w, x = np.array([0.5, 1.0, 1.5]), np.random.default_rng(0).normal(size=(4, 3))
    found = log_px(
        Site("z1", "Normal", ("0.3", "1.2")),
        Site("z2", "Normal", ("0.5 * z1", "0.8")),
        Site("x", "Normal", ("w * z1 - z2", "0.6"), member=True, observed="x"),
        members=3, x=x, constants={"w": w},
    )  # fmt: skip
    weights = np.stack([w - 0.5, -0.8 * np.ones(3)], 1) @ np.diag([1.2, 1.0])
    truth = normal_log_px(x, 0.3 * (w - 0.5), weights @ weights.T + 0.36 * np.eye(3))
    np.testing.assert_allclose(found, truth, atol=1e-8)


def test_members_with_latents_of_their_own():
    """u_j ~ N(z, 1), x_j ~ N(u_j, 0.5): each member's latent is integrated by itself."""
    x = np.random.default_rng(1).normal(size=(3, 2))
    found = log_px(
        Site("z", "Normal", ("0.0", "1.5")),
        Site("u", "Normal", ("z", "1.0"), member=True),
        Site("x", "Normal", ("u", "0.5"), member=True, observed="x"),
        members=2, x=x,
    )  # fmt: skip
    np.testing.assert_allclose(found, normal_log_px(x, np.zeros(2), 2.25 + 1.25 * np.eye(2)), atol=1e-8)


def test_beta_binomial():
    """Of three coins with one Beta probability."""
    x = np.array([[0.0, 0, 0], [1, 0, 1], [1, 1, 1]])
    found = log_px(
        Site("p", "Beta", ("1.7", "2.3")), Site("x", "Bernoulli", ("p",), member=True, observed="x"), members=3, x=x
    )
    heads = x.sum(1)
    np.testing.assert_allclose(found, special.betaln(1.7 + heads, 5.3 - heads) - special.betaln(1.7, 2.3), atol=1e-8)


def test_poisson_gamma():
    """A Poisson count with a Gamma rate is negative binomial."""
    x = np.array([0.0, 3, 9])
    found = log_px(Site("r", "Gamma", ("2.5", "1.3")), Site("x", "Poisson", ("r",), observed="x"), x=x)
    np.testing.assert_allclose(found, stats.nbinom.logpmf(x, 2.5, 1.3 / 2.3), atol=1e-8)


def test_enumeration():
    """A mixture of three Gaussians, by both names of a category."""
    shares, means = np.array([0.5, 0.3, 0.2]), np.array([-2.0, 1, 4])
    truth = special.logsumexp(stats.norm.logpdf(X[:, None], means) + np.log(shares), axis=1)
    for family, pick in (("Categorical", "pick"), ("OneHotCategorical", "dot")):
        sites = (
            Site("c", family, ("0.5", "0.3", "0.2")),
            Site("x", "Normal", (f"{pick}(c, -2, 1, 4)", "1"), observed="x"),
        )
        np.testing.assert_allclose(log_px(*sites), truth, atol=1e-10)


ARGS = {
    "StudentT": ("5", "0.3", "1.1"), "Gamma": ("2.5", "1.4"), "HalfNormal": ("1.2",), "Exponential": ("0.8",),
    "Beta": ("1.6", "2.2"), "Uniform": ("-1", "0.7"), "VonMises": ("0.4", "1.3"), "Bernoulli": ("0.3",),
    "Categorical": ("0.3", "0.2", "0.6"), "OneHotCategorical": ("0.3", "0.2", "0.6"), "Poisson": ("1.9",),
}  # fmt: skip
SCIPY = {
    "Normal": lambda: stats.norm(0.3, 0.9), "Laplace": lambda: stats.laplace(0.3, 0.9),
    "StudentT": lambda: stats.t(5, 0.3, 1.1), "LogNormal": lambda: stats.lognorm(0.9, scale=np.exp(0.3)),
    "Gamma": lambda: stats.gamma(2.5, scale=1 / 1.4), "HalfNormal": lambda: stats.halfnorm(scale=1.2),
    "Exponential": lambda: stats.expon(scale=1.25), "Beta": lambda: stats.beta(1.6, 2.2),
    "Uniform": lambda: stats.uniform(-1, 1.7), "VonMises": lambda: stats.vonmises(1.3, loc=0.4),
    "Bernoulli": lambda: stats.bernoulli(0.3), "Poisson": lambda: stats.poisson(1.9),
    "LogitNormal": None, "IntervalNormal": None, "Categorical": None, "OneHotCategorical": None,
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.grid is not None])
def test_families(name):
    """A family has mass one on its grid, SciPy's density there, and draws of its mean."""
    family, args = FAMILIES[name], [np.array(float(a)) for a in ARGS.get(name, ("0.3", "0.9"))]
    value, log_mass = family.grid(*args)
    np.testing.assert_allclose(special.logsumexp(log_mass), 0, atol=1e-6)
    if SCIPY[name] is not None:
        peer = SCIPY[name]()
        log_density = peer.logpmf if name in DISCRETE else peer.logpdf
        np.testing.assert_allclose(family.log_density(value, *args), log_density(value), atol=1e-8)
    draws = family.draw(np.random.default_rng(0), *(np.broadcast_to(a, (20_000,)) for a in args))
    mean, square = (np.exp(log_mass) * value).sum(), (np.exp(log_mass) * value**2).sum()
    assert abs(draws.mean() - mean) < 6 * np.sqrt((square - mean**2) / len(draws))


def test_posterior():
    """Of a Gaussian, in closed form."""
    model = Described([Site("z", "Normal", ("0", "1")), Site("x", "Normal", ("z", "1"), observed="x")], 1, {})
    mean, spread = moments(*posterior(model, {"x": X})["z"])
    np.testing.assert_allclose(mean, X / 2, atol=1e-8)
    np.testing.assert_allclose(spread, np.sqrt(0.5), atol=1e-8)


def a_plain_pair(*extras):
    """A pair that fits, without anything odd but these."""
    plain = {"PLATES": {"sized": 1}, "GUIDES": {"fits": 1}, "MASKS": {"": 1}, "EXTRAS": dict.fromkeys(extras, 1.0)}
    with pytest.MonkeyPatch.context() as grammar_of:
        for name, shares in plain.items():
            grammar_of.setattr(grammar, name, shares)
        found = map(grammar.described, range(1000))
        return next(pair for pair in found if pair.extras == set(extras) and len(pair.guide) == 1)


def test_a_broken_estimate_is_caught(monkeypatch):
    """0.3 nats too high, or too low: wrong and believed. As it is: right."""
    pair, estimate = a_plain_pair(), ppl_vae.estimate_evidence
    for shift, kind in ((0.0, "right"), (0.3, "WRONG"), (-0.3, "WRONG")):

        def off(*args, shift=shift, **options):
            evidence = estimate(*args, **options)
            return replace(evidence, log_px=evidence.log_px + shift)

        monkeypatch.setattr(ppl_vae, "estimate_evidence", off)
        assert [o.kind for o in judged(pair, ("importance",))] == [kind]


def test_a_broken_bound_is_caught(monkeypatch):
    """An ELBO that is a nat above log P(x)."""
    pair, fit = a_plain_pair(), ppl_vae.fit

    def off(*args, **options):
        fitted = fit(*args, **options)
        history = fitted.history
        gap = pair.truth.mean() - history.train_elbo.mean()
        return replace(fitted, history=replace(history, train_elbo=history.train_elbo + gap + 1.0))

    assert [o.kind for o in judged(pair, ("fit",))] == ["right"]
    monkeypatch.setattr(ppl_vae, "fit", off)
    assert [o.kind for o in judged(pair, ("fit",))] == ["WRONG"]


@pytest.mark.parametrize("extras", [(), ("reparam",)])
def test_simulated_weights_have_the_mean_of_the_oracle(extras):
    """What excuses an estimate is right itself: two ways to the same log P(x)."""
    pair = a_plain_pair(*extras)
    log_w = simulated_weights(pair, 0, 20, 2000)
    found = np.log(np.exp(log_w).mean(1)) - pair.truth[0]
    assert abs(found.mean()) < 6 * found.std() / np.sqrt(len(found)) + 1e-3


def test_a_failure_is_printed_as_a_program_that_runs(capsys):
    pair = a_plain_pair()
    exec(compile(reproduction(pair), "printed", "exec"), {})
    found, truth = (
        np.fromstring(line.strip("[]").replace(",", " "), sep=" ") for line in capsys.readouterr().out.splitlines()
    )
    np.testing.assert_allclose(found, truth, atol=0.3)


def test_descriptions_are_the_same_for_a_seed():
    one, other = described(3), described(3)
    assert isinstance(one, Pair)
    np.testing.assert_array_equal(one.truth, other.truth)
    assert programs(one)[2][0].equal(programs(other)[2][0])
