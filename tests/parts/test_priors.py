"""Priors against independent implementations: mixtures, VampPrior, flows; and what importing zuko may not do."""

import copy
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from bounds import check_means
from pyro import distributions as dist
from scipy import stats
from torch.autograd.functional import jacobian

import ppl_vae
from ppl_vae import InputError, guides, models
from ppl_vae.distributions.gaussian import GaussianMixture
from ppl_vae.likelihoods import Gaussian
from ppl_vae.networks import MLP
from ppl_vae.posteriors import InverseAutoregressive
from ppl_vae.priors import Flow, Laplace, StudentT, VampPrior

SMALL = partial(MLP, hidden=(8,))
SHAPE = (1, 2, 2)


def test_laplace_and_student_t_against_scipy():
    z = torch.randn(50, 3) * 3
    np.testing.assert_allclose(Laplace(3)().log_prob(z), stats.laplace.logpdf(z.numpy()).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(StudentT(3, df=2.5)().log_prob(z), stats.t(2.5).logpdf(z.numpy()).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_the_mixture_against_pyros(batch):
    """Also where components are narrow and far away, which the square taken apart has to survive."""
    logits, loc, scale = torch.randn(7), 5 * torch.randn(*batch, 7, 3), torch.exp(2 * torch.randn(*batch, 7, 3) - 3)
    ours = GaussianMixture(logits, loc, scale)
    pyros = dist.MixtureSameFamily(
        dist.Categorical(logits=logits.double()), dist.Normal(loc.double(), scale.double()).to_event(1)
    )
    z = loc[..., 0, :] + scale[..., 0, :] * torch.randn(20, *batch, 3)
    expected = pyros.log_prob(z.double())
    torch.testing.assert_close(ours.log_prob(z).double(), expected, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(ours.mean.double(), pyros.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.variance.double(), pyros.variance, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(ours.log_prob(z.requires_grad_()).sum(), z)[0]
    zz = z.detach().double().requires_grad_()
    torch.testing.assert_close(
        gradients.double(), torch.autograd.grad(pyros.log_prob(zz).sum(), zz)[0], rtol=1e-3, atol=1e-2
    )
    assert ours.expand((4, *batch)).sample((2,)).shape == (2, 4, *batch, 3)
    assert ours.expand((4, *batch)).log_prob(z[0]).shape == (4, *batch)


def test_samples_of_a_mixture_have_its_moments():
    mixture = GaussianMixture(torch.tensor([0.0, 1.0]), torch.tensor([[-2.0], [3.0]]), torch.tensor([[0.5], [2.0]]))
    z = mixture.sample((100_000,))
    check_means(z, mixture.mean)
    check_means((z - mixture.mean) ** 2, mixture.variance)


class TestVampPrior:
    @pytest.fixture
    def pair(self):
        model = models.VAE(SHAPE, VampPrior(2, num_components=3), Gaussian(0.5), SMALL)
        return model, guides.MeanField(model, SMALL)

    def test_it_is_the_average_of_the_posteriors(self, pair):
        model, guide = pair
        z = torch.randn(10, 2)
        with torch.no_grad():
            each = [guide.posterior(u)["z"].log_prob(z) for u in model.prior.inputs]
            expected = torch.stack(each).logsumexp(0) - np.log(3)
            torch.testing.assert_close(model.prior().log_prob(z), expected)

    def test_its_inputs_and_the_encoder_are_trained_through_it(self, pair):
        model, guide = pair
        model.prior().log_prob(torch.randn(10, 2)).sum().backward()
        assert (model.prior.inputs.grad.abs().sum((1, 2, 3)) > 0).all()
        assert all(p.grad.abs().sum() > 0 for p in guide.encoder.parameters())

    def test_the_encoder_belongs_to_the_guide_alone(self, pair):
        model, _ = pair
        assert [name for name in model.state_dict() if "encoder" in name] == []
        assert "prior.inputs" in model.state_dict()

    def test_it_fits_multimodal_data_better(self):
        """Four clusters: the aggregate posterior has four modes."""
        centres = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
        x = centres[torch.arange(800) % 4].reshape(-1, 1, 1, 2) + 0.05 * torch.randn(800, 1, 1, 2)
        found = {}
        for prior in (VampPrior(2, num_components=8), ppl_vae.priors.StandardNormal(2)):
            model = models.VAE((1, 1, 2), prior, Gaussian(0.05), partial(MLP, hidden=(32,)))
            guide = guides.MeanField(model, partial(MLP, hidden=(32,)))
            ppl_vae.fit(model, guide, x, epochs=60, learning_rate=0.01)
            found[type(prior).__name__] = ppl_vae.estimate_evidence(
                model, guide, x[:200], method="importance", num_samples=500
            ).log_px.mean()
        # A mixture of four Gaussians: 2 log N(0; 0, 0.05) at its entropy, less log 4.
        best = -2 * (0.5 + np.log(0.05 * np.sqrt(2 * np.pi))) - np.log(4)
        assert found["VampPrior"] > found["StandardNormal"] + 0.05
        assert found["VampPrior"] < best + 0.2

    def test_inputs_can_be_given(self):
        x = torch.rand(4, *SHAPE)
        model = models.VAE(SHAPE, VampPrior(2, inputs=x), Gaussian(0.5), SMALL)
        guides.MeanField(model, SMALL)
        assert torch.equal(model.prior.inputs, x)

    def test_without_a_guide_there_is_none(self):
        model = models.VAE(SHAPE, VampPrior(2), decoder=SMALL)
        with pytest.raises(InputError, match=r"Expected a guide.*Make one"):
            model(size=2)

    def test_a_guide_that_has_no_such_posterior_is_refused(self):
        model = models.Hierarchical(SHAPE, VampPrior(2), decoder=SMALL)
        guide = guides.Hierarchical(model, SMALL, "bottom_up")
        with pytest.raises(InputError, match=r"Q\(z2 \| x\).*top-down"):
            model(size=2)
        assert guide.latents.keys() == {"z1", "z2"}
        model = models.Hierarchical(SHAPE, VampPrior(2), decoder=SMALL)
        guides.Hierarchical(model, SMALL, "top_down")
        assert model(size=2).shape == (2, *SHAPE)

    def test_it_is_made_of_one_guide(self, pair):
        """Another guide, or a copy of the model beside its first guide, would be another P(z)."""
        model, guide = pair
        with pytest.raises(InputError, match=r"one guide.*got another, FullCovariance"):
            guides.FullCovariance(model, SMALL)
        x = torch.rand(5, *SHAPE)
        with pytest.raises(InputError, match=r"made of; got another one.*Copy model and guide together"):
            ppl_vae.estimate_evidence(copy.deepcopy(model), guide, x)
        how = {"method": "importance", "num_samples": 50}
        ours, copied = (ppl_vae.estimate_evidence(*p, x, **how) for p in (pair, copy.deepcopy(pair)))
        np.testing.assert_array_equal(ours.log_px, copied.log_px)


@pytest.mark.parametrize("kind", ["neural_spline", "masked_autoregressive"])
class TestFlows:
    def test_the_density_is_the_change_of_variables(self, kind):
        """log N(f(z)) + log |det f'(z)|, with the determinant by automatic differentiation."""
        prior = Flow(3, kind, transforms=2, hidden=(16,))
        p, z = prior(), torch.randn(5, 3)
        (transform,) = p.transforms
        for row in z:
            u = transform.inv(row)
            log_det = jacobian(transform.inv, row).slogdet()[1]
            expected = stats.norm.logpdf(u.detach().numpy()).sum() + log_det
            assert p.log_prob(row).item() == pytest.approx(expected.item(), abs=1e-4)

    def test_a_sample_is_scored_the_same_by_a_copy(self, kind):
        """What the transform remembers of a sample is what it would compute."""
        for p in (Flow(3, kind, hidden=(16,))(), InverseAutoregressive(3, kind, hidden=(16,))(torch.randn(4, 38))):
            z = p.expand([6, 4]).rsample()
            remembered = p.log_prob(z)
            torch.testing.assert_close(p.log_prob(z.clone()), remembered, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(p.log_prob(z), remembered, atol=1e-3, rtol=1e-4)

    def test_its_samples_have_its_density(self, kind):
        """In one dimension: the histogram of draws against the density."""
        prior = Flow(1, kind, transforms=2, hidden=(8,))
        z = prior().expand([100_000]).sample().squeeze(-1)
        grid = torch.linspace(-1.5, 1.5, 13)
        counts = torch.histogram(z, grid).hist / len(z)
        fine = torch.linspace(-1.5, 1.5, 1201)
        with torch.no_grad():
            density = prior().log_prob(fine.unsqueeze(-1)).exp()
        expected = torch.stack([torch.trapezoid(density[100 * i : 100 * i + 101], dx=0.0025) for i in range(12)])
        torch.testing.assert_close(counts, expected, atol=0.006, rtol=0.05)


def test_an_unknown_flow_is_refused():
    with pytest.raises(InputError, match="did you mean 'neural_spline'"):
        Flow(2, "neural_splin")
    with pytest.raises(InputError, match=r"transforms.*got 0"):
        Flow(2, transforms=0)


def test_importing_zuko_does_not_switch_validation_off():
    code = """
import pyro, pyro.distributions as dist, torch
from torch.distributions import Distribution
before = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
from ppl_vae.priors import Flow
Flow(2)().log_prob(torch.zeros(2))
import sys; assert "zuko" in sys.modules
assert (Distribution._validate_args, Distribution.__dict__["arg_constraints"]) == before
for make in (lambda: dist.Normal(0.0, -1.0), lambda: dist.Bernoulli(0.5).log_prob(torch.tensor(0.5))):
    try:
        make()
    except ValueError:
        continue
    raise SystemExit("not refused")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
