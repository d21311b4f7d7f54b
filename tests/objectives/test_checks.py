"""What `fit` says before any work: plates that are not over the data, latents of all data, and what is no bound."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence, limit
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoLaplaceApproximation, AutoNormal
from pyro.infer.autoguide.initialization import init_to_mean

from ppl_vae import InputError, estimate_evidence, fit
from ppl_vae.objectives import IWAE

QUIET = dict(progress=False, compile=False, threads=1)
X = torch.linspace(-2.0, 2.5, 60)


def data_plate(x):
    return pyro.plate("data", len(x))


def pair_in(plate):
    """z ~ N(0, 1), x ~ N(z, 1), and a guide with two parameters, both in this plate."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor([[0.1]]))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with plate(x):
            pyro.sample("z", dist.Normal(slope.squeeze() * x, scale))

    return model, guide


def unsized(x):
    return pyro.plate("data")


def test_a_plate_without_a_size_is_over_the_data():
    """The same fit, number for number, as with a size; also with weight decay, which a loss of the wrong sign grows."""
    found = [fit(*pair_in(plate), X, validation=X, epochs=20, learning_rate=0.05, weight_decay=0.1, **QUIET)
             for plate in (data_plate, unsized)]  # fmt: skip
    for name in ("train_elbo", "validation_elbo"):
        one, other = (getattr(fitted.history, name) for fitted in found)
        assert list(one) == pytest.approx(list(other))
    assert found[1].best_epoch == found[0].best_epoch
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(X)
    evidence = [estimate_evidence(*pair_in(plate), X, num_samples=500, **QUIET) for plate in (data_plate, unsized)]
    assert list(evidence[0].log_px) == list(evidence[1].log_px)
    check_evidence(evidence[1], exact)


@pytest.mark.parametrize("run", [fit, estimate_evidence])
def test_a_plate_without_a_size_makes_no_latent_for_each_datum(run):
    def model(x):
        with unsized(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with unsized(x):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with pytest.raises(InputError, match=r"a value of 'z' for each datum; got one of shape \(\): a plate"):
        run(model, guide, X, **QUIET)


@pytest.mark.parametrize("size", [5, 61, 1000])
def test_a_plate_of_another_size_is_refused(size):
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
        with pyro.plate("data", size):
            pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.param("a", torch.tensor(1.0))
        pyro.sample("z", dist.Normal(x / 2, pyro.param("a")).to_event(1))
        with pyro.plate("data", size):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    for run in (fit, estimate_evidence):
        with pytest.raises(InputError, match=f"'data' to be as long as its data, .* got one of size {size}"):
            run(model, guide, X, **QUIET)


def test_two_plates_that_hold_every_site():
    """Rows and columns in plates of names that say nothing: the one that is as long as the data is theirs."""

    def model(x):
        with pyro.plate("one", len(x), dim=-2), pyro.plate("other", 6, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 6), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("one", len(x), dim=-2), pyro.plate("other", 6, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.8))

    for count in (5, 7, 9):  # with 7 a trial on 6 of them cannot tell
        x = torch.randn(count, 6)
        exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1)
        check_evidence(estimate_evidence(model, guide, x, method="importance", num_samples=3000, **QUIET), exact)


def test_data_outside_of_a_plate_are_refused_as_in_pyro():
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x * pyro.param("a", torch.tensor(0.5)), 1.0))

    for run in (fit, estimate_evidence):
        with pytest.raises(InputError, match=r"site '[xz]' \(.*\) (of .*model with 60|and z outside)"):
            run(model, guide, X, **QUIET)
    # So does Pyro.
    with pyro.get_param_store().scope(), pytest.raises(ValueError, match="invalid log_prob shape"):
        pyro.infer.Trace_ELBO().loss(model, guide, X)


# A latent of all data together.


def shared(plate):
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with plate(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
        pyro.sample("mu", dist.Normal(loc, scale))

    return model, guide


def without_a_plate(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    pyro.sample("x", dist.Normal(mu, 1.0).expand([len(x)]).to_event(1), obs=x)


def test_a_latent_of_all_data_needs_a_plate_that_says_how_many():
    model, guide = shared(data_plate)
    for program in (model, shared(unsized)[0], without_a_plate):
        with pytest.raises(
            InputError, match=r"of all of them together; got batches of 20 of 60.*plate.\'data\', 60, sub"
        ):
            fit(program, guide, X, batch_size=20, **QUIET)
        fit(program, guide, X, batch_size=60, epochs=1, **QUIET)
    with pytest.raises(InputError, match="of 20 of 60 data"):  # a plate of another number
        fit(shared(lambda x: pyro.plate("data", 50, subsample=x))[0], guide, X, batch_size=20, **QUIET)


def test_a_latent_of_all_data_in_batches():
    """The posterior of mu, N(mean of x, 1 / N), and the ELBO per datum, that of log P(x_1, ..., x_N) / N."""
    model, guide = shared(lambda x: pyro.plate("data", len(X), subsample=x))
    fitted = fit(model, guide, X, batch_size=20, epochs=1500, learning_rate=0.01, **QUIET)
    scale = float(fitted.params["scale"])
    assert scale == pytest.approx(1 / math.sqrt(len(X)), rel=0.15)
    covariance = torch.eye(len(X)) + 100.0
    exact = torch.distributions.MultivariateNormal(torch.zeros(len(X)), covariance).log_prob(X) / len(X)
    assert fitted.history.train_elbo[-100:].mean() == pytest.approx(float(exact), abs=0.03)


# What is no bound.


def test_it_is_said_what_is_no_bound():
    model, guide = pair_in(data_plate)

    def with_factor(x):
        guide(x)
        with pyro.plate("again", len(x)):
            pyro.factor("penalty", x**2, has_rsample=True)

    def observing(x):
        with pyro.plate("again", len(x)):
            pyro.sample("t", dist.Bernoulli(0.5), obs=torch.ones(len(x)))
        guide(x)

    def masked(x):
        with poutine.mask(mask=x > 0):
            guide(x)

    said = {with_factor: "'penalty' of the guide is a factor", observing: "'t' of the guide is observed"}
    for other, words in (said | {masked: "'z' is not masked alike"}).items():
        with pytest.warns(UserWarning, match=f"Trace_ELBO is no bound.*{words}"):
            fit(model, other, X, epochs=1, **QUIET)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted = fit(model, other, X, epochs=1, objective=IWAE(20), learning_rate=1e-9, **QUIET)
        exact = float(dist.Normal(0.0, math.sqrt(2)).log_prob(X).mean())
        assert fitted.history.train_elbo[0] < exact + limit() * 0.1  # whose samples are of Q alone


@pytest.mark.parametrize("sign", [1, -1])
def test_points_have_to_state_the_density_of_what_they_are_made_of(sign):
    def model(x):
        with data_plate(x):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.log(), 1.0), obs=x)

    def guide(x):
        with data_plate(x):
            loc = x * pyro.param("slope", torch.tensor(0.5))
            u = pyro.sample("u", dist.Normal(loc, 0.7), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-sign * u))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(model, guide, X, epochs=1, **QUIET)
    assert [w.filename for w in said] == ([] if sign == 1 else [__file__])
    assert all("'z' of the guide are points (Delta) that do not state the density" in str(w.message) for w in said)


def narrow(x):
    """z ~ N(0, 1), x ~ N(z, 0.1): P(x, z) at its mode is above P(x) = N(x; 0, 1.01)."""
    with data_plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


@pytest.mark.parametrize("automatic", [AutoDelta, AutoLaplaceApproximation])
def test_the_mode_of_all_data_together_is_said_to_be_no_bound(automatic):
    with pytest.warns(UserWarning, match="no bound of log P.*'z' of the guide are points"):
        fitted = fit(narrow, automatic(narrow), X, epochs=200, learning_rate=0.1, batch_size=len(X), **QUIET)
    assert fitted.history.train_elbo[-1] > float(dist.Normal(0.0, math.sqrt(1.01)).log_prob(X).mean()) + 0.5


@pytest.mark.parametrize("automatic", [AutoDiagonalNormal, AutoLaplaceApproximation])
def test_one_site_for_all_data_is_no_guide_of_each(automatic):
    with pytest.raises(InputError, match="draws all data in one site is none of each: use AutoNormal"):
        estimate_evidence(narrow, automatic(narrow), X, **QUIET)


def test_an_automatic_guide_that_was_never_run():
    """It is made for all the data that it first sees, as in Pyro: N(0, 1.5) for each."""
    guide = AutoNormal(pair_in(data_plate)[0], init_loc_fn=init_to_mean, init_scale=1.5)
    evidence = estimate_evidence(pair_in(data_plate)[0], guide, X, num_samples=3000, **QUIET)
    check_evidence(evidence, dist.Normal(0.0, math.sqrt(2)).log_prob(X))


def test_what_cannot_be_summed_over_is_not_told_to_be():
    """`obs_mask` without a guide for what is not observed: Pyro would count draws of the model as if Q were 1."""

    def model(x, y, seen):
        with data_plate(x):
            y = pyro.sample("y", dist.Normal(0.0, 1.0), obs=y, obs_mask=seen)
            pyro.sample("x", dist.Normal(y, pyro.param("s", torch.tensor(1.0))), obs=x)

    with pytest.raises(InputError, match=r"'y_unobserved'; .* in the guide, or observe it in the model\.$"):
        fit(model, lambda x, y, seen: None, (X, X / 2, X > 0), epochs=1, **QUIET)


@pytest.mark.parametrize("objective", [None, IWAE(2)])
def test_a_scale_is_said(objective):
    scaled = [poutine.scale(program, 1 / len(X)) for program in pair_in(data_plate)]
    with pytest.warns(UserWarning, match="poutine.scale says how often z, x count"):
        fit(*scaled, X, epochs=1, objective=objective, **QUIET)


def test_nothing_is_said_of_a_bound():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(*pair_in(data_plate), X, epochs=1, **QUIET)
        fit(*pair_in(lambda x: pyro.plate("data", len(X), subsample=x)), X, epochs=1, batch_size=20, **QUIET)


def test_draws_outside_of_the_prior_are_refused():
    def model(x):
        with data_plate(x):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(
        InputError, match="draw 'z' where Gamma of the model lies; got values outside of it from Normal"
    ):
        fit(model, pair_in(data_plate)[1], X, epochs=1, **QUIET)


def test_two_names_for_the_plate_over_the_data():
    """Enumerated sites in one plate, the rest in another of the same dimension: it is the same."""

    def model(x):
        with pyro.plate("one", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        with pyro.plate("two", len(x)):
            pyro.sample("x", dist.Normal(2 * c, 1.0), obs=x)

    exact = (dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(X[:, None]) - math.log(2)).logsumexp(1)
    evidence = estimate_evidence(model, lambda x: None, X, **QUIET)
    assert evidence.is_exact
    assert evidence.log_px == pytest.approx(exact.numpy(), rel=1e-5)


@pytest.mark.parametrize("sizes", [(10, 0), (0, 10)], ids=["model", "guide"])
def test_a_plate_of_another_size_in_one_of_the_two_is_refused(sizes):
    """Pyro lets the model take over the guide's places, and scales one of P and Q by more than the other."""
    more, more_in_guide = sizes

    def model(x):
        with pyro.plate("data", len(x) + more):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x) + more_in_guide, subsample=x):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with pytest.raises(InputError, match="plate 'data' to be of one size in model and guide; got"):
        fit(model, guide, X, epochs=1, **QUIET)


def test_where_new_numbers_are_of_double_precision():
    """A scale is held against that of the plates in whatever precision both are."""
    torch.set_default_dtype(torch.float64)
    try:
        fitted = fit(*pair_in(data_plate), X.double(), epochs=1, **QUIET)
    finally:
        torch.set_default_dtype(torch.float32)
    assert math.isfinite(fitted.history.train_elbo[0])
