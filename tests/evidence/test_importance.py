"""log P(x) against closed forms, quadrature, and known ways to get it wrong."""

import math
import subprocess
import sys
from types import FunctionType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence, check_spread
from pairs import (
    PyroTutorialVAE,
    hierarchical_guide,
    hierarchical_log_px,
    hierarchical_model,
    mean_guide,
    mean_model,
    subsample_passed,
    subsampled_inside,
)
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import VAE, LinearGaussian
from pyro import poutine
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import InputError, estimate_evidence
from ppl_vae.priors import StandardNormal


def exact(model, x):
    with torch.no_grad():
        return model.exact_log_px(x).numpy()


def too_wide(model, factor=1.5):
    """A mean-field guide around the exact posterior mean, deliberately too wide."""

    def guide(x, **_):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, factor * posterior.stddev).to_event(1))

    return guide


def test_wide_guide_is_within_its_stated_error(linear_gaussian):
    model, x = linear_gaussian
    evidence = estimate_evidence(model, too_wide(model), x, method="importance", num_samples=1000)
    check_evidence(evidence, exact(model, x))
    assert (evidence.gap > 0).all()
    assert evidence.mcse.max() < 0.5


def test_exact_posterior_gives_equal_weights(linear_gaussian):
    model, x = linear_gaussian
    evidence = estimate_evidence(model, ExactPosterior(model), x, method="importance", num_samples=1000)
    np.testing.assert_allclose(evidence.log_px, exact(model, x), atol=1e-4)
    np.testing.assert_allclose(evidence.elbo, evidence.log_px, atol=1e-4)
    np.testing.assert_allclose(evidence.ess, 1000, rtol=1e-5)
    assert evidence.mcse.max() < 1e-5


@pytest.mark.parametrize("num_data", [640, 650])
@pytest.mark.parametrize("inside", [True, False])
def test_subsampled_plates_change_nothing(linear_gaussian, inside, num_data):
    model, _ = linear_gaussian
    with torch.no_grad():
        x = model(size=num_data)

    def wide(x):
        posterior = model.exact_posterior(x)
        return dist.Normal(posterior.mean, 1.5 * posterior.stddev).to_event(1)

    for guide in (model.exact_posterior, wide):
        make = (
            (lambda g: subsampled_inside(model, g, num_data, 64))
            if inside
            else (lambda g: subsample_passed(model, g, num_data))
        )
        evidence = estimate_evidence(*make(guide), x, method="importance", num_samples=500)
        assert len(evidence) == num_data
        check_evidence(evidence, exact(model, x))
    np.testing.assert_allclose(
        estimate_evidence(*make(model.exact_posterior), x, method="importance", num_samples=10).log_px,
        exact(model, x),
        atol=1e-4,
    )


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 999, 10**6])
def test_chunks_change_nothing_but_noise(linear_gaussian, chunk_size):
    model, x = linear_gaussian
    num_samples = 50 if chunk_size == 1 else 1001
    evidence = estimate_evidence(
        model, too_wide(model), x[:5], method="importance", num_samples=num_samples, chunk_size=chunk_size
    )
    check_evidence(evidence, exact(model, x[:5]))
    same = estimate_evidence(
        model, ExactPosterior(model), x[:5], method="importance", num_samples=num_samples, chunk_size=chunk_size
    )
    np.testing.assert_allclose(same.ess, num_samples, rtol=1e-4)


@pytest.mark.parametrize(("num_samples", "chunk_size"), [(1, None), (10, 3), (1000, 64), (1001, 999)])
def test_exactly_as_many_samples_as_asked_for(linear_gaussian, num_samples, chunk_size):
    model, x = linear_gaussian
    drawn = []

    def counting(x):
        posterior = model.exact_posterior(x)
        with pyro.plate("data", len(x)):
            drawn.append(pyro.sample("z", dist.Normal(posterior.mean, 1.0).to_event(1)).shape[:-1].numel())

    estimate_evidence(model, counting, x[:3], method="importance", num_samples=num_samples, chunk_size=chunk_size)
    assert sum(drawn[3:]) == 3 * num_samples  # the first runs are the check, and two samples to see whether it can


def test_the_stated_error_is_the_spread_of_repeated_estimates(linear_gaussian):
    model, x = linear_gaussian
    runs = [
        estimate_evidence(model, too_wide(model), x[:8], method="importance", num_samples=400, seed=s)
        for s in range(60)
    ]
    check_spread([r.log_px for r in runs], np.mean([r.mcse for r in runs], axis=0))
    check_spread([r.elbo for r in runs], np.mean([r.elbo_mcse for r in runs], axis=0))


def test_scale_is_left_out_and_mask_is_kept(linear_gaussian):
    model, x = linear_gaussian
    scaled = estimate_evidence(
        poutine.scale(model, 10.0), poutine.scale(ExactPosterior(model), 0.1), x, method="importance", num_samples=5
    )
    np.testing.assert_allclose(scaled.log_px, exact(model, x), atol=1e-4)

    def masked(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", model.prior())
            with poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
                pyro.sample("x", model.likelihood(model.decoder(z)), obs=x)

    def prior_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.prior())

    evidence = estimate_evidence(masked, prior_guide, x, method="importance", num_samples=50)
    np.testing.assert_allclose(evidence.log_px[1::2], 0.0, atol=1e-5)
    assert (evidence.log_px[::2] < -5).all()


@pytest.mark.parametrize("vectorize", [True, False])
def test_several_sites_and_plates_against_the_closed_form(vectorize):
    with torch.no_grad():
        x = torch.randn(20, 3) * 1.5
    evidence = estimate_evidence(
        hierarchical_model,
        hierarchical_guide,
        x,
        method="importance",
        num_samples=1500 if vectorize else 300,
        vectorize=vectorize,
    )
    check_evidence(evidence, hierarchical_log_px(x).numpy())
    assert evidence.event_size == 3


def test_naive_sampling_of_the_prior(linear_gaussian):
    model, x = linear_gaussian
    naive = estimate_evidence(model, None, x, method="importance", num_samples=20_000, proposal="prior")
    clever = estimate_evidence(model, too_wide(model, 1.1), x, method="importance", num_samples=1000)
    check_evidence(naive, exact(model, x))
    assert np.median(naive.ess) / 20_000 < 0.2 * np.median(clever.ess) / 1000


def test_vae_against_quadrature(digits):
    """With one latent dimension the integral can be done by quadrature: an independent answer."""
    model = VAE(digits.event_shape, prior=StandardNormal(1))
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.mul_(3.0)
    x = digits.test.x[:10]
    grid = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        h = model.decoder(grid)[:, None]
        log_lik = -torch.nn.functional.binary_cross_entropy_with_logits(
            h.expand(-1, 10, -1, -1, -1), x.expand(4001, *x.shape), reduction="none"
        ).sum((-1, -2, -3))
        log_prior = -0.5 * grid**2 - 0.5 * math.log(2 * math.pi)
        truth = torch.logsumexp(log_lik + log_prior, 0).numpy() + math.log(16 / 4000)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.5).to_event(1))

    for proposal in ("guide", "prior"):
        evidence = estimate_evidence(model, guide, x, method="importance", num_samples=4000, proposal=proposal)
        check_evidence(evidence, truth)


def test_plain_functions_with_parameters():
    x = torch.randn(30) * 2
    truth = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x).numpy()
    check_evidence(estimate_evidence(mean_model, mean_guide, x, method="importance", num_samples=3000), truth)


def test_methods_in_the_style_of_pyros_tutorial(digits):
    vae = PyroTutorialVAE()
    evidence = estimate_evidence(vae.model, vae.guide, digits.test.x[:20], method="importance", num_samples=100)
    assert evidence.log_px.shape == (20,)
    assert evidence.gap.mean() > 0


def test_what_was_trained_by_pyro_itself_is_found():
    x = torch.randn(500) + 3
    # Functions of its own: parameters that another test kept with these would be found first.
    own_model, own_guide = (FunctionType(f.__code__, f.__globals__) for f in (mean_model, mean_guide))
    svi = pyro.infer.SVI(own_model, own_guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
    for _ in range(150):
        svi.step(x)
    fitted = float(pyro.param("mu").detach())
    evidence = estimate_evidence(own_model, own_guide, x, method="importance", num_samples=200)
    assert float(pyro.param("mu").detach()) == fitted
    pyro.clear_param_store()
    assert fitted > 2
    expected = torch.distributions.Normal(fitted, math.sqrt(2)).log_prob(x).mean()
    assert evidence.means()["log_px"].value == pytest.approx(float(expected), abs=0.05)


def test_the_global_random_state_is_left_alone_and_the_seed_decides(linear_gaussian):
    model, x = linear_gaussian
    torch.manual_seed(5)
    a = estimate_evidence(model, too_wide(model), x, method="importance", num_samples=10, seed=1)
    after = torch.rand(1)
    torch.manual_seed(5)
    b = estimate_evidence(model, too_wide(model), x, method="importance", num_samples=10, seed=1)
    np.testing.assert_array_equal(a.log_px, b.log_px)
    torch.manual_seed(5)
    assert torch.rand(1) == after
    assert (
        estimate_evidence(model, too_wide(model), x, method="importance", num_samples=10, seed=2).log_px != a.log_px
    ).all()


def global_site(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def global_guide(x):
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def other_name(x):
    with pyro.plate("data", len(x)):
        pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))


def other_shape(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, x: estimate_evidence(global_site, global_guide, x[:, 0], method="importance"),
            r"site 'mu' \(.*global_\w+: .*\) outside",
        ),
        (
            lambda m, x: estimate_evidence(m, other_name, x, method="importance"),
            r"\['z'\] in the model .*\['w'\] in the guide",
        ),
        (lambda m, x: estimate_evidence(m, other_shape, x, method="importance"), r"'z'.*\(4,\).*\(3,\)"),
        (
            lambda m, x: estimate_evidence(m, ExactPosterior(m), x[:, :7], method="importance"),
            r"\[N, 20\].*got \(63, 7\)",
        ),
        (lambda m, x: estimate_evidence(m, ExactPosterior(m), x[:0], method="importance"), "empty"),
        (
            lambda m, x: estimate_evidence(m, ExactPosterior(m), torch.full_like(x, math.nan), method="importance"),
            "NaN.*row 0",
        ),
        (
            lambda m, x: estimate_evidence(m, ExactPosterior(m), torch.full_like(x, math.inf), method="importance"),
            "infinity",
        ),
        (lambda m, x: estimate_evidence(m, ExactPosterior(m), (x, x), method="importance"), "takes"),
        (lambda m, x: estimate_evidence(m, ExactPosterior(m), np.array(["a", "b"]), method="importance"), "dtype <U1"),
        (lambda m, x: estimate_evidence(m, ExactPosterior(m), 3, method="importance"), "got int"),
        (
            lambda m, x: estimate_evidence(m, ExactPosterior(m), x, method="importance", num_samples=0),
            "num_samples.*got 0",
        ),
        (
            lambda m, x: estimate_evidence(m, ExactPosterior(m), x, method="importance", chunk_size=-1),
            "chunk_size.*got -1",
        ),
        (
            lambda m, x: estimate_evidence(m, ExactPosterior(m), x, method="importance", proposal="posterior"),
            "'guide', 'prior', 'refined'",
        ),
        (lambda m, x: estimate_evidence(m, None, x, method="importance"), "got none"),
    ],
)
def test_bad_calls_say_what_to_do(linear_gaussian, call, message):
    with pytest.raises(InputError, match=message):
        call(*linear_gaussian)


def test_grey_pixels_are_refused_by_a_bernoulli(digits, small_pair):
    grey = torch.rand(5, 1, 8, 8)
    with pytest.raises(InputError, match=r"x in \{0, 1\} for Bernoulli; got .*Binarize"):
        estimate_evidence(*small_pair, grey, method="importance", num_samples=2)
    with pytest.raises(InputError, match=r"one of its splits"):
        estimate_evidence(*small_pair, digits, method="importance", num_samples=2)


def test_double_precision_stays_double():
    model = LinearGaussian((5,), latent_dim=2).double()
    with torch.no_grad():
        x = model(size=10)
    assert x.dtype == torch.float64
    evidence = estimate_evidence(model, ExactPosterior(model), x, method="importance", num_samples=3)
    np.testing.assert_allclose(evidence.log_px, exact(model, x), atol=1e-12)


def mixture_model(x):
    """A discrete c and a continuous z; the guide leaves c out, so c comes from its own prior."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("h", z * 2)
        pyro.sample("x", dist.Normal(3 * c + z, 0.5), obs=x)


def wide_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.5))


def test_a_latent_that_the_guide_leaves_out_cancels():
    x = torch.tensor([-1.0, 0.0, 2.0, 3.5])
    sd = math.sqrt(1.25)
    normal = torch.distributions.Normal
    truth = torch.logaddexp(normal(3.0, sd).log_prob(x) + math.log(0.3), normal(0.0, sd).log_prob(x) + math.log(0.7))
    evidence = estimate_evidence(mixture_model, wide_guide, x, method="importance", num_samples=40_000)
    check_evidence(evidence, truth.numpy())
    assert evidence.event_size == 1  # what is only computed is no datum


def test_draws_outside_of_pyro_are_told_from_others(linear_gaussian):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            eps = torch.randn(len(x))
            pyro.sample("z", dist.Delta(eps, log_density=dist.Normal(0.0, 1.0).log_prob(eps)))

    x = torch.randn(5)
    with pytest.raises(InputError, match=r"draw with pyro.sample"):
        estimate_evidence(model, guide, x, method="importance", num_samples=10, vectorize=True)
    truth = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x).numpy()
    check_evidence(estimate_evidence(model, guide, x, method="importance", num_samples=500, vectorize=False), truth)
    with pytest.warns(UserWarning, match="as copies of the data"):  # each draws its own
        check_evidence(estimate_evidence(model, guide, x, method="importance", num_samples=500), truth)


def test_a_guide_without_density_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x))

    with pytest.raises(InputError, match=r"Delta.*'z'"):
        estimate_evidence(mean_model, guide, torch.randn(5), method="importance", num_samples=10)


def pixels_first(x):
    with pyro.plate("pixels", 4, dim=-1), pyro.plate("batch", len(x), dim=-2):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def test_two_plates_of_the_size_of_the_data():
    for n in (3, 4, 5, 6):  # 5 are tried on 4 first, and as that does not tell, on 3
        x = torch.randn(n, 4)
        evidence = estimate_evidence(pixels_first, lambda x: None, x, method="importance", num_samples=2)
        np.testing.assert_allclose(evidence.log_px, dist.Normal(0.0, 1.0).log_prob(x).sum(-1), rtol=1e-5)


def test_memory_does_not_grow_with_samples():
    """Wide hidden layers and many samples: the peak of a run of its own stays far below what all would take."""
    code = """
import resource, torch
from ppl_vae import estimate_evidence
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
model = VAE((2,)); guide = MeanField(model); x = torch.zeros(40, 2)
estimate_evidence(model, guide, x, method="importance", num_samples=10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
estimate_evidence(model, guide, x, method="importance", num_samples=20_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 200  # MB; one hidden layer of all 800,000 would take 1,600


def test_loaders_in_a_fixed_order_only(linear_gaussian):
    model, x = linear_gaussian
    guide = ExactPosterior(model)
    loader = DataLoader(TensorDataset(x), batch_size=7)
    torch.manual_seed(5)
    evidence = estimate_evidence(model, guide, loader, method="importance", num_samples=3)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after
    assert evidence.fingerprint == estimate_evidence(model, guide, x, method="importance", num_samples=3).fingerprint
    np.testing.assert_allclose(evidence.log_px, exact(model, x), atol=1e-4)
    with pytest.raises(InputError, match="shuffles"):
        estimate_evidence(model, guide, DataLoader(TensorDataset(x), shuffle=True), method="importance", num_samples=3)


def test_modules_of_plain_functions_are_put_into_evaluation_mode():
    drop = torch.nn.Dropout(0.5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + drop(torch.ones_like(x)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - 1) / 2, 0.5**0.5))

    x = torch.randn(20)
    truth = torch.distributions.Normal(1.0, math.sqrt(2)).log_prob(x).numpy()
    np.testing.assert_allclose(
        estimate_evidence(model, guide, x, method="importance", num_samples=5).log_px, truth, atol=1e-5
    )
    assert drop.training


def test_one_datum_observed_in_another_shape():
    def model(x):
        with pyro.plate("pixels", 3, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.T)

    evidence = estimate_evidence(model, lambda x: None, torch.zeros(1, 3), method="importance", num_samples=2)
    np.testing.assert_allclose(evidence.log_px, 3 * -0.5 * math.log(2 * math.pi), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_plate_of_fixed_size_that_takes_a_random_subset(seed):
    def model(x):
        with pyro.plate("batch", 200, subsample_size=20) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("batch", 200, subsample_size=20) as index:
            pyro.sample("z", dist.Normal(x[index] / 2, 0.5**0.5))

    x = torch.randn(200)
    evidence = estimate_evidence(model, guide, x, method="importance", num_samples=3, seed=seed)
    truth = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x).numpy()
    np.testing.assert_allclose(evidence.log_px, truth, atol=1e-5)


@pytest.mark.parametrize("num_groups", [5, 6, 7, 8])
def test_as_many_groups_as_members(num_groups):
    """z_g ~ N(0, 1), x_gm ~ N(z_g, 0.7^2) for 6 members m; 7 groups are tried on 6 first."""

    def model(x):
        with pyro.plate("groups", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("members", 6, dim=-1):
                pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("groups", len(x), dim=-2):
            pyro.sample("z", dist.Normal(0.9 * x.mean(-1, keepdim=True), 0.4))

    x = torch.randn(num_groups, 1) + 0.7 * torch.randn(num_groups, 6)
    truth = torch.distributions.MultivariateNormal(torch.zeros(6), torch.ones(6, 6) + 0.49 * torch.eye(6)).log_prob(x)
    check_evidence(estimate_evidence(model, guide, x, method="importance", num_samples=2000), truth.numpy())
