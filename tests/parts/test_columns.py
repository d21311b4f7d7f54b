"""Columns: a likelihood for each column, as one distribution; missing values, training, log P(x) and imputation."""

import math

import pyro
import pytest
import torch
from bounds import check_log_px, check_means
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from safetensors.torch import load, save

import ppl_vae
from ppl_vae import InputError, likelihoods
from ppl_vae.compilation.record import record
from ppl_vae.evidence.scale import COLUMNS
from ppl_vae.likelihoods import Columns
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormal

# Of each kind, one or more; kinds alternate, so that they have to be put together and apart again.
KINDS = {
    "real": lambda: likelihoods.Gaussian("per_dimension"),
    "categorical:3": lambda: likelihoods.Nominal(3),
    "positive": lambda: likelihoods.LogNormal("per_dimension"),
    "ordinal:4": lambda: likelihoods.Ordinal(4),
    "count": likelihoods.NegativeBinomial,
    "categorical:5": lambda: likelihoods.Nominal(5),
    "binary": likelihoods.Bernoulli,
    "student_t:df=3": lambda: likelihoods.StudentT("per_dimension", df=3.0),
    "gaussian:0.3": lambda: likelihoods.Gaussian(0.3),
    "ordinal:2": lambda: likelihoods.Ordinal(2),
    "beta": likelihoods.Beta,
    "ordinal:6": lambda: likelihoods.Ordinal(6),
    "gamma": likelihoods.Gamma,
    "zero_inflated_poisson": likelihoods.ZeroInflatedPoisson,
    "binomial:9": lambda: likelihoods.Binomial(9),
    "gaussian:per_datum": lambda: likelihoods.Gaussian("per_datum"),
}
NAMES = list(KINDS)
D = len(NAMES)


def rows(count=60):
    """Rows of a table of these columns."""
    u, n = torch.rand(count, D), torch.randn(count, D)
    real = 50 + 7 * n
    made = {
        "categorical:3": (3 * u).floor(), "categorical:5": (5 * u).floor(), "positive": real.exp().clamp(1e-3, 1e3),
        "ordinal:4": (4 * u).floor(), "ordinal:2": (2 * u).floor(), "ordinal:6": (6 * u).floor(),
        "count": (20 * u).floor(), "zero_inflated_poisson": (3 * u).floor(), "binomial:9": (9 * u).floor(),
        "binary": u.round(), "beta": u.clamp(0.01, 0.99), "gamma": 0.1 + u,
    }  # fmt: skip
    return torch.stack([made.get(name, real)[:, j] for j, name in enumerate(NAMES)], 1)


def of_each_alone(likelihood, h, x):
    """log p of each column by a likelihood of its own, [..., D], with what Columns says its h is of."""
    parts = h.split([kind.size for kind in likelihood.kinds], -1)
    found = [None] * D
    for part, kind, members in zip(parts, likelihood.kinds, likelihood.members, strict=True):
        own = [KINDS[NAMES[j]]().bind((1,)) for j in members]
        params = max(one.num_params for one in own)
        for place, (j, one) in enumerate(zip(members, own, strict=True)):
            if kind.index is None:  # the first parameter of all columns of the kind, then the second, ...
                mine = part[..., place :: len(members)]
                assert mine.shape[-1] == params
            else:  # columns one after another, each with as many as it has
                start = sum(other.num_params for other in own[:place])
                mine = part[..., start : start + one.num_params]
            one.start_from(x[:, [j]])
            found[j] = one(mine).log_prob(x[:, [j]])
    return torch.stack(found, -1)


def test_columns_are_likelihoods_of_each():
    torch.manual_seed(0)
    x = rows()
    likelihood = Columns(NAMES).bind((D,))
    assert likelihood.h_shape == (sum(make().num_params for make in KINDS.values()),)
    assert len(likelihood.kinds) == len(NAMES) - 3  # codes of unlike numbers of levels are one kind
    likelihood.start_from(x)
    h = torch.randn(len(x), *likelihood.h_shape)
    p = likelihood(h)
    expected = of_each_alone(likelihood, h, x)
    torch.testing.assert_close(p.base_dist.log_prob(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.log_prob(x), expected.sum(-1), rtol=1e-4, atol=1e-3)
    holes = torch.rand(x.shape) < 0.3
    with_holes = torch.where(holes, math.nan, x)
    torch.testing.assert_close(p.log_prob(with_holes), torch.where(holes, 0.0, expected).sum(-1), rtol=1e-4, atol=1e-3)


def test_the_contract_of_a_likelihood():
    torch.manual_seed(0)
    likelihood = Columns(NAMES).bind((D,))
    h = torch.randn(5, 6, *likelihood.h_shape, requires_grad=True)
    p = likelihood(h)
    assert (p.batch_shape, p.event_shape) == ((5, 6), (D,))
    x = p.sample()
    assert p.mean.shape == x.shape == (5, 6, D)
    assert bool(p.support.check(x).all()) and bool(likelihood.support.check(x).all())
    wide = p.expand([2, 5, 6])
    assert wide.sample((3,)).shape == (3, 2, 5, 6, D)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x).expand(2, 5, 6))
    missing = torch.full_like(x, math.nan)
    for value in (x, missing.index_copy(-1, torch.tensor([4]), x[..., 4:5]), missing):  # all, one column, none
        (gradient,) = torch.autograd.grad(p.log_prob(value).sum() + 0 * h.sum(), h, retain_graph=True)
        assert torch.isfinite(gradient).all()
    p.log_prob(x).sum().backward()
    assert all(bool((q.grad != 0).all()) for q in likelihood.parameters()) and (h.grad != 0).any((0, 1)).all()
    other = Columns(NAMES).bind((D,))
    likelihood.start_from(rows())
    other.load_state_dict(load(save(likelihood.state_dict())))
    row = rows(1)[0]
    torch.testing.assert_close(other(h).log_prob(row), likelihood(h).log_prob(row))


def test_columns_have_the_mean_of_their_samples():
    torch.manual_seed(3)
    likelihood = Columns(NAMES).bind((D,))
    p = likelihood(torch.randn(likelihood.h_shape) / 2)
    light = [j for j, name in enumerate(NAMES) if name != "student_t:df=3"]  # its mean of draws has heavy tails
    check_means(p.sample((20_000,))[:, light], p.mean.detach()[light])


def test_what_guides_read_is_on_a_unit_scale():
    torch.manual_seed(0)
    x = rows(400)
    x[::3, 0] = x[::5, 1] = math.nan
    reads = Columns(NAMES).bind((D,)).preprocessing().bind((D,))
    reads.start_from(x)
    found = reads(x)
    assert found.shape == (400, *reads.out_shape) and reads.out_shape.numel() == D - 2 + 2 * 5
    assert bool(found.mean(0).abs().max() < 0.1) and bool(found.abs().max() < 10)
    assert torch.equal(reads(torch.full((D,), math.nan)), torch.zeros(reads.out_shape))


SMALL = ["real", "categorical:3", "count", "positive"]


def table(count=200):
    """A table whose columns follow one latent, in units far from one."""
    z = torch.randn(count)
    columns = [5000 + 900 * z, (z > -0.5).float() + (z > 0.8), torch.poisson((z / 2 + 4).exp()), (5 - z / 2).exp()]
    x = torch.stack(columns, 1)
    x[:, 0] += 100 * torch.randn(count)
    return x, torch.rand(x.shape) < 0.1


def pair(columns=SMALL, **options):
    model = VAE((len(columns),), StandardNormal(1), Columns(columns, **options), decoder=network)
    return model, MeanField(model, encoder=network)


def network(*shapes):
    return MLP(*shapes, hidden=(16,), activation="tanh")


def test_a_table_is_trained_estimated_sampled_and_imputed():
    torch.manual_seed(0)
    x, hidden = table()
    seen = torch.where(hidden, math.nan, x)
    model, guide = pair()
    fitted = ppl_vae.fit(model, guide, seen, epochs=120, batch_size=50, learning_rate=1e-2, compile=False)
    assert fitted.history.train_elbo[-1] > fitted.history.train_elbo[0] + 1
    imputed = ppl_vae.impute(model, guide, seen, num_samples=100)
    spread = x.std(0)
    for j in (0, 2, 3):  # far nearer than the mean is
        off = (imputed.mean - x)[hidden[:, j], j].square().mean().sqrt()
        assert off < 0.6 * spread[j], (j, off)
    assert torch.isfinite(imputed.draws).all()
    assert bool(model.likelihood.support.check(imputed.draws).all())
    drawn = ppl_vae.sample(model, 50)
    assert bool(model.likelihood.support.check(drawn).all())
    evidence = ppl_vae.estimate_evidence(model, guide, seen[:8], num_samples=2000, method="importance")
    z = torch.linspace(-7, 7, 2001)[:, None]
    with torch.no_grad():
        joint = (
            model.likelihood(model.decoder(z[:, None])).log_prob(seen[:8]) - 0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        )
        exact = joint.double().logsumexp(0) + math.log(14 / 2000)
    check_log_px(evidence.log_px, evidence.mcse, exact, 2000, slack=2e-3)


def test_columns_can_be_recorded():
    """As compiled steps do it: the record of one h and x gives the numbers of others, with other values missing."""
    torch.manual_seed(0)
    likelihood = Columns(NAMES).bind((D,))
    likelihood.start_from(rows())
    both = torch.cat([torch.randn(9, *likelihood.h_shape), rows(9)], 1)
    both[torch.rand(both.shape) < 0.2] = math.nan
    both[:, :-D] = both[:, :-D].nan_to_num(0.0)

    def log_prob(both):
        return (likelihood(both[:, :-D]).log_prob(both[:, -D:]),)

    with pyro.validation_enabled(False):
        graph = record(log_prob, both)
    other = torch.cat([torch.randn(9, *likelihood.h_shape), rows(9)], 1)
    other[3, -D:] = math.nan
    torch.testing.assert_close(graph(other), log_prob(other), rtol=1e-4, atol=1e-3)
    assert torch.isfinite(graph(other)[0]).all()


def test_what_is_scored_says_of_which_columns_it_is_a_probability():
    """A count by a Gaussian has a density: log P(x) of it is of another kind."""
    torch.manual_seed(0)
    x, _ = table(20)

    def evidence(columns, seed):
        return ppl_vae.estimate_evidence(*pair(columns), x, num_samples=20, method="importance", seed=seed)

    one, same = evidence(SMALL, 0), evidence(["real", "categorical:3", "poisson", "gamma"], 1)
    other = evidence(["real", "categorical:3", "student_t", "positive"], 0)
    assert (one.scored, other.scored) == (f"{COLUMNS}1, 2", f"{COLUMNS}1")
    assert evidence(["real"] * 4, 0).scored == "density"
    ppl_vae.compare({"one": one, "same": same})
    with pytest.raises(InputError, match=r"a probability of columns 1, 2 for 'one' and .* of columns 1 for 'other'"):
        ppl_vae.compare({"one": one, "other": other})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 0.5, "column age of x in whole numbers from 0 to 2 for Nominal; got values from 0.5 to 0.5 in 1 of"),
        (1, -1.0, "column price of x in numbers above 0 for LogNormal; got values from -1"),
        (
            2,
            4.0,
            "column grade of x in whole numbers from 0 to 3 for Ordinal; .* or 'categorical:5' or ",
        ),
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_the_column_that_is_outside_its_support_is_named(column, value, message, missing):
    kinds = ["categorical:3", "positive", "ordinal:4"]
    model, guide = pair(kinds, names=["age", "price", "grade"])
    x = torch.stack([torch.arange(30) % 3, 1 + torch.rand(30), torch.arange(30) % 4], 1).float()
    x[0] = math.nan if missing else x[0]
    x[0, 0] = 1.0
    x[20, column] = value
    with pytest.raises(InputError, match=message) as problem:
        ppl_vae.fit(model, guide, x, epochs=1)
    assert "--" not in str(problem.value) and "\n" not in str(problem.value)
    x[21, 1] = x[22, 2] = 0.5
    x[21, 1] = -3.0
    with pytest.raises(InputError, match=r"column age .*(1|2) more columns are outside"):
        x[23, 0] = 7.0
        ppl_vae.fit(model, guide, x, epochs=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Columns(["real", "realy"]), "Unknown kind 'realy' of column 1: did you mean 'real'"),
        (lambda: Columns(["multinomial"]), "Unknown kind 'multinomial'"),
        (lambda: Columns([3]), "Unknown kind 3"),
        (lambda: Columns(["categorical"]), "how many categories column 0 has; .*'categorical:5'"),
        (lambda: Columns(["ordinal:1"]), "Column 0, 'ordinal:1': .*num_levels.*got 1"),
        (lambda: Columns(["ordinal:x"]), "Column 0, 'ordinal:x': .*num_levels.*got 'x'"),
        (lambda: Columns(["binary:3"]), "Unknown option '3' of column 0, 'binary:3': it has no options"),
        (lambda: Columns(["student_t:dff=3"]), "Unknown option 'dff=3'.*did you mean 'df'"),
        (lambda: Columns(["real"], names=["a", "b"]), "a name for each of 1 columns; got 2"),
        (lambda: Columns(["real"]).bind((2,)), r"Expected data \[N, 1\]"),
        (lambda: Columns(["real"]).bind((1, 8, 8)), r"Expected data \[N, 1\]"),
        (lambda: VAE((3,), likelihood=Columns(["real"])), r"a number for each column.*columns=\["),
    ],
)
def test_bad_columns(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_columns_of_which_nobody_says_what_they_are_are_real():
    likelihood = Columns().bind((3,))
    assert (list(likelihood.types), likelihood.h_shape) == (["real"] * 3, torch.Size([3]))
