"""Each kind of site in a model and in a guide, against a closed form: what counts, what is left out, what is refused.

Nearly all of it is one model, z ~ N(0, 1) and x ~ N(z, 1), so that log P(x) = log N(x; 0, 2).
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence
from pairs import normal_model as model
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.reparam import LocScaleReparam, TransformReparam

from ppl_vae import InputError, estimate_evidence, latent_use

X = torch.linspace(-2.0, 2.5, 9)
N = len(X)
TRUTH = dist.Normal(0.0, math.sqrt(2)).log_prob(X)
QUICK = dict(num_samples=3000, progress=False, compile=False)
SEEN = torch.arange(N) % 3 > 0


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.9))


def evidence_of(model, guide, *data, **options):
    return estimate_evidence(model, guide, data or (X,), **(QUICK | options))


def refused(match, model, guide, *data):
    with pytest.raises(InputError, match=match):
        evidence_of(model, guide, *data)
    if guide is not None:  # the way out that is named
        evidence_of(model, guide, *data, proposal="prior", num_samples=10)


# In the guide: what is no part of Q.


def observing(x):
    with pyro.plate("data", len(x)):
        pyro.sample("t", dist.Bernoulli(logits=x), obs=torch.ones(len(x)))
        pyro.sample("z", dist.Normal(x / 2, 0.9))


def with_factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x / 2, 0.9))
        pyro.factor("penalty", -3 * z**2, has_rsample=True)


def with_auxiliary(marked):
    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Uniform(-0.1, 0.1), infer={"is_auxiliary": True} if marked else {})
            pyro.sample("z", dist.Normal(x / 2 + 5 * u, 0.9))

    return guide


def with_discrete_auxiliary(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(x / 2 + 0.4 * c, 1.0))


def with_deterministic(x):
    with pyro.plate("data", len(x)):
        loc = pyro.deterministic("loc", x / 2, event_dim=0)
        pyro.sample("z", dist.Normal(loc, 0.9))


OTHERS = [observing, with_factor, with_auxiliary(True), with_auxiliary(False), with_discrete_auxiliary]


@pytest.mark.parametrize("other", [*OTHERS, with_deterministic])
def test_what_is_no_part_of_q_is_left_out(other):
    evidence = evidence_of(model, other)
    check_evidence(evidence, TRUTH)
    assert evidence.quantity == "log P(x)" and evidence.event_size == 1


@pytest.mark.parametrize("other", [observing, with_factor, with_deterministic])
def test_annealing_leaves_it_out_as_well(other):
    evidence = evidence_of(model, other, method="ais", num_temperatures=50, num_chains=200, num_samples=1000)
    check_evidence(evidence, TRUTH)


@pytest.mark.parametrize("other", [with_auxiliary(True), with_auxiliary(False)])
def test_what_needs_its_density_refuses_an_auxiliary(other):
    with pytest.raises(InputError, match=r"auxiliary or Delta sites \(u\)"):
        evidence_of(model, other, method="ais", num_temperatures=5, num_samples=20)
    with pytest.raises(InputError, match="draws u beside the latents"):
        latent_use(model, other, X, progress=False)


@pytest.mark.parametrize("other", [observing, with_factor])
def test_latent_use_leaves_it_out(other):
    kl = torch.distributions.kl_divergence(dist.Normal(X / 2, 0.9), dist.Normal(0.0, 1.0)).mean()
    assert latent_use(model, other, X, progress=False).kl == pytest.approx(float(kl), rel=1e-5)


def positive_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.log(), 1.0), obs=x)


def transformed(x, log_density=1.0):
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(x / 2, 0.9), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u.exp(), log_density=-log_density * u))


def test_a_transform_of_an_auxiliary_has_a_density():
    check_evidence(evidence_of(positive_model, transformed), TRUTH)
    wide = partial(AutoNormal, init_loc_fn=init_to_value(values={"z": (X / 2).exp()}), init_scale=1.0)
    check_evidence(evidence_of(positive_model, automatic(wide, positive_model)), TRUTH)
    refused("state their density", positive_model, lambda x: transformed(x, 0.5))


def test_a_transform_of_several_numbers():
    """(z_1, z_2) = A (u_1, u_2) of determinant 1.5, and an auxiliary that has no part in it."""

    def two(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def made(x, spare=False):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal((x[:, None] / 3).expand(-1, 2), 1.0).to_event(1), infer=AUXILIARY)
            z = torch.stack([u[..., 0], 1.5 * u[..., 1] + 0.2 * u[..., 0]], -1)
            log_density = torch.full(z.shape[:-1], -math.log(1.5))
            pyro.sample("z", dist.Delta(z, log_density, event_dim=1))
            if spare:
                pyro.sample("v", dist.Normal(0.0, 1.0), infer=AUXILIARY)

    check_evidence(evidence_of(two, made, num_samples=20000), dist.Normal(0.0, math.sqrt(3)).log_prob(X))
    refused("state their density", two, lambda x: made(x, spare=True))


AUXILIARY = {"is_auxiliary": True}


# Points.


def point(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(x / 2))


def dense_point(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(x / 2, log_density=torch.tensor(1.3)))


def discrete_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("x", dist.Normal(c.float(), 1.0), obs=x)


def discrete_point(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Delta((x > 0.5).long()))


def two_latents(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)


def automatic(kind, model):
    """An automatic guide has parameters for each datum: it is made for these."""
    with pyro.settings.context(module_local_params=True):
        guide = kind(model)
        guide(X)
    return guide


def one_point_of_two(model):
    guides = AutoGuideList(model)
    guides.append(AutoNormal(poutine.block(model, expose=["z"])))
    guides.append(AutoDelta(poutine.block(model, expose=["w"])))
    return guides


def point_made_of_the_other(x):
    """w = 2 z: given z it is a point, whatever log_density says of it."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x / 3, 0.9))
        pyro.sample("w", dist.Delta(2 * z, log_density=torch.full_like(z, -math.log(2))))


def test_points_are_refused():
    for one in (point, dense_point, automatic(AutoDelta, model)):
        refused("a point .Delta. at site 'z'", model, one)
    refused("a point .Delta. at site 'c'", endless_model, endless_point)
    refused("a point .Delta. at site 'w'", two_latents, automatic(one_point_of_two, two_latents))
    refused("a point .Delta. at site 'w'", two_latents, point_made_of_the_other)


def on_a_sphere(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.ProjectedNormal(torch.ones(3)))
        pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


def point_on_a_sphere(x):
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
        pyro.sample("z", dist.Delta(u / u.norm(dim=-1, keepdim=True), log_density=x * 0 + 1, event_dim=1))


def test_a_point_where_no_density_can_be_held_against_it():
    refused("on that of ProjectedNormal. Sample the latents", on_a_sphere, point_on_a_sphere)


def endless_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Poisson(1.0))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def endless_point(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Delta((x > 0.5).float()))


def relaxed(x):
    with pyro.plate("data", len(x)):
        probs = torch.ones(len(x), 3) / 3
        pyro.sample("c", dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), probs))


def one_hot_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("x", dist.Normal(c @ torch.arange(3.0), 1.0), obs=x)


def relaxed_and_more(x):
    """A relaxed c beside a z whose density depends on it, as in a Gumbel-softmax VAE with two kinds of latents."""
    relaxed(x)
    with pyro.plate("again", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.9))


def mixed_model(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])))
        z = pyro.sample("z", dist.Normal(c @ torch.arange(3.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def summed_over(probs, scale):
    return (dist.Normal(torch.arange(3.0), scale).log_prob(X[:, None]) + torch.tensor(probs).log()).logsumexp(1)


@pytest.mark.parametrize(("model", "guide"), [(discrete_model, discrete_point), (one_hot_model, relaxed)])
def test_discrete_latents_without_a_probability_are_summed_out(model, guide):
    evidence = evidence_of(model, guide)
    assert evidence.is_exact
    assert evidence.log_px == pytest.approx(summed_over([0.2, 0.3, 0.5], 1.0).numpy(), rel=1e-5)


def test_doubles_beside_a_model_of_floats_are_summed_over():
    """c of {-1, 1} is summed out beside z ~ N(0, 1), x ~ N(z + c, 1): two Gaussians of variance 2."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + 2 * c - 1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.5))

    x = X.double()
    log_p = [math.log(p) + dist.Normal(mean, math.sqrt(2)).log_prob(x) for p, mean in ((0.7, -1.0), (0.3, 1.0))]
    check_evidence(evidence_of(model, guide, x), torch.logaddexp(*log_p))


def test_beside_others_they_are_summed_out_as_well():
    check_evidence(evidence_of(mixed_model, relaxed_and_more), summed_over([0.2, 0.3, 0.5], math.sqrt(2)))


def test_a_model_that_cannot_run_on_all_values_is_refused():
    def picky(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            mean = torch.stack([torch.arange(3.0)[i] for i in c.reshape(len(x))])
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(InputError, match="a guide with a probability at c"):
        evidence_of(picky, discrete_point)


# Supports.


def bernoulli_for_three(x):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Bernoulli(0.5))


def drawing_z(family):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(x))

    return guide


def with_prior(prior, link=lambda z: z):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(link(z), 1.0), obs=x)

    return model


def test_supports_have_to_agree():
    refused("may draw every 'c'", discrete_model, bernoulli_for_three)
    refused("may draw every 'z'", model, drawing_z(lambda x: dist.LogNormal(x, 1.0)))
    refused("may draw every 'z'", model, drawing_z(lambda x: dist.Uniform(x / 2 - 4, x / 2 + 4)))
    wide = drawing_z(lambda x: dist.Normal(x, 3.0))
    refused("draws outside of where VonMises lies", with_prior(dist.VonMises(0.0, 1.0)), wide)
    refused("draws outside of where Gamma lies", with_prior(dist.Gamma(2.0, 1.0)), wide)


TransformedDistribution, AffineTransform = dist.TransformedDistribution, dist.transforms.AffineTransform


@pytest.mark.parametrize(
    "family",
    [
        lambda x: TransformedDistribution(dist.HalfNormal(1.0), [AffineTransform(x / 2, 0.9)]),
        lambda x: TransformedDistribution(dist.HalfNormal(1.0), [AffineTransform(x / 2, -0.9)]),
        lambda x: TransformedDistribution(dist.Beta(2.0, 2.0), [AffineTransform(x / 2 - 1, 2.0)]),
        lambda x: TransformedDistribution(
            dist.Exponential(1.0), [dist.transforms.ExpTransform(), AffineTransform(x - 2, 1.0)]
        ),
        lambda x: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Uniform(torch.tensor([-2.0, 0.0]), torch.tensor([-1.0, 1.5]))
        ),
    ],
)
def test_a_transform_or_a_mixture_of_what_is_bounded_is_bounded(family):
    refused("may draw every 'z'", model, drawing_z(family))


def gap(*ends, **options):
    """Two uniform pieces with a gap between them, and a density of zero there."""
    low, high = torch.tensor([-9.0, ends[1]]), torch.tensor([ends[0], 9.0])
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Uniform(low, high, **options), **options)


def cut_at_one(x):
    """N(x / 2, 2) between -1 and 1, by rejection: it says that it is real."""
    base = dist.Normal(x / 2, 2.0)
    kept = torch.log(base.cdf(torch.tensor(1.0)) - base.cdf(torch.tensor(-1.0)))
    return dist.Rejector(base, lambda z: torch.where(z.abs() < 1, 0.0, -torch.inf), kept)


@pytest.mark.parametrize(
    "family",
    [
        lambda x: gap(-0.5, 0.5),
        lambda x: gap(-0.05, 0.05, validate_args=False),
        lambda x: gap(0.7, 0.8, validate_args=False),
        cut_at_one,
        lambda x: dist.MaskedMixture(SEEN[: len(x)], dist.Normal(x / 2, 1.0), dist.HalfNormal(torch.ones(len(x)))),
    ],
)
def test_a_hole_in_the_density_of_a_guide_is_seen(family):
    refused("may draw every 'z'", model, drawing_z(family))


def test_a_mixture_without_a_hole():
    def mixture(x):
        means = torch.stack([x / 2 - 0.5, x / 2 + 0.5], -1)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(len(x), 2)), dist.Normal(means, 0.9))

    check_evidence(evidence_of(model, drawing_z(mixture)), TRUTH)
    same = gap(-0.05, 0.05, validate_args=False)  # PyTorch's own check of the ends of a mixture fails in a plate
    cut = with_prior(same)
    normal = dist.Normal(0.0, 1.0)
    ends = [normal.cdf(end - X) for end in torch.tensor([-9.0, -0.05, 0.05, 9.0])]
    truth = ((ends[1] - ends[0] + ends[3] - ends[2]) / 2 / 8.95).log()
    check_evidence(evidence_of(cut, drawing_z(lambda x: same), num_samples=20000), truth)


def vector_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


@pytest.mark.parametrize(
    "family",
    [
        lambda x: dist.Dirichlet(torch.ones(len(x), 2)),
        lambda x: dist.ProjectedNormal(torch.stack([x, torch.ones_like(x)], -1)),
        lambda x: TransformedDistribution(
            dist.Normal(torch.zeros(len(x), 2), 1.2).to_event(1), [dist.transforms.OrderedTransform()]
        ),
    ],
)
def test_vectors_of_a_guide_lie_where_those_of_the_model_do(family):
    """A density on a simplex or a sphere is none on the plane, and vectors in order are half of it."""
    refused("may draw every 'z'", vector_model, drawing_z(family))


def test_vectors_in_order():
    """z_1 < z_2 in both: z_1 ~ N(0, 1), so log P(x) = log N(x; 0, 2); a guide without order is on another space."""
    in_order = dist.transforms.OrderedTransform()

    def ordered(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [in_order]))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def around(x):
        base = dist.Normal(torch.stack([x / 2, torch.zeros(len(x))], -1), 1.1).to_event(1)
        return TransformedDistribution(base, [in_order])

    check_evidence(evidence_of(ordered, drawing_z(around), num_samples=20000), TRUTH)
    anywhere = drawing_z(lambda x: dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
    refused("live on one space", ordered, anywhere)


def test_annealing_within_a_transformed_interval():
    """z ~ U(-1, 1), written as a transform of U(0, 1): P(x) is half of P(x - 1 < N(0, 1) < x + 1)."""
    uniform = with_prior(TransformedDistribution(dist.Uniform(0.0, 1.0), [AffineTransform(-1.0, 2.0)]))
    normal = dist.Normal(0.0, 1.0)
    truth = torch.log((normal.cdf(X + 1) - normal.cdf(X - 1)) / 2)
    options = dict(method="ais", num_temperatures=50, num_chains=32, progress=False, compile=False)
    check_evidence(estimate_evidence(uniform, None, (X,), proposal="prior", **options), truth)
    wide = drawing_z(lambda x: dist.Normal(x / 2, 2.0))
    refused("draws outside of where TransformedDistribution lies", uniform, wide)


@pytest.mark.parametrize(
    "family",
    [
        lambda x: dist.Categorical(torch.tensor([0.5, 0.5, 0.0])),
        lambda x: dist.Categorical(logits=torch.tensor([-math.inf, 0.0, 0.0])),
        lambda x: dist.Categorical(torch.eye(3)[1]),
    ],
)
def test_a_value_of_no_probability_is_no_draw(family):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", family(x))

    refused("a probability of 0", discrete_model, guide)


def test_a_value_of_no_probability_at_one_of_several_numbers():
    def several(probs, observed):
        def program(x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(probs)).to_event(1))
                if observed:
                    pyro.sample("x", dist.Normal(c.sum(-1), 1.0), obs=x)

        return program

    refused("a probability of 0", several([0.3, 0.6], True), several([0.5, 0.0], False))


def test_a_probability_of_zero_will_do_where_the_data_leave_none():
    """c of {-1, 1}, x ~ N(20 c, 1): of x > 0 c = 1 is sure, and log P(x) = log N(x; 20, 1) - log 2."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(40 * c - 20, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli((x > 0).float()))

    x = torch.tensor([-21.0, -19.5, 19.0, 20.5])
    check_evidence(evidence_of(model, guide, x), dist.Normal(20 * x.sign(), 1.0).log_prob(x) - math.log(2))


def test_a_smaller_support_will_do_where_the_data_leave_no_more():
    """x ~ U(z - 1, z + 1), z ~ N(0, 1): P(x) is half of P(x - 1 < z < x + 1), and z lies nowhere else."""

    def bounded(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=x)

    evidence = evidence_of(bounded, drawing_z(lambda x: dist.Uniform(x - 1, x + 1)))
    normal = dist.Normal(0.0, 1.0)
    check_evidence(evidence, (normal.cdf(X + 1) - normal.cdf(X - 1)).log() - math.log(2))


def on_a_circle(x):
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 2 * math.pi - math.pi
    joint = dist.VonMises(0.0, 1.0).log_prob(grid)[:, None] + dist.Normal(grid[:, None], 1.0).log_prob(x)
    return joint.logsumexp(0) + math.log(2 * math.pi / 2000)


def test_a_circle_is_no_line():
    prior = with_prior(dist.VonMises(0.0, 1.0))
    check_evidence(evidence_of(prior, drawing_z(lambda x: dist.VonMises(x / 2, 1.0))), on_a_circle(X))
    check_evidence(evidence_of(prior, None, proposal="prior"), on_a_circle(X))
    annealed = evidence_of(prior, None, proposal="prior", method="ais", num_temperatures=50, num_chains=200)
    check_evidence(annealed, on_a_circle(X))


class Own(dist.TorchDistribution):
    """A person's own distribution, by how it draws and what it takes for its density; it says that it is real."""

    arg_constraints = {}  # noqa: RUF012
    support = torch.distributions.constraints.real

    def __init__(self, draw, log_density, batch_shape=()):
        self.draw, self.log_density = draw, log_density
        super().__init__(torch.Size(batch_shape), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Own(self.draw, self.log_density, batch_shape)

    def sample(self, sample_shape=()):
        return self.draw(self._extended_shape(sample_shape))

    def log_prob(self, z):
        return self.log_density(z)


def draw_on_circle(shape):
    z = torch.linspace(-math.pi, math.pi, 4001)
    return z[torch.multinomial((1 + z.cos()).clamp(min=0.0), max(1, shape.numel()), replacement=True)].reshape(shape)


def log_half(z):
    return dist.Normal(0.0, 1.0).log_prob(z) + math.log(2)


def ended(log_density):
    return lambda z: torch.where(z >= 0, log_density(z), -torch.inf)


def draw_half(shape):
    return torch.randn(shape).abs()


periodic = Own(draw_on_circle, lambda z: (1 + z.cos()).log() - math.log(2 * math.pi))
half_line, endless_half = Own(draw_half, ended(log_half)), Own(draw_half, log_half)
unnormalized = Own(torch.randn, lambda z: -(z**2) / 2)


def test_the_density_of_an_own_family_is_that_of_its_draws():
    wide = drawing_z(lambda x: dist.Normal(x, 30.0))
    for prior, mass in ((periodic, "mass of"), (endless_half, r"mass of (1.9|2.0)"), (unnormalized, r"mass of 2.[45]")):
        refused(mass, with_prior(prior), wide)
    refused("mass of (1.9|2.0)", model, drawing_z(lambda x: endless_half))
    refused("mass of 2.[45]", model, drawing_z(lambda x: unnormalized))
    refused("may draw every 'z'", model, drawing_z(lambda x: half_line))


class OwnAround(Own):
    """A person's own likelihood: N(mean, 1), whose density is off by a factor."""

    def __init__(self, mean, factor):
        self.centre, self.factor = mean, factor
        dist.TorchDistribution.__init__(self, mean.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return OwnAround(self.centre.expand(batch_shape), self.factor)

    def sample(self, sample_shape=()):
        return self.centre + torch.randn(self._extended_shape(sample_shape))

    def log_prob(self, x):
        return dist.Normal(self.centre, 1.0).log_prob(x) + math.log(self.factor)


def observing_own(factor, width=1):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            numbers = OwnAround(z[..., None].expand(*z.shape, width), factor).to_event(1)
            pyro.sample("x", numbers, obs=x[:, None].expand(-1, width))

    return model


@pytest.mark.parametrize("width", [1, 4000])
def test_the_density_of_an_own_likelihood_integrates_to_one(width):
    unnormalized = observing_own(math.sqrt(2 * math.pi), width)
    for given, proposal in ((guide, "guide"), (None, "prior")):
        with pytest.raises(InputError, match=r"of 'x' in the model that integrates .* OwnAround, .* mass of 2\.[45]"):
            evidence_of(unnormalized, given, proposal=proposal, num_samples=10)
    evidence_of(observing_own(1.0, width), guide, num_samples=10)
    if width == 1:
        check_evidence(evidence_of(observing_own(1.0), guide), TRUTH)


def test_an_own_family_that_is_right():
    """z ~ |N(0, 1)|, x ~ N(z, 1): P(x) = 2 N(x; 0, 2) P(N(x / 2, 1 / 2) > 0)."""
    half = TRUTH + math.log(2) + dist.Normal(0.0, 1.0).cdf(X / math.sqrt(2)).log()
    check_evidence(evidence_of(with_prior(half_line), drawing_z(lambda x: dist.Normal(x / 2, 1.0))), half)


# Masks.


def masked_model(x, seen):
    with pyro.plate("data", len(x)), poutine.mask(mask=seen):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def masked_guide(x, seen):
    with pyro.plate("data", len(x)), poutine.mask(mask=seen):
        pyro.sample("z", dist.Normal(x / 2, 0.9))


def unmasked_guide(x, seen):
    guide(x)


def plain_model(x, seen):
    model(x)


def inside_model(x, seen):
    """z has two numbers, of which the second counts, and is looked at, only where it is seen."""
    both = torch.stack([torch.ones_like(seen), seen], -1)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).mask(both).to_event(1))
        pyro.sample("x", dist.Normal(torch.where(seen, z.sum(-1), z[..., 0]), 1.0), obs=x)


def inside_guide(x, seen):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x[:, None] / 3).expand(-1, 2), 1.0).to_event(1))


@pytest.mark.parametrize("other", [masked_guide, unmasked_guide])
def test_a_latent_is_scored_where_the_model_scores_it(other):
    evidence = evidence_of(masked_model, other, X, SEEN)
    check_evidence(evidence, torch.where(SEEN, TRUTH, 0.0))
    assert evidence.event_size == pytest.approx(float(SEEN.float().mean()))


def test_a_mask_of_the_guide_alone_is_no_draw_less():
    check_evidence(evidence_of(plain_model, masked_guide, X, SEEN), TRUTH)


def test_masks_inside_a_distribution():
    exact = dist.Normal(0.0, torch.where(SEEN, 3.0, 2.0).sqrt()).log_prob(X)
    check_evidence(evidence_of(inside_model, inside_guide, X, SEEN, num_samples=20000), exact)


def test_what_depends_on_a_masked_latent_is_refused():
    def flat(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=False):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InputError, match="masked for some data, on which the rest"):
        evidence_of(flat, guide)


def test_observations_by_a_mask():
    """`obs_mask`, Pyro's own way to leave labels out: the guide is for all data, the model for those without."""

    def model(x, y, seen):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.3), obs=y, obs_mask=seen)
            pyro.sample("x", dist.Normal(2 * y, 1.0), obs=x)

    def guide(x, y, seen):
        with pyro.plate("data", len(x)):
            pyro.sample("y_unobserved", dist.Bernoulli(logits=x))

    y = (X > 0.5).float()
    both = dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(X[:, None]) + torch.tensor([0.7, 0.3]).log()
    exact = torch.where(SEEN, both.gather(1, y.long()[:, None])[:, 0], both.logsumexp(1))
    evidence = evidence_of(model, guide, X, y, SEEN)
    check_evidence(evidence, exact)
    assert evidence.quantity == "log P(x, y_observed)"
    assert evidence.event_size == pytest.approx(1 + float(SEEN.float().mean()))


def test_latent_use_of_masked_latents():
    use = latent_use(masked_model, masked_guide, (X, SEEN), progress=False)
    kl = torch.distributions.kl_divergence(dist.Normal(X / 2, 0.9), dist.Normal(0.0, 1.0))
    assert use.kl == pytest.approx(float((kl * SEEN).mean()), rel=1e-5)
    assert math.isnan(use.mutual_information) and "not known: masks" in str(use)


# In the model: what is computed, and factors.


def computing(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = pyro.deterministic("mean", z, event_dim=0)
        again = pyro.sample("again", dist.Delta(mean))
        pyro.sample("given", dist.Delta(z), obs=z)
        pyro.sample("x", dist.Normal(again, 1.0), obs=x)


def factored(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("x", dist.Normal(z, 1.0).log_prob(x))


def test_what_is_computed_observes_nothing():
    evidence = evidence_of(computing, guide)
    check_evidence(evidence, TRUTH)
    assert (evidence.quantity, evidence.event_size, evidence.scored) == ("log P(x)", 1, "density")


def test_a_factor_has_a_probability_and_no_numbers():
    evidence = evidence_of(factored, guide)
    check_evidence(evidence, TRUTH)
    assert evidence.quantity == "log P(x)" and evidence.event_size == 0
    assert "bits" not in str(evidence)


def test_a_factor_of_whole_numbers():
    def weighed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("whole", torch.full((len(x),), 2))

    check_evidence(evidence_of(weighed, guide), TRUTH + 2)


@pytest.mark.parametrize("reparam", [LocScaleReparam(0.0), LocScaleReparam(0.5), TransformReparam()])
def test_reparameterized_models(reparam):
    """z = exp(1 + z') under a handler: the guide samples what the handler made of z."""
    noise = "z_base" if isinstance(reparam, TransformReparam) else "z_decentered"
    prior = dist.LogNormal(0.0, 1.0) if isinstance(reparam, TransformReparam) else dist.Normal(0.0, 1.0)
    inner = with_prior(prior, torch.log if isinstance(reparam, TransformReparam) else lambda z: z)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(noise, dist.Normal(x / 2, 0.9))

    evidence = evidence_of(poutine.reparam(inner, {"z": reparam}), guide)
    check_evidence(evidence, TRUTH)
    assert (evidence.quantity, evidence.event_size) == ("log P(x)", 1)


def test_one_value_that_all_data_are_scored_by():
    """o = 1 of each datum, P(o = 1 | z) = sigmoid(z): two numbers each, by quadrature over z."""

    def optimal(x, ones=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("o", dist.Bernoulli(logits=z), obs=torch.tensor(1.0) if ones is None else ones)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    joint = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid, 1.0).log_prob(X) - torch.log1p((-grid).exp())
    evidence = evidence_of(optimal, guide)
    check_evidence(evidence, joint.logsumexp(0) + math.log(18 / 4000))
    assert evidence.event_size == 2
    some = evidence_of(lambda x: poutine.mask(optimal, mask=SEEN[: len(x)])(x), guide)
    assert some.event_size == pytest.approx(2 * float(SEEN.float().mean()))


def test_shapes_that_broadcast_to_all_pairs_of_data_are_refused():
    def pairs(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def column(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] / 2, 0.9).to_event(1))

    def rows(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] / 2, 0.9))

    for given, other, proposal in ((pairs, column, "guide"), (pairs, None, "prior"), (model, rows, "guide")):
        with pytest.raises(InputError, match=r"site '[xz]' \(.*\) with [89] x [89] of them and 1 plate:"):
            evidence_of(given, other, proposal=proposal)


def test_data_under_a_reparameterization():
    """x ~ 1 + 2 N(z, 1): TransformReparam scores (x - 1) / 2 and leaves out the log 2; without it, log N(x; 1, 8)."""

    def moved(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", TransformedDistribution(dist.Normal(z, 1.0), [AffineTransform(1.0, 2.0)]), obs=x)

    def around(x):
        guide(x / 2)

    check_evidence(evidence_of(moved, around), dist.Normal(1.0, math.sqrt(8)).log_prob(X))
    with pytest.raises(InputError, match=r"'x' of .*under TransformReparam, which scores 'x_base'"):
        evidence_of(poutine.reparam(moved, {"x": TransformReparam()}), around)


def test_a_latent_that_nobody_samples_is_not_exact():
    """Marked for Pyro's sequential enumeration, which does not sum it out here: it is drawn, and that is said."""

    def sequential(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "sequential"})
            pyro.sample("x", dist.Normal(2 * c, 1.0), obs=x)

    evidence = evidence_of(sequential, lambda x: None)
    both = dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(X[:, None]) - math.log(2)
    assert not evidence.is_exact
    check_evidence(evidence, both.logsumexp(1))


def test_names_that_differ_are_refused():
    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("zed", dist.Normal(x / 2, 0.9))

    with pytest.raises(InputError, match=r"\['z'\] in the model .*\['zed'\] in the guide"):
        evidence_of(model, other)


def test_observed_in_the_guide_only_is_refused():
    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.9), obs=x / 2)

    with pytest.raises(InputError, match="'z', a latent of the model"):
        evidence_of(model, other)
