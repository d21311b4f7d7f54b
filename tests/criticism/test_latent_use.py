"""What the latents are used for, against closed forms of linear-Gaussian models."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_errors, limit
from pairs import PyroTutorialVAE, hierarchical_guide, hierarchical_model, mean_guide, mean_model
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE, LinearGaussian
from pyro import infer

from ppl_vae import InputError
from ppl_vae.criticism.latent_use import latent_use
from ppl_vae.priors import Mixture
from ppl_vae.traces.pair import Pair


def kl_to_standard_normal(mean, scale):
    """KL(N(m, s^2) || N(0, 1)), elementwise."""
    return 0.5 * (mean**2 + scale**2 - 1) - np.log(scale)


def test_the_exact_posterior_of_many_data():
    """Q(z) is nearly the prior, so the KL is information: I(x; z) = 0.5 log det(I + W W^T / sigma^2)."""
    torch.manual_seed(1)
    model = LinearGaussian((20,), latent_dim=2, sigma=2.0)
    with torch.no_grad():
        x = model(size=1000)
        loading, _, variance = model.weights()
        information = 0.5 * float(torch.logdet(torch.eye(20) + loading @ loading.T / variance))
        posterior = model.exact_posterior(x)
        prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        each = torch.distributions.kl_divergence(posterior, prior)
        kl = float(each.mean())
        variance_of_mean = posterior.mean.var(0).numpy()
    use = latent_use(model, ExactPosterior(model), x)
    assert use.kl == pytest.approx(kl, abs=limit() * use.kl_mcse)
    assert use.marginal_kl == pytest.approx(0, abs=0.02)
    of_data = math.hypot(use.kl_mcse, float(each.std()) / math.sqrt(1000))  # information is that of all x
    assert use.mutual_information == pytest.approx(information, abs=limit() * of_data + 0.02)
    np.testing.assert_allclose(use.sites["z"].variance, variance_of_mean, atol=0.02)
    assert not use.sites["z"].per_dimension
    assert "does not factorize" in str(use)
    assert "near it" not in str(use)


def scaled(slope, scale, prior_scale=1.0):
    """x ~ N(z, 1), z_d ~ N(0, prior_scale^2), with a guide N(slope_d x_d, scale_d^2)."""
    slope, scale = torch.tensor(slope), torch.tensor(scale)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(slope)), prior_scale).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale).to_event(1))

    return model, guide


def test_kl_of_each_dimension_and_active_units():
    x = torch.randn(300, 3)
    slope, scale = [0.8, 0.05, 0.0], [0.5, 0.9, 1.0]
    use = latent_use(*scaled(slope, scale), x, chunk_size=500)
    site = use.sites["z"]
    expected = kl_to_standard_normal(np.array(slope) * x.numpy(), np.array(scale)).mean(0)
    np.testing.assert_allclose(site.kl, expected, atol=1e-5)
    assert site.per_dimension
    assert site.kl_mcse < 1e-6
    np.testing.assert_allclose(site.variance, np.array(slope) ** 2 * x.var(0).numpy(), atol=0.01)
    assert site.active == 1
    assert use.kl == pytest.approx(expected.sum(), abs=1e-4)
    assert "1 of 3 units are active" in str(use)


def test_the_aggregated_posterior_against_quadrature():
    """Three data, one latent: Q(z) is a mixture of three Gaussians, its KL an integral on a grid."""
    x = torch.tensor([[-2.0], [0.5], [3.0]])
    use = latent_use(*scaled([0.5], [0.4], prior_scale=1.5), x, num_samples=5000)
    grid = torch.linspace(-12, 12, 20001, dtype=torch.double)
    density = torch.distributions.Normal(0.5 * x.double(), 0.4).log_prob(grid).exp().mean(0)
    log_prior = torch.distributions.Normal(0.0, 1.5).log_prob(grid)
    exact = float(torch.trapezoid(torch.xlogy(density, density) - density * log_prior, grid))
    assert use.marginal_kl == pytest.approx(exact, abs=limit() * use.marginal_kl_mcse)
    assert 0.001 < use.marginal_kl_mcse < 0.02
    assert 0 < use.mutual_information < math.log(3)


def test_information_stops_at_log_n():
    """Posteriors that do not overlap at all tell N data apart: log N nats, and the text says so."""
    x = torch.arange(50.0)[:, None] - 25
    use = latent_use(*scaled([1.0], [0.01]), x)
    assert use.bound == pytest.approx(math.log(50))
    assert use.mutual_information == pytest.approx(use.bound, abs=limit() * use.marginal_kl_mcse + 1e-3)
    assert "near it, so only a lower bound" in str(use)
    assert "near it" in use._repr_html_()


def test_a_collapsed_guide(digits):
    vae = VAE(digits.event_shape)

    def prior(x):
        with vae.plate(x):
            pyro.sample("z", vae.prior())

    use = latent_use(vae, prior, digits.test.x[:100])
    np.testing.assert_allclose(use.sites["z"].kl, 0, atol=1e-6)
    assert use.kl == pytest.approx(0, abs=1e-5)
    assert use.mutual_information == pytest.approx(0, abs=1e-5)
    assert use.marginal_kl == pytest.approx(0, abs=1e-5)
    assert use.sites["z"].active == 0
    assert use.sites["z"].collapsed
    assert "Posterior collapse: z" in str(use)


def test_active_units_are_not_counted_from_noise():
    """With 30 samples the variance of the mean of z is 1 / 30 by chance alone, three times the threshold."""
    use = latent_use(*scaled([0.0] * 10, [1.0] * 10), torch.randn(1000, 10), num_samples=30)
    assert use.sites["z"].active == 0  # its error is 1 / 30 sqrt(2 / N (1 + 1 / 29)), a sixth of the threshold
    np.testing.assert_allclose(use.sites["z"].variance, 0, atol=limit(10) / 30 * math.sqrt(2 / 1000 * 30 / 29))


def test_a_hierarchy_with_plates_of_its_own():
    """Both Q and P are linear-Gaussian: the KL of z2 given z1 is averaged over the guide's z1."""
    torch.manual_seed(2)
    x = torch.randn(200, 3) * 1.5
    use = latent_use(hierarchical_model, hierarchical_guide, x, num_samples=400)
    mean = x.mean(1).numpy()
    first = kl_to_standard_normal(0.3 * mean, 1.2)
    # Given z1: N(0.5 z1 + 0.5 m, 0.9^2) against N(z1, 1), with z1 ~ N(0.3 m, 1.2^2).
    second = 0.5 * (((0.5 - 0.5 * 0.3) * mean) ** 2 + (0.5 * 1.2) ** 2 + 0.9**2 - 1) - math.log(0.9)
    assert use.sites["z1"].kl.sum() == pytest.approx(first.mean(), abs=1e-5)
    assert use.sites["z2"].kl.sum() == pytest.approx(second.mean(), abs=limit() * use.sites["z2"].kl_mcse)
    assert 0 < use.sites["z2"].kl_mcse < 0.01
    # Jointly Q(z1, z2 | x) = N(m a, S) with one S for all: I(x; z) of these data by plain sampling of it.
    a = torch.tensor([0.3, 0.65])
    factor = torch.tensor([[1.2, 0.0], [0.6, 0.9]])
    q = torch.distributions.MultivariateNormal(x.mean(1, keepdim=True) * a, scale_tril=factor)
    z = q.sample((50,))
    information = q.log_prob(z) - (q.log_prob(z[:, :, None]).logsumexp(2) - math.log(200))
    error = math.hypot(float(information.std()) / 100, use.kl_mcse, use.marginal_kl_mcse)
    assert use.mutual_information == pytest.approx(float(information.mean()), abs=limit() * error)


def test_plain_functions_and_methods(digits):
    x = torch.linspace(-2, 2, 50)
    use = latent_use(mean_model, mean_guide, x)
    np.testing.assert_allclose(use.sites["z"].kl, kl_to_standard_normal(0.1 * x.numpy(), 1.0).mean(), atol=1e-5)
    vae = PyroTutorialVAE()
    assert latent_use(vae.model, vae.guide, digits.test.x[:40]).sites["latent"].kl.shape == (3,)


def test_a_mixture_prior_is_taken_as_a_whole(digits):
    vae = VAE(digits.event_shape, prior=Mixture(3))
    guide = MeanField(vae)
    use = latent_use(vae, guide, digits.test.x[:50], num_samples=200)
    assert use.sites["z"].kl.shape == (1,)
    assert use.sites["z"].variance.shape == (3,)
    with torch.no_grad(), Pair(vae, guide).running():
        h = guide.encoder(digits.test.x[:50])
        q = guide.posteriors(h)["z"]
        z = q.sample((2000,))
        expected = float((q.log_prob(z) - vae.prior().log_prob(z)).mean())
    error = use.kl_mcse * math.sqrt(1 + 200 / 2000)  # that of what is expected included
    assert use.kl == pytest.approx(expected, abs=limit() * error)


def test_a_guide_with_parameters_for_each_datum():
    """Pyro's AutoNormal has its densities at sites of its own, and runs on the whole data only."""
    x = torch.randn(30) * 2

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.LogNormal(0.0, 1.0)).log(), 1.0), obs=x)

    guide = infer.autoguide.AutoNormal(model)
    with warnings.catch_warnings(), Pair(model, guide).running(), torch.no_grad():
        warnings.simplefilter("ignore")
        guide(x)
        guide.locs.z.copy_(0.5 * x)
        guide.scales.z = torch.full((30,), 0.7)
    use = latent_use(model, guide, x, num_samples=500, chunk_size=3000)
    expected = kl_to_standard_normal(0.5 * x.numpy(), 0.7).mean()
    assert use.kl == pytest.approx(expected, abs=limit() * use.kl_mcse)
    grid = torch.linspace(-8, 8, 8001)
    density = torch.distributions.Normal(0.5 * x, 0.7).log_prob(grid[:, None]).exp().mean(1)
    entropy = -float(torch.trapezoid(torch.xlogy(density, density), grid))
    information = entropy - 0.5 * math.log(2 * math.pi * math.e * 0.7**2)
    assert use.mutual_information == pytest.approx(information, abs=limit() * (use.kl_mcse + use.marginal_kl_mcse))


def test_bad_calls(linear_gaussian):
    model, x = linear_gaussian

    def guide_of_all(x):
        with pyro.plate("data", 64, subsample_size=10) as index:
            pyro.sample("z", model.exact_posterior(x[index]))

    def model_of_all(x):
        with pyro.plate("data", 64, subsample_size=10) as index:
            z = pyro.sample("z", model.prior())
            pyro.sample("x", model.likelihood(model.decoder(z)), obs=x[index])

    def one_at_a_time(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", posterior)
            return z.reshape(len(x), 4)

    with pytest.raises(InputError, match="takes a random 10 of 64"):
        latent_use(model_of_all, guide_of_all, x)
    with pytest.warns(UserWarning, match="as copies of the data"):
        latent_use(model, one_at_a_time, x, num_samples=10)
    with pytest.raises(InputError, match=r"num_samples.*got 1"):
        latent_use(model, ExactPosterior(model), x, num_samples=1)
    with pytest.raises(InputError, match="at least 2 data"):
        latent_use(model, ExactPosterior(model), x[:1])


def test_a_kl_that_pytorch_does_not_know():
    """Student's t as the prior: each dimension's KL is then a mean over the samples; held against quadrature."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(3.0, torch.zeros(2), torch.tensor([1.0, 0.5])).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.randn(20, 2)
    _, guide = scaled([0.5, 1.0], [0.6, 0.8])
    site = latent_use(model, guide, x, num_samples=2000).sites["z"]
    grid = torch.linspace(-9, 9, 4001)[:, None, None]
    q = torch.distributions.Normal(torch.tensor([0.5, 1.0]) * x, torch.tensor([0.6, 0.8]))
    p = torch.distributions.StudentT(3.0, 0.0, torch.tensor([1.0, 0.5]))
    integrand = q.log_prob(grid).exp() * (q.log_prob(grid) - p.log_prob(grid))
    exact = torch.trapezoid(integrand, grid.squeeze(), dim=0).mean(0)
    assert site.per_dimension
    assert 0 < site.kl_mcse < 0.02
    check_errors(site.kl, exact, site.kl_mcse)


def test_a_discrete_site_that_is_left_out_is_summed_out():
    """z ~ 1/2 N(-4, 1) + 1/2 N(4, 1): the KL to it by quadrature."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(8 * c - 4, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.45))

    x = torch.tensor([-5.0, -4.0, -3.0, 3.0, 4.0, 5.5])
    use = latent_use(model, guide, x, num_samples=2000)
    z = torch.linspace(-15, 15, 20_001)[:, None]
    normal = torch.distributions.Normal
    log_q = normal(0.8 * x, 0.45).log_prob(z)
    log_p = torch.logaddexp(normal(-4.0, 1.0).log_prob(z), normal(4.0, 1.0).log_prob(z)) - math.log(2)
    width = 30 / 20_000
    kl = float((log_q.exp() * (log_q - log_p)).sum(0).mean() * width)
    mixture = torch.logsumexp(log_q, 1, keepdim=True) - math.log(len(x))
    marginal = float((mixture.exp() * (mixture - log_p)).sum() * width)
    assert use.kl == pytest.approx(kl, abs=limit() * use.kl_mcse)
    assert use.marginal_kl == pytest.approx(marginal, abs=limit() * use.marginal_kl_mcse)


def test_a_guide_that_samples_nothing_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(c, 0.5), obs=x)

    with pytest.raises(InputError, match="a guide that samples latents; got none, as all are summed out: c"):
        latent_use(model, lambda x: None, torch.zeros(4))


@pytest.mark.parametrize("validate", [True, False])
def test_a_guide_that_seldom_draws_where_the_prior_has_no_mass(validate):
    """About 11 of 30,000 draws are outside of [0, 1], of the few in a trial seldom one: the divergence is infinite."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1.0, validate_args=validate))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full((len(x),), 0.5), 0.14))

    with pytest.raises(InputError, match=r"supports|P\(z\) is not zero|one space"):
        latent_use(model, guide, torch.randn(300), num_samples=100, progress=False)
