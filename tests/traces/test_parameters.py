"""What `pyro.param` gives: kept with the programs of a fit, read and used after it, as Pyro's own SVI leaves it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PyroTutorialVAE, mean_guide, mean_model
from pyro import infer
from pyro.distributions import constraints
from pyro.nn import PyroModule

import ppl_vae
from ppl_vae import estimate_evidence, fit
from ppl_vae.traces.pair import Pair

pytestmark = pytest.mark.filterwarnings("error:.*start values of.*:UserWarning")


@pytest.fixture(autouse=True)
def _clear():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def x():
    return torch.randn(60, generator=torch.Generator().manual_seed(0)) * 1.4 + 7


OPTIONS = dict(epochs=30, batch_size=60, learning_rate=0.05, schedule="constant", optimizer=torch.optim.Adam)


def by_pyro(model, guide, x, steps=30):
    """Train by Pyro's own SVI; the parameters are in Pyro's own store."""
    svi = infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), infer.Trace_ELBO())
    for _ in range(steps):
        svi.step(x)
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def mean_field(x):
    """A guide whose gradient is the same for each draw up to its noise."""
    shift = pyro.param("shift", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        return pyro.sample("z", dist.Normal(0.5 * x + shift, scale))


class SameDraws(infer.Trace_ELBO):
    """The ELBO with the same draws in every step: where two ways of training differ, it is not by their noise."""

    def loss_and_grads(self, model, guide, *args, **kwargs):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return super().loss_and_grads(model, guide, *args, **kwargs)


def test_what_was_learned_is_what_pyros_own_svi_learns():
    x = torch.full((60,), 7.0)  # in any order
    fitted = fit(mean_model, mean_field, x, **OPTIONS, objective=SameDraws(), compile=False)
    svi = infer.SVI(mean_model, mean_field, pyro.optim.Adam({"lr": 0.05}), SameDraws())
    for _ in range(30):
        svi.step(x)
    theirs = dict(pyro.get_param_store().items())
    assert set(fitted.params) == set(theirs) == {"mu", "shift", "scale"}
    for name, value in theirs.items():
        assert torch.allclose(fitted.params[name], value, atol=1e-4), name
    assert not fitted.params["mu"].requires_grad


def test_pyro_sees_what_was_fitted(x):
    pyro.param("mu", torch.tensor(-5.0))  # of somebody else
    fitted = fit(mean_model, mean_field, x, **OPTIONS | {"epochs": 200})
    with fitted.parameters():
        assert pyro.param("mu").item() == pytest.approx(float(fitted.params["mu"]))
        z = infer.Predictive(mean_model, guide=mean_field, num_samples=200, return_sites=["z"])(x)["z"]
        trace = pyro.poutine.trace(mean_field).get_trace(x)
    expected = 0.5 * x + fitted.params["shift"]
    error = fitted.params["scale"] / 200**0.5
    assert float(((z.mean(0) - expected) / error).abs().max()) < 6
    assert torch.equal(trace.nodes["scale"]["value"], fitted.params["scale"])
    assert float(fitted.params["mu"]) > 1
    assert pyro.param("mu").item() == -5.0
    assert set(pyro.get_param_store()) == {"mu"}


def test_discrete_sites_are_inferred_with_what_was_fitted():
    """Two clusters whose means are learned: the one that is nearer."""

    @infer.config_enumerate
    def model(x):
        means = pyro.param("means", torch.tensor([-0.1, 0.1]))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(means[c], 1.0), obs=x)

    x = torch.cat([torch.randn(40) - 4, torch.randn(40) + 4])
    objective = infer.TraceEnum_ELBO(max_plate_nesting=1)
    fitted = fit(model, lambda x: None, x, epochs=60, batch_size=80, learning_rate=0.2, objective=objective)
    with fitted.parameters():
        best = infer.infer_discrete(model, first_available_dim=-2, temperature=0)
        c = pyro.poutine.trace(best).get_trace(x).nodes["c"]["value"]
    low = fitted.params["means"].argmin()
    assert bool(((c == low) == (x < 0)).all())
    assert len(pyro.get_param_store()) == 0


def test_networks_of_plain_functions_are_there_too(digits):
    vae = PyroTutorialVAE()
    fitted = fit(vae.model, vae.guide, digits.validation, epochs=1)
    assert torch.equal(fitted.params["decoder$$$0.weight"], vae.decoder[0].weight)
    with fitted.parameters():
        svi = infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), infer.Trace_ELBO())
        svi.step(digits.validation.x)
    assert torch.equal(fitted.params["decoder$$$0.weight"], vae.decoder[0].weight)  # trained on, both


def of_mu(x):
    return float(estimate_evidence(mean_model, mean_guide, x, num_samples=50).log_px.mean())


def test_the_estimate_is_of_what_was_trained_last(x):
    fit(mean_model, mean_guide, x, **OPTIONS | {"epochs": 300})
    best = of_mu(x)
    mean_guide(x)  # by hand: start values in Pyro's own store, which nobody means
    mean_model(x)
    assert of_mu(x) == best
    by_pyro(mean_model, mean_guide, x, steps=3)
    with pytest.warns(UserWarning, match=r"own store holds mu, scale, shift, slope as trained or set since the fit"):
        assert of_mu(x) < best - 1
    fitted = fit(mean_model, mean_guide, x, **OPTIONS | {"epochs": 300})
    assert of_mu(x) == best
    by_pyro(mean_model, mean_guide, x, steps=3)
    with fitted.parameters():
        assert of_mu(x) == best


def test_fits_of_one_model_with_two_guides_do_not_meet(x):
    first = fit(mean_model, mean_guide, x, **OPTIONS | {"epochs": 300})
    best = of_mu(x)
    fit(mean_model, mean_field, x, **OPTIONS | {"epochs": 1})
    assert of_mu(x) == best
    assert float(first.params["mu"]) > 5


def test_a_program_that_was_never_fitted_says_so(x):
    def anew():
        return (lambda *args: mean_model(*args)), (lambda *args: mean_guide(*args))  # noqa: PLW0108

    fit(*anew(), x, **OPTIONS)
    with pytest.warns(UserWarning, match=r"took the start values of .*slope.*, as no fit.*a lambda"):
        estimate_evidence(*anew(), x, num_samples=5)


class Asking(PyroModule):
    """A PyroModule that calls `pyro.param`."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.net = kind, PyroModule[torch.nn.Linear](1, 1)

    def forward(self, x):
        shared = pyro.param("shared", torch.tensor(0.5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            if self.kind == "model":
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z + self.net.bias, shared), obs=x)
            else:
                pyro.sample("z", dist.Normal(self.net(x[..., None])[..., 0], 0.1 + shared))


def test_pyro_modules_that_call_pyro_param_share_it_as_in_pyro(x):
    model, guide = Asking("model"), Asking("guide")
    before = model.net.bias.detach().clone()
    fitted = fit(model, guide, x, epochs=200, batch_size=60, learning_rate=0.05)
    assert set(fitted.params) == {"shared"}
    assert not torch.equal(model.net.bias, before)
    assert not torch.equal(model.net.bias, guide.net.bias)  # in Pyro's usual mode they would be one, by their names
    shared, bias = fitted.params["shared"], model.net.bias.detach()
    exact = dist.Normal(bias, (1 + shared**2).sqrt()).log_prob(x)
    evidence = estimate_evidence(model, guide, x, num_samples=2000)
    assert evidence.log_px == pytest.approx(exact.numpy(), abs=max(0.05, 8 * float(evidence.mcse.max())))
    assert Pair(model, guide).learned["shared"] == shared


def test_an_automatic_guide_of_a_model_that_calls_pyro_param(x):
    guide = infer.autoguide.AutoNormal(mean_model)
    fitted = fit(mean_model, guide, x, **OPTIONS | {"epochs": 500, "learning_rate": 0.1})
    assert float(fitted.params["mu"]) == pytest.approx(float(x.mean()), abs=0.5)


PROGRAMS = """
import ppl_vae
import pyro
import pyro.distributions as dist
import torch
from ppl_vae.base import Guide, Model


class Shifted(Model):
    def forward(self, x=None, *, size=None):
        shift = pyro.param("shift", torch.zeros(self.event_shape))
        scale = pyro.param("scale", torch.ones(self.event_shape), constraint=dist.constraints.positive)
        with self.plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = shift + z.sum(-1)[..., None, None, None]
            return pyro.sample("x", dist.Normal(loc, scale).to_event(3), obs=x)


class Wide(Guide):
    def forward(self, x):
        width = pyro.param("width", torch.tensor(0.5), constraint=dist.constraints.positive)
        with self.plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(2), width).to_event(1))
"""


def test_a_run_folder_holds_what_pyro_param_gives(tmp_path):
    (tmp_path / "own.py").write_text(PROGRAMS)
    settings = {"fit.epochs": 2, "fit.learning_rate": 0.05, "data.binarize": None}
    run = ppl_vae.train(str(tmp_path / "own.py"), settings=settings, out=tmp_path / "run", num_samples=30)
    expected = ppl_vae.evaluate(run, num_samples=30).log_px
    loaded = ppl_vae.load(tmp_path / "run", trust=True)
    assert float(Pair(loaded.model, loaded.guide).learned["scale"].min()) > 0
    assert ppl_vae.evaluate(loaded, num_samples=30).log_px == pytest.approx(expected)


LAZY = '''
from torch import nn
from ppl_vae.models import VAE
from ppl_vae.networks import Network


class Lazy(Network):
    """Its first layer knows its size after its first call."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.layers = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, out_shape.numel()))

    def transform(self, x):
        return self.layers(x)


class Own(VAE):
    pass
'''


def test_a_network_with_lazy_layers_is_trained_and_loaded(tmp_path):
    (tmp_path / "own.py").write_text(LAZY)
    options = {"decoder": "lazy", "settings": {"fit.epochs": 1}, "out": tmp_path / "run", "num_samples": 30}
    run = ppl_vae.train(str(tmp_path / "own.py"), **options)
    loaded = ppl_vae.load(tmp_path / "run", trust=True)
    assert ppl_vae.evaluate(loaded, num_samples=30).log_px == pytest.approx(run.evidence.log_px)
