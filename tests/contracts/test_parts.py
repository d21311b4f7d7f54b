"""One contract for everything of a kind: each prior, likelihood, posterior family and network is a row."""

import math

import pytest
import torch
from bounds import check_means
from contracts.rows import (
    CONDITIONAL,
    ELSEWHERE,
    GUIDES,
    IMAGE_NETWORKS,
    LIKELIHOODS,
    MODELS,
    NETWORKS,
    POSTERIORS,
    PRIORS,
    SHELVES,
    alone,
)
from safetensors.torch import load, save
from torch.distributions import constraints

from ppl_vae import InputError, priors
from ppl_vae.distributions.bounded import OPEN_UNIT_INTERVAL
from ppl_vae.likelihoods import Bernoulli, Gaussian, Multinomial
from ppl_vae.networks import MLP, Convolutional, Residual
from ppl_vae.posteriors import DiagonalNormal, InverseAutoregressive
from ppl_vae.runs import build, kinds


def each(kind, rows):
    """A parameter `make` of a test: all that makes a part of this kind."""
    made = alone(kind, rows)
    return pytest.mark.parametrize("make", made.values(), ids=made)


each_prior = each("prior", PRIORS)
each_likelihood = each("likelihood", LIKELIHOODS)
EVENT_SHAPES = [(4,), (1, 2, 2), (3, 2, 2)]


@pytest.mark.parametrize("kind", SHELVES)
def test_every_part_has_a_row(kind):
    assert {*kinds.part_names(kind)} == {*SHELVES[kind]}


def test_every_program_has_a_row():
    assert {*build.names("guide")} == {*GUIDES}
    assert {name.split(",")[0].split()[0] for name in (*MODELS, *CONDITIONAL, *ELSEWHERE)} == {*build.names("model")}


def check_gradients(module, loss):
    loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def check_saved(make, module, value):
    """The same numbers come out after saving and loading into another one."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1)
    expected = value(module)
    other = make()
    other.load_state_dict(load(save(module.state_dict())))
    torch.testing.assert_close(value(other), expected)


@each_prior
def test_prior(make):
    prior = make(3)
    p = prior()
    assert (p.batch_shape, p.event_shape) == (torch.Size([]), prior.event_shape)
    assert p.expand([5, 6]).sample().shape == (5, 6, 3)
    z = torch.randn(5, 6, 3)
    assert p.log_prob(z).shape == (5, 6)
    check_gradients(prior, p.log_prob(z).sum()) if list(prior.parameters()) else None
    check_saved(lambda: make(3), prior, lambda m: m().log_prob(z))


@each_prior
def test_prior_is_a_density(make):
    """It integrates to one: importance sampling from a wide Student-t, an independent answer."""
    torch.manual_seed(1)
    q = torch.distributions.Independent(torch.distributions.StudentT(3.0, torch.zeros(3), 2.0), 1)
    z = q.sample((200_000,))
    with torch.no_grad():
        weights = (make(3)().log_prob(z) - q.log_prob(z)).exp()
    check_means(weights, 1.0)


@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
@each_likelihood
def test_likelihood(make, event_shape):
    likelihood = make().bind(event_shape)
    h = torch.randn(5, 6, *likelihood.h_shape, requires_grad=True)
    p = likelihood(h)
    assert (p.batch_shape, p.event_shape) == (torch.Size([5, 6]), torch.Size(event_shape))
    x = p.sample()
    assert p.mean.shape == x.shape
    assert p.log_prob(x[0]).shape == (5, 6)
    assert bool(p.support.check(x).all()) and bool(likelihood.support.check(x).all())
    assert not bool(likelihood.support.check(torch.tensor([0.5, -7.3, math.nan])).all())
    wide = p.expand([2, 5, 6])
    assert wide.sample((3,)).shape == (3, 2, 5, 6, *event_shape)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x).expand(2, 5, 6))
    p.log_prob(x).sum().backward()
    assert torch.isfinite(h.grad).all() and h.grad.abs().sum() > 0
    check_saved(lambda: make().bind(event_shape), likelihood, lambda m: m(h.detach()).log_prob(x))
    if list(likelihood.parameters()):
        check_gradients(likelihood, likelihood(h.detach()).log_prob(x).sum())
    with pytest.raises(InputError, match="h_shape"):
        likelihood(torch.zeros(5, 9, 9, 9))
    with pytest.raises(InputError, match="Make a new"):
        likelihood.bind((17,))


@each_likelihood
def test_likelihood_far_out(make):
    """Far from where a network starts it stays finite, value and gradient, for any x that it takes."""
    likelihood = make().bind((2,))
    x = likelihood(torch.randn(50, *likelihood.h_shape)).sample()
    for scale in (-30.0, 30.0):
        signs = torch.randint(0, 2, (50, *likelihood.h_shape)) * 2.0 - 1
        for far in (signs, torch.ones_like(signs)):
            h = (scale * far).requires_grad_()
            log_prob = likelihood(h).log_prob(x)
            log_prob.sum().backward()
            assert torch.isfinite(log_prob).all() and torch.isfinite(h.grad).all()
            assert bool(likelihood.support.check(likelihood(h).sample()).all())
            assert torch.isfinite(likelihood(h).mean).all()


@each_likelihood
def test_likelihood_has_the_mean_of_its_samples(make):
    torch.manual_seed(3)
    likelihood = make().bind((4,))
    p = likelihood(torch.randn(likelihood.h_shape) / 2)
    check_means(p.sample((40_000,)), p.mean.detach())


@each_likelihood
def test_likelihood_sums_to_one(make):
    """All its values, or a fine grid of them, have probability one together."""
    likelihood = make().double().bind((1,))
    h = torch.randn(7, *likelihood.h_shape, dtype=torch.double)
    support = likelihood.support
    if isinstance(likelihood, Multinomial):
        pytest.skip("the probabilities of a multinomial sum to one for each total: test_likelihoods.py")
    if support is constraints.positive:  # what is infinite at an end is not on the grid
        u = torch.linspace(-300, 300, 600_001, dtype=torch.double)
        total = torch.trapezoid((likelihood(h[:, None]).log_prob(u.exp()[:, None]) + u).exp(), u)
    elif support is OPEN_UNIT_INTERVAL:  # from 0 to a half, and from there to 1: numbers are not fine enough near 1
        u = torch.linspace(-300, 0, 300_001, dtype=torch.double)
        x = u.sigmoid()
        halves = (likelihood(each[:, None]).log_prob(x[:, None]) for each in (h, h * torch.tensor([-1, 1])))
        total = sum(torch.trapezoid(half.exp() * x * (1 - x), u) for half in halves)
    elif not support.is_discrete:
        x = torch.linspace(0, 1, 600_001, dtype=torch.double)
        if support is not constraints.unit_interval:  # from -300 to 300, finest about zero
            x = 300 * (14 * x - 7).sinh() / math.sinh(7)
        total = torch.trapezoid(likelihood(h[:, None]).log_prob(x[:, None]).exp(), x, dim=-1)
    else:
        x = torch.arange(3000.0, dtype=torch.double)
        levels = getattr(support, "num_levels", 2) - 1
        x = x / levels if bool(support.check(torch.tensor(1 / levels))) else x
        x = x[support.check(x)]
        total = likelihood(h[:, None]).log_prob(x[:, None]).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=2e-4, rtol=0)


def test_gaussian_against_the_formula():
    x, h = torch.randn(5, 4), torch.randn(5, 4)
    expected = (-0.5 * ((x - h) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(Gaussian(sigma=0.3).bind((4,))(h).log_prob(x), expected)
    assert not list(Gaussian(sigma=0.3).parameters())
    assert len(list(Gaussian().parameters())) == 1


def test_bernoulli_against_the_formula():
    x, h = torch.randint(0, 2, (5, 4)).float(), torch.randn(5, 4)
    p = torch.sigmoid(h)
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(Bernoulli().bind((4,))(h).log_prob(x), expected)


@each("posterior", POSTERIORS)
def test_posterior(make):
    family = make(3)
    h = torch.randn(5, 6, family.h_dim, requires_grad=True)
    q = family(h)
    assert (q.batch_shape, q.event_shape) == (torch.Size([5, 6]), torch.Size([3]))
    z = q.rsample()
    (z.sum() + q.log_prob(z.detach()).sum()).backward()
    assert (h.grad.abs() > 0).all()
    x = torch.randn(4, 1, 1, 3)  # under extra leading dimensions, each z for all h
    assert q.log_prob(x).shape == (4, 5, 6)
    torch.testing.assert_close(q.log_prob(x)[2, 3, 4], family(h[3, 4]).log_prob(x[2, 0, 0]), rtol=1e-4, atol=1e-3)
    if list(family.parameters()):
        check_gradients(family, family(h.detach()).log_prob(x).sum())
    check_saved(lambda: make(3), family, lambda m: m(h.detach()).log_prob(x))


def test_no_scale_is_zero():
    q = DiagonalNormal(3)(torch.full((5, 6), -50.0))
    torch.testing.assert_close(q.stddev, torch.full((5, 3), 1e-6))


@pytest.mark.parametrize("shapes", [((3,), (1, 2, 2)), ((1, 2, 2), (6,)), ((2, 2), (3, 2))])
@each("encoder", NETWORKS)
def test_network(make, shapes):
    check_network(make, *shapes)


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (3, 7, 5), (1, 1, 1)])
@each("encoder", IMAGE_NETWORKS)
def test_network_of_images(make, image_shape):
    check_network(make, image_shape, (6,))
    check_network(make, (2, 3), image_shape)
    for shapes in [((3,), (4,)), (image_shape, image_shape)]:
        with pytest.raises(InputError, match=r"on one side, a vector on the other.*Use an MLP"):
            make(*shapes)


def check_network(make, in_shape, out_shape):
    network = make(in_shape, out_shape)
    for batch_shape in [(), (5,), (4, 5), (2, 4, 5)]:
        assert network(torch.randn(*batch_shape, *in_shape)).shape == (*batch_shape, *out_shape)
    x = torch.randn(20, 5, *in_shape)
    torch.testing.assert_close(network(x)[1, 2], network(x[1, 2]))
    check_gradients(network, network(x).square().sum())
    check_saved(lambda: make(in_shape, out_shape), network, lambda m: m(x))
    with pytest.raises(InputError, match="given shape"):
        network(torch.zeros(5, 17))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: priors.StandardNormal(0), "latent_dim.*got 0"),
        (lambda: priors.StandardNormal(2.5), r"latent_dim.*got 2\.5"),
        (lambda: priors.Mixture(2, num_components=-1), "num_components.*got -1"),
        (lambda: Gaussian(sigma=0), "sigma.*got 0"),
        (lambda: Gaussian(sigma=float("nan")), "sigma.*got nan"),
        (lambda: Gaussian(sigma="wide"), "sigma.*got 'wide'"),
        (lambda: Bernoulli()(torch.zeros(3)), "bound to a data shape"),
        (lambda: MLP((3,), (2,), activation="rel"), "did you mean 'relu'"),
        (lambda: MLP((3,), (2,), hidden=(0,)), "hidden.*got 0"),
        (lambda: Convolutional((1, 4, 4), (2,), channels=()), r"channels between.*got .* by \[\]"),
        (lambda: Convolutional((1, 4, 4), (2,), channels=(4, 0)), "channels.*got 0"),
        (lambda: Residual((1, 4, 4), (2,), blocks=0), "blocks.*got 0"),
        (lambda: Residual((1, 4, 4), (2,), activation="rel"), "did you mean 'relu'"),
        (lambda: DiagonalNormal(0), "latent_dim.*got 0"),
        (lambda: InverseAutoregressive(2, kind="neural_splines"), "did you mean 'neural_spline'"),
        (lambda: InverseAutoregressive(2, transforms=0), "transforms.*got 0"),
        (lambda: InverseAutoregressive(2, context_dim=0), "context_dim.*got 0"),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
