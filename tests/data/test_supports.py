"""All data are held against the support that their own batch has; what is outside is refused before any work."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_log_px
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

import ppl_vae
from ppl_vae import InputError, likelihoods


def guide(x, *_):
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


def observing(likelihood):
    """A model x | z of a likelihood that is made of z and of all that the program is given."""

    def model(x, *args):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", likelihood(z, x, *args), obs=x)

    return model


def words(z, x):
    """A bag of words as Pyro's ProdLDA has it: the total is the longest of the batch."""
    return dist.Multinomial(int(x.sum(-1).max()), logits=z[..., None] * torch.tensor([1.0, 0.0, -1.0]))


def longer_later(size):
    return torch.poisson(torch.arange(1.0, 1 + size)[:, None] / 10 * torch.ones(3))


VARYING = {
    "a total read off the batch": (words, lambda n: (longer_later(n),)),
    "a total for each datum": (
        lambda z, x, n: dist.Binomial(n, logits=z),
        lambda n: ((total := torch.arange(1.0, 1 + n)) // 2, total),
    ),
    "a bound for each datum": (
        lambda z, x, b: dist.Uniform(torch.zeros(()), b + 0 * z),
        lambda n: ((bound := torch.arange(1.0, 1 + n)) * torch.rand(n), bound),
    ),
    "a bound that is a column": (
        lambda z, x, b: dist.Uniform(torch.zeros(()), b + 0 * z[..., None]).to_event(1),
        lambda n: (torch.rand(n, 2) * (bound := torch.arange(1.0, 1 + n)[:, None]), bound),
    ),
}


@pytest.mark.parametrize("batch_size", [50, 300, 1000])
@pytest.mark.parametrize("kind", VARYING)
def test_each_batch_has_its_own_support(kind, batch_size):
    likelihood, draw = VARYING[kind]
    data = draw(2500)
    fitted = ppl_vae.fit(observing(likelihood), guide, data, epochs=1, batch_size=batch_size, compile=False)
    assert torch.isfinite(torch.as_tensor(fitted.history.train_elbo)).all()


@pytest.mark.parametrize("kind", list(VARYING)[1:])
@pytest.mark.parametrize("row", [0, 1700])
def test_what_is_outside_its_own_support_is_refused(kind, row):
    likelihood, draw = VARYING[kind]
    x, bound = draw(2500)
    x[row] = bound[row] + 1
    with pytest.raises(InputError, match=r"Expected x in (whole numbers from )?.*; got values from .* to") as problem:
        ppl_vae.fit(observing(likelihood), guide, (x, bound), epochs=1)
    assert "tensor" not in str(problem.value) and len(str(problem.value)) < 400


def test_a_document_is_scored_whatever_the_total_of_its_batch():
    """log P(x | n) by the trapezium rule over z."""
    x = longer_later(30)
    z = torch.linspace(-8, 8, 2001, dtype=torch.double)
    likelihood = torch.stack([words(z, row[None]).log_prob(row) for row in x.double()], -1)
    exact = (likelihood + dist.Normal(0.0, 1.0).log_prob(z)[:, None]).logsumexp(0) + (z[1] - z[0]).log()
    evidence = ppl_vae.estimate_evidence(observing(words), None, x, proposal="prior", num_samples=4000)
    trusted = [n for n in range(30) if n not in {d.datum for d in evidence.doubts()}]
    assert trusted
    for n in trusted:
        check_log_px(evidence.log_px[n], evidence.mcse[n], exact[n], 4000)


def test_one_run_is_enough_where_the_support_is_the_same_everywhere():
    runs = []

    def likelihood(z, x):
        runs.append(len(x))
        return dist.Normal(z, 1.0)

    ppl_vae.fit(observing(likelihood), guide, torch.randn(5000), epochs=1, batch_size=5000, compile=False)
    assert len(runs) < 10  # the steps and the checks before them, not one for each thousand


def test_a_support_that_is_drawn_says_nothing_of_the_data():
    """P(x) = E over z of Uniform(x; z - 1, z + 1), z standard normal: Phi(x + 1) - Phi(x - 1), halved."""
    x = torch.linspace(-2, 2, 9)
    model = observing(lambda z, x: dist.Uniform(z - 1, z + 1, validate_args=False))
    evidence = ppl_vae.estimate_evidence(model, None, x, proposal="prior", num_samples=20_000)
    normal = dist.Normal(0.0, 1.0)
    exact = ((normal.cdf(x + 1) - normal.cdf(x - 1)) / 2).log()
    for n in range(len(x)):
        check_log_px(evidence.log_px[n], evidence.mcse[n], exact[n], 20_000)


@pytest.mark.parametrize(
    ("likelihood", "value"),
    [
        (lambda z, x: dist.Beta(2 + 0 * z, 3.0), 0.0),
        (lambda z, x: dist.Beta(2 + 0 * z, 3.0), 1.0),
        (lambda z, x: dist.Gamma(0.5 + 0 * z, 1.0), 0.0),
        (lambda z, x: dist.Uniform(0 * z, 1.0), 1.0),
    ],
)
def test_a_density_that_is_zero_or_infinite_at_an_end_of_its_support(likelihood, value):
    x = torch.rand(2500) * 0.8 + 0.1
    x[2200] = value
    with pytest.raises(InputError, match=f"not at its ends.*values of exactly {value:g}.*inside"):
        ppl_vae.fit(observing(likelihood), guide, x, epochs=1)


@pytest.mark.parametrize("likelihood", [lambda z, x: dist.Exponential(z.exp()), lambda z, x: dist.HalfNormal(z.exp())])
def test_a_density_that_is_finite_at_its_end_takes_it(likelihood):
    x = torch.rand(300)
    x[7] = 0
    assert ppl_vae.fit(observing(likelihood), guide, x, epochs=1, compile=False)


FROM_ONE = r"got values from 1 to 5\. .*subtract 1 \(y - 1\)"


@pytest.mark.parametrize(("shift", "fix"), [(1, FROM_ONE), (2, "give the model more classes")])
def test_labels_that_do_not_start_at_0(shift, fix):
    y = torch.arange(30) % 5

    def model(y):
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Categorical(torch.ones(5) / 5), obs=y)

    with pytest.raises(InputError, match=fix):
        ppl_vae.estimate_evidence(model, lambda y: None, y + shift)


@pytest.mark.parametrize(
    "entry",
    [
        lambda *given: ppl_vae.fit(*given, epochs=1),
        lambda *given: ppl_vae.estimate_evidence(*given, num_samples=5),
        ppl_vae.latent_use,
        lambda *given: ppl_vae.impute(*given, num_samples=5),
    ],
    ids=["fit", "estimate_evidence", "latent_use", "impute"],
)
def test_what_is_observed_beside_missing_values_is_looked_at(entry):
    """Bytes for a Bernoulli, with a hole in each datum: a log-probability of many thousand nats, if nobody looks."""
    x = torch.where(torch.rand(300, 6) < 0.5, 255.0, 0.0)
    x[torch.arange(300), torch.randint(6, (300,))] = torch.nan
    model = VAE((6,))
    with pytest.raises(InputError, match=r"x in \{0, 1\} for Bernoulli; got values from 255 to 255"):
        entry(model, MeanField(model), x)
    assert ppl_vae.fit(model, MeanField(model), x.clamp(max=1.0), epochs=1).history.train_elbo[0] < 0


@pytest.mark.parametrize("family", [dist.Categorical(torch.ones(5) / 5), dist.Binomial(4, 0.5)])
def test_labels_from_1_of_any_family_and_in_any_order(family):
    y = (torch.arange(3000.0) % 5 + 1).sort(descending=True).values  # the first batches have no 1

    def model(y):
        with pyro.plate("data", len(y)):
            pyro.sample("rating", family, obs=y)

    with pytest.raises(InputError, match=r"from 1 to 5\. They count from 0: subtract 1 \(rating - 1\)\.$"):
        ppl_vae.estimate_evidence(model, lambda y: None, y)


def test_two_classes_from_1_under_a_bernoulli():
    def model(y):
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(0.5), obs=y)

    with pytest.raises(InputError, match=r"from 1 to 2\. They count from 0: subtract 1"):
        ppl_vae.estimate_evidence(model, lambda y: None, torch.arange(30.0) % 2 + 1)
    with pytest.raises(InputError, match=r"from 0\.5 to 2\. Rescale"):
        ppl_vae.estimate_evidence(model, lambda y: None, torch.arange(30.0) % 2 * 1.5 + 0.5)


@pytest.mark.parametrize("ask", [ppl_vae.fit, ppl_vae.estimate_evidence])
@pytest.mark.parametrize("row", [3, 299, 2990])
def test_bounds_that_a_plate_has_expanded_hold_for_all_data(ask, row):
    """They have as many numbers as the trial had data: those of another batch were once taken as they are."""

    def model(y):
        p = pyro.param("p", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Binomial(4, p), obs=y)

    y = torch.arange(float(row + 10)) % 5
    y[row] = 7
    with pytest.raises(InputError, match=r"from 0 to 4 for Binomial; got values from 7 to 7"):
        ask(model, lambda y: None, y)


@pytest.mark.parametrize("hole", [False, True])
def test_bytes_are_to_be_divided(hole):
    levels = np.random.default_rng(0).integers(0, 256, (60, 5)).astype("float32")
    levels[0] = 0, 255, 0, 255, 255
    two = np.where(levels > 99, 255, 0).astype("float32")
    survey = np.where(levels > 99, 4, levels % 4).astype("float32")
    for x, likelihood, message in (
        (two, likelihoods.Bernoulli(), r"from 255 to 255\. They are grey levels up to 255: divide by it \(x / 255\)"),
        (levels, likelihoods.ContinuousBernoulli(), r"divide by it \(x / 255\)"),
        (levels, likelihoods.DiscretizedLogistic(), r"divide by it \(x / 255\)"),
        (levels, likelihoods.Bernoulli(), "Rescale them, or use a likelihood"),  # these are grey, and no ones and zeros
        (survey, likelihoods.ContinuousBernoulli(), "Rescale them, or use a likelihood"),
    ):
        model = VAE((5,), likelihood=likelihood)
        given = x.copy()
        given[1, 0] = np.nan if hole else given[1, 0]
        with pytest.raises(InputError, match=message):
            ppl_vae.fit(model, MeanField(model), given, epochs=1, progress=False)
