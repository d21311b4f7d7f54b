"""Each likelihood against an independent formula, and what it says to data that it does not take."""

import copy
import itertools
import math
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from scipy import integrate, stats

from ppl_vae import InputError, estimate_evidence, fit, likelihoods
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal

SIZE = 6
H = torch.linspace(-2.0, 2.5, 3 * SIZE, dtype=torch.double)
A, B, C = H.chunk(3)
UNIT = torch.linspace(0.02, 0.98, SIZE, dtype=torch.double)
COUNTS = torch.tensor([0.0, 1, 3, 0, 7, 2], dtype=torch.double)


def sigmoid(h):
    return 1 / (1 + np.exp(-np.asarray(h)))


def softplus(h):
    return np.log1p(np.exp(np.asarray(h)))


def nbinom(x, a, b):
    r = softplus(b) + 1e-6
    return stats.nbinom.logpmf(x, r, r / (r + np.exp(a)))


def inflated(x, gate, log_prob):
    g = sigmoid(gate)
    return np.log(g * (x == 0) + (1 - g) * np.exp(log_prob))


def gamma(x, a, b):
    shape = softplus(b) / np.log(2) + 1e-6
    return stats.gamma.logpdf(x, shape, scale=np.exp(a) / shape)


def beta(x, a, b):
    total = 2 * (softplus(b) / np.log(2) + 1e-6)
    return stats.beta.logpdf(x, total * sigmoid(a), total * sigmoid(-a))


def given_scale(start, b):
    return start * (softplus(b) / np.log(2) + 1e-3)


FORMULAS = {
    "beta": (likelihoods.Beta(), UNIT, beta),
    "gamma": (likelihoods.Gamma(), 1 + COUNTS, gamma),
    "log_normal": (likelihoods.LogNormal(0.3), UNIT, lambda x, a: stats.lognorm.logpdf(x, 0.3, scale=np.exp(a))),
    "binomial": (likelihoods.Binomial(9), COUNTS, lambda x, a: stats.binom.logpmf(x, 9, sigmoid(a))),
    "gaussian": (likelihoods.Gaussian(0.3), UNIT, lambda x, a: stats.norm.logpdf(x, a, 0.3)),
    "gaussian_learned": (likelihoods.Gaussian(), UNIT, lambda x, a: stats.norm.logpdf(x, a, 1.0)),
    "gaussian_per_datum": (
        likelihoods.Gaussian("per_datum", initial_sigma=0.2),
        UNIT,
        lambda x, a, b: stats.norm.logpdf(x, a, given_scale(0.2, b)),
    ),
    "laplace": (likelihoods.Laplace(0.3), UNIT, lambda x, a: stats.laplace.logpdf(x, a, 0.3)),
    "laplace_per_datum": (
        likelihoods.Laplace("per_datum"),
        UNIT,
        lambda x, a, b: stats.laplace.logpdf(x, a, given_scale(1.0, b)),
    ),
    "negative_binomial": (likelihoods.NegativeBinomial(), COUNTS, nbinom),
    "poisson": (likelihoods.Poisson(), COUNTS, lambda x, a: stats.poisson.logpmf(x, np.exp(a))),
    "student_t": (likelihoods.StudentT(0.3, df=3.0), UNIT, lambda x, a: stats.t.logpdf(x, 3.0, a, 0.3)),
    "zero_inflated_negative_binomial": (
        likelihoods.ZeroInflatedNegativeBinomial(),
        COUNTS,
        lambda x, g, a, b: inflated(x, g, nbinom(x, a, b)),
    ),
    "zero_inflated_poisson": (
        likelihoods.ZeroInflatedPoisson(),
        COUNTS,
        lambda x, g, a: inflated(x, g, stats.poisson.logpmf(x, np.exp(a))),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_against_the_formula(name):
    likelihood, x, formula = FORMULAS[name]
    likelihood = likelihood.double().bind((SIZE,))
    params = (A, B, C)[: likelihood.num_params]
    with torch.no_grad():
        ours = likelihood(torch.cat(params)).log_prob(x)
    expected = formula(x.numpy(), *(p.numpy() for p in params)).sum()
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


def test_gaussian_of_one_sigma_for_each_dimension():
    likelihood = likelihoods.Gaussian("per_dimension", initial_sigma=0.5).bind((2, 3))
    assert likelihood.sigma.shape == (2, 3)
    with torch.no_grad():
        likelihood.log_sigma[0] = math.log(0.2)
    h, x = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    expected = stats.norm.logpdf(x, h, [[0.2] * 3, [0.5] * 3]).sum((1, 2))
    np.testing.assert_allclose(likelihood(h).log_prob(x).detach(), expected, rtol=1e-5)
    likelihood(h).log_prob(x).sum().backward()
    residual = ((x - h) / likelihood.sigma.detach()) ** 2 - 1  # d log p / d log sigma
    torch.testing.assert_close(likelihood.log_sigma.grad, residual.sum(0), rtol=1e-4, atol=1e-3)


def test_a_sigma_given_by_the_decoder_has_a_floor():
    """A pixel that never changes would let it fall to zero, and the density rise without end."""
    likelihood = likelihoods.Gaussian("per_datum", initial_sigma=0.2).bind((1,))
    sigma = likelihood(torch.tensor([0.0, -100.0])).stddev
    torch.testing.assert_close(sigma, torch.tensor([0.2e-3]))


@pytest.mark.parametrize("logit", [-30.0, -3.0, -0.06, -0.04, -1e-3, 0.0, 1e-4, 0.02, 0.3, 0.7, 17.0, 30.0])
def test_continuous_bernoulli(logit):
    """Normalizer, mean and draws, against quadrature of p^x (1 - p)^(1 - x); in single precision."""
    p = likelihoods.ContinuousBernoulli().bind((1,))(torch.tensor([logit]))
    grid = np.linspace(0, 1, 20_001)
    weight = np.exp(logit * grid - max(logit, 0))
    total = integrate.simpson(weight, x=grid)
    for x in (0.0, 0.3, 1.0):
        expected = logit * x - max(logit, 0) - math.log(total)
        assert float(p.log_prob(torch.tensor([x]))) == pytest.approx(expected, abs=1e-4)
    mean = integrate.simpson(weight * grid, x=grid) / total
    assert float(p.mean) == pytest.approx(mean, abs=1e-5)
    torch.manual_seed(0)
    draws = p.sample((3000,)).flatten().double().numpy()
    assert stats.kstest(draws, lambda x: np.expm1(logit * x) / np.expm1(logit) if logit else x).pvalue > 1e-3


def mp_log_prob(k, a, b, num_levels):
    """Of a rounded logistic, with six hundred digits: the difference of two sigmoids, with nothing done about it."""
    with mpmath.workdps(600):
        s = mpmath.exp(b) + mpmath.exp(-7)
        cdf = lambda x: 1 / (1 + mpmath.exp(-(x - mpmath.mpf(a)) / s))  # noqa: E731
        at = lambda level: 2 * mpmath.mpf(level) / (num_levels - 1) - 1  # noqa: E731
        upper = 1 if k == num_levels - 1 else cdf(at(k + mpmath.mpf("0.5")))
        lower = 0 if k == 0 else cdf(at(k - mpmath.mpf("0.5")))
        return float(mpmath.log(upper - lower))


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_discretized_logistic_against_six_hundred_digits(num_levels):
    """In single precision, far out in its tails too, where the difference of sigmoids itself would be 0."""
    likelihood = likelihoods.DiscretizedLogistic(num_levels).bind((1,))
    cases = itertools.product(
        {0, 1, num_levels // 2, num_levels - 1}, (-1.5, -0.3, 0.0, 0.9, 3.0), (-5.0, -2.0, 0.0, 4.0)
    )
    for k, a, b in cases:
        ours = likelihood(torch.tensor([a, b])).log_prob(torch.tensor([k / (num_levels - 1)]))
        assert float(ours) == pytest.approx(mp_log_prob(k, a, b, num_levels), rel=2e-4, abs=2e-5), (k, a, b)


def test_discretized_logistic_has_the_right_gradient():
    likelihood = likelihoods.DiscretizedLogistic().bind((4,))
    x = torch.tensor([0.0, 3.0, 128, 255]) / 255
    h = torch.tensor([-0.9, 0.3, 0.0, 1.2, -2.0, -3.0, 0.0, 1.0], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: likelihood(h).log_prob(x.double()), (h,))


def test_a_mixture_is_a_mean_of_its_components():
    torch.manual_seed(0)
    mixture = likelihoods.DiscretizedLogisticMixture(num_components=3).bind((2,))
    one = likelihoods.DiscretizedLogistic().bind((2,))
    logits, mean, log_scale = torch.randn(3, 3, 2)
    x = torch.tensor([0.0, 77 / 255])
    each = torch.stack(
        [one(torch.cat([mean[c : c + 1], log_scale[c : c + 1]], 1)).base_dist.log_prob(x) for c in range(3)]
    )
    expected = (logits.softmax(0) * each.squeeze(1).exp()).sum(0).log().sum()
    torch.testing.assert_close(mixture(torch.cat([logits, mean, log_scale]).flatten()).log_prob(x), expected)


def test_categorical_reads_the_level():
    likelihood = likelihoods.Categorical(num_levels=17).bind((1, 2, 2))
    h = torch.randn(17, 2, 2)
    level = torch.tensor([[[0, 3], [16, 8]]])
    expected = sum(torch.log_softmax(h[:, i, j], 0)[level[0, i, j]] for i in range(2) for j in range(2))
    torch.testing.assert_close(likelihood(h).log_prob(level / 16), expected)


def test_nominal_reads_the_code():
    likelihood = likelihoods.Nominal(num_levels=5).bind((2, 2))
    h = torch.randn(10, 2)
    codes = torch.tensor([[0, 3], [4, 1]])
    expected = sum(torch.log_softmax(h[i::2, j], 0)[codes[i, j]] for i in range(2) for j in range(2))
    torch.testing.assert_close(likelihood(h).log_prob(codes.float()), expected)


@pytest.mark.parametrize("num_levels", [2, 3, 12])
def test_ordinal_is_a_rounded_logistic_variable(num_levels):
    """P(k) as differences of sigmoids of the thresholds, with sixty digits; in single precision, far out too."""
    likelihood = likelihoods.Ordinal(num_levels).bind((1,))
    for spread in (1.0, 8.0):
        h = spread * torch.randn(num_levels - 1)
        with mpmath.workdps(60):
            cuts = [mpmath.mpf(math.log(k / (num_levels - k))) for k in range(1, num_levels)]
            t = [cuts[0] - float(h[0])]
            for k in range(1, num_levels - 1):
                stretch = mpmath.log(1 + mpmath.exp(float(h[k]))) / mpmath.log(2) + mpmath.mpf("1e-6")
                t.append(t[-1] + (cuts[k] - cuts[k - 1]) * stretch)
            below = [0, *(1 / (1 + mpmath.exp(-each)) for each in t), 1]
            expected = [float(mpmath.log(b - a)) for a, b in itertools.pairwise(below)]
        found = likelihood(h).log_prob(torch.arange(num_levels)[:, None])
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("total", [0, 1, 4])
def test_multinomial(total):
    likelihood = likelihoods.Multinomial(total_count=4).double().bind((1, 3))
    h = torch.randn(1, 3, dtype=torch.double)
    bags = [x for x in itertools.product(range(total + 1), repeat=3) if sum(x) == total]
    log_prob = likelihood(h).log_prob(torch.tensor(bags, dtype=torch.double).unsqueeze(1))
    expected = stats.multinomial.logpmf(bags, total, h.softmax(-1).numpy()[0])
    np.testing.assert_allclose(log_prob, expected, atol=1e-10)
    assert float(log_prob.exp().sum()) == pytest.approx(1.0)
    assert bool((likelihood(h).sample((10,)).sum((1, 2)) == 4).all())


GREY = torch.arange(16.0).reshape(4, 1, 2, 2) / 255
REFUSALS = [
    (likelihoods.Bernoulli(), GREY, r"\{0, 1\} for Bernoulli; got .*Binarize.*DiscretizedLogistic, .*Gaussian"),
    (likelihoods.ContinuousBernoulli(), GREY * 50, r"\[0, 1\] for ContinuousBernoulli.* Gaussian, Laplace"),
    (
        likelihoods.DiscretizedLogistic(),
        GREY * 255 / 16,
        r"1/255, ..., 1\} for Disc.*Logistic\(num_levels=17\)",
    ),
    (
        likelihoods.DiscretizedLogisticMixture(),
        GREY + 2e-3,
        r"for DiscretizedLogisticMixture; .*: ContinuousBernoulli",
    ),
    (likelihoods.Categorical(16), GREY, r"1/15, ..., 1\} for Categorical; .*DiscretizedLogistic, "),
    (likelihoods.Binomial(9), GREY * 255, r"from 0 to 9 for Binomial; got .* 10 to 15\..*Binomial\(total_count=15\)"),
    (likelihoods.Poisson(), GREY, r"whole numbers from 0 on for Poisson; .*DiscretizedLogistic"),
    (likelihoods.NegativeBinomial(), -GREY * 255, r"from 0 on for NegativeBinomial; got values from -15.*: Gaussian"),
    (likelihoods.ZeroInflatedPoisson(), GREY, "from 0 on for ZeroInflated; "),
    (likelihoods.ZeroInflatedNegativeBinomial(), GREY, "from 0 on for ZeroInflated; "),
    (likelihoods.Multinomial(), GREY, "from 0 on for Multinomial; "),
    (likelihoods.LogNormal(), GREY, r"above 0 for LogNormal; got values from 0 to 0\..* ContinuousBernoulli"),
    (likelihoods.Gamma(), -GREY * 255, r"above 0 for Gamma; got values from -15 to -?0\..*: Gaussian"),
    (likelihoods.Beta(), GREY * 17, r"above 0 and below 1 for Beta; got values from 0 to 1\..* ContinuousBernoulli"),
    (likelihoods.Nominal(15), GREY * 255, r"from 0 to 14 for Nominal; got .* 15 to 15\..*Nominal\(num_levels=16\)"),
    (likelihoods.Ordinal(15), 1 + GREY * 254, r"from 0 to 14 for Ordinal; got values from 2 to 15\.9\..* Gamma, "),
]


@pytest.mark.parametrize(("likelihood", "x", "message"), REFUSALS, ids=[type(r[0]).__name__ for r in REFUSALS])
def test_data_outside_the_support_are_refused_before_training(likelihood, x, message):
    network = partial(MLP, hidden=(4,))
    model = VAE((1, 2, 2), prior=StandardNormal(2), likelihood=likelihood, decoder=network)
    guide = MeanField(model, encoder=network)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message) as problem:
        fit(model, guide, x, epochs=1)
    with pytest.raises(InputError, match=message):
        estimate_evidence(model, guide, x, num_samples=2)
    assert "\n" not in str(problem.value)
    assert "--" not in str(problem.value)
    assert "--likelihood " in problem.value.options  # what the command line says
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_all_data_decide_which_likelihoods_are_named():
    """The first thousand are levels; only the last datum is not."""
    x = torch.randint(1, 256, (2500, 1, 2, 2)) / 255
    x[-1] = 0.1234
    network = partial(MLP, hidden=(4,))
    model = VAE((1, 2, 2), prior=StandardNormal(2), decoder=network)
    with pytest.raises(InputError, match="that takes them: ContinuousBernoulli, Gaussian"):
        fit(model, MeanField(model, encoder=network), x, epochs=1)


def test_positive_numbers_and_shares_and_codes_have_likelihoods_of_their_own():
    def named(*values):
        return {cls.__name__ for cls in likelihoods.that_take(torch.tensor(values))}

    assert {"LogNormal", "Gamma", "Beta"} <= named(0.1, 0.25)
    assert {"LogNormal", "Gamma", "Beta"} & named(0.1, 1.0) == {"LogNormal", "Gamma"}
    assert {"LogNormal", "Gamma", "Beta"} & named(0.0, 0.3) == set()
    assert {"Nominal", "Ordinal"} <= named(0.0, 1.0, 2.0)
    assert {"Nominal", "Ordinal"} & (named(0.0, 2.0) | named(0.0, 1.0) | named(1.0, 2.0, 3.0)) == set()


COUNTED = torch.tensor([[0.0, 0, 5], [3, 0, 5], [1, 0, 4], [math.nan, 0, 2], [12, 0, 3]])
POSITIVE = torch.tensor([[3.0, 500, 7], [0.2, 100, 7], [5.0, math.nan, 7], [0.7, 333, 7]])
SHARES = torch.tensor([[0.1, 0.998, 0.5], [0.2, 0.999, 0.5], [0.6, math.nan, 0.5], [0.05, 0.9985, 0.5]])
CODES = torch.tensor([[0.0, 2, 1], [1, 2, 1], [2, math.nan, 1], [0, 2, 0], [0, 2, 1]])
STARTS = [
    (likelihoods.Poisson(), COUNTED),
    (likelihoods.NegativeBinomial(), COUNTED),
    (likelihoods.ZeroInflatedPoisson(), COUNTED),
    (likelihoods.ZeroInflatedNegativeBinomial(), COUNTED),
    (likelihoods.Binomial(12), COUNTED),
    (likelihoods.Gamma(), POSITIVE),
    (likelihoods.Beta(), SHARES),
    (likelihoods.Nominal(3), CODES),
    (likelihoods.Ordinal(3), CODES),
]


@pytest.mark.parametrize(("likelihood", "x"), STARTS, ids=[type(row[0]).__name__ for row in STARTS])
def test_a_likelihood_starts_from_the_mean_of_each_column(likelihood, x):
    """h = 0 is the mean of what is observed in each column, also where all are zero, or the same."""
    likelihood = copy.deepcopy(likelihood).bind((3,))
    likelihood.start_from(x)
    mean = x.nanmean(0).clamp(min=0.5 / len(x) if x is COUNTED else 0.0)
    found = likelihood(torch.zeros(likelihood.h_shape))
    torch.testing.assert_close(found.mean, mean, rtol=0, atol=0.03 if x is CODES else 1e-4 * float(mean.max()))
    assert torch.isfinite(found.log_prob(x)).all()
    saved = copy.deepcopy(likelihood)
    other = type(likelihood)(**OPTIONS.get(type(likelihood), {})).bind((3,))
    other.load_state_dict(saved.state_dict())
    torch.testing.assert_close(other(torch.zeros(likelihood.h_shape)).mean, found.mean)


OPTIONS = {
    likelihoods.Binomial: {"total_count": 12},
    likelihoods.Nominal: {"num_levels": 3},
    likelihoods.Ordinal: {"num_levels": 3},
}


def test_a_spread_starts_from_that_of_each_column():
    """Of h = 0 the variance is that of what is observed."""
    counted = COUNTED[:, [0]] * torch.tensor([1.0, 10.0])
    for likelihood, x in ((likelihoods.NegativeBinomial(), counted), (likelihoods.Gamma(), POSITIVE[:, :2])):
        likelihood.bind((2,)).start_from(x)
        variance = torch.stack([column[~column.isnan()].var(correction=0) for column in x.unbind(1)])
        torch.testing.assert_close(likelihood(torch.zeros(4)).base_dist.variance, variance, rtol=1e-4, atol=0)
    likelihood = likelihoods.LogNormal().bind((2,))
    likelihood.start_from(POSITIVE[:, :2])
    log_x = POSITIVE[:, 0].log()
    torch.testing.assert_close(likelihood(torch.zeros(2)).base_dist.loc[0], log_x.mean())
    torch.testing.assert_close(likelihood(torch.zeros(2)).base_dist.scale[0].detach(), 0.6 * log_x.std(correction=0))


def test_counts_are_for_counts():
    named = {cls.__name__: options for cls, options in likelihoods.that_take(torch.tensor([0.0, 4, 12])).items()}
    counts = {"Poisson", "NegativeBinomial", "ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial", "Multinomial"}
    assert set(named) == counts | {"Binomial"}
    assert named["Binomial"] == {"total_count": 12}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: likelihoods.Gaussian("per_pixel"), "sigma.*'per_dimension', 'per_datum' or None; got 'per_pixel'"),
        (lambda: likelihoods.Laplace(-1.0), "scale.*got -1"),
        (lambda: likelihoods.Laplace(initial_scale=0), "initial_scale.*got 0"),
        (lambda: likelihoods.StudentT(df=1.0), "df above 1"),
        (lambda: likelihoods.Binomial(0), "total_count.*got 0"),
        (lambda: likelihoods.Multinomial(2.5), "total_count.*got 2.5"),
        (lambda: likelihoods.Categorical(1), "num_levels.*got 1"),
        (lambda: likelihoods.Nominal(1), "num_levels.*got 1"),
        (lambda: likelihoods.Ordinal(2.5), "num_levels.*got 2.5"),
        (lambda: likelihoods.LogNormal(-1.0), "sigma.*got -1"),
        (lambda: likelihoods.DiscretizedLogistic(0), "num_levels.*got 0"),
        (lambda: likelihoods.DiscretizedLogisticMixture(num_components=0), "num_components.*got 0"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(InputError, match=message):
        call()
