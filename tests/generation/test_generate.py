"""Samples, reconstructions and maps come from the right distributions; figures are figures."""

import random
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_means
from pairs import PyroTutorialVAE
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import CVAE, VAE, LinearGaussian

import ppl_vae
from ppl_vae import InputError, plots
from ppl_vae.fitting.history import History
from ppl_vae.generation import ancestral, generate
from ppl_vae.likelihoods import Gaussian
from ppl_vae.priors import Mixture, StandardNormal


def test_sample(small_pair):
    model, _ = small_pair
    x = ppl_vae.sample(model, 50)
    assert x.shape == (50, 1, 8, 8)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    mean = ppl_vae.sample(model, 50, mean=True)
    assert 0 < mean.min() < mean.max() < 1
    assert torch.equal(ppl_vae.sample(model, 50), x)
    assert not torch.equal(ppl_vae.sample(model, 50, seed=1), x)


def test_conditions_are_passed_on():
    def model(x=None, y=None, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("x", dist.Normal(y, 0.01), obs=x)

    x = ppl_vae.sample(model, 3, y=torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(x, [1, 2, 3], atol=0.1)
    with pytest.raises(InputError, match="takes label"):
        ppl_vae.sample(model, 3, label=torch.zeros(3))


def label_model(x=None, y=None, *, size=None):
    """A plain function: x of y, which is observed within its range."""
    with pyro.plate("data", size if x is None else len(x)):
        y = pyro.sample("y", dist.Normal(torch.zeros(()), 1.0), obs=y)
        z = pyro.sample("z", dist.Normal(y, 1.0))
        return pyro.sample("x", dist.Normal(z, 0.1), obs=x)


def compiled(model, size, **options):
    """What a compiled program generates; a line that says it was not compiled fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Plain Pyro is used")
        return ppl_vae.sample(model, size, compile=True, **options)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(
    ("program", "conditions"),
    [
        (partial(VAE, (1, 4, 4)), {}),
        (partial(VAE, (1, 4, 4), prior=Mixture(3), likelihood=Gaussian()), {}),
        (partial(CVAE, (1, 4, 4)), {"y": torch.arange(70) % 10}),
        (partial(CVAE, (1, 4, 4)), {"y": 3}),
        (lambda: label_model, {"y": torch.linspace(-1, 1, 70)}),
        (lambda: label_model, {}),
    ],
)
def test_a_compiled_program_generates_the_same(uncompiled, monkeypatch, program, conditions, mean):
    monkeypatch.setattr(generate, "CHUNK", 20)  # whole chunks and a short one
    model = program()
    got = compiled(model, 70, mean=mean, **conditions)
    torch.testing.assert_close(got, ppl_vae.sample(model, 70, mean=mean, compile=False, **conditions))


def test_a_compiled_program_runs_for_all_chunks_but_the_first_and_a_short_one(monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 20)
    sizes, model = [], VAE((1, 4, 4), likelihood=Gaussian())  # PyTorch 2.6 compiles other Bernoulli draws: refused
    plain = type(model).forward
    monkeypatch.setattr(VAE, "forward", lambda self, x=None, *, size=None: sizes.append(size) or plain(self, size=size))
    first = compiled(model, 50)
    tried = len(sizes)
    assert sizes[-1] == 10
    sizes.clear()
    assert torch.equal(compiled(model, 170)[:40], first[:40])
    assert len(sizes) == tried and sizes.count(10) == 1


def unit_model(x=None, y=None, *, size=None):
    """A plain function that can be given y between 0 and 1, and nothing else."""
    with pyro.plate("data", size if x is None else len(x)):
        y = pyro.sample("y", dist.Uniform(torch.zeros(()), 1.0), obs=y)
        return pyro.sample("x", dist.Normal(torch.log(y - 0.1), (y - 0.2).sign()).to_event(0), obs=x)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(2.0, "y.*2"), (0.05, "loc of Normal that is NaN.*unit_model"), (0.15, "scale of Normal that is not positive")],
)
def test_what_plain_pyro_refuses_is_refused_where_it_is_compiled(uncompiled, monkeypatch, wrong, words):
    monkeypatch.setattr(generate, "CHUNK", 20)
    y = torch.full((80,), 0.5)
    compiled(unit_model, 80, y=y)
    y[59] = wrong
    with warnings.catch_warnings(), pytest.raises(InputError, match=words):
        warnings.filterwarnings("ignore", "Plain Pyro is used")
        ppl_vae.sample(unit_model, 80, compile=True, y=y)


def of_values(x=None, y=None, *, size=None):
    """A program that looks at z, so that what it does depends on it."""
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        return pyro.sample("x", dist.Normal(z * (1 if float(z.sum()) > 0 else 2), 1.0), obs=x)


def of_another_generator(x=None, y=None, *, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        return pyro.sample("x", dist.Normal(torch.zeros(()), 1.0 + random.random()), obs=x)


def behind_the_back(x=None, y=None, *, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        return pyro.sample("x", dist.Normal(torch.tensor(y.tolist()), 0.1), obs=x)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (of_values, "recorded"),
        (of_another_generator, "NumPy's"),
        (behind_the_back, "compiled, generates something else"),
    ],
)
def test_a_program_that_cannot_be_compiled_is_run(uncompiled, monkeypatch, model, why):
    monkeypatch.setattr(generate, "CHUNK", 20)
    y = torch.arange(3.0).repeat_interleave(20)  # each chunk has one y: that of the first is nothing to go by
    expected = ppl_vae.sample(model, 60, compile=False, y=y)
    with pytest.warns(UserWarning, match=f"Plain Pyro is used, as the program.*{why}"):
        assert torch.equal(ppl_vae.sample(model, 60, compile=True, y=y), expected)


def test_compile_is_true_false_or_auto(small_pair):
    with pytest.raises(InputError, match="compile"):
        ppl_vae.sample(small_pair[0], 5, compile="yes")


def one_column_counts(x=None, *, size=None, runs=[]):  # noqa: B006 (it shall remember)
    runs.append(None)
    with pyro.plate("data", size if x is None else len(x)):
        loc = torch.tensor([0.0, float(len(runs))])
        return pyro.sample("x", dist.Normal(loc, torch.tensor([1e4, 0.1])).to_event(1), obs=x)


def test_each_number_of_a_datum_is_held_against_pyro_on_its_own_scale(uncompiled, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 20)
    with pytest.warns(UserWarning, match="generates something else"):
        ppl_vae.sample(one_column_counts, 60, compile=True)


def test_rows_of_all_parts_are_tried():
    rows = ancestral._mixed(list(torch.arange(17_001).repeat_interleave(5).split(5)))
    assert rows.tolist() == [0, 4250, 8500, 12750, 17000]


class Counting(torch.nn.Module):
    """Adds up in a buffer how often it was run, and writes to what it is given."""

    def __init__(self):
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x=None, y=None, *, size=None):
        self.runs += 1
        y -= 1
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("x", dist.Normal(y + self.runs, 1e-3), obs=x)


def test_trials_leave_no_trace(uncompiled, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 20)
    y = torch.arange(100.0)
    expected = ppl_vae.sample(Counting(), compile=False, y=y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Plain Pyro is used")
        got = ppl_vae.sample(Counting(), compile=True, y=y)
    torch.testing.assert_close(got, expected)
    assert torch.equal(y, torch.arange(100.0))


def test_reconstruct_is_the_mean_under_the_posterior(linear_gaussian):
    model, x = linear_gaussian
    draws = torch.stack([ppl_vae.reconstruct(model, ExactPosterior(model), x, seed=s) for s in range(300)])
    with torch.no_grad():
        expected = model.decoder(model.exact_posterior(x).mean)
    check_means(draws, expected)
    noisy = ppl_vae.reconstruct(model, ExactPosterior(model), x, mean=False)
    assert float((noisy - draws[0]).std()) == pytest.approx(0.7, rel=0.1)


def test_reconstruct_plain_functions(digits):
    vae = PyroTutorialVAE()
    again = ppl_vae.reconstruct(vae.model, vae.guide, digits.test[:7])
    assert again.shape == (7, 1, 8, 8)


def test_manifold_runs_over_the_quantiles_of_the_prior():
    model = LinearGaussian((2,), latent_dim=2)
    with torch.no_grad():
        model.decoder.layers[0].weight.copy_(torch.eye(2))
        model.decoder.layers[0].bias.zero_()
    grid = ppl_vae.manifold(model, grid=9)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(9) + 0.5) / 9)
    np.testing.assert_allclose(grid[4, :, 0], quantiles, atol=0.03)  # to the right
    np.testing.assert_allclose(grid[:, 4, 1], quantiles.flip(0), atol=0.03)  # upwards
    assert ppl_vae.manifold(VAE((1, 4, 4), prior=Mixture(2)), grid=4).shape == (4, 4, 1, 4, 4)
    with pytest.raises(InputError, match=r"two dimensions.*\(3,\)"):
        ppl_vae.manifold(VAE((1, 4, 4), prior=StandardNormal(3)))


@pytest.mark.parametrize("call", [lambda m: ppl_vae.sample(m, 0), lambda m: ppl_vae.manifold(m, grid=0)])
def test_sizes_below_one(small_pair, call):
    with pytest.raises(InputError, match="got 0"):
        call(small_pair[0])


def test_tiles_show_every_image():
    x = np.random.default_rng(0).random((7, 1, 3, 4))
    canvas = plots.tile(x, columns=3)
    assert canvas.shape == (3 * 4 + 1, 3 * 5 + 1)
    np.testing.assert_array_equal(canvas[1:4, 1:5], x[0, 0])
    np.testing.assert_array_equal(canvas[9:12, 1:5], x[6, 0])
    assert plots.tile(np.zeros((4, 3, 2, 2)), columns=2).shape == (7, 7, 3)
    with pytest.raises(InputError, match=r"\[N, C, H, W\].*got \(4, 5, 2, 2\)"):
        plots.tile(np.zeros((4, 5, 2, 2)), columns=2)


def test_figures(tmp_path):
    x = np.random.default_rng(0).random((40, 1, 8, 8))
    rows = [(i + 1.0, -50.0 / (i + 1), -52.0 / (i + 1), 1e-3) for i in range(10)]
    figures = [
        plots.images(torch.from_numpy(x)),
        plots.reconstructions(x, x),
        plots.reconstructions(x[:5], x[:5]),
        plots.manifold(x[:36].reshape(6, 6, 1, 8, 8)),
        plots.history(History.of(rows)),
        plots.history(History.of([(*r[:2], float("nan"), r[3]) for r in rows])),
    ]
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 2000
    with pytest.raises(InputError, match="one shape"):
        plots.reconstructions(x, x[:3])
