"""Posteriors that fool estimates of log P(x): each has to be right, or in doubt.

The truth is known in closed form, or by quadrature on a grid.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence, check_log_px
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE, LinearGaussian

from ppl_vae import estimate_evidence
from ppl_vae.likelihoods import Gaussian
from ppl_vae.networks import Network
from ppl_vae.priors import StandardNormal

FINE = 400_001  # nodes of a grid in one dimension


def on_grid(log_joint, x, low=-12.0, high=12.0, nodes=FINE):
    """log P(x) = log of the integral of exp(log_joint(x, z)) over one z, by the trapezoidal rule, in doubles."""
    z = torch.linspace(low, high, nodes, dtype=torch.double)
    values = torch.stack([log_joint(one, z) for one in x.double()])
    return (torch.logsumexp(values, 1) + math.log((high - low) / (nodes - 1))).numpy()


def of_normal(loc, scale, size=1):
    """A guide that is the same Gaussian for every datum, in `size` dimensions, or a number."""

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = dist.Normal(torch.tensor(float(loc)), scale)
            pyro.sample("z", fn.expand([size]).to_event(1) if size > 1 else fn)

    return guide


def check_right_or_doubted(evidence, truth, *, by_datum=False):
    """No datum is both off and without doubt; unless asked of each datum, a bad verdict counts as doubt of all."""
    doubted = {doubt.datum for doubt in evidence.doubts()}
    if not by_datum and evidence.verdict().startswith(("Cannot", "Not to be believed")):
        doubted = set(range(len(evidence)))
    sure = np.array([n for n in range(len(evidence)) if n not in doubted], dtype=int)
    if len(sure):
        draws = np.maximum(evidence.diagnostics["draws"][sure], 2)
        check_log_px(evidence.log_px[sure], np.hypot(evidence.mcse[sure], 0.02), truth[sure], draws, slack=0.02)
    return len(sure) / len(evidence)


def two_modes(x):
    """x is z or -z with noise, in 8 dimensions: log P(x) = log N(x; 0, (1 + s^2) I), and two modes far apart."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
        both = torch.stack([z, -z], -2)
        component = dist.Normal(both, 0.2).to_event(1)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), component), obs=x)


def knows_one_mode(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 1.04, 0.2 / math.sqrt(1.04)).to_event(1))


def test_two_modes_far_apart_of_which_the_guide_knows_one():
    with torch.no_grad():
        x = torch.randn(30, 8) * math.sqrt(1.04)
    truth = dist.Normal(0.0, math.sqrt(1.04)).expand([8]).to_event(1).log_prob(x).numpy()
    plain = estimate_evidence(two_modes, knows_one_mode, x, method="importance")
    assert not plain.doubts() and abs((plain.log_px - truth).mean() + math.log(2)) < 0.05  # wrong and believed
    evidence = estimate_evidence(two_modes, knows_one_mode, x)
    assert check_right_or_doubted(evidence, truth) > 0.8


class Product(Network):
    """f(z) = z_1 z_2."""

    def transform(self, x):
        return x[..., :1] * x[..., 1:]


class Bend(Network):
    """f(z) = z_2 + z_1^2."""

    def transform(self, x):
        return x[..., 1:] + x[..., :1] ** 2


@pytest.mark.parametrize(
    ("network", "sigma", "least"), [(Bend, 0.4, 0.5), (Bend, 0.05, 0.0), (Product, 0.1, 0.5), (Product, 0.005, 0.0)]
)
def test_a_banana_and_a_cross(network, sigma, least):
    """Of thin ones simulated data show that a part is missed, so that none is believed: no least share is asked."""
    torch.manual_seed(0)
    model = VAE((1,), StandardNormal(2), Gaussian(sigma=sigma), decoder=network)
    x = model(size=12).detach()

    def log_joint(one, z):
        """One dimension is integrated out in closed form: f is linear in z_2."""
        slope = z if network is Product else torch.ones_like(z)
        shift = torch.zeros_like(z) if network is Product else z**2
        normal = torch.distributions.Normal(shift, (slope**2 + sigma**2).sqrt())
        return normal.log_prob(one[0]) + torch.distributions.Normal(0.0, 1.0).log_prob(z)

    truth = on_grid(log_joint, x)
    evidence = estimate_evidence(model, MeanField(model), x)
    assert check_right_or_doubted(evidence, truth) >= least


def spike_and_slab(width):
    def model(x):
        """Given z, x is near z, or anything: the spike at z = x holds most of P(x), the prior's width is the slab."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            means = torch.stack([z, torch.zeros_like(z)], -2)
            widths = torch.tensor([width, 3.0])[:, None].expand(2, 4)
            component = dist.Normal(means, widths).to_event(1)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), component), obs=x)

    return model


@pytest.mark.parametrize(("width", "least"), [(0.3, 0.5), (0.03, 0.0), (0.001, 0.0)])
def test_a_narrow_spike_that_holds_most_of_the_evidence_beside_a_broad_slab(width, least):
    with torch.no_grad():
        x = 0.7 * torch.randn(20, 4)
    terms = [dist.Normal(0.0, s).expand([4]).to_event(1).log_prob(x) for s in (math.hypot(1, width), 3.0)]
    truth = (torch.logsumexp(torch.stack(terms), 0) - math.log(2)).numpy()
    evidence = estimate_evidence(spike_and_slab(width), of_normal(0.0, 1.0, 4), x)
    assert check_right_or_doubted(evidence, truth) >= least


def at_zero(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Exponential(1.0))
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


def at_zero_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(torch.full((len(x),), -1.0), 1.0))


def of_arcsine(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Beta(torch.tensor(0.3), 0.3))
        pyro.sample("x", dist.Normal(z, 0.2), obs=x)


def of_arcsine_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Beta(torch.ones(len(x)), 1.0))


def test_posteriors_at_a_boundary():
    x = torch.linspace(-0.4, 1.0, 15)
    normal, unit = torch.distributions.Normal, torch.distributions

    def near_zero(one, u):  # over u = log z
        return unit.Exponential(1.0).log_prob(u.exp()) + u + normal(u.exp(), 0.1).log_prob(one)

    evidence = estimate_evidence(at_zero, at_zero_guide, x)
    assert check_right_or_doubted(evidence, on_grid(near_zero, x, -60.0, 8.0)) > 0.5

    def near_both(one, u):  # over u = logit z
        p, rest = torch.sigmoid(u), torch.sigmoid(-u)
        beta = 0.3 * p.log() + 0.3 * rest.log() - (2 * math.lgamma(0.3) - math.lgamma(0.6))
        return beta + normal(p, 0.2).log_prob(one)

    evidence = estimate_evidence(of_arcsine, of_arcsine_guide, x)
    assert check_right_or_doubted(evidence, on_grid(near_both, x, -80.0, 80.0), by_datum=True) > 0.8  # but for x = 1


def of_bounded(a):
    """z ~ Beta(a, a), and x that says nothing of it: log P(x) = log N(x; 0, 1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(torch.full((len(x),), a), a))
            pyro.sample("x", dist.Normal(0 * z, 1.0), obs=x)

    return model


def bounded_guide(a):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(torch.full((len(x),), a), a))

    return guide


SHORT_ANNEALING = {"method": "ais", "num_temperatures": 50}


@pytest.mark.parametrize("options", [{}, {"method": "importance"}, SHORT_ANNEALING], ids=["auto", "importance", "ais"])
@pytest.mark.parametrize("of_guide", [0.05, 0.2, 0.5])
def test_a_posterior_nearer_to_its_bound_than_single_precision_can_say(of_guide, options):
    """A tenth of Beta(0.1, 0.1) is nearer to 1 than any number: off by up to 0.16 nats, and weights look well."""
    x = torch.randn(15)
    truth = dist.Normal(0.0, 1.0).log_prob(x).numpy()
    evidence = estimate_evidence(of_bounded(0.1), bounded_guide(of_guide), x, **options)
    doubts = evidence.doubts()
    assert len(doubts) == len(x)
    assert np.mean(["so near to the edge of their support" in doubt.reason for doubt in doubts]) > 0.7
    if of_guide < 0.5:  # else tails of the weights are heavy, too
        assert evidence.interval().low_of_data < truth.mean() < evidence.interval().high_of_data


def test_no_posterior_inside_its_bounds_is_doubted_for_them():
    x = torch.randn(15)
    truth = dist.Normal(0.0, 1.0).log_prob(x).numpy()
    for a, of_guide, options in ((2.0, 1.0, {}), (1.0, 0.5, {}), (0.1, 0.1, {}), (0.1, 0.1, {"proposal": "prior"})):
        evidence = estimate_evidence(of_bounded(a), bounded_guide(of_guide), x, **options)
        assert check_right_or_doubted(evidence, truth) == 1.0


def test_bounded_latents_that_depend_on_a_discrete_one():
    """Drawn from the prior there is one for each class that is summed out."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Beta(1.0 + c, 2.0))
            pyro.sample("x", dist.Normal(0 * z + c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(torch.full((len(x),), 1.5), 1.5))

    x = torch.randn(15)
    normal = torch.distributions.Normal
    truth = torch.logaddexp(math.log(0.4) + normal(0.0, 1.0).log_prob(x), math.log(0.6) + normal(1.0, 1.0).log_prob(x))
    evidence = estimate_evidence(model, guide, x)
    assert check_right_or_doubted(evidence, truth.numpy()) == 1.0 and not evidence.diagnostics["at_edge"].any()


class Lower(dist.TorchDistribution):
    """Beta(1/2, 1/2), but of its upper half a millionth only."""

    arg_constraints, support, share = {}, torch.distributions.constraints.unit_interval, 1e-6

    def __init__(self, shape):
        self.whole = dist.Beta(torch.full(shape, 0.5), 0.5)
        super().__init__(torch.Size(shape), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Lower(torch.Size(batch_shape))

    def sample(self, sample_shape=()):
        z = self.whole.sample(sample_shape)
        return torch.where(torch.rand(z.shape) < self.share, z, torch.minimum(z, 1 - z))

    def log_prob(self, z):
        return self.whole.log_prob(z) + torch.where(z <= 0.5, 2.0 - self.share, self.share).log()


def test_a_guide_that_leaves_out_half_of_a_single_mode():
    """The mode is on the border of what the guide draws: log P(x) by it is too low by log 2, with equal weights."""
    x = torch.randn(20)
    truth = dist.Normal(0.0, 1.0).log_prob(x).numpy()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Lower((len(x),)))

    evidence = estimate_evidence(of_bounded(0.5), guide, x)
    assert check_right_or_doubted(evidence, truth) == 1.0


def heavy(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.StudentT(torch.tensor(2.0)))
        pyro.sample("x", dist.Cauchy(z, 0.5), obs=x)


def test_heavy_tails():
    x = torch.tensor([0.0, 1.0, 5.0, 20.0, 100.0])

    def log_joint(one, v):  # over v = asinh z, so that the grid goes far
        z = torch.sinh(v)
        prior = torch.distributions.StudentT(torch.tensor(2.0, dtype=torch.double)).log_prob(z)
        return prior + torch.distributions.Cauchy(z, 0.5).log_prob(one) + torch.cosh(v).log()

    truth = on_grid(log_joint, x, -25.0, 25.0)
    for guide in (of_normal(0.0, 1.0), of_normal(3.0, 0.2)):
        assert check_right_or_doubted(estimate_evidence(heavy, guide, x), truth) > 0.2


def collapsed(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(30), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., :1], 0.3).to_event(1), obs=x)


def test_latents_of_which_one_is_used():
    x = torch.linspace(-2, 2, 10)[:, None]
    truth = dist.Normal(0.0, math.hypot(1, 0.3)).log_prob(x)[:, 0].numpy()
    for guide in (of_normal(0.0, 1.0, 30), of_normal(0.5, 0.7, 30)):
        assert check_right_or_doubted(estimate_evidence(collapsed, guide, x), truth) > 0.9


def narrow(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1e-8), obs=x)


def narrow_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1e-8))


def test_a_posterior_narrower_than_single_precision_can_say():
    x = torch.tensor([1.2345, -0.7, 2.1])
    truth = dist.Normal(0.0, 1.0).log_prob(x).numpy()
    assert check_right_or_doubted(estimate_evidence(narrow, narrow_guide, x), truth) == 0
    doubled = estimate_evidence(narrow, narrow_guide, x.double())
    assert check_right_or_doubted(doubled, truth) > 0.5


def of_cluster(x):
    """Which of three clusters, and where in it; the guide draws where, or both."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(torch.tensor([-3.0, 0.0, 3.0])[c], 0.5))
        pyro.sample("x", dist.Normal(z**2, 0.3), obs=x)


def of_cluster_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.clamp(min=0).sqrt(), 0.1))


def test_discrete_and_continuous_together():
    x = torch.linspace(0.5, 12, 10)

    def log_joint(one, z):
        normal = torch.distributions.Normal
        parts = [math.log(p) + normal(m, 0.5).log_prob(z) for p, m in ((0.5, -3.0), (0.3, 0.0), (0.2, 3.0))]
        return torch.logsumexp(torch.stack(parts), 0) + normal(z**2, 0.3).log_prob(one)

    evidence = estimate_evidence(of_cluster, of_cluster_guide, x)
    assert check_right_or_doubted(evidence, on_grid(log_joint, x)) > 0.5


def test_a_refined_guide_that_settles_on_one_of_two_modes():
    """The guide covers both, and draws of it in the proposal show the other: without them no weight is ever large."""
    torch.manual_seed(0)
    x = torch.where(torch.rand(60) < 0.5, -1.5, 1.5) + torch.randn(60)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(3 * z.abs() - 1.5, 0.5), obs=x)

    truth = on_grid(
        lambda one, z: dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(3 * z.abs() - 1.5, 0.5).log_prob(one), x
    )
    evidence = estimate_evidence(model, of_normal(0.2, 0.8), x, method="importance", proposal="refined")
    check_right_or_doubted(evidence, truth)
    check_log_px(evidence.log_px, np.hypot(evidence.mcse, 0.02), truth, evidence.diagnostics["draws"], slack=0.05)


def test_a_refined_guide_beside_the_guide_where_the_model_masks_a_latent():
    """Both are scored where the model scores the latent: the exact posterior has equal weights."""
    torch.manual_seed(0)
    x = 2**0.5 * torch.randn(12, 3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1).mask(x[:, 2] > 0))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, :2])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] / 2, 0.5**0.5).to_event(1))
            pyro.sample("w", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1))

    truth = dist.Normal(0.0, 2**0.5).log_prob(x[:, :2]).sum(1).numpy()
    evidence = estimate_evidence(model, guide, x, method="importance", proposal="refined", num_samples=100)
    np.testing.assert_allclose(evidence.log_px, truth, atol=0.02)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_refined_guide_beside_the_guide_with_an_auxiliary_latent(vectorize):
    """What is no part of log Q is drawn alike by both; two latents, of which one depends on the other."""
    torch.manual_seed(0)
    x = 3**0.5 * torch.randn(30)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            v = pyro.sample("v", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(v, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x / 3 - 1.5, 0.1), infer={"is_auxiliary": True})
            z = pyro.sample("z", dist.Normal(u, 1.0))
            pyro.sample("v", dist.Normal((z + x) / 2 + 0.5, 0.8))

    truth = dist.Normal(0.0, 3**0.5).log_prob(x).numpy()
    how = {"num_samples": 2000 if vectorize else 100, "vectorize": vectorize}
    evidence = estimate_evidence(model, guide, x, method="importance", proposal="refined", **how)
    check_evidence(evidence, truth)


@pytest.mark.parametrize("size", [4, 40])
def test_a_guide_that_was_never_trained(size):
    torch.manual_seed(2)
    model = LinearGaussian((60,), latent_dim=size, sigma=0.3)
    with torch.no_grad():
        x = model(size=20)
        truth = model.exact_log_px(x).numpy()
    evidence = estimate_evidence(model, MeanField(model), x)
    assert check_right_or_doubted(evidence, truth) == 1


@pytest.mark.parametrize(("at", "width"), [(3.0, 3e-4), (50.0, 1e-3)])
def test_a_guide_far_off_whose_density_is_huge(at, width):
    """log Q is -1e8 and less in single precision: log P(x, z) is not to be had as a sum with it."""
    torch.manual_seed(0)
    x = math.sqrt(2) * torch.randn(12)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    truth = dist.Normal(0.0, 2**0.5).log_prob(x).numpy()
    assert check_right_or_doubted(estimate_evidence(model, of_normal(at, width), x), truth) == 1


def test_two_thin_curves_that_cross_in_up_to_three_places():
    """x = (z_1^2 - z_2, z_1 z_2) and noise: modes far from each other, of which few starts of a climb miss some."""

    def curves(z):
        return torch.stack([z[..., 0] ** 2 - z[..., 1], z[..., 0] * z[..., 1]], -1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(curves(z), 0.03).to_event(1), obs=x)

    torch.manual_seed(0)
    x = curves(torch.randn(20, 2))
    x = x + 0.03 * torch.randn_like(x)
    axis = torch.linspace(-5.5, 5.5, 2001, dtype=torch.double)
    z = torch.cartesian_prod(axis, axis)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + 2 * math.log(11 / 2000)
    of_x = [torch.distributions.Normal(curves(z), 0.03).log_prob(one).sum(-1) for one in x.double()]
    truth = np.array([torch.logsumexp(prior + likelihood, 0).item() for likelihood in of_x])
    assert check_right_or_doubted(estimate_evidence(model, of_normal(0.0, 0.5, 2), x), truth) == 1


def test_a_condition_that_only_the_last_data_have():
    """The spike beside the slab where y > 0, as in data that are sorted by their labels."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Normal(0.0, 1.0).expand([1]).to_event(1), obs=y, infer={"is_condition": True})
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            width = torch.where(y > 0, 0.01, 1.0)[..., None, :].expand(*z.shape[:-1], 1, 4)
            widths = torch.cat([width, torch.full_like(width, 3.0)], -2)
            component = dist.Normal(torch.stack([z, torch.zeros_like(z)], -2), widths).to_event(1)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(widths.shape[:-1])), component), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1))

    torch.manual_seed(0)
    x, y = torch.randn(80, 4), torch.cat([-torch.ones(60, 1), torch.ones(20, 1)])
    width = torch.where(y > 0, 0.01, 1.0)
    parts = [torch.distributions.Normal(0.0, w).log_prob(x).sum(1) for w in ((1 + width**2).sqrt(), 3.0)]
    truth = (torch.logsumexp(torch.stack(parts), 0) - math.log(2)).numpy()
    evidence = estimate_evidence(model, guide, (x, y))
    assert check_right_or_doubted(evidence, truth) == 0 and "simulated from the model" in evidence.verdict()


def test_a_model_without_gradients_is_answered_by_samples():
    """Where nothing can be climbed for any datum, as with a decoder of NumPy, log P(x) is right, or doubted."""
    x = torch.linspace(-3, 3, 20)[:, None]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = torch.from_numpy(z.numpy().sum(-1, keepdims=True))  # NumPy refuses what asks for gradients
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.expand(-1, 2) / 3, 0.8).to_event(1))

    evidence = estimate_evidence(model, guide, x)
    check_right_or_doubted(evidence, dist.Normal(0.0, 3**0.5).log_prob(x)[:, 0].numpy(), by_datum=True)
    assert evidence.log_px.mean() == pytest.approx(float(dist.Normal(0.0, 3**0.5).log_prob(x).mean()), abs=0.2)
