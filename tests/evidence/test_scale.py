"""What log P(x) is the logarithm of, where totals of the data are given: refused beside what pays for them, too."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

from ppl_vae import Evidence, InputError, compare, estimate_evidence, explain_difference, likelihoods
from ppl_vae.missing import Observed
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal

N, D = 40, 5
X = torch.poisson(torch.full((N, D), 4.0), generator=torch.Generator().manual_seed(0))
TOTAL = X.sum(-1)
ONE = torch.eye(D).repeat(N // D, 1)
PER_FEATURE = torch.tensor([40.0, 50, 60, 70, 80])
GIVEN = "probability given totals"


def nothing(*data):
    pass


def observing(*sites):
    """A model of sites, (name, distribution, value), each made of the data it is called with."""

    def model(*data):
        with pyro.plate("data", len(data[0])):
            for name, fn, value in sites:
                pyro.sample(name, fn(*data), obs=value(*data))

    return model


def first(x, *others):
    return x[:, 0]


def whole(x, *others):
    return x


def even(x, *others):
    return torch.zeros(len(x))


def flat(x, *others):
    return torch.zeros(len(x), D)


SCORED = {
    "multinomial, the largest total of the batch": (
        GIVEN, [("x", lambda x: dist.Multinomial(int(x.sum(-1).max()), logits=flat(x)), whole)], X,
    ),
    "Dirichlet-multinomial": (
        GIVEN, [("x", lambda x: dist.DirichletMultinomial(torch.ones(len(x), D), x.sum(-1)), whole)], X,
    ),
    "binomial, a total for each datum": (
        GIVEN, [("x", lambda x, n: dist.Binomial(n, logits=even(x)), first)], X, TOTAL,
    ),
    "binomials of features, a total for each datum": (
        GIVEN, [("x", lambda x, n: dist.Binomial(n[:, None], logits=flat(x)).to_event(1), whole)], X, TOTAL,
    ),
    "beta-binomial": (GIVEN, [("x", lambda x, n: dist.BetaBinomial(even(x) + 1, 1.0, n), first)], X, TOTAL),
    "binomial with more zeros": (
        GIVEN,
        [("x", lambda x, n: dist.ZeroInflatedDistribution(
            dist.Binomial(n, logits=even(x)), gate=even(x) + 0.5
        ), first)],
        X, TOTAL,
    ),
    "mixture of binomials": (
        GIVEN,
        [("x", lambda x, n: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(len(x), 2)), dist.Binomial(n[:, None], logits=torch.zeros(len(x), 2))
        ), first)],
        X, TOTAL,
    ),
    "a chain of binomials, its first given a total": (
        GIVEN,
        [("a", lambda x, n: dist.Binomial(n, logits=even(x)), first),
         ("b", lambda x, n: dist.Binomial(n - x[:, 0], logits=even(x)), lambda x, n: x[:, 1])],
        X, TOTAL,
    ),
    "multinomial beside a density": (
        "mixed given totals",
        [("w", lambda x, w: dist.Normal(even(x), 1.0), lambda x, w: w),
         ("x", lambda x, w: dist.Multinomial(int(x.sum(-1).max()), logits=flat(x)), whole)],
        X, TOTAL.log(),
    ),
    "Poisson": ("probability", [("x", lambda x: dist.Poisson(torch.ones(len(x), D)).to_event(1), whole)], X),
    "negative binomial, whose total_count is no bound": (
        "probability",
        [("x", lambda x: dist.NegativeBinomial(x + 1, torch.full((len(x), D), 0.5)).to_event(1), whole)], X,
    ),
    "multinomial with its total scored": (
        "probability",
        [("n", lambda x: dist.Poisson(20.0).expand([len(x)]), lambda x: x.sum(-1)),
         ("x", lambda x: dist.Multinomial(int(x.sum(-1).max()), logits=flat(x)), whole)], X,
    ),
    "binomial with its total scored": (
        "probability",
        [("n", lambda x, n: dist.Poisson(20.0).expand([len(x)]), lambda x, n: n),
         ("x", lambda x, n: dist.Binomial(n, logits=even(x)), first)],
        X, TOTAL,
    ),
    "scores from 0 to 40": ("probability", [("x", lambda x: dist.Binomial(40, logits=even(x)), first)], X),
    "scores to another maximum for each feature": (
        "probability", [("x", lambda x: dist.Binomial(PER_FEATURE, logits=flat(x)).to_event(1), whole)], X,
    ),
    "a chain of binomials of one constant": (
        "probability",
        [("a", lambda x: dist.Binomial(60, logits=even(x)), first),
         ("b", lambda x: dist.Binomial(60 - x[:, 0], logits=even(x)), lambda x: x[:, 1])], X,
    ),
    "one of five": ("probability", [("x", lambda x: dist.OneHotCategorical(logits=flat(x)), whole)], ONE),
    "multinomial of one": ("probability", [("x", lambda x: dist.Multinomial(1, logits=flat(x)), whole)], ONE),
    "a density up to a bound for each datum": (
        "density", [("x", lambda x, n: dist.Uniform(0.0, n + 1), first)], X, TOTAL,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SCORED)
def test_totals_that_are_given_and_not_scored(case):
    scored, sites, *tensors = SCORED[case]
    found = estimate_evidence(observing(*sites), nothing, tuple(tensors), num_samples=2, progress=False)
    assert found.scored == scored
    assert ("log P(x | n)" in str(found)) == scored.endswith("given totals")


def test_another_plate_is_not_over_the_data():
    def model(x):
        with pyro.plate("features", D, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Binomial(PER_FEATURE[:, None], logits=torch.zeros(D, len(x))), obs=x.T)

    assert estimate_evidence(model, nothing, X, num_samples=2, progress=False).scored == "probability"


def test_two_data_are_enough_where_one_site_says_the_total():
    for case in ("multinomial with its total scored", "multinomial, the largest total of the batch"):
        scored, sites, x = SCORED[case]
        assert estimate_evidence(observing(*sites), nothing, x[:3], num_samples=2, progress=False).scored == scored


def pair_of(likelihood, rates):
    """A VAE that ignores z, whose decoder gives the logarithm of these rates."""

    def network(given, wanted):
        return MLP(given, wanted, hidden=())

    model = VAE((len(rates),), prior=StandardNormal(1), likelihood=likelihood, decoder=network)
    guide = MeanField(model, encoder=network)
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.zero_()
        list(model.decoder.parameters())[-1].copy_(rates.log())
    return model, guide


def test_log_p_given_totals_is_refused_beside_log_p():
    """With x_i ~ Poisson(rate_i), log P(x) = log P(x | n) + log P(n), n ~ Poisson(sum of rates)."""
    rates = torch.linspace(1, 10, 10)
    x = torch.poisson(rates.expand(200, 10))
    found = {
        name: estimate_evidence(*pair_of(likelihood, rates), x, method="importance", num_samples=30, progress=False)
        for name, likelihood in (("poisson", likelihoods.Poisson()), ("multinomial", likelihoods.Multinomial()))
    }
    of_total = dist.Poisson(rates.sum()).log_prob(x.sum(1)).numpy()
    torch.testing.assert_close(
        torch.from_numpy(found["poisson"].log_px),
        torch.from_numpy(found["multinomial"].log_px + of_total),
        atol=1e-3,
        rtol=0,
    )
    with pytest.raises(InputError, match=r"log P\(x \| n\) for 'multinomial'.*log P\(x\) for 'poisson'.*log_pn"):
        compare(found)
    with pytest.raises(InputError, match=r"log P\(x \| n\) for 'multinomial'"):
        compare(dict(reversed(found.items())))
    e, log_pn = found["multinomial"], of_total  # what the message says to do
    paid = replace(e, log_px=e.log_px + log_pn, elbo=e.elbo + log_pn, quantity="log P(x)", scored="probability")
    assert compare({"paid": paid, "poisson": found["poisson"]})["log_px_diff"].max() < 1e-3
    assert list(compare({"a": e, "b": e})["log_px_diff"]) == [0, 0]  # both are given n
    assert (e.quantity, found["poisson"].quantity) == ("log P(x | n)", "log P(x)")
    with pytest.raises(InputError, match="which pays for n, too"):
        explain_difference(
            *(pair_of(one, rates) for one in (likelihoods.Poisson(), likelihoods.Multinomial())),
            data=x, num_samples=5, method="importance", progress=False,
        )  # fmt: skip


def test_a_quantity_is_kept_and_told_of_older_files(tmp_path):
    e = estimate_evidence(*pair_of(likelihoods.Multinomial(), torch.ones(D)), X, num_samples=5, progress=False)
    for name, quantity in (("new", "log P(x | n)"), ("old", "log P(x)")):  # older versions kept that
        replace(e, quantity=quantity).save(tmp_path / name)
        assert Evidence.load(tmp_path / name).quantity == "log P(x | n)"
    replace(e, quantity="log P(x | y)").save(tmp_path / "old")
    assert Evidence.load(tmp_path / "old").quantity == "log P(x | y, n)"


class OfOwnMean(likelihoods.Poisson):
    """A Poisson that is told a statistic of x, as by an observed library size."""

    conditions_on = "m = mean_i x_i"


def test_a_likelihood_says_what_it_is_given():
    rates = torch.ones(D)
    told = {name: pair_of(kind(), rates) for name, kind in (("plain", likelihoods.Poisson), ("told", OfOwnMean))}
    found = {n: estimate_evidence(*p, X, method="importance", num_samples=5, progress=False) for n, p in told.items()}
    assert (found["told"].quantity, found["plain"].quantity) == ("log P(x | m)", "log P(x)")
    assert "log P(x | m)" in str(found["told"])
    with pytest.raises(InputError, match=r"one quantity; got log P\(x\) of .* and log P\(x \| m\).*given the same"):
        compare(found)
    part = OfOwnMean().bind((D,))  # in a plain program, too

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", part(torch.zeros(len(x), D)), obs=x)

    assert estimate_evidence(model, nothing, X, num_samples=2, progress=False).quantity == "log P(x | m)"


def test_a_density_of_other_numbers_is_refused_beside_that_of_the_data():
    """y = x / 10 of D numbers: log P(y) = log P(x) + D log 10 under the same model, and better for nothing."""
    x = 3 * torch.randn(N, D)

    def of(scale, what):
        return observing(("x", lambda x: dist.Normal(torch.zeros(x.shape), scale).to_event(1), what))

    programs = {"x": of(3.0, lambda x: x), "y": of(0.3, lambda x: x / 10), "copy": of(3.0, lambda x: x.clone())}
    found = {n: estimate_evidence(p, nothing, x, num_samples=2, progress=False) for n, p in programs.items()}
    assert found["y"].log_px - found["x"].log_px == pytest.approx(D * math.log(10), rel=1e-4)
    for pair in (("x", "y"), ("y", "x")):
        with pytest.raises(InputError, match=r"densities of one x; .* for 'y' one of numbers that its program makes"):
            compare({name: found[name] for name in pair})
    assert list(compare({name: found[name] for name in ("x", "copy")})["log_px_diff"]) == [0, 0]
    assert "of other numbers than the data" in str(found["y"]) and "other numbers" not in str(found["x"])
    mostly_missing = x.where(torch.rand(x.shape) < 0.2, torch.nan)
    mostly_missing[0] = x[0]
    mean = Observed(dist.Normal(torch.zeros(D), 3.0), 1)
    missing = estimate_evidence(observing(("x", lambda x: mean, lambda x: x)), nothing, mostly_missing, num_samples=2)
    assert missing.scored == "density"
