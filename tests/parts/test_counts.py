"""Counts of a size l: shares of it, dispersions, the prior of l, and log P(x) over (z, l) against quadrature."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from ppl_vae.guides import Conditional, FullCovariance, MeanField
from ppl_vae.models import VAE, Counts, CountsInBatches
from scipy import stats

from ppl_vae import InputError, compare, estimate_evidence, fit, likelihoods, sample
from ppl_vae.conditions import Label
from ppl_vae.distributions import counts
from ppl_vae.networks import MLP
from ppl_vae.priors import LibrarySize, StandardNormal

SMALL = partial(MLP, hidden=(8,), activation="tanh")
TAKE_SIZES = ("NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson")


def cells(num_data=60, num_genes=5):
    """Counts whose sizes differ a hundredfold, and whose genes do a thousandfold."""
    generator = torch.Generator().manual_seed(0)
    size = 10 ** (2 + 2 * torch.rand(num_data, 1, generator=generator))
    kind = torch.randn(num_data, 1, generator=generator) * torch.arange(num_genes).cos()
    shares = torch.softmax(torch.linspace(0, math.log(1000), num_genes) + kind, -1)
    return torch.poisson(size * shares, generator=generator)


@pytest.mark.parametrize("name", TAKE_SIZES)
def test_means_are_shares_of_the_size(name):
    likelihood = likelihoods.of_shares(getattr(likelihoods, name)()).double().bind((4,))
    likelihood.data_log_mean.copy_(torch.tensor([0.3, -1.0, 0.0, 2.0]))
    h = torch.randn(3, likelihood.h_shape[0], dtype=torch.double)
    log_l = torch.tensor([2.0, 5.0, -1.0], dtype=torch.double)
    params = np.split(h.numpy(), likelihood.num_params, -1)
    a = params[0] if len(params) == 1 or name == "NegativeBinomial" else params[1]
    shares = np.exp(a + likelihood.data_log_mean.numpy())
    mean = np.exp(log_l.numpy())[:, None] * shares / shares.sum(-1, keepdims=True)
    if name.startswith("Zero"):
        mean *= 1 / (1 + np.exp(params[0]))
    with torch.no_grad():
        np.testing.assert_allclose(likelihood(h, log_l).mean, mean, rtol=1e-6)


@pytest.mark.parametrize("name", ["NegativeBinomial", "ZeroInflatedNegativeBinomial"])
def test_a_dispersion_for_each_dimension(name):
    """One r for each gene, learned, against SciPy; its gradient is not zero."""
    likelihood = getattr(likelihoods, name)("per_dimension").double().bind((3,))
    assert likelihood.h_shape == (3 if name == "NegativeBinomial" else 6,)
    with torch.no_grad():
        likelihood.log_r.copy_(torch.tensor([-1.0, 0.5, 2.0]))
    h, x = torch.randn(likelihood.h_shape, dtype=torch.double), torch.tensor([0.0, 3, 11], dtype=torch.double)
    r = math.log(2) * np.exp([-1.0, 0.5, 2.0]) + 1e-6
    expected = stats.nbinom.logpmf(x, r, r / (r + np.exp(h[-3:].numpy())))
    if name.startswith("Zero"):
        gate = 1 / (1 + np.exp(-h[:3].numpy()))
        expected = np.log(gate * (x.numpy() == 0) + (1 - gate) * np.exp(expected))
    log_prob = likelihood(h).log_prob(x)
    assert float(log_prob.detach()) == pytest.approx(expected.sum(), rel=1e-8)
    log_prob.backward()
    assert bool((likelihood.log_r.grad != 0).all())


LARGE = np.array([0.0, 1010.0, 10_100.0, 100_300.0, 1_001_000.0])
MEANS, R = np.array([3.0, 1e3, 1e4, 1e5, 1e6]), np.array([1e6, 1e6, 1e3, 10.0, 1e5])


@pytest.mark.parametrize("name", TAKE_SIZES)
def test_large_counts_are_scored_in_full(name):
    """In single precision log-factorials of such counts, and of r, are off by tenths of nats, and nearly cancel."""
    likelihood = getattr(likelihoods, name)().bind((5,))
    h = torch.tensor(np.log(MEANS)).float()
    if "Negative" in name:
        likelihood.data_r.copy_(torch.tensor(R / math.log(2)))
        expected = stats.nbinom.logpmf(LARGE, R, R / (R + np.exp(h.double().numpy())))
        h = torch.cat([h, torch.zeros(5)])
    else:
        expected = stats.poisson.logpmf(LARGE, np.exp(h.double().numpy()))
    if name.startswith("Zero"):
        h = torch.cat([torch.zeros(5), h])
        expected = np.logaddexp(np.where(LARGE == 0, 0.0, -np.inf), expected) - math.log(2)
    found = likelihood(h).base_dist.log_prob(torch.tensor(LARGE).float())
    np.testing.assert_allclose(found.detach(), expected, atol=5e-3)


def test_a_long_document_is_scored_in_full():
    x, h = torch.tensor([1e6, 2e5, 30.0]), torch.tensor([3.0, 1.4, -7.0])
    p = np.exp(h.double().numpy()) / np.exp(h.double().numpy()).sum()
    expected = stats.multinomial.logpmf(x.numpy().astype(int), int(x.sum()), p)
    assert likelihoods.Multinomial().bind((3,))(h).log_prob(x).item() == pytest.approx(expected, rel=1e-4)
    binomial = likelihoods.Binomial(200_000).bind((1,))(torch.tensor([0.2]))
    expected = stats.binom.logpmf(110_000, 200_000, 1 / (1 + math.exp(-torch.tensor(0.2).item())))
    assert binomial.log_prob(torch.tensor([110_000.0])).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("expanded", [False, True])
def test_log_p_of_large_numbers_keeps_its_digits(expanded):
    """In single precision against mpmath: as differences of log Gamma they are off by 0.01 to 0.7 nats."""

    def truth(x, r, m):
        x, r, m = map(mpmath.mpf, (x, r, m))
        return mpmath.rf(r, x) / mpmath.factorial(x) * (r / (r + m)) ** r * (m / (r + m)) ** x

    x = torch.tensor([0.0, 6, 6, 950, 40_091, 100_000, 3])
    r = torch.tensor([1e5, 1e4, 1e6, 1e3, 237_595, 0.5, 1e-4])
    m = torch.tensor([0.5, 5.0, 6.5, 1e3, 4e4, 9e4, 20.0])
    binomial, poisson = counts.NegativeBinomial(r, logits=m.log() - r.log()), counts.Poisson(m)
    if expanded:
        binomial, poisson = binomial.expand((2, 7)), poisson.expand((2, 7))
    with mpmath.workdps(40):
        of_r = [float(mpmath.log(truth(*each))) for each in zip(x.tolist(), r.tolist(), m.tolist(), strict=True)]
        of_m = [
            float(n * mpmath.log(a) - a - mpmath.loggamma(n + 1)) for n, a in zip(x.tolist(), m.tolist(), strict=True)
        ]
    torch.testing.assert_close(
        binomial.log_prob(x), torch.tensor(of_r).expand(binomial.batch_shape), rtol=2e-5, atol=5e-5
    )
    torch.testing.assert_close(
        poisson.log_prob(x), torch.tensor(of_m).expand(poisson.batch_shape), rtol=2e-5, atol=5e-5
    )


def test_log_p_is_finite_at_the_ends():
    """Where a mean or a size leaves single precision, log P and its gradients are what they were, and no NaN."""
    log_m = torch.tensor([-200.0, -100.0, 0.0, 50.0, 90.0, 200.0]).repeat_interleave(12).requires_grad_()
    r = torch.tensor([1e-6, 1.0, 1e3, 1e9]).repeat_interleave(3).repeat(6).requires_grad_()
    x = torch.tensor([0.0, 3.0, 1e6]).repeat(24)
    log_p = counts.NegativeBinomial(r, logits=log_m - r.log()).log_prob(x)
    log_p.sum().backward()
    for found in (log_p, log_m.grad, r.grad):
        assert bool(torch.isfinite(found).all())
    assert counts.Poisson(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0])).tolist() == [
        pytest.approx(0, abs=1e-6),
        -math.inf,
    ]


def test_a_start_tells_the_spread_of_genes_from_that_of_sizes():
    """Poisson counts of sizes that differ: given the size they vary no more than that, so r is large."""
    torch.manual_seed(0)
    size = 10 ** (2 + torch.rand(4000, 1))
    x = torch.poisson(size * torch.tensor([0.5, 0.3, 0.2]))
    x[:, 2] = torch.poisson(x[:, 2] * torch.distributions.Gamma(2.0, 2.0).sample((4000,)))  # r = 2
    alone, shares = likelihoods.NegativeBinomial("per_dimension"), likelihoods.NegativeBinomial("per_dimension")
    for likelihood in (alone.bind((3,)), likelihoods.of_shares(shares).bind((3,))):
        likelihood.start_from(x)
    assert bool((alone.r(None) < 5).all())
    assert bool((shares.r(None)[:2] > 8).all())
    assert 1.0 < float(shares.r(None)[2].detach()) < 4.0
    with torch.no_grad():
        mean = shares(torch.zeros(4000, 3), x.sum(-1).log()).mean.sum(0)
    torch.testing.assert_close(mean, x.sum(0), rtol=0.02, atol=0)


def test_the_prior_of_the_size_is_that_of_the_totals():
    x = cells()
    x[3, 1] = math.nan
    library = LibrarySize((5,))
    library.start_from(x)
    log_totals = np.log(np.nansum(x, 1))
    np.testing.assert_allclose(library.data_mean, log_totals.mean(), rtol=1e-5)
    np.testing.assert_allclose(library.data_scale, log_totals.std(), rtol=1e-5)
    library.start_from(torch.tensor([[2.0, 0, 0, 0, 8], [5, 5, 0, 0, 0]]))  # of one size: it does not vary
    assert library.log_size(torch.tensor(3.0)).exp().item() == pytest.approx(10, rel=1e-5)
    library.start_from(x)
    drawn = library.log_size(library().sample((4000,)))
    assert abs(float(drawn.mean()) - log_totals.mean()) < 5 * log_totals.std() / 4000**0.5


@pytest.mark.parametrize("kind", ["NegativeBinomial", "ZeroInflatedNegativeBinomial"])
def test_log_px_against_quadrature_over_z_and_l(kind):
    """log P(x) is the double sum over a grid of z and u, by SciPy's negative binomial; z has one dimension."""
    x = cells(40)
    likelihood = getattr(likelihoods, kind)("per_dimension")
    model = Counts((5,), StandardNormal(1), likelihood, decoder=SMALL)
    guide = FullCovariance(model, encoder=SMALL)
    fit(model, guide, x, epochs=100, learning_rate=0.02, progress=False)
    found = estimate_evidence(
        model, guide, x[:6], num_samples=20_000, method="importance", proposal="refined", progress=False
    )
    assert found.quantity == "log P(x)"

    doubted = {doubt.datum for doubt in found.doubts()}
    assert len(doubted) < 3
    z, u = np.linspace(-7, 7, 281), np.linspace(-7, 7, 1401)
    with torch.no_grad():
        h = model.decoder(torch.tensor(z[:, None]).float()).double().numpy()
        r = model.likelihood.r(None).double().numpy()
    mu, m, s = (
        t.double().numpy() for t in (model.likelihood.data_log_mean, model.library.data_mean, model.library.data_scale)
    )
    shares = np.exp(mu + h[:, -5:])
    mean = np.exp(m + s * u)[None, :, None] * (shares / shares.sum(-1, keepdims=True))[:, None]
    log_prior = stats.norm.logpdf(z)[:, None] + stats.norm.logpdf(u) + np.log((z[1] - z[0]) * (u[1] - u[0]))
    for n, datum in enumerate(x[:6].double().numpy()):
        log_p = stats.nbinom.logpmf(datum, r, r / (r + mean))
        if kind.startswith("Zero"):
            gate = 1 / (1 + np.exp(-(h[:, :5] + model.likelihood.data_gate.double().numpy())))[:, None]
            log_p = np.logaddexp(np.where(datum == 0, np.log(gate), -np.inf), np.log1p(-gate) + log_p)
        exact = np.logaddexp.reduce(log_prior + log_p.sum(-1), axis=(0, 1))
        assert n in doubted or abs(found.log_px[n] - exact) < 6 * found.mcse[n] + 2e-3, n


def test_an_observed_size_is_given_and_another_quantity():
    x = cells()
    pairs = {}
    for library in ("latent", "observed"):
        model = Counts((5,), StandardNormal(2), decoder=SMALL, library=library)
        pairs[library] = model, MeanField(model, encoder=SMALL)
        fit(*pairs[library], x, epochs=3, progress=False)
    found = {
        n: estimate_evidence(*p, x[:9], num_samples=50, method="importance", progress=False) for n, p in pairs.items()
    }
    assert (found["latent"].quantity, found["observed"].quantity) == ("log P(x)", "log P(x | l)")
    with pytest.raises(InputError, match=r"one quantity.*log P\(x \| l\)"):
        compare(found)
    assert sample(pairs["observed"][0], 7).shape == (7, 5)
    holes = torch.where(x == x[0, 0], math.nan, x)
    with pytest.raises(InputError, match=r"without missing values.*library='latent'"):
        fit(*pairs["observed"], holes, epochs=1, progress=False)
    fit(*pairs["latent"], holes, epochs=1, progress=False)


def test_counts_of_a_large_range_train():
    """Raw counts once ended in NaN in the first epoch, or far below genes on their own."""
    x = cells(200, 8)
    train, test = x[:150], x[150:]
    mean, variance = train.double().numpy().mean(0), train.double().numpy().var(0)
    r = np.clip(mean**2 / (variance - mean), 1e-2, 1e3)
    alone = stats.nbinom.logpmf(test.numpy(), r, r / (r + mean)).sum(1).mean()
    for model in (
        VAE((8,), StandardNormal(2), likelihoods.NegativeBinomial(), decoder=SMALL),
        Counts((8,), StandardNormal(2), decoder=SMALL),
    ):
        guide = MeanField(model, encoder=SMALL)
        fitted = fit(model, guide, train, epochs=150, learning_rate=5e-3, progress=False)
        assert np.isfinite(fitted.history.train_elbo).all()
        found = estimate_evidence(model, guide, test, num_samples=200, method="importance", progress=False)
        assert found.log_px.mean() > alone, (type(model).__name__, found.log_px.mean(), alone)


def test_batches_are_a_condition():
    """One batch reads its first gene ten times as often: given y, its mean is."""
    torch.manual_seed(0)
    x, y = cells(200), torch.arange(200) % 2
    x[y == 1, 0] = torch.poisson(10 * x[y == 1, 0] + 50)
    model = CountsInBatches((5,), Label(2), StandardNormal(1), likelihoods.NegativeBinomial("per_dimension"))
    guide = Conditional(model)
    fit(model, guide, (x, y), epochs=100, batch_size=50, learning_rate=0.02, progress=False)
    found = estimate_evidence(model, guide, (x[:5], y[:5]), num_samples=50, method="importance", progress=False)
    assert found.quantity == "log P(x | y)"
    assert sample(model, 3, y=torch.tensor([0, 1, 1])).shape == (3, 5)
    with torch.no_grad():
        h = model.decoder(torch.zeros(2, 1), model.condition.encode(torch.arange(2)))
        shares = model.likelihood(h, torch.zeros(2)).mean[:, 0]
    assert shares[1] > 1.5 * shares[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Counts((3,), library="both"), "'latent' or 'observed'; got 'both'"),
        (
            lambda: Counts((3,), likelihood=likelihoods.Bernoulli()),
            "likelihood of counts by their means.*got Bernoulli",
        ),
        (lambda: CountsInBatches((3,), likelihood=likelihoods.Multinomial()), "got Multinomial"),
        (lambda: likelihoods.NegativeBinomial("gene"), "'per_datum' or 'per_dimension'; got 'gene'"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
