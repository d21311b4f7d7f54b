"""Values and log-probabilities of sites laid out by sample and datum, whatever plates there are."""

import math
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import FullCovariance, MeanField
from pyro import poutine

from ppl_vae import InputError, estimate_evidence, fit
from ppl_vae.base import Model
from ppl_vae.traces.plates import (
    Structure,
    data_name,
    from_kn,
    like_site,
    log_prob_by_datum,
    numbers_by_datum,
    samples,
    structure_of,
    sum_by_datum,
    to_kn,
    value_by_datum,
)
from ppl_vae.traces.run import plate_of, run_pair

K, N = 5, 7


def shape_of(dim, num_plates):
    return Structure("data", dim, False, N, N, num_plates, 1, 1, False)


@pytest.mark.parametrize(
    ("dim", "plates", "event"),
    [
        (-1, (N,), ()),
        (-1, (N,), (2, 3)),
        (-1, (4, N), (2,)),
        (-2, (N, 4), (2,)),
        (-2, (6, N, 4), (2,)),
        (-3, (N, 6, 4), ()),
    ],
)
def test_any_layout_by_sample_and_datum_and_back(dim, plates, event):
    shape, event_dim = shape_of(dim, len(plates)), len(event)
    value = torch.randn(K, *plates, *event)
    kn = to_kn(value, event_dim, shape)
    others = [size for d, size in zip(range(-len(plates), 0), plates, strict=True) if d != dim]
    assert kn.shape == (K, N, *others, *event)
    at = (slice(None), *(3 if d == dim else slice(None) for d in range(-len(plates), 0)))
    torch.testing.assert_close(kn[:, 3], value[at])  # the fourth datum
    torch.testing.assert_close(from_kn(kn, shape), value)
    assert numbers_by_datum(value, event_dim, shape).shape == (K, N, kn[0, 0].numel())
    weights = torch.randn(K, N)
    expected = weights.reshape(K, N, *[1] * (kn.dim() - 2)) * kn
    torch.testing.assert_close(to_kn(value * like_site(weights, value.dim(), shape), event_dim, shape), expected)
    if not event:
        torch.testing.assert_close(sum_by_datum(value, shape, N), kn.reshape(K, N, -1).sum(-1))


def test_what_stands_in_fewer_plates_gets_all_of_them():
    shape = shape_of(-2, 2)
    assert to_kn(torch.zeros(3), 1, shape).shape == (1, 1, 1, 3)
    assert to_kn(torch.zeros(N, 1), 0, shape).shape == (1, N, 1)
    assert sum_by_datum(torch.ones(4), shape, N).tolist() == [[4.0] * N]
    assert to_kn(torch.zeros(9, K, N, 4), 0, shape).shape == (9, K, N, 4)  # an enumerated site is left of the samples


def plates_left_and_right(x):
    """The data stand between two plates of their own: z in one of them, y in both, w in none, u only in the data's."""
    left, right = pyro.plate("left", 2, dim=-3), pyro.plate("right", 4, dim=-1)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("u", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with right:
            pyro.sample("z", dist.Normal(0.0, 1.0))
            with left:
                pyro.sample("y", dist.Normal(0.0, 1.0))


def test_sites_of_a_program_with_plates_on_both_sides():
    x = torch.zeros(N)
    structure = structure_of([poutine.trace(plates_left_and_right).get_trace(x)], N)
    assert (structure.dim, structure.num_plates) == (-2, 3)
    with plate_of(K, structure):
        trace = poutine.trace(plates_left_and_right).get_trace(x)
    sites = samples(trace)
    shapes = {name: tuple(value_by_datum(site, structure).shape) for name, site in sites.items()}
    assert shapes == {"u": (K, N, 3), "z": (K, N, 4), "y": (K, N, 2, 4)}
    for name, site in sites.items():
        log_p = dist.Normal(0.0, 1.0).log_prob(value_by_datum(site, structure)).reshape(K, N, -1).sum(-1)
        torch.testing.assert_close(log_prob_by_datum(trace, [name], structure, N), log_p)


@pytest.mark.parametrize("dim", [-1, -2])
def test_discrete_sites_are_summed_out_for_each_datum_wherever_its_plate_is(dim):
    def model(x):
        with pyro.plate("data", len(x), dim=dim):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("inner", 3, dim=-3 - dim):
                c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(z + 2 * c, 1.0), obs=x[:, None] if dim == -2 else x)

    def guide(x):
        with pyro.plate("data", len(x), dim=dim):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x = torch.linspace(-2, 2, N)
    structure = structure_of([poutine.trace(p).get_trace(x) for p in (model, guide)], N)
    assert structure.enumerated
    model_trace, guide_trace = run_pair(model, guide, (x,), num_samples=K, structure=structure)
    got = log_prob_by_datum(model_trace, samples(model_trace), structure, N)
    z = value_by_datum(samples(guide_trace)["z"], structure)
    each = [p.log() + dist.Normal(z + 2 * c, 1.0).log_prob(x) for c, p in enumerate(torch.tensor([0.7, 0.3]))]
    expected = dist.Normal(0.0, 1.0).log_prob(z) + 3 * torch.logaddexp(*each)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("loop", [False, True])
def test_a_part_of_a_datum_is_refused_and_fitted(loop):
    """A random part of the columns: scaled by 6 / 3 it has the ELBO of all, but no log P(x)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if loop:
                for j in pyro.plate("columns", 6, subsample_size=3):
                    pyro.sample(f"x{j}", dist.Normal(z, 1.0), obs=x[:, j])
            else:
                with pyro.plate("columns", 6, subsample_size=3, dim=-2) as j:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, j].T)

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x.mean(-1), 0.4))

    x = torch.linspace(-2, 2, 6 * N).reshape(N, 6)
    with pytest.raises(InputError, match="the plate 'columns', which takes 3 of 6"):
        estimate_evidence(model, guide, x, num_samples=10, progress=False)
    assert math.isfinite(fit(model, guide, x, epochs=1, progress=False).history.train_elbo[-1])


def test_the_site_that_holds_the_data():
    assert data_name({"z": 1, "x": 2, "y": 3}) == "x"
    assert data_name(["z", "counts"]) == "counts"


def inside(x):
    with pyro.plate("latents", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def outside(x):
    pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def one_for_all(x):
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))


def all_in_one_event(x):
    pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))


def model_of(latent, *, plate=True):
    def model(x):
        pyro.param("a", torch.zeros(()))
        z = latent(x)
        with pyro.plate("data", len(x)) if plate else nullcontext():
            pyro.sample("x", dist.Normal(torch.zeros(()) if z is None else z.sum(-1), 1.0), obs=x)

    return model


ONE_SIDED = {
    "in the model": (inside, outside, r"inside in the model .*, and outside in the guide outside \(.*{line}\)\. Put"),
    "one of the guide": (inside, one_for_all, r"outside in the guide one_for_all \(.*{line}\)\. Put.*there\.$"),
    "in the guide": (outside, inside, r"inside in the guide inside, .* model .*{line}\)\. Put.*there\.$"),
    "one of the model": (
        one_for_all,
        inside,
        r"outside in the model .*{line}\).*z = pyro.param\('z', torch.zeros\(\(2,",
    ),
    "as one event": (inside, all_in_one_event, r"\(2,\) in the model .*{line}\) and \(9, 2\) in .*{line}\).*to_event"),
}


@pytest.mark.parametrize("ask", [fit, estimate_evidence])
@pytest.mark.parametrize("case", ONE_SIDED)
def test_a_plate_in_one_program_only_is_told_by_program_and_line(case, ask):
    latent, guide, said = ONE_SIDED[case]
    with pytest.raises(InputError, match=said.format(line=r'test_plates\.py, line \d+, in \w+: pyro\.sample\("z".*')):
        ask(model_of(latent), guide, torch.zeros(10 if ask is estimate_evidence else 9))


def test_a_latent_of_all_data_beside_a_guide_of_ours():
    class Own(Model):
        def forward(self, x=None, *, size=None):
            bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
            with self.plate(x, size):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z + bias[..., None], 1.0).to_event(1), obs=x)

    model, x = Own((2,)), torch.zeros(9, 2)
    for guide in (MeanField(model), FullCovariance(model)):
        for ask in (fit, estimate_evidence):
            with pytest.raises(InputError, match=r"Own.forward: bias = pyro.*bias = pyro.param\('bias', torch"):
                ask(model, guide, x)


def test_data_outside_of_the_plate_are_told_by_their_line():
    line = r'site .x. \(.*test_plates\.py, line \d+, in .*: pyro\.sample\("x".*\)'
    with pytest.raises(InputError, match=rf"{line} of .*model with 9 distributions and no plate"):
        fit(model_of(inside, plate=False), inside, torch.zeros(9))
    with pytest.raises(InputError, match=rf"{line} outside of it.*len\(x\)\):`\.$"):
        estimate_evidence(model_of(inside, plate=False), inside, torch.zeros(9))
