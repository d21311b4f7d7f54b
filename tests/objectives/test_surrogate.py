"""The loss of an objective as tensors: Pyro's own numbers, and Pyro as it was afterwards."""

import pyro
import pyro.distributions as dist
import pyro.distributions.testing.fakes
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, trace_elbo, trace_mean_field_elbo
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compilation.capture import CannotCapture
from ppl_vae.objectives.surrogate import loss_and_surrogate

X = torch.linspace(-1, 1, 6)
SHIFT = torch.tensor(0.3, requires_grad=True)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x):
    shift = pyro.param("shift", SHIFT)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(shift + x, 0.7))


def score_function_guide(x):
    shift = pyro.param("shift", SHIFT)
    with pyro.plate("data", len(x)):
        pyro.sample("z", pyro.distributions.testing.fakes.NonreparameterizedNormal(shift + x, 0.7))


def internals():
    return trace_elbo.torch_item, trace_elbo.warn_if_nan, trace_mean_field_elbo.torch_item


@pytest.fixture(autouse=True)
def _store():
    before = internals()
    yield
    pyro.clear_param_store()
    assert internals() == before


@pytest.mark.parametrize("objective", [Trace_ELBO(), Trace_ELBO(num_particles=3), TraceMeanField_ELBO()])
def test_pyros_own_numbers_as_tensors(objective):
    pyro.set_rng_seed(1)
    expected = objective.loss_and_grads(model, guide, X)
    parameter = dict(pyro.get_param_store().named_parameters())["shift"]
    gradient, parameter.grad = parameter.grad, None

    def recorded(x):
        loss, surrogate = loss_and_surrogate(objective, model, guide, (x,))
        return loss, *torch.autograd.grad(surrogate, [parameter])

    with pyro.validation_enabled(False):
        graph = make_fx(recorded)(X)  # a look at a value would be an error
    for function in (recorded, graph):
        pyro.set_rng_seed(1)
        loss, found = function(X)
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(found, gradient)


def test_an_objective_says_itself_what_its_loss_is():
    class Own:
        def loss_and_surrogate(self, model, guide, args):
            return args[0].sum(), 2 * args[0].sum()

    assert loss_and_surrogate(Own(), model, guide, (torch.ones(3),)) == (3, 6)


@pytest.mark.parametrize(
    ("objective", "program", "why"),
    [(TraceGraph_ELBO(), guide, "TraceGraph_ELBO"), (Trace_ELBO(), score_function_guide, "'z' is not reparameterized")],
)
def test_what_has_no_loss_as_tensors_says_so(objective, program, why):
    with pytest.raises(CannotCapture, match=why):
        loss_and_surrogate(objective, model, program, (X,))
