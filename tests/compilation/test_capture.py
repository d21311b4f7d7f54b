"""The compiled log-weights against plain Pyro's for the same noise, and against closed forms."""

import time
from contextlib import nullcontext
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PyroTutorialVAE, hierarchical_guide, hierarchical_model, mean_guide, mean_model
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import InputError, likelihoods
from ppl_vae.compilation import capture, rewrites
from ppl_vae.compilation.capture import CannotCapture, compiled_or_none, compiling_pays, pays
from ppl_vae.compilation.record import record
from ppl_vae.compilation.rewrites import bernoulli_log_prob, rewrite
from ppl_vae.evidence.weight_sampler import log_weights_function
from ppl_vae.networks import MLP
from ppl_vae.priors import Mixture, StandardNormal
from ppl_vae.traces.log_weights import log_weights
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import structure_of
from ppl_vae.traces.run import get_traces
from ppl_vae.utils.rng import seeded

SAMPLES = 7
network = partial(MLP, hidden=(16,))


def evaluate(pair, x, *, proposal="guide", change=None):
    """Compiled and plain log-weights of other data than it was compiled for, from the same seed."""
    with pair.running(), pair.evaluating(), torch.no_grad():
        structure = structure_of(get_traces(pair, (x,)), len(x))
        function = log_weights_function(pair, (x.flip(0),), SAMPLES, structure, proposal=proposal)
        if change is not None:
            change()
        with seeded(5):
            got = function((x,))
        with seeded(5):
            expected = log_weights(pair, (x,), SAMPLES, structure, proposal=proposal)
    assert got.shape == (SAMPLES, len(x))
    return got, expected


def assert_same(both):
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-4)


def vae(prior, likelihood):
    model = VAE((1, 8, 8), prior=prior, likelihood=likelihood, decoder=network)
    return Pair(model, MeanField(model, encoder=network))


@pytest.mark.parametrize("proposal", ["guide", "prior"])
@pytest.mark.parametrize("prior", [StandardNormal, Mixture])
@pytest.mark.parametrize("likelihood", [likelihoods.Bernoulli, likelihoods.Gaussian])
def test_vae_equals_plain_pyro_for_the_same_noise(uncompiled, prior, likelihood, proposal):
    x = torch.rand(5, 1, 8, 8).round()
    assert_same(evaluate(vae(prior(3), likelihood()), x, proposal=proposal))


def test_compiled_vae_equals_plain_pyro_for_the_same_noise():
    assert_same(evaluate(vae(Mixture(3), likelihoods.Bernoulli()), torch.rand(5, 1, 8, 8).round()))


def test_exact_posterior_gives_log_px(uncompiled, linear_gaussian):
    model, x = linear_gaussian
    got, _ = evaluate(Pair(model, ExactPosterior(model)), x)
    torch.testing.assert_close(got, model.exact_log_px(x).detach().expand(SAMPLES, len(x)), rtol=0, atol=1e-4)


def test_plain_functions_with_parameters_in_the_store(uncompiled):
    assert_same(evaluate(Pair(mean_model, mean_guide, fresh=True), torch.randn(6)))


def test_several_sites_and_plates(uncompiled):
    assert_same(evaluate(Pair(hierarchical_model, hierarchical_guide), torch.randn(6, 3)))


def test_methods_that_call_pyro_module(uncompiled):
    tutorial = PyroTutorialVAE()
    assert_same(evaluate(Pair(tutorial.model, tutorial.guide), torch.rand(4, 1, 8, 8).round()))


def test_weights_that_change_afterwards_are_used(uncompiled):
    pair = vae(StandardNormal(3), likelihoods.Bernoulli())
    x = torch.rand(5, 1, 8, 8).round()

    def change():
        for parameter in pair.parameters():
            parameter.add_(0.1)

    both = evaluate(pair, x, change=change)
    assert_same(both)
    assert (both[0] - evaluate(vae(StandardNormal(3), likelihoods.Bernoulli()), x)[0]).abs().max() > 1.0


def test_draws_follow_the_global_generator():
    pair, x = Pair(mean_model, mean_guide, fresh=True), torch.randn(6)
    with pair.running(), pair.evaluating(), torch.no_grad():
        structure = structure_of(get_traces(pair, (x,)), len(x))
        before = torch.get_rng_state()
        function = log_weights_function(pair, (x,), SAMPLES, structure)
        assert torch.equal(before, torch.get_rng_state())  # capturing draws nothing from it
        first, second = function((x,)), function((x,))
        torch.set_rng_state(before)
        assert torch.equal(function((x,)), first)
        assert not torch.equal(first, second)
        with pytest.raises(InputError, match="Expected data of the shapes it was compiled for"):
            function((x[:3],))


def looks_at_values(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z if z.sum() > 0 else -z, 1.0), obs=x)


def hides_values(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.as_tensor(x.numpy() * 0.5), 1.0))


def fixed_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


@pytest.mark.parametrize(("model", "guide"), [(looks_at_values, fixed_guide), (mean_model, hides_values)])
def test_programs_that_cannot_be_captured_say_why(uncompiled, model, guide):
    with pytest.raises(CannotCapture) as problem:
        evaluate(Pair(model, guide, fresh=True), torch.randn(6))
    assert len(str(problem.value)) > 20
    assert "\n" not in str(problem.value)


def test_no_compiler_is_one_line():
    from torch._inductor import config

    patch = config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with patch, pytest.raises(CannotCapture, match="cannot be compiled"):
        evaluate(Pair(mean_model, mean_guide, fresh=True), torch.randn(9))


def test_what_plain_pyro_refuses_is_still_refused(uncompiled):
    def constant_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x))

    pair, x = Pair(mean_model, constant_guide, fresh=True), torch.randn(6)
    with pytest.raises(InputError, match="that differ"):
        evaluate(pair, x)


@pytest.mark.parametrize("size", [1, 7, 64, 784, 787])
@pytest.mark.parametrize("scale", [0.1, 5.0, 200.0])
def test_bernoulli_log_prob_with_few_logarithms(size, scale):
    h, x = scale * torch.randn(50, size), torch.rand(50, size).round()
    expected = torch.distributions.Bernoulli(logits=h.double()).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(bernoulli_log_prob(h, x).double(), expected, rtol=1e-5, atol=1e-3)


def test_both_matrix_products_give_the_same(uncompiled, monkeypatch):
    x = torch.rand(5, 1, 8, 8).round()
    pair = vae(StandardNormal(3), likelihoods.Bernoulli())
    for onednn in (True, False):
        monkeypatch.setattr(rewrites, "onednn_is_faster", lambda *args, onednn=onednn: onednn)
        assert_same(evaluate(pair, x))


def test_compiling_pays_only_for_much_work():
    assert not compiling_pays(1.0)
    assert not compiling_pays(capture.COMPILE_SECONDS)
    assert compiling_pays(100 * capture.COMPILE_SECONDS)
    assert not compiling_pays(100.0, num_nodes=10_000)


def test_products_are_timed_as_they_lie_in_memory():
    """A network of two inputs splits its first weight; of such a part oneDNN's product can be very slow."""
    matrices = torch.randn(100, 400).t(), torch.randn(100, 1000)[:, :400].t(), torch.randn(64, 400)
    whole, part, left = ((tuple(x.shape), x.stride()) for x in matrices)
    assert (whole[1], part[1]) == ((1, 400), (1, 1000))
    rewrites.onednn_is_faster.cache_clear()
    for right in (whole, part, whole):
        rewrites.onednn_is_faster(left, right, False, 1)
    assert rewrites.onednn_is_faster.cache_info().misses == 2


def test_gradients_of_weights_lie_as_the_weights_do():
    weight, x = torch.randn(6, 5, requires_grad=True), torch.randn(4, 5)
    graph = make_fx(lambda x: torch.autograd.grad((x @ weight.t()).square().sum(), weight))(x)
    (expected,) = graph(x)
    rewrite(graph.graph)
    graph.recompile()
    (got,) = graph(x)
    assert got.is_contiguous()
    torch.testing.assert_close(got, expected)


def test_waiting_for_others_is_not_taken_for_long_work():
    """Nor is one slow round: a busy neighbour makes the clock run on, not the work longer."""
    rounds = []

    def work():
        time.sleep(0.02)
        rounds.append(None)

    assert not pays("auto", lambda: nullcontext(work), 10_000)  # 200 seconds by the clock
    assert len(rounds) == 1


def test_long_work_pays_and_little_is_not_even_tried():
    def busy():
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass

    assert pays("auto", lambda: nullcontext(busy), 100_000)
    assert not pays("auto", lambda: pytest.fail("it was tried"), 10, few=11)
    assert pays(True, lambda: pytest.fail("it was tried"), 1) and not pays(False, lambda: pytest.fail(""), 1)


def test_what_nobody_uses_of_a_record_is_not_run():
    def function(x):
        _ = x @ x
        return (x + 1,)

    graph = record(function, torch.ones(3, 3))
    ran, zeros = [], torch.zeros(3, 3)
    with Counted(ran):
        (value,) = graph(zeros)
    assert torch.equal(value, torch.ones(3, 3))
    assert ran == [torch.ops.aten.add.Tensor]


class Counted(TorchDispatchMode):
    """Keep which operations are done."""

    def __init__(self, ran):
        super().__init__()
        self.ran = ran

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.ran.append(operation)
        return operation(*args, **(kwargs or {}))


def test_a_record_that_takes_minutes_is_compiled_only_where_that_is_asked_for(monkeypatch):
    """A loop that is not `looped` is written out: auto leaves it to Pyro, with the reason."""
    monkeypatch.setattr(capture, "LARGEST", 20)
    compiled = []
    monkeypatch.setattr(capture, "_compiled", lambda graph, inputs: compiled.append(graph) or len)

    def loop(x):
        for _ in range(15):
            x = x.sin() + 1
        return (x,)

    with pytest.warns(UserWarning, match=r"Plain Pyro is used, as it is \d+ operations .*compile=True does"):
        assert compiled_or_none(partial(capture.capture, loop, torch.ones(3)), wanted="auto") is None
    assert not compiled
    assert compiled_or_none(partial(capture.capture, loop, torch.ones(3)), wanted=True) is not None and compiled
