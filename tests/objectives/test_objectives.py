"""Objectives: their values and gradients against closed forms and quadrature, and how they go into anyone's loop."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_means, limit
from contracts.rows import OBJECTIVES, alone
from pairs import (
    PyroTutorialVAE,
    clusters_guide,
    clusters_model,
    constrained_guide,
    constrained_model,
    hierarchical_guide,
    hierarchical_log_px,
    hierarchical_model,
    inner_mixture_guide,
    inner_mixture_log_px,
    inner_mixture_model,
    mean_guide,
    mean_model,
    mixture_guide,
    mixture_log_px,
    mixture_model,
    no_guide,
)
from ppl_vae.guides import Hierarchical as TwoLayers
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE, Hierarchical, LinearGaussian
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import InputError, fit
from ppl_vae.networks import MLP
from ppl_vae.objectives import IWAE, BetaELBO, Classifying, DoublyReparameterized, FreeBits, StickingTheLanding, WarmUp
from ppl_vae.posteriors import InverseAutoregressive
from ppl_vae.priors import VampPrior
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.pair import Pair

linear = partial(MLP, hidden=())
OURS = [make.func for make in alone("objective", OBJECTIVES).values()]
name_of = lambda thing: getattr(thing, "__name__", type(thing).__name__)  # noqa: E731


@pytest.fixture(autouse=True)
def own_store(nothing_leaks):
    """What programs put into Pyro's store is gone after each test."""
    with pyro.settings.context(module_local_params=True), pyro.get_param_store().scope():
        yield


@pytest.fixture
def wrong():
    """A linear-Gaussian pair of one latent whose guide is Gaussian, and not the posterior, and four data."""
    torch.manual_seed(0)
    model = LinearGaussian((3,), latent_dim=1)
    with torch.no_grad():
        return model, MeanField(model, encoder=linear), model(size=4)


def normal(guide, x):
    return guide.posterior(x)["z"]


def exact_elbo(model, guide, x):
    """The ELBO is log P(x) - KL[Q(z | x) || P(z | x)], all Gaussian."""
    q = normal(guide, x)
    q = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return model.exact_log_px(x) - torch.distributions.kl_divergence(q, model.exact_posterior(x))


def exact_kl(model, guide, x):
    q = normal(guide, x)
    return 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).sum(-1)


def exact_bound(model, guide, x, nodes=24):
    """L_3, by quadrature over the three samples."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.tensor(points, dtype=torch.float), torch.tensor(weights / weights.sum(), dtype=torch.float)
    q = normal(guide, x)
    z = q.mean + q.stddev * points[:, None, None]
    log_w = model.likelihood(model.decoder(z)).log_prob(x) + model.prior().log_prob(z) - q.log_prob(z)
    i, j, k = torch.cartesian_prod(*[torch.arange(nodes)] * 3).T
    return (weights[i] * weights[j] * weights[k]) @ torch.stack([log_w[i], log_w[j], log_w[k]]).logsumexp(0) - math.log(
        3
    )


def freed(free_nats):
    def exact(model, guide, x):
        kl = exact_kl(model, guide, x)
        return exact_elbo(model, guide, x).sum() + kl.sum() - len(x) * kl.mean().clamp(min=free_nats)

    return exact


def weighted(beta):
    return lambda *pair: (exact_elbo(*pair) + (1 - beta) * exact_kl(*pair)).sum()


def second_epoch():
    objective = WarmUp(epochs=4, beta=2.0)
    objective.set_epoch(1)
    return objective


def flat_gradients(parameters):
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def many_steps(objective, model, guide, args, steps, parameters=None):
    """Losses [steps] and gradients [steps, number of parameters] of an objective."""
    parameters = parameters or Pair(model, guide).parameters()
    losses, gradients = [], []
    for _ in range(steps):
        for p in parameters:
            p.grad = None
        losses.append(objective.loss_and_grads(model, guide, *args))
        gradients.append(flat_gradients(parameters))
    return torch.tensor(losses), torch.stack(gradients)


def standard_errors_away(draws, expected):
    return (draws.double().mean(0) - expected.double()).abs() / (draws.double().std(0) / math.sqrt(len(draws)) + 1e-5)


@pytest.mark.parametrize(
    "objective, bound, optimized",
    [
        (IWAE(num_particles=3), exact_bound, None),
        (DoublyReparameterized(num_particles=3), exact_bound, None),
        (StickingTheLanding(), exact_elbo, None),
        (StickingTheLanding(num_particles=3), exact_elbo, None),
        (BetaELBO(), exact_elbo, None),
        (BetaELBO(beta=3.0, num_particles=2), exact_elbo, weighted(3.0)),
        (second_epoch(), exact_elbo, weighted(0.5)),
        (FreeBits(free_nats=0.0), exact_elbo, None),
        (FreeBits(free_nats=0.01, per_dimension=True), exact_elbo, freed(0.01)),
        (FreeBits(free_nats=20.0), exact_elbo, freed(20.0)),
    ],
    ids=name_of,
)
def test_value_and_gradient_are_unbiased(wrong, objective, bound, optimized):
    model, guide, x = wrong
    parameters = Pair(model, guide).parameters()
    exact = bound(*wrong).sum() if optimized is None else optimized(*wrong)
    (-exact).backward()
    expected = flat_gradients(parameters)
    copies = 200
    args = (x.repeat(copies, 1),)
    losses, gradients = many_steps(objective, model, guide, args, 40)
    check_means(losses / copies, -bound(*wrong).sum().detach(), slack=1e-4)
    check_means(gradients / copies, expected, slack=1e-4)
    assert (gradients.std(0) / copies / math.sqrt(40) < 0.05 * expected.norm()).all(), "too noisy to tell"
    with torch.no_grad():
        values = torch.tensor([objective.differentiable_loss(model, guide, *args) for _ in range(20)]) / copies
        plain = torch.tensor([objective.loss(model, guide, *args) for _ in range(20)]) / copies
    check_means(values, -exact.detach(), slack=1e-4)
    check_means(plain, -bound(*wrong).sum().detach(), slack=1e-4)


def test_a_scale_is_outside_of_the_logarithm(wrong):
    """Pyro's `RenyiELBO` has it inside, and its bound of scaled data is another one."""
    model, guide, x = wrong
    scaled = [poutine.scale(program, 5.0) for program in (model, guide)]
    exact = -5 * exact_bound(*wrong).sum().detach()
    renyi = RenyiELBO(alpha=0.0, num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    for objective, right in (
        (IWAE(num_particles=3), True),
        (DoublyReparameterized(num_particles=3), True),
        (renyi, False),
    ):
        losses = torch.tensor([objective.loss(*scaled, x.repeat(100, 1)) / 100 for _ in range(30)])
        assert (standard_errors_away(losses, exact) < limit(dof=29)) == right


def posterior_pair():
    """A pair whose mean-field guide, with parameters of its own, is the posterior."""
    model = LinearGaussian((3,), latent_dim=1, sigma=0.5)
    guide = MeanField(model, encoder=linear)
    with torch.no_grad():
        x = model(size=6)
        zero, identity = torch.zeros(1, 3), torch.eye(3)
        mean = lambda data: model.exact_posterior(data).mean  # noqa: E731
        layer = [m for m in guide.modules() if isinstance(m, nn.Linear)][-1]
        scale = model.exact_posterior(zero).variance.sqrt()
        layer.weight.copy_(torch.cat([(mean(identity) - mean(zero)).T, torch.zeros(1, 3)]))
        layer.bias.copy_(torch.cat([mean(zero)[0], (scale.expm1()).log()[0]]))
    return model, guide, x


def wide_pair():
    """As `posterior_pair`, but the guide is wider and its mean a little off: weights have small variance."""
    model, guide, x = posterior_pair()
    layer = [m for m in guide.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        layer.bias += torch.tensor([0.2, 0.4])
    return model, guide, x


def test_the_bound_rises_to_log_px():
    model, guide, x = wide_pair()
    exact = float(model.exact_log_px(x).sum().detach())
    means, errors = [], []
    for k in (1, 5, 25, 5000):  # as many draws for each: 40 losses of 5,000 for each datum
        copies = 5000 // k
        losses = torch.tensor([IWAE(num_particles=k).loss(model, guide, x.repeat(copies, 1)) for _ in range(40)])
        means.append(-float(losses.mean()) / copies)
        errors.append(float(losses.std()) / copies / math.sqrt(40))
    for k, sign in enumerate((1, 1, -1)):  # from 1 to 5 to 25 by more than the noise; that 5,000 gain may be less
        assert means[k + 1] - means[k] > sign * limit(4, 39) * math.hypot(*errors[k : k + 2])
    assert means[0] < exact - 0.5
    assert means[-1] == pytest.approx(exact, abs=limit(4, 39) * errors[-1] + 0.01)


def test_doubly_reparameterized_gradients_have_less_variance_and_gain_from_more_samples():
    model, guide, x = wide_pair()

    def gradients_of(objective):
        return many_steps(objective, model, guide, (x,), 100, list(guide.parameters()))[1]

    def signal_to_noise(num_particles):
        """Of both estimators; their mean is the same, and seen better in the one with less noise."""
        ours, plain = gradients_of(DoublyReparameterized(num_particles)), gradients_of(IWAE(num_particles))
        return [float(ours.mean(0).norm() / of.var(0).sum().sqrt()) for of in (ours, plain)]

    (few, plain_few), (many, plain_many) = signal_to_noise(4), signal_to_noise(400)
    assert few > 3 * plain_few
    assert many > 5 * few
    assert plain_many < plain_few / 3


@pytest.mark.parametrize(
    "objective", [StickingTheLanding(), StickingTheLanding(4), DoublyReparameterized(4)], ids=name_of
)
def test_at_the_posterior_every_sample_has_gradient_zero(objective):
    model, guide, x = posterior_pair()
    parameters = list(guide.parameters())
    losses, gradients = many_steps(objective, model, guide, (x,), 5, parameters)
    assert torch.allclose(losses, -model.exact_log_px(x).sum().expand(5), atol=1e-3)
    assert gradients.abs().max() < 1e-3
    assert many_steps(BetaELBO(), model, guide, (x,), 5, parameters)[1].abs().max() > 0.1


def test_the_exact_divergence_is_pyros_and_has_less_variance(small_pair, digits):
    x = digits.validation.x[:20]
    with Pair(*small_pair).running():
        values = []
        for objective in (BetaELBO(), TraceMeanField_ELBO()):
            torch.manual_seed(0)
            values.append(objective.loss(*small_pair, x))
        assert values[0] == pytest.approx(values[1], rel=1e-5)
        with torch.no_grad():
            for p in small_pair[0].decoder.parameters():
                p.zero_()  # what noise is left is the divergence's
        noise = [np.std([o.loss(*small_pair, x) for _ in range(20)]) for o in (BetaELBO(), Trace_ELBO())]
    assert noise[0] < 1e-2 < noise[1]


def test_below_the_threshold_the_divergence_has_no_gradient(small_pair, digits):
    """Only a likelihood that reads z is left: with a decoder of zeros there is none for the guide at all."""
    model, guide = small_pair
    x = digits.validation.x[:20]
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.zero_()
    free, paid = (many_steps(FreeBits(n), model, guide, (x,), 1, list(guide.parameters()))[1] for n in (1e3, 0.0))
    assert free.abs().max() == 0 and paid.abs().max() > 0


def test_free_nats_are_for_each_dimension(small_pair, digits):
    model, guide = (module.double() for module in small_pair)  # a small difference of large numbers
    x = digits.validation.x[:20].double()
    with torch.no_grad():
        q = guide.posterior(x)["z"].base_dist
        kl = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).mean(0)
        floor = float(kl.median())
        torch.manual_seed(1)
        paid = FreeBits(free_nats=floor, per_dimension=True).differentiable_loss(model, guide, x)
        torch.manual_seed(1)
        plain = FreeBits(free_nats=0.0).differentiable_loss(model, guide, x)
    assert float(paid - plain) == pytest.approx(20 * float((floor - kl).clamp(min=0).sum()), rel=1e-3)


@pytest.mark.parametrize("cls", OURS)
def test_a_subsampled_plate_stands_for_all_data(cls):
    """The loss of a subset, with the posterior as guide, is the subset's log P(x) times what it stands for."""
    objective = cls(num_particles=20_000)
    data, scale = torch.randn(4), 0.5**0.5

    def model(x):
        with pyro.plate("data", 4, subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", 4, subsample_size=2) as index:
            pyro.sample("z", dist.Normal(slope * x[index], scale))

    log_px = dist.Normal(0.0, 2**0.5).log_prob(data)
    for subset in ([0, 1], [0, 3], [2, 3]):
        with Substitute({"data": torch.tensor(subset)}):
            loss = objective.loss(model, guide, data)
        assert loss == pytest.approx(-2 * float(log_px[subset].sum()), abs=0.2)
    assert math.isfinite(objective.loss_and_grads(model, guide, data))


def test_a_plate_inside_the_one_over_the_data_is_scaled_inside_the_logarithm():
    x = torch.randn(3, 4)

    def model(x):
        with pyro.plate("data", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("pixels", 4, subsample_size=2, dim=-1) as index:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, index])

    def guide(x):
        with pyro.plate("data", 3, dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 0.7))

    with Substitute({"pixels": torch.tensor([1, 3])}):
        objective = IWAE(num_particles=5)
        particles = objective.particles(poutine.scale(model, 3.0), poutine.scale(guide, 3.0), (x,), {})
        z = particles.guide_trace.nodes["z"]["value"][..., 0]
        log_w = 2 * dist.Normal(z[..., None], 1.0).log_prob(x[:, [1, 3]]).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z)
        log_w = log_w - dist.Normal(x.mean(-1), 0.7).log_prob(z)
        assert torch.allclose(particles.log_weights, log_w, atol=1e-4)
        assert float(objective.optimized(particles)) == pytest.approx(
            3 * float((log_w.logsumexp(0) - math.log(5)).sum())
        )


@pytest.mark.parametrize(
    "model, guide, x, log_px",
    [
        (hierarchical_model, hierarchical_guide, torch.randn(3, 3), hierarchical_log_px),
        (mixture_model, mixture_guide, torch.randn(3, 2), mixture_log_px),
        (inner_mixture_model, inner_mixture_guide, torch.randn(3, 3), inner_mixture_log_px),
    ],
    ids=["two sites", "enumerated", "enumerated inside"],
)
def test_pairs_of_several_sites(model, guide, x, log_px):
    objective = IWAE(num_particles=50_000)
    exact = log_px(x)
    assert objective.loss(model, guide, x) == pytest.approx(-float(exact.sum()), abs=0.1)
    if log_px is hierarchical_log_px:
        masked = [poutine.mask(p, mask=torch.tensor([[True], [False], [True]])) for p in (model, guide)]
        assert objective.loss(*masked, x) == pytest.approx(-float(exact[0] + exact[2]), abs=0.1)
    if log_px is mixture_log_px:
        assert np.mean([BetaELBO(num_particles=10_000).loss(model, guide, x)]) == pytest.approx(
            TraceEnum_ELBO(max_plate_nesting=1, num_particles=10_000, vectorize_particles=True).loss(model, guide, x),
            abs=0.5,
        )


def chained_guide(x):
    """z2 is drawn given z1, with parameters in Pyro's store."""
    slope, chain, scale = (pyro.param(n, torch.tensor(v)) for n, v in (("a", 0.3), ("b", 0.6), ("s", 0.2)))
    with pyro.plate("data", len(x), dim=-2):
        z1 = pyro.sample("z1", dist.Normal(slope * x.mean(-1, keepdim=True), scale.exp()))
        pyro.sample("z2", dist.Normal(chain * z1.tanh() + 0.4 * x.mean(-1, keepdim=True), (scale - 0.3 * z1).exp()))


def reversed_guide(x):
    """z2, which in the model depends on z1, is drawn first."""
    slope, chain = (pyro.param(n, torch.tensor(v)) for n, v in (("a", 0.3), ("b", 0.6)))
    with pyro.plate("data", len(x), dim=-2):
        z2 = pyro.sample("z2", dist.Normal(slope * x.mean(-1, keepdim=True), 1.0))
        pyro.sample("z1", dist.Normal(chain * z2, 0.8))


class FlowGuide(MeanField):
    """Q(z | x) is a flow."""

    def __init__(self, model):
        super().__init__(model, encoder=linear)
        self.family = InverseAutoregressive(2, kind="masked_autoregressive", transforms=2, hidden=(4,), context_dim=2)
        self.encoder = linear(self.event_shape, (self.family.h_dim,))

    def forward(self, x):
        with self.plate(x):
            return pyro.sample("z", self.family(self.encoder(x)))


def pairs_to_compare(kind):
    torch.manual_seed(3)
    if kind in ("two sites", "two sites, reversed"):
        guide = chained_guide if kind == "two sites" else reversed_guide
        return hierarchical_model, guide, torch.tensor([[0.5, 1.0, 2.0]])
    if kind == "method":
        vae = PyroTutorialVAE(num_pixels=3, z_dim=1, hidden=2)
        return vae.model, vae.guide, torch.tensor([[1.0, 0.0, 1.0]])
    if kind == "functions":
        return mean_model, mean_guide, torch.tensor([1.5])
    if kind == "shared parameters":
        model = VAE((3,), prior=VampPrior(2, num_components=2), decoder=linear)
        return model, MeanField(model, encoder=linear), torch.tensor([[1.0, 0.0, 1.0]])
    model = LinearGaussian((3,), latent_dim=2)
    return model, FlowGuide(model), torch.tensor([[1.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    "kind", ["two sites", "two sites, reversed", "method", "functions", "shared parameters", "flow"]
)
def test_gradients_without_the_score_have_the_same_mean(kind):
    model, guide, x = pairs_to_compare(kind)
    x = x.repeat(400, *[1] * (x.dim() - 1))
    pair = Pair(model, guide, fresh=True)
    with pair.running():
        pair.see([poutine.trace(p).get_trace(x) for p in (model, guide)])
        steps = [
            many_steps(o, model, guide, (x,), 30, pair.parameters())
            for o in (IWAE(3), DoublyReparameterized(3), Trace_ELBO(), StickingTheLanding(), BetaELBO())
        ]
    for one, *others in (steps[:2], steps[2:]):
        for other in others:
            for a, b in zip(one, other, strict=True):
                error = ((a.var(0) + b.var(0)) / 30).sqrt() + 1e-4 * a.abs().mean(0)
                assert ((a.mean(0) - b.mean(0)).abs() <= 4.5 * error + 1e-6).all()


def test_what_cannot_be_trained_is_refused_in_words(small_pair, digits):
    model, guide = small_pair
    x = digits.validation.x[:5]
    for cls in OURS:
        with pytest.raises(InputError, match=r"num_particles.*at least 1; got 0"):
            cls(num_particles=0)

    def discrete(x):
        chances = pyro.param("chances", torch.tensor([0.3, 0.3, 0.4]))
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(chances))

    data = torch.randn(5)
    with Pair(clusters_model, discrete, fresh=True).running(), pytest.raises(InputError, match="site 'c' with Categ"):
        IWAE().loss(clusters_model, discrete, data)
    assert math.isfinite(IWAE().loss(clusters_model, clusters_guide, data))  # without parameters it needs no gradient
    assert math.isfinite(IWAE().loss(clusters_model, no_guide, data))
    assert math.isfinite(FreeBits().loss(constrained_model, constrained_guide, data))
    with pytest.raises(InputError, match=r"one scale for all sites.*'?z of the guide"):
        IWAE().loss(model, poutine.scale(guide, 0.5), x)
    with pytest.raises(InputError, match=r"independent numbers.*per_dimension"):
        FreeBits(per_dimension=True).differentiable_loss(mixture_model, mixture_guide, torch.randn(5, 2))
    dropping = MeanField(model, encoder=lambda a, b: nn.Sequential(nn.Dropout(0.5), linear(a, b)))
    with pytest.raises(InputError, match="dropout"):
        fit(model, dropping, x, objective=DoublyReparameterized(), epochs=1)
    hidden = {"slope": torch.ones((), requires_grad=True)}  # of no module

    def secretive(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(hidden["slope"] * x, 1.0))

    with Pair(mean_model, secretive, fresh=True).running(), pytest.raises(InputError, match=r"those of a module.*'z'"):
        StickingTheLanding().loss(mean_model, secretive, data)
    for wrong, message in (
        (lambda: BetaELBO(beta=-1), "beta.*at least 0; got -1"),
        (lambda: FreeBits(free_nats=math.nan), "free_nats.*got nan"),
        (lambda: WarmUp(epochs=0), "epochs.*got 0"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()


@pytest.mark.parametrize("cls", OURS)
def test_fit_takes_it_and_resumes_bit_for_bit(cls, small_pair, digits, tmp_path):
    model, guide = small_pair
    x = digits.validation.x[:50]
    start = {"m": {k: v.clone() for k, v in model.state_dict().items()}, "g": guide.state_dict()}
    start["g"] = {k: v.clone() for k, v in start["g"].items()}
    options = dict(batch_size=25, validation=digits.validation.x[50:100], learning_rate=0.02, schedule="constant")
    whole = fit(model, guide, x, objective=cls(), epochs=3, **options)
    assert whole.history.train_elbo[-1] > whole.history.train_elbo[0]
    weights = {k: v.clone() for k, v in guide.state_dict().items()}
    model.load_state_dict(start["m"])
    guide.load_state_dict(start["g"])
    fit(model, guide, x, objective=cls(), epochs=1, out=tmp_path, **options)
    resumed = fit(model, guide, x, objective=cls(), epochs=3, out=tmp_path, resume=True, **options)
    assert np.array_equal(resumed.history.train_elbo, whole.history.train_elbo)
    assert np.array_equal(resumed.history.validation_elbo, whole.history.validation_elbo)
    assert all(torch.equal(weights[k], v) for k, v in guide.state_dict().items())
    other = {BetaELBO: BetaELBO(beta=2), WarmUp: WarmUp(epochs=3), FreeBits: FreeBits(2.0)}.get(cls, cls(7))
    with pytest.raises(InputError, match="objective"):
        fit(model, guide, x, objective=other, epochs=3, out=tmp_path, resume=True, **options)


def test_warm_up_is_told_the_epoch():
    told = []

    class Listening(WarmUp):
        def set_epoch(self, epoch):
            told.append(epoch)
            super().set_epoch(epoch)

    model = LinearGaussian((3,), latent_dim=1)
    fit(model, MeanField(model), torch.randn(20, 3), objective=Listening(epochs=2), epochs=3)
    Classifying(Listening()).set_epoch(7)
    assert told == [0, 0, 1, 2, 7]  # once before anything is compiled


def test_runs_of_a_classifying_objective_are_those_of_the_inner_one():
    model = LinearGaussian((3,), latent_dim=1)
    objective = Classifying(IWAE(4))
    traces, *_ = objective._get_traces(model, MeanField(model), (torch.randn(20, 3),), {})
    assert [trace.nodes["z"]["value"].shape for trace in traces] == [(4, 20, 1)] * 2


@pytest.mark.parametrize("cls", OURS)
def test_it_is_a_module_for_any_loop_and_for_pyros(cls, small_pair, digits):
    def made():
        objective = cls()
        if cls is WarmUp:  # at first it weighs no KL divergence, and its ELBO may fall
            objective.set_epoch(objective.epochs)
        return objective

    model, guide = small_pair
    x = digits.validation.x[:50]
    loss = made()(model, guide)
    assert set(loss.parameters()) == {*model.parameters(), *guide.parameters()}
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert np.mean(values[-3:]) < np.mean(values[:3]) - 50
    vae = PyroTutorialVAE()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), loss=made())
    values = [svi.step(x) for _ in range(15)]
    assert np.mean(values[-3:]) < np.mean(values[:3]) - 50


@pytest.mark.filterwarnings("ignore")
def test_it_trains_in_lightning(small_pair, digits):
    lightning = pytest.importorskip("lightning")

    class Trained(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.loss = DoublyReparameterized(num_particles=3)(*small_pair)

        def training_step(self, batch, index):
            return self.loss(*batch) / len(batch[0])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.02)

    x = digits.validation.x[:100]
    before = IWAE(3).loss(*small_pair, x)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=25)
    trainer = lightning.Trainer(
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Trained(), loader)
    assert IWAE(3).loss(*small_pair, x) < before - 100


@pytest.mark.parametrize("cls", OURS)
def test_a_step_can_be_recorded_as_one_graph(cls, small_pair, digits):
    model, guide = small_pair
    x = digits.validation.x[:10]
    objective = cls()
    parameters = dict(objective(model, guide).named_parameters())
    module = objective(model, guide)

    def step(parameters, x):
        loss = torch.func.functional_call(module, parameters, (x,))
        return loss, *torch.autograd.grad(loss, list(parameters.values()))

    with Pair(model, guide).running(), pyro.validation_enabled(False):
        objective.meet(model, guide, (x,), {})
        torch.manual_seed(5)
        plain = step(parameters, x)
        graph = make_fx(step)(parameters, x)
        torch.manual_seed(5)
        recorded = graph(parameters, x)
    for a, b in zip(plain, recorded, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    assert any(b.abs().max() > 0 for b in recorded[1:])


def test_divergences_in_closed_form_need_the_order_of_the_model(digits):
    """Where the guide draws z1 first, Pyro takes the divergence of z1 given a z2 that was drawn from that z1."""
    model = Hierarchical((1, 8, 8), latent_dim=2)
    x = digits.validation.x[:20]
    with pytest.raises(InputError, match=r"order, z2, z1,.*got z1, z2.*Use Trace_ELBO"):
        fit(model, TwoLayers(model, direction="bottom_up"), x, objective=TraceMeanField_ELBO(), epochs=1)
    fit(model, TwoLayers(model), x, objective=TraceMeanField_ELBO(), epochs=1)

    def several(x):
        with pyro.plate("data", len(x)):
            total = pyro.sample("a", dist.Normal(0.0, 1.0)) + pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(total, 1.0), obs=x)

    # The auxiliary sites of an automatic guide are not out of order.
    fit(several, AutoNormal(several), torch.randn(6), objective=TraceMeanField_ELBO(), batch_size=6, epochs=1)
