"""What a program may be, and what is found in it: arguments, names, modules wherever they hang."""

import functools
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from pyro import poutine
from torch import nn

from ppl_vae import InputError, estimate_evidence, fit
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.programs import call_signature, core, program_name


def observing(x, width=1.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), width))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guessing(x, width=1.0):
    slope = pyro.param("slope", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, width))


def width_first(program):
    def turned(width, x):
        return program(x, width)

    return turned


@dataclass
class Both:
    """An object that is neither hashable nor a module."""

    width: float

    def model(self, x):
        observing(x, self.width)

    def guide(self, x):
        guessing(x, self.width)


class Called:
    __slots__ = ("program",)  # and no weak references

    def __init__(self, program):
        self.program = program

    def __call__(self, x):
        self.program(x, 2.0)


def pairs():
    """The same pair in other words, all with a width of 2."""
    both = Both(2.0)
    return {
        "keyword": [functools.partial(p, width=2.0) for p in (observing, guessing)],
        "position": [functools.partial(width_first(p), 2.0) for p in (observing, guessing)],
        "lambda": (lambda x: observing(x, 2.0), lambda x: guessing(x, 2.0)),
        "methods": (both.model, both.guide),
        "objects": (Called(observing), Called(guessing)),
        "under a handler": [poutine.scale(functools.partial(p, width=2.0), 1.0) for p in (observing, guessing)],
        "handler inside": [functools.partial(poutine.scale(p, 1.0), width=2.0) for p in (observing, guessing)],
    }


@pytest.mark.parametrize("name", pairs())
def test_every_kind_of_program_is_fitted_and_found_again(name):
    x, (model, guide) = torch.linspace(-2, 2, 40), pairs()[name]
    fitted = fit(model, guide, x, epochs=100, learning_rate=0.05)
    slope = float(fitted.params["slope"])
    assert slope == pytest.approx(0.8, abs=0.1)  # that of the posterior, 4 / 5
    evidence = estimate_evidence(model, guide, x, num_samples=2000)
    exact = dist.Normal(0.0, 5**0.5).log_prob(x)
    # E_Q[log w] in closed form: of the slope that was fitted, not of the one at the start.
    gap = 0.5 * (4 * 1.25 - 1 - torch.tensor(5.0).log()) + 0.5 * 1.25 * ((slope - 0.8) * x) ** 2
    elbo = (exact - gap).numpy()
    assert evidence.elbo == pytest.approx(elbo, abs=6 * 4 / 2000**0.5)
    assert list(call_signature(model).parameters)[:1] == ["x"]


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (observing, "observing"),
        (functools.partial(observing, width=2.0), "observing"),
        (poutine.mask(observing, True), "observing"),
        (Both(1.0).model, "Both.model"),
        (Called(observing), "Called"),
        (VAE((3,)), "VAE"),
        (torch.compile(VAE((3,))), "VAE"),
    ],
)
def test_names(program, name):
    assert program_name(program) == name


def test_the_arguments_of_what_is_bound_are_not_asked_for():
    assert str(call_signature(functools.partial(width_first(observing), 2.0))) == "(x)"
    assert str(call_signature(functools.partial(poutine.scale(width_first(observing), 2.0), 1.0))) == "(x)"
    assert list(call_signature(torch.compile(VAE((3,)))).parameters) == ["x", "size"]
    assert Pair(lambda x, y: None).takes_labels()
    assert not Pair(functools.partial(lambda x, y: None, y=torch.zeros(3))).takes_labels()
    assert Pair(functools.partial(lambda net, x, y: None, nn.Linear(1, 1))).takes_labels()


def test_a_bound_argument_makes_another_program():
    one, again, other = (core(functools.partial(observing, width=w)) for w in (1.0, 1.0, 2.0))
    assert one.same(again)
    assert not one.same(other)
    net = nn.Linear(1, 1)
    assert core(functools.partial(observing, net)).same(core(functools.partial(observing, net)))
    assert not core(functools.partial(observing, net)).same(core(functools.partial(observing, nn.Linear(1, 1))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pair(VAE), r"model to be an object; got the class VAE.*model=VAE\(\.\.\.\)"),
        (
            lambda: Pair(VAE((3,)), MeanField),
            r"guide to be an object; got the class MeanField.*guide=MeanField\(model\)",
        ),
        (lambda: Pair(torch.zeros(3), observing), r"got Tensor\. The order of arguments is model, guide, data"),
        (lambda: Pair(MeanField(VAE((3,))), VAE((3,))), r"the model first.*got MeanField and VAE\. Swap them"),
        (lambda: fit(VAE((3,)), VAE((3,)), torch.zeros(2, 3)), r"the model first.*got VAE and VAE"),
    ],
)
def test_what_is_no_program(call, message):
    with pytest.raises(InputError, match=message):
        call()


class Box:
    """A plain class that holds whatever it is given."""

    def __init__(self, **held):
        vars(self).update(held)


def in_an_object(net):
    box = Box(net=net)
    return lambda: box.net


def in_a_list(net):
    nets = [net]
    return lambda: nets[0]


def in_a_dict_of_dicts(net):
    nets = {"a": {"b": net}}
    return lambda: nets["a"]["b"]


def in_a_closure_of_a_closure(net):
    def outer():
        def inner():
            return net

        return inner

    return outer()


def in_a_default(net):
    def get(net=net):
        return net

    return get


def in_a_partial(net):
    return functools.partial(lambda net: net, net)


def by_a_method_of_it(net):
    return lambda: net.forward


HANGING = [
    in_an_object,
    in_a_list,
    in_a_dict_of_dicts,
    in_a_closure_of_a_closure,
    in_a_default,
    in_a_partial,
    by_a_method_of_it,
]


def decoding(get, net):
    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(get()(z.reshape(-1, 2)).reshape(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    return model, guide


@pytest.mark.parametrize("where", HANGING)
def test_modules_wherever_they_hang_are_evaluated_and_left_as_they_were(where):
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    pair, x = decoding(where(net), net), torch.randn(30, 3)
    fit(*pair, x, validation=x[:10], epochs=2)
    assert not any(module.training for module in net.modules())
    expected = estimate_evidence(*pair, x, num_samples=20).elbo
    net.train()
    net[2].eval()  # each has its own mode
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert (estimate_evidence(*pair, x, num_samples=20).elbo == expected).all()
    assert [module.training for module in net] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_statistics_of_a_hidden_module_belong_to_the_best_epoch(tmp_path):
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    pair, x = decoding(in_a_list(net), net), torch.randn(40, 3)
    options = dict(validation=x[:10], epochs=4, batch_size=10, learning_rate=0.3)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    fitted = fit(*pair, x, **options)
    whole = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(start)
    fit(*pair, x, **options, out=tmp_path)
    assert int(whole["1.num_batches_tracked"]) == 4 * fitted.best_epoch
    kept = torch.load(tmp_path / "last.pt", weights_only=True)["best"]
    name = next(name for name in kept if name.endswith("running_mean"))
    assert torch.equal(kept[name], whole["1.running_mean"])


def test_a_module_that_changes_a_buffer_when_it_is_called_is_left_as_it_was():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(2, 3)
            self.calls = nn.Buffer(torch.zeros(()))
            self.last = nn.Buffer(torch.zeros(()))

        def forward(self, z):
            self.calls += 1
            self.last = z.detach().mean()
            return super().forward(z)

    net = Counting()
    pair, x = decoding(lambda: net, net), torch.randn(5, 3)
    estimate_evidence(*pair, x, num_samples=5)
    assert (float(net.calls), float(net.last)) == (0.0, 0.0)
