"""Whatever a person gives for a network is one: modules, classes, functions; what is none is told so in a sentence."""

import functools
import math

import pytest
import torch
from bounds import check_evidence
from ppl_vae.guides import Conditional, Discrete, Flow, FullCovariance, Hierarchical, MeanField, SemiSupervised
from ppl_vae.models import CVAE, VAE
from ppl_vae.models import Discrete as DiscreteModel
from ppl_vae.models import Hierarchical as HierarchicalModel
from pyro import infer
from torch import nn

from ppl_vae import InputError, conditions, estimate_evidence, fit, likelihoods, posteriors, priors, sample
from ppl_vae.architectures import Concatenated
from ppl_vae.networks import MLP, Network, network_of

SHAPE = (1, 4, 4)
X = torch.bernoulli(torch.full((24, *SHAPE), 0.5), generator=torch.Generator().manual_seed(0))


class NoArguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 16)

    def forward(self, z):
        return self.linear(z)


class Viewing(Network):
    """A network of ours that takes one batch dimension only."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.linear = nn.Linear(8, 16)

    def transform(self, x):
        return self.linear(x.view(x.size(0), -1))


def images(in_shape, out_shape):
    up = nn.ConvTranspose2d(2, 1, 4, stride=2, padding=1)
    return nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.BatchNorm2d(2), nn.ReLU(), up)


def normalized():
    return nn.Sequential(nn.Flatten(1), nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 16))


def by_a_closure():
    linear = nn.Linear(8, 16)
    return lambda z: 2 * linear(z)


DECODERS = {
    "a module": lambda: nn.Linear(8, 16),
    "a module of one batch dimension": normalized,
    "a lazy module": lambda: nn.LazyLinear(16),
    "a function of shapes": lambda: images,
    "a partial": lambda: functools.partial(MLP, hidden=4),
    "a class without arguments": lambda: NoArguments,
    "a network of ours that is made": lambda: MLP((8,), SHAPE, hidden=4),
    "a network of one batch dimension": lambda: Viewing,
    "a function of tensors": by_a_closure,
    "a method": lambda: nn.Linear(8, 16).forward,
    "a partial of a module": lambda: functools.partial(nn.Linear(8, 16)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_network_decodes(name):
    model = VAE(SHAPE, decoder=DECODERS[name]())
    guide = MeanField(model, encoder=nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)))
    start = {key: value.clone() for key, value in model.named_parameters()}
    assert start
    fit(model, guide, X, epochs=2, batch_size=12, objective=infer.Trace_ELBO(num_particles=2))
    assert all(bool((value != start[key]).any()) for key, value in model.named_parameters())
    together = estimate_evidence(model, guide, X, num_samples=300).elbo.mean()
    one_by_one = estimate_evidence(model, guide, X, num_samples=300, vectorize=False, seed=1).elbo.mean()
    assert together == pytest.approx(one_by_one, abs=0.5)  # a log-weight has a spread of 3 or so, 7200 of them of 0.04
    assert sample(model, 3).shape == (3, *SHAPE)
    z = torch.randn(3, 5, 8)
    assert torch.allclose(model.decoder(z), torch.stack([model.decoder(one) for one in z]), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (lambda: VAE(SHAPE), lambda m: FullCovariance(m, encoder=nn.Linear(16, 44))),
        (lambda: VAE(SHAPE, prior=priors.StandardNormal(2)), lambda m: Flow(m, encoder=nn.Linear(16, 36))),
        (
            lambda: HierarchicalModel(SHAPE, decoder=nn.Linear(16, 16)),
            lambda m: Hierarchical(m, encoder=nn.Sequential(nn.Flatten(1), nn.Linear(16, 16))),
        ),
        (lambda: DiscreteModel(SHAPE, decoder=nn.Linear(20, 16)), lambda m: Discrete(m, encoder=nn.Linear(16, 20))),
        (lambda: CVAE(SHAPE, conditions.Label(3)), lambda m: SemiSupervised(m, classifier=nn.Linear(16, 3))),
        (
            lambda: CVAE(
                SHAPE,
                conditions.Label(3),
                networks=Concatenated(network=lambda i, o: nn.Sequential(nn.BatchNorm1d(*i), nn.Linear(*i, o.numel()))),
            ),
            Conditional,
        ),
    ],
    ids=["full covariance", "flow", "hierarchical", "discrete", "semi-supervised", "conditional"],
)
def test_in_every_model_and_guide(model, guide):
    model = model()
    guide = guide(model)
    data = (X, torch.arange(24) % 3) if isinstance(model, CVAE) else X
    enumerated = isinstance(model, DiscreteModel)
    fit(model, guide, data, epochs=1, objective=infer.TraceEnum_ELBO(max_plate_nesting=1) if enumerated else None)
    assert bool(torch.isfinite(torch.as_tensor(estimate_evidence(model, guide, data, num_samples=5).log_px)).all())


def test_statistics_of_a_batch_in_training_running_ones_in_evaluation():
    """Of all samples of all data of the step; afterwards no datum depends on others."""
    decoder = network_of(normalized(), (8,), SHAPE)
    z = torch.randn(6, 10, 8)
    decoder.train()(z)
    norm = decoder.network[2]
    seen = decoder.network[1](z.reshape(60, 8))
    assert torch.allclose(norm.running_mean, 0.1 * seen.mean(0), atol=1e-5)
    decoder.eval()
    assert torch.allclose(decoder(z)[:, :3], decoder(z[:, :3]), atol=1e-5)


def apply(net, z):
    return net(z)


def closed_over(net):
    def function(z):
        return net(z)

    return function


HELD = {
    "a module": lambda net: net,
    "a partial of it": functools.partial,
    "a function": closed_over,
    "a partial of a function": lambda net: functools.partial(apply, net),
    "a method": lambda net: net.forward,
}


@pytest.mark.parametrize("held", HELD)
def test_log_px_is_that_of_the_network_in_evaluation(held):
    """However a network hangs there: running means, no dropout, by quadrature over a z of one dimension."""
    net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 16))
    model = VAE(SHAPE, prior=priors.StandardNormal(1), decoder=HELD[held](net))
    guide = MeanField(model, encoder=functools.partial(MLP, hidden=8))
    fit(model, guide, X, epochs=3, learning_rate=0.01)
    evidence = estimate_evidence(model, guide, X, num_samples=2000)
    z = torch.linspace(-8, 8, 2001)[:, None]
    with torch.no_grad():
        p = torch.distributions.Bernoulli(logits=net.eval()(z))
    joint = p.log_prob(X.reshape(24, 1, 16)).sum(-1) + torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0])
    check_evidence(evidence, torch.logsumexp(joint, 1) + math.log(16 / 2000))


def test_making_a_guide_leaves_the_models_statistics():
    model = VAE(SHAPE, decoder=normalized())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    MeanField(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VAE(SHAPE, decoder=nn.Linear(8, 15)), r"Linear to give 16 numbers.*got shape \(2, 15\).*, line"),
        (
            lambda: VAE(SHAPE, decoder=nn.Linear(9, 16)),
            r"take shape \[..., 8\]; got a layer that takes \[..., 9\], given \[..., 8\].*take 8.*networks.py, line",
        ),
        (
            lambda: MeanField(VAE(SHAPE), encoder=nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())),
            r"take shape \[..., 1, 4, 4\]; got a convolution of 3 channels, given \[2, 1, 4, 4\].*line \d+",
        ),
        (lambda: VAE(SHAPE, decoder=MLP((9,), (16,))), r"network from \(8,\) to \(1, 4, 4\); got MLP from \(9,\)"),
        (lambda: VAE(SHAPE, decoder=64), r"a network, or a class or a function that makes one; got 64"),
        (lambda: VAE(SHAPE, decoder=lambda i, o: None), r"to return a network; got NoneType"),
        (
            lambda: VAE(SHAPE, decoder=nn.Linear),
            r"Linear to make a network from \(8,\) to \(1, 4, 4\)",
        ),
        (lambda: MeanField(VAE(SHAPE), encoder=nn.Linear(16, 3)), r"give 16 numbers.*got shape \(2, 3\)"),
        (lambda: Concatenated(network=nn.Linear(3, 4)), r"a class, or a function of shapes.*got Linear"),
        (lambda: VAE(SHAPE, prior=priors.StandardNormal), r"prior to be an object.*prior=StandardNormal\(\.\.\.\)"),
        (lambda: CVAE(SHAPE, conditions.Label), r"condition to be an object; got the class Label"),
        (lambda: CVAE(SHAPE, networks=MLP), r"class of Architecture, such as Concatenated\(\); got MLP\."),
        (lambda: CVAE(SHAPE, networks=nn.Sequential(nn.Linear(3, 4))), r"class of Architecture.*got Sequential\."),
        (lambda: CVAE(SHAPE, condition=3), r"class of Condition, such as Label\(\); got 3"),
        (lambda: VAE(SHAPE, prior="mixture"), r"class of Prior, such as StandardNormal\(\); got 'mixture'"),
        (lambda: VAE(SHAPE, prior=torch.distributions.Normal(0, 1)), r"class of Prior.*got Normal\..*ppl_vae\.parts"),
        (lambda: VAE(SHAPE, decoder=torch.sigmoid), r"network sigmoid to give 16 numbers.*got shape \(2, 8\)"),
        (lambda: VAE(X), r"shape of one datum; got data\. Write \(1, 4, 4\)"),
        (
            lambda: MeanField(VAE(SHAPE), posterior=torch.distributions.Normal),
            r"posterior to be a class of Posterior.*got Normal",
        ),
        (lambda: CVAE(SHAPE, networks=Concatenated), r"networks to be an object; got the class Concatenated"),
        (lambda: VAE(SHAPE, likelihoods.Bernoulli()), r"the prior of VAE; got Bernoulli, which is a likelihood"),
        (lambda: VAE(64), r"event_shape to be a shape; got 64\. Write \(64,\)"),
        (lambda: VAE(SHAPE, latent_dim=16), r"'latent_dim' of VAE: it is one of its prior.*StandardNormal\(latent_dim"),
        (lambda: VAE(SHAPE, decodr=MLP), r"Unknown option 'decodr' of VAE: did you mean 'decoder'"),
        (lambda: MeanField(VAE), r"model to be an object; got the class VAE"),
        (
            lambda: MeanField(VAE(SHAPE), posterior=posteriors.DiagonalNormal(8)),
            r"posterior to be a class",
        ),
    ],
)
def test_what_is_not_meant_is_said_in_a_sentence(call, message):
    with pytest.raises(InputError, match=message) as said:
        call()
    assert "\n" not in str(said.value)


def test_a_network_whose_size_is_wrong_is_found_when_it_runs():
    class Short(Network):
        def __init__(self, in_shape, out_shape):
            super().__init__(in_shape, out_shape)
            self.linear = nn.Linear(8, 15)

        def transform(self, x):
            return self.linear(x)

    with pytest.raises(InputError, match=r"Short to give 16 numbers for each of 1 inputs.*got shape \(1, 15\)"):
        MeanField(VAE(SHAPE, decoder=Short))
