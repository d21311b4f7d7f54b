"""Particle filters against the Kalman filter, on a linear-Gaussian state space model: chains, and loops over time.

z_1 ~ N(0, S),    z_t ~ N(A z_(t-1), S),    x_t ~ N(C z_t, R)
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_log_px, check_means, limit
from ppl_vae.guides import DeepMarkov as Guide
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE, DeepMarkov
from torch import nn

from ppl_vae import Evidence, InputError, estimate_evidence, fit
from ppl_vae.distributions.chains import Chain
from ppl_vae.evidence.smc import filtered, systematic
from ppl_vae.likelihoods import Gaussian
from ppl_vae.missing import Observed
from ppl_vae.priors import Prior

A = torch.tensor([[0.9, 0.3], [-0.2, 0.8]])
C = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, -1.0]])
S, R = 0.6, 0.7  # standard deviations
T, N = 7, 5
QUIET = dict(progress=False, compile=False, threads=1)


def kalman(x):
    """log P(x) of each series [N, T, 3], of what is not NaN, by the Kalman filter in NumPy."""
    a, c, found = A.double().numpy(), C.double().numpy(), []
    for series in np.asarray(x, dtype=float):
        mean, cov, total = np.zeros(2), np.zeros((2, 2)), 0.0
        for t, values in enumerate(series):
            if t:
                mean, cov = a @ mean, a @ cov @ a.T
            cov = cov + S**2 * np.eye(2)
            seen = ~np.isnan(values)
            if seen.any():
                own = c[seen]
                error, spread = values[seen] - own @ mean, own @ cov @ own.T + R**2 * np.eye(seen.sum())
                total -= 0.5 * (error @ np.linalg.solve(spread, error) + np.linalg.slogdet(2 * np.pi * spread)[1])
                gain = cov @ own.T @ np.linalg.inv(spread)
                mean, cov = mean + gain @ error, cov - gain @ own @ cov
        found.append(total)
    return np.array(found)


class Linear(Prior):
    """P(z_t | z_(t-1)) = N(A z_(t-1), S^2 I)."""

    def forward(self, c=None):
        return dist.Normal(self.zeros if c is None else c @ A.T, S).to_event(1)


class Emission(nn.Module):
    def forward(self, z):
        return z @ C.T


def chain_model():
    return DeepMarkov((T, 3), prior=Linear(2), likelihood=Gaussian(sigma=R), decoder=Emission())


def one_step(before, x):
    """An imperfect Q(z_t | z_(t-1), x_t): half of the way to what x_t says, and too wide."""
    seen = ~x.isnan()
    mean = torch.zeros(2) if before is None else before @ A.T
    error = torch.where(seen, x.nan_to_num() - mean @ C.T, 0.0)
    return dist.Normal(mean + 0.3 * error @ C, 0.8 * S).to_event(1)


def chain_guide(x):
    with pyro.plate("data", len(x)):
        return pyro.sample("z", Chain(one_step, x.shape[1], x))


def loop_model(x):
    z = torch.zeros(2)
    with pyro.plate("data", len(x)):
        for t in range(x.shape[1]):
            z = pyro.sample(f"z_{t}", dist.Normal(z @ A.T, S).to_event(1))
            pyro.sample(f"x_{t}", Observed(dist.Normal(z @ C.T, R), 1), obs=x[:, t])


def loop_guide(x):
    z = None
    with pyro.plate("data", len(x)):
        for t in range(x.shape[1]):
            z = pyro.sample(f"z_{t}", one_step(z, x[:, t]))


def series(num_data=N):
    """Draws of the model, of which some end sooner, and some numbers are missing."""
    x = chain_model()(size=num_data).detach()
    x[0, 4:], x[1, 2], x[2, 0, 1], x[3, :2] = math.nan, math.nan, math.nan, math.nan
    return x


PAIRS = {"chain": lambda: (chain_model(), chain_guide), "loop": lambda: (loop_model, loop_guide)}


@pytest.mark.parametrize("proposal", ["guide", "prior"])
@pytest.mark.parametrize("name", PAIRS)
def test_filters_find_what_the_kalman_filter_knows(name, proposal):
    """With missing values and unequal lengths; K = 400 in 16 filters: a handful of errors off at most."""
    x = series()
    options = dict(method="smc", num_samples=400, num_filters=16, proposal=proposal, **QUIET)
    evidence = estimate_evidence(*PAIRS[name](), x, **options)
    off = np.abs(evidence.log_px - kalman(x))
    assert (off <= limit(N, dof=15) * evidence.mcse + 1e-3).all(), (off, evidence.mcse)
    assert (evidence.filtering.resampled.sum(0) > 0.5).any() and evidence.is_believed, evidence
    assert evidence.filtering.ess.shape == (T, N) and evidence.method == "smc"


@pytest.mark.parametrize("name", PAIRS)
def test_the_mean_of_many_filters_is_p_of_x(name):
    """Unbiased with resampling in play: 2,000 filters of 8 particles, whose mean has P(x) as its expectation."""
    x, repeats = series(), 2000
    evidence = estimate_evidence(*PAIRS[name](), x, method="smc", num_samples=8, num_filters=repeats, **QUIET)
    assert (evidence.diagnostics["num_resampled"] > 0.5).any()
    check_log_px(evidence.log_px, evidence.mcse, kalman(x), repeats)


class Switch:
    """Particles of a chain of two states, drawn evenly; what each step observes has these probabilities, [T, 2]."""

    stays, seen = (
        torch.tensor([[0.9, 0.1], [0.3, 0.7]]),
        torch.tensor([[0.9, 0.2], [0.05, 0.8], [0.7, 0.3], [0.02, 0.6]]),
    )
    num_steps = len(seen)

    def __init__(self, num_particles):
        self.before, self.count = torch.zeros(num_particles, 1, dtype=torch.long), num_particles

    def step(self, t):
        z = torch.randint(2, (self.count, 1))
        weights = 2 * self.stays[self.before, z] * self.seen[t, z]
        self.before = z
        return weights.log()

    def choose(self, index):
        self.before = self.before.gather(0, index)

    def exact(self):
        forward = torch.tensor([1.0, 0.0])
        for seen in self.seen:
            forward = (forward @ self.stays) * seen
        return float(forward.sum())


def test_a_hundred_thousand_filters_leave_no_room_for_a_bias():
    """P(x) of two states by the forward recursion, to two percent: few particles, chosen anew at most steps."""
    repeats = 100_000
    switch = Switch(4 * repeats)
    found = filtered(switch, repeats)
    assert (found.resampled[:-1].mean(1) > 0.05).all()
    check_means(np.exp(found.log_px), [switch.exact()])


def test_chains_and_loops_give_the_same_numbers_of_the_same_particles():
    """A step of each of both kinds, from the same z."""
    x, found = series(), []
    for name, pair in PAIRS.items():
        evidence = estimate_evidence(*pair(), x, method="smc", num_samples=300, num_filters=32, **QUIET)
        found.append((evidence.log_px, evidence.mcse, name))
    error = np.hypot(found[0][1], found[1][1])
    assert (np.abs(found[0][0] - found[1][0]) <= limit(N, dof=31) * error).all()


def test_what_the_guide_knows_needs_no_choice_of_particles():
    """The exact posterior of each step given the one before and the future: every particle has one weight, P(x)."""
    x = chain_model()(size=3).detach()[:, :1]  # of one step, where it is that given x_1
    precision = torch.eye(2) / S**2 + C.T @ C / R**2

    def exact(x):
        cov = torch.linalg.inv(precision)
        with pyro.plate("data", len(x)):
            q = dist.MultivariateNormal(x @ C @ cov / R**2, covariance_matrix=cov)
            pyro.sample("z", Chain(lambda before: q, 1))

    evidence = estimate_evidence(chain_model(), exact, x, method="smc", num_samples=20, **QUIET)
    np.testing.assert_allclose(evidence.log_px, kalman(x), atol=1e-4)
    assert (evidence.diagnostics["filter_spread"] < 1e-4).all()


def test_auto_filters_a_chain():
    """And answers what is none, or has a guide of all steps at once, as it does other latents."""
    x = chain_model()(size=3).detach()
    asked = {"num_samples": 200, **QUIET}
    filtered = estimate_evidence(chain_model(), chain_guide, x, **asked)
    check_log_px(filtered.log_px, filtered.mcse, kalman(x), 8)
    assert filtered.method == "smc" and filtered.settings["num_samples"] == 200
    np.testing.assert_array_equal(
        filtered.log_px, estimate_evidence(chain_model(), chain_guide, x, method="smc", **asked).log_px
    )
    model = chain_model()
    assert estimate_evidence(model, MeanField(model), x, **asked).method == "auto"
    assert estimate_evidence(chain_model(), chain_guide, x, tolerance=1.0, **asked).method == "auto"


def test_auto_filters_nothing_that_depends_on_the_time():
    """Also where the first series is too short to show it."""
    x = chain_model()(size=3).detach()
    x[0, 2:] = math.nan
    assert estimate_evidence(of_time, chain_guide, x, num_samples=200, **QUIET).method == "auto"


def test_series_that_are_padded_longer_have_the_same_log_px():
    x = torch.cat([series(), torch.full((N, 4, 3), math.nan)], 1)
    options = dict(method="smc", num_samples=300, num_filters=16, **QUIET)
    evidence = estimate_evidence(chain_model(), chain_guide, x, **options)
    off = np.abs(evidence.log_px - kalman(x))
    assert (off <= limit(N, dof=15) * evidence.mcse + 1e-3).all(), (off, evidence.mcse)
    assert len(evidence.filtering.ess) == T  # no work after the last value


def test_a_series_without_a_value_has_probability_one():
    x = series()
    x[0] = math.nan
    for pair in PAIRS.values():
        evidence = estimate_evidence(*pair(), x, method="smc", num_samples=2000, **QUIET)
        assert abs(evidence.log_px[0]) <= limit(dof=7) * evidence.mcse[0] + 1e-4


def test_numbers_that_stand_for_what_is_missing_count():
    """A program that reads NaN as 0 scores zeros, at the end of a series, too."""

    def zeros(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Chain(Linear(2), x.shape[1]))
            pyro.sample("x", dist.Normal(z @ C.T, R).to_event(2), obs=x.nan_to_num())

    def guide(x):
        return chain_guide(x.nan_to_num())

    x = series()
    evidence = estimate_evidence(zeros, guide, x, method="smc", num_samples=400, num_filters=16, **QUIET)
    off = np.abs(evidence.log_px - kalman(x.nan_to_num()))
    assert (off <= limit(N, dof=15) * evidence.mcse + 1e-3).all(), (off, evidence.mcse)


def test_a_step_that_nothing_fits_is_doubted():
    """A datum far out in its last step, of which a handful of the prior's particles are near."""
    x = series()
    x[4, -1] = 9.0
    evidence = estimate_evidence(chain_model(), None, x, method="smc", proposal="prior", num_samples=200, **QUIET)
    assert 4 in [doubt.datum for doubt in evidence.doubts()] and "particles" in evidence.doubts()[-1].reason
    assert evidence.verdict().startswith(("Not to be believed", "To be believed as a mean"))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_series_that_no_particle_fits_are_told_in_words():
    def narrow(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Chain(Linear(2), x.shape[1]))
            pyro.sample("x", dist.Uniform(z - 0.1, z + 0.1, validate_args=False).to_event(2), obs=x)

    x = torch.full((2, 3, 2), 99.0)
    evidence = estimate_evidence(narrow, None, x, method="smc", proposal="prior", num_samples=20, **QUIET)
    assert (evidence.log_px == -np.inf).all() and "2 of 2 data have log P(x) of minus infinity" in evidence.verdict()


def test_systematic_resampling_draws_each_by_its_share():
    """Each particle k comes floor or ceil of K w_k times, in the mean K w_k times."""
    weights = torch.rand(1, 5, 3).log()
    counts = []
    for _ in range(4000):
        index = systematic(weights)
        counts.append(torch.nn.functional.one_hot(index, 5).sum(1)[0].T)
    counts, expected = torch.stack(counts).double(), 5 * weights.softmax(1)[0]
    assert ((counts - expected).abs() < 1 + 1e-4).all()
    check_means(counts.numpy(), expected.numpy())


def test_it_is_stored_and_printed(tmp_path):
    evidence = estimate_evidence(*PAIRS["chain"](), series(), method="smc", num_samples=50, **QUIET)
    evidence.save(tmp_path / "e.nc")
    again = Evidence.load(tmp_path / "e.nc")
    assert str(again) == str(evidence) and "particle filters of 50 particles" in str(again)
    np.testing.assert_array_equal(again.filtering.ess, evidence.filtering.ess)


def wrong_order(x):
    with pyro.plate("data", len(x)):
        for t in reversed(range(x.shape[1])):
            pyro.sample(f"z_{t}", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def reads_the_past(x):
    """A chain whose x_t depends on z_1, ..., z_t: it cannot be run on one step."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Chain(Linear(2), x.shape[1]))
        pyro.sample("x", dist.Normal(z.cumsum(-2) @ C.T, R).to_event(2), obs=x.nan_to_num())


def of_time(x):
    """A chain whose x_t depends on t from the third step on."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Chain(Linear(2), x.shape[1]))
        later = (torch.arange(x.shape[1]) > 1)[:, None].float()
        pyro.sample("x", Observed(dist.Normal(z @ C.T + later, R), 2), obs=x)


def vae():
    model = VAE((T, 3), likelihood=Gaussian())
    return model, MeanField(model)


REFUSED = {
    "no steps": (vae, {}, "with steps.*got z, drawn before anything is observed"),
    "another order": (lambda: (loop_model, wrong_order), {}, "in the order of the model's steps"),
    "all steps at once": (lambda: ((model := chain_model()), MeanField(model)), {}, "step by step"),
    "the past": (lambda: (reads_the_past, chain_guide), {}, "x_t depends on z_t alone"),
    "the time": (lambda: (of_time, chain_guide), {}, "x_t depends on z_t alone"),
    "a proposal": (PAIRS["chain"], {"proposal": "laplace"}, "proposal='guide' or 'prior'"),
    "one filter": (PAIRS["chain"], {"num_filters": 1}, "num_filters of at least 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case):
    pair, options, words = REFUSED[case]
    x = series()
    x[0, 1:] = math.nan  # a datum that shows little
    with pytest.raises(InputError, match=f"(?s){words}"):
        estimate_evidence(*pair(), x, method="smc", **{"num_samples": 10, **QUIET, **options})


def test_the_recurrent_guide_is_right_or_in_doubt():
    """Hardly fitted, it is far from some posteriors: what is not doubted is right; gradients of holes are finite."""
    model, x = chain_model(), series()
    guide = Guide(model, hidden=8)
    fitted = fit(model, guide, x, epochs=2, progress=False)
    assert np.isfinite(fitted.history.train_elbo).all()
    evidence = estimate_evidence(model, guide, x, method="smc", num_samples=500, num_filters=16, **QUIET)
    off, doubtful = np.abs(evidence.log_px - kalman(x)), [doubt.datum for doubt in evidence.doubts()]
    right = off <= limit(N, dof=15) * evidence.mcse + 1e-3
    assert set(np.flatnonzero(~right)) <= set(doubtful), (off, evidence.mcse)
