"""Programs without our conventions generate and reconstruct: shapes and distributions are those of their data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_means
from pairs import mean_model
from torch import nn

import ppl_vae
from ppl_vae import InputError
from ppl_vae.base import Model

x, y = torch.randn(20, 4), torch.randn(20)


def of_z(name="z"):
    """A guide that puts z near 3, whatever it is given."""

    def guide(x, *_):
        with pyro.plate("data", len(x)):
            pyro.sample(name, dist.Normal(3 + torch.zeros(len(x)), 1e-4))

    return guide


def answers(x, y=None):
    """Predicts y from x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        return pyro.sample("y", dist.Normal(z + x.sum(-1), 1e-4), obs=y)


def steps(x, size=None):
    """One site for each of four steps, each one larger than the one before."""
    n = size if x is None else len(x)
    with pyro.plate("data", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(n), 1.0))
        for t in range(4):
            pyro.sample(f"x_{t}", dist.Normal(z + t, 1e-4), obs=None if x is None else x[:, t])


def markov(x):
    """Latents in steps, too, and plates that stand the other way round."""
    with pyro.plate("data", len(x), dim=-2):
        z = torch.zeros(len(x), 1)
        for t in pyro.markov(range(2)):
            z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
            with pyro.plate(f"pixels_{t}", 2, dim=-1):
                pyro.sample(f"x_{t}", dist.Normal(z.expand(-1, 2) + t, 1e-4), obs=x[:, t])


def markov_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        for t in range(2):
            pyro.sample(f"z_{t}", dist.Normal(3 + torch.zeros(len(x), 1), 1e-4))


def two(x, n, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("n", dist.Poisson(z.exp()), obs=n)
        pyro.sample("image", dist.Normal(z[..., None].expand(*z.shape, 4), 1e-4).to_event(1), obs=x)


def loop(x):
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x_{i}", dist.Normal(z, 1e-4), obs=x[i])


def loop_guide(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z_{i}", dist.Normal(torch.tensor(3.0), 1e-4))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(
    ("model", "guide", "data", "expected"),
    [
        (answers, of_z(), (x, y), 3 + x.sum(-1)),
        (steps, of_z(), x, (3 + torch.arange(4.0)).expand(20, 4)),
        (markov, markov_guide, x.reshape(20, 2, 2), (3 + torch.arange(2.0))[:, None].expand(20, 2, 2)),
        (two, of_z(), (x, torch.ones(20)), torch.full((20, 4), 3.0)),
        (loop, loop_guide, y, torch.full((20,), 3.0)),
    ],
    ids=["another site", "steps", "plates", "two sites", "loop"],
)
def test_reconstruct(model, guide, data, expected, mean):
    got = ppl_vae.reconstruct(model, guide, data, mean=mean)
    torch.testing.assert_close(got, expected, atol=5e-3, rtol=0)


class OfX(nn.Module):
    """Looks at how many data there are, and at nothing else of them."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class ReturnsZ(Model):
    def forward(self, x=None, *, size=None):
        with self.plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1e-4).to_event(1))
            pyro.sample("x", dist.Normal(z + 5, 1e-4).to_event(1), obs=x)
            return z


class ReturnsDict(ReturnsZ):
    def forward(self, x=None, *, size=None):
        return {"z": super().forward(x, size=size)}


class WithoutSize(Model):
    def forward(self, x):
        with self.plate(x):
            return pyro.sample("x", dist.Normal(torch.full((2,), 5.0), 1e-4).to_event(1), obs=x)


def fixed(x=None):
    """A plate of its own size."""
    with pyro.plate("data", 7):
        return pyro.sample("x", dist.Normal(torch.arange(7.0), 1e-4), obs=x)


def single(x=None):
    return pyro.sample("x", dist.Normal(5.0, 1e-4), obs=x)


@pytest.mark.parametrize(
    ("model", "conditions", "shape", "expected"),
    [
        (OfX(), {}, (9, 3), None),
        (mean_model, {}, (9,), None),
        (steps, {}, (9, 4), None),
        (two, {"n": None}, (9, 4), None),
        (two, {}, (9, 4), None),
        (loop, {}, (9,), None),
        (fixed, {}, (9,), torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 0, 1])),
        (single, {}, (9,), torch.full((9,), 5.0)),
        (ReturnsZ((2,)), {}, (9, 2), torch.full((9, 2), 5.0)),
        (ReturnsDict((2,)), {}, (9, 2), torch.full((9, 2), 5.0)),
        (WithoutSize((2,)), {}, (9, 2), torch.full((9, 2), 5.0)),
    ],
)
def test_sample(model, conditions, shape, expected):
    got = ppl_vae.sample(model, 9, **conditions)
    assert got.shape == shape and torch.isfinite(got).all()
    if expected is not None:
        torch.testing.assert_close(got, expected, atol=5e-3, rtol=0)


def test_samples_come_from_the_model():
    """x ~ N(0, 2) of a program that is called with data, by 40,000 draws."""
    got = ppl_vae.sample(OfX(), 40_000)
    check_means(got, torch.zeros(3))
    check_means(got**2, torch.full((3,), 2.0))


def test_a_condition_is_what_a_program_reads():
    torch.testing.assert_close(ppl_vae.sample(answers, 20, x=x), ppl_vae.sample(answers, x=x))
    spread = ppl_vae.sample(answers, 20, x=x) - x.sum(-1)
    assert 0.3 < spread.std() < 2


class Points(dist.Cauchy):
    """A distribution without a mean."""


def without_mean(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", Points(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ppl_vae.sample(answers, 3),
            r"answers\(x, y=None\) to generate data without x.*sample\(model, x=...\)",
        ),
        (lambda: ppl_vae.sample(lambda x=None: answers(x), 3), "without x.*test_programs.py.*give what it reads"),
        (lambda: ppl_vae.sample(fixed, 7, x=torch.ones(3)), "x for each of 7 data"),
        (lambda: ppl_vae.sample(steps, 3, label=1), "takes label"),
        (lambda: ppl_vae.sample(markov, 3), r"test_programs.py, line \d+, in markov.*give what it reads"),
        (lambda: ppl_vae.sample(lambda size=None: None, 3), "with sites"),
        (lambda: ppl_vae.reconstruct(without_mean, of_z(), y), "a mean at 'x'; got Points. Pass mean=False"),
        (lambda: ppl_vae.reconstruct(answers, of_z("zz"), (x, y)), "got zz in the guide .*same pyro.sample names"),
    ],
)
def test_what_cannot_be_generated_is_said_in_a_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_a_guide_draws_or_observes_beside_its_latents_reconstructs_too():
    """An auxiliary u and a site that is observed answer no latent: docs/sites.md lets them be, and so does this."""

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1e-4))
            z = pyro.sample("z", dist.Normal(3 + u, 1e-4))
            pyro.sample("seen", dist.Normal(z, 1.0), obs=x.sum(-1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 4), 1.0).to_event(1), obs=x)

    torch.testing.assert_close(ppl_vae.reconstruct(model, guide, x), torch.full((20, 4), 3.0), atol=5e-3, rtol=0)


def test_numbers_that_are_not_known_reconstruct_too():
    def fills(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            p = dist.Normal(z[..., None].expand(*z.shape, 4), 1.0)
            pyro.sample("x", p.mask(~x.isnan()).to_event(1), obs=x.nan_to_num(0.0))

    some = x.clone()
    some[3, 1] = math.nan
    got = ppl_vae.reconstruct(fills, of_z(), some)
    torch.testing.assert_close(got, torch.full((20, 4), 3.0), atol=5e-3, rtol=0)
