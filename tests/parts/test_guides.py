"""Guides of more freedom than mean-field: densities against autograd, bounds against quadrature, in every program."""

import math
from functools import partial

import banana
import pytest
import torch
from bounds import check_evidence
from by_name import build
from contracts import rows
from contracts.rows import alone
from ppl_vae.guides import Conditional, Flow, FullCovariance, MeanField, SemiSupervised
from ppl_vae.models import CVAE, VAE, ImageCompletion, NextDigit
from pyro.infer import TraceEnum_ELBO
from tiny import IMAGES, LABELS, SHAPE, STRINGS

import ppl_vae
from ppl_vae import InputError, architectures
from ppl_vae.base import Guide
from ppl_vae.conditions import DigitString, Label
from ppl_vae.distributions.flows import KINDS, Remembering
from ppl_vae.networks import MLP, Convolutional
from ppl_vae.posteriors import DiagonalNormal, InverseAutoregressive, MultivariateNormal, SitePosteriors
from ppl_vae.priors import StandardNormal, VampPrior

SMALL = partial(MLP, hidden=8)
GUIDES = alone("guide", rows.GUIDES)
FAMILIES = alone("posterior", rows.POSTERIORS)
NETWORKS = alone("encoder", rows.NETWORKS | rows.IMAGE_NETWORKS)
ARCHITECTURES = alone("networks", rows.ARCHITECTURES)


def shaken(module, size=0.3):
    """The same module, away from the identity that a flow starts at."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_density_of_a_flow(kind, size):
    """What it remembers of its draws is what it finds for a copy of them, and what autograd says."""
    family = shaken(InverseAutoregressive(size, kind=kind, hidden=(16,)).double())
    h = torch.randn(4, family.h_dim, dtype=torch.double, requires_grad=True)
    torch.manual_seed(1)
    z = (q := family(h)).rsample()
    remembered, found = q.log_prob(z), family(h).log_prob(z.clone())
    torch.testing.assert_close(remembered, found, rtol=0, atol=1e-7)
    (one,), (other,) = (torch.autograd.grad(log_q.sum(), h, retain_graph=True) for log_q in (remembered, found))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    torch.manual_seed(1)
    u = torch.randn(4, size, dtype=torch.double)
    draw = torch.distributions.ComposeTransform(q.transforms)
    whole = torch.autograd.functional.jacobian(draw, u)  # [4, size, 4, size]: each z depends on its own u
    jacobian = torch.stack([whole[i, :, i] for i in range(4)])
    log_normal = -0.5 * (u**2).sum(-1) - 0.5 * size * math.log(2 * math.pi)
    torch.testing.assert_close(draw(u), z)
    torch.testing.assert_close(remembered, log_normal - torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_flow_scores_its_own_draw_without_an_inverse(shape):
    sites = SitePosteriors({"z": torch.Size(shape), "w": torch.Size([2])}, InverseAutoregressive)
    q = sites(torch.randn(5, sites.h_dim))["z"].expand([4, 5])
    assert (q.batch_shape, q.event_shape) == ((4, 5), torch.Size(shape))
    parts = [*getattr(q.base_dist, "transforms", []), *q.transforms]
    flow = next(t for t in parts if isinstance(t, Remembering))
    z = q.rsample()
    expected = q.log_prob(z.clone())
    z = q.rsample()
    flow.backwards = None
    assert q.log_prob(z).shape == expected.shape == (4, 5)
    with pytest.raises(AttributeError):
        q.log_prob(z.clone())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 4])
def test_a_flow_starts_at_mean_field(kind, size):
    torch.manual_seed(0)
    family, diagonal = InverseAutoregressive(size, kind=kind), DiagonalNormal(size)
    h = torch.randn(6, family.h_dim)
    z = diagonal(h[:, : 2 * size]).sample((50,))
    difference = family(h).log_prob(z) - diagonal(h[:, : 2 * size]).log_prob(z)
    assert difference.abs().max() < 0.1


def test_full_covariance_is_any_gaussian():
    """The exact posterior of the linear-Gaussian model is one of the family: log P(x) is then the ELBO."""
    covariance = torch.tensor([[2.0, 0.3, -0.5], [0.3, 1.0, 0.2], [-0.5, 0.2, 0.7]])
    scale_tril, mean = torch.linalg.cholesky(covariance), torch.tensor([1.0, -2.0, 0.5])
    raw = (scale_tril.diagonal().expm1()).log()
    below = torch.stack([scale_tril[1, 0], scale_tril[2, 0], scale_tril[2, 1]])
    q = MultivariateNormal(3)(torch.cat([mean, raw, below]).expand(5, 9))
    torch.testing.assert_close(q.mean, mean.expand(5, 3))
    torch.testing.assert_close(q.covariance_matrix, covariance.expand(5, 3, 3), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("guide", "family"), [(FullCovariance, MultivariateNormal), (Flow, InverseAutoregressive)])
def test_a_family_of_its_own_makes_mean_field_another_guide(guide, family):
    model = VAE(SHAPE, prior=StandardNormal(3), decoder=SMALL)
    made = []
    for make in (partial(MeanField, posterior=family), guide):
        torch.manual_seed(0)
        made.append(make(model, encoder=SMALL).state_dict())
    assert list(made[0]) == list(made[1])
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
def test_vamp_prior_is_the_mixture_of_posteriors(make):
    model = VAE(SHAPE, prior=VampPrior(3, num_components=5), decoder=SMALL)
    guide = shaken(make(model, encoder=SMALL).double(), 0.2)
    model.double()
    z, u = torch.randn(4, 6, 3, dtype=torch.double), model.prior.inputs
    log_p = model.prior().expand([4, 6]).log_prob(z)
    expected = torch.stack([guide.posterior(u[i])["z"].log_prob(z) for i in range(5)]).logsumexp(0) - math.log(5)
    torch.testing.assert_close(log_p, expected, atol=1e-5, rtol=1e-5)
    one, other = (torch.autograd.grad(log.sum(), u)[0] for log in (log_p, expected))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guide_class", [Conditional, SemiSupervised])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_vamp_prior_given_a_label(family, guide_class):
    """P(z | y) is the mean of Q(z | u, y) over the pseudo-inputs u."""
    model = CVAE(SHAPE, Label(3), VampPrior(2, num_components=5), networks=architectures.Concatenated(8))
    guide = guide_class(model, posterior=family)
    c, z = model.condition.encode(LABELS), torch.randn(4, 6, 2)
    each = [guide.posteriors(guide.encoder(u.expand(6, *SHAPE), c))["z"].log_prob(z) for u in model.prior.inputs]
    torch.testing.assert_close(
        model.prior(c).log_prob(z), torch.stack(each).logsumexp(0) - math.log(5), atol=1e-3, rtol=1e-3
    )
    assert model.prior(c).sample((4,)).shape == (4, 6, 2)
    assert ppl_vae.sample(model, 3, y=LABELS[:3]).shape == (3, *SHAPE)
    fits(model, guide, (IMAGES, LABELS))
    if guide_class is SemiSupervised:
        fits(model, guide, IMAGES, objective=TraceEnum_ELBO(max_plate_nesting=1))


def test_vamp_prior_of_other_conditions():
    model = CVAE(SHAPE, Label(3), VampPrior(2, num_components=5), networks=architectures.Concatenated(8))
    with pytest.raises(InputError, match=r"called as CVAE is, with x and y; got MeanField.*conditional"):
        MeanField(model)

    class Own(Guide):
        def forward(self, x, y=None):
            """It does not matter what."""

    Own(model)
    with pytest.raises(InputError, match=r"posterior_given.* got Own. Use conditional"):
        model(IMAGES, LABELS)
    model = ImageCompletion(SHAPE, prior=VampPrior(2, num_components=5), networks=architectures.Concatenated(8))
    fits(model, Conditional(model), IMAGES)
    model = NextDigit(SHAPE, DigitString(2), VampPrior(2, num_components=5), networks=architectures.Concatenated(8))
    fits(model, Conditional(model), (IMAGES, STRINGS))


def fits(model, guide, data, **options):
    """One epoch, and a finite log P(x)."""
    ppl_vae.fit(model, guide, data, epochs=1, progress=False, **options)
    evidence = ppl_vae.estimate_evidence(model, guide, data, num_samples=20, compile=False, progress=False)
    assert torch.isfinite(torch.as_tensor(evidence.log_px)).all()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_networks_in_models_and_guides(network):
    model = VAE(SHAPE, StandardNormal(2), decoder=network)
    fits(model, Flow(model, encoder=network, hidden=8), IMAGES)
    model = CVAE(SHAPE, Label(3), StandardNormal(2), networks=architectures.Concatenated(network=network))
    fits(model, guide := SemiSupervised(model, classifier=network), (IMAGES, LABELS))
    assert guide.classify(IMAGES).shape == (6, 3)


@pytest.mark.parametrize("make", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_architectures(make):
    model = NextDigit(SHAPE, DigitString(2), StandardNormal(2), networks=make())
    fits(model, Conditional(model), (IMAGES, STRINGS))
    model = CVAE(SHAPE, Label(3), StandardNormal(2), networks=make())
    fits(model, guide := SemiSupervised(model), IMAGES, objective=TraceEnum_ELBO(max_plate_nesting=1))
    # Each label with each image, as when labels are summed out, is the same as one by one; both are read.
    c = model.condition.encode(torch.arange(3))
    together = guide.encoder(IMAGES, c[:, None])
    assert together.shape[:2] == (3, 6)
    torch.testing.assert_close(together[2, 4], guide.encoder(IMAGES[4], c[2]), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[1])
    assert not torch.allclose(together[:, 0], together[:, 1])


def test_a_network_of_images_has_to_have_images():
    with pytest.raises(InputError, match=r"Expected an image .*Use an MLP"):
        ImageCompletion(SHAPE, networks=architectures.Convolutional())


def test_by_name():
    settings = {"guide.transforms": 1, "guide.kind": "masked_autoregressive", "guide.hidden": 4}
    model, guide, used = build("vae", "flow", event_shape=torch.Size(SHAPE), settings=settings)
    assert (len(guide.posteriors.families[0].flow.transforms), used) == (1, settings)
    _, guide, _ = build("vae", "full_covariance", event_shape=torch.Size(SHAPE))
    assert isinstance(guide.posteriors.families[0], MultivariateNormal)
    with pytest.raises(InputError, match="did you mean 'transforms'"):
        build("vae", "flow", event_shape=torch.Size(SHAPE), settings={"guide.transfroms": 1})
    model, guide, _ = build(
        "cvae", event_shape=torch.Size(SHAPE), networks="convolutional", settings={"networks.channels": (4, 4)}
    )
    assert isinstance(guide.encoder.network, Convolutional)
    assert isinstance(model.decoder.network, Convolutional)


@pytest.fixture(scope="module")
def bananas():
    """Each guide, fitted to 64 data of a model with a posterior that is no Gaussian, and log P(x) by quadrature."""
    x = banana.some_data(64)
    log_px, _, _ = banana.exact(banana.make_model(), x)
    return x, log_px.numpy(), {name: banana.fitted(name, x, epochs=400) for name in banana.GUIDES}


def test_freedom_raises_the_bound(bananas):
    """Mean-field < full covariance < flow < log P(x), which is known by quadrature; each by far more than its error."""
    x, log_px, pairs = bananas
    options = dict(method="importance", num_samples=200, compile=False, progress=False)
    evidences = {name: ppl_vae.estimate_evidence(*pair, x, **options) for name, pair in pairs.items()}
    elbo = {name: evidence.elbo.mean() for name, evidence in evidences.items()}
    assert elbo["mean_field"] + 0.2 < elbo["full_covariance"] < elbo["flow"] - 0.2
    assert log_px.mean() - 0.25 < elbo["flow"] < log_px.mean()


@pytest.mark.parametrize("method", ["ais", "sandwich"])
@pytest.mark.parametrize("make", [FullCovariance, partial(Flow, kind="masked_autoregressive", transforms=1, hidden=4)])
def test_annealing_from_guides(make, method):
    """From any guide it comes to the log P(x) of quadrature."""
    model, x = banana.make_model(), banana.some_data(4)
    guide = shaken(make(model, encoder=SMALL), 0.1)
    options = dict(num_temperatures=10, num_chains=400, num_leapfrog=3, num_samples=50, compile=False)
    evidence = ppl_vae.estimate_evidence(model, guide, x, method=method, **options)
    check_evidence(evidence, banana.exact(model, x)[0])
    assert evidence.mcse.mean() < 0.3


@pytest.mark.parametrize("name", ["full_covariance", "flow"])
def test_guides_with_everything_else(bananas, name):
    x, _, pairs = bananas
    gap = ppl_vae.explain_gap(*pairs[name], x[:4], num_samples=200, num_steps=20, progress=False)
    assert gap.approximation.mean() > -0.1
    use = ppl_vae.latent_use(*pairs[name], x, num_samples=10, progress=False)
    assert 0 < use.mutual_information < math.log(len(x))
    assert ppl_vae.reconstruct(*pairs[name], x).shape == x.shape
