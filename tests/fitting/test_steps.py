"""Compiled steps against Pyro's own for the same noise, over all parts, and how `fit` uses them."""

import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.rows import EVENT_SHAPE, GUIDES, LIKELIHOODS, NUM_DATA, PRIORS, first, make
from pairs import PyroTutorialVAE, mean_guide, mean_model
from ppl_vae.guides import Conditional, FullCovariance, Hierarchical, MeanField
from ppl_vae.models import CVAE, VAE
from ppl_vae.models import Hierarchical as HierarchicalVAE
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import InputError, NonFiniteLossError, fit, objectives
from ppl_vae.compilation import capture
from ppl_vae.compilation.capture import CannotCapture
from ppl_vae.fitting import steps
from ppl_vae.fitting.options import FitOptions
from ppl_vae.fitting.steps import Gradients, Steps
from ppl_vae.networks import MLP
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.run import get_traces
from ppl_vae.utils.rng import seeded

ALONE = {("standard_normal", "bernoulli", "mean_field")}
CASES = sorted(
    ALONE
    | {(prior, "bernoulli", "mean_field") for prior in first(PRIORS)}
    | {("standard_normal", likelihood, "mean_field") for likelihood in first(LIKELIHOODS)}
    | {("standard_normal", "bernoulli", guide) for guide in first(GUIDES)}
)
OBJECTIVES = [
    Trace_ELBO(num_particles=2),
    Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    TraceMeanField_ELBO(),
    objectives.BetaELBO(beta=3.0),
    objectives.DoublyReparameterized(3),
    objectives.FreeBits(1.0),
    objectives.IWAE(3),
    objectives.StickingTheLanding(2),
    objectives.WarmUp(4),
]
network = partial(MLP, hidden=(8,))


def vae(*, decoder=network, encoder=network):
    torch.manual_seed(0)
    model = VAE((1, 8, 8), decoder=decoder)
    return Pair(model, MeanField(model, encoder=encoder))


def captured_and_plain(pair, objective, args, *, seed=7):
    """Loss and gradients of other data than it was captured with, from one seed: ours, then Pyro's."""
    with pair.running():
        pair.train(True)
        pair.see(get_traces(pair, args))
        parameters = pair.parameters()
        function = Gradients(pair, objective, parameters, tuple(value.flip(0) for value in args))
        with seeded(seed):
            loss, *found = function(args)
        for parameter in parameters:
            parameter.grad = None
        with seeded(seed):
            expected = objective.loss_and_grads(pair.model, pair.guide, *args)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return (loss, *found), (torch.as_tensor(expected), *grads)


def assert_same(both):
    got, expected = both
    assert float(got[0]) == pytest.approx(float(expected[0]), rel=1e-4, abs=1e-3)
    scale = max(float(gradient.abs().max()) for gradient in expected[1:])
    assert scale > 0
    for one, other in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_part_gives_the_loss_and_gradients_of_trace_elbo(uncompiled, case):
    torch.manual_seed(0)
    model, guide = make(*case)
    with torch.no_grad():
        x = model(size=NUM_DATA)
    assert x.shape[1:] == EVENT_SHAPE
    assert_same(captured_and_plain(Pair(model, guide), Trace_ELBO(), (x,)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{type(o).__name__}-{o.num_particles}")
def test_every_objective_gives_its_own_loss_and_gradients(uncompiled, objective):
    assert_same(captured_and_plain(vae(), objective, (torch.rand(5, 1, 8, 8).round(),)))


def conditional():
    model = CVAE((1, 8, 8))
    return Pair(model, Conditional(model)), (torch.rand(6, 1, 8, 8).round(), torch.arange(6))


def two_layers():
    model = HierarchicalVAE((1, 8, 8))
    return Pair(model, Hierarchical(model)), (torch.rand(4, 1, 8, 8).round(),)


def tutorial():
    model = PyroTutorialVAE()
    return Pair(model.model, model.guide, fresh=True), (torch.rand(4, 1, 8, 8).round(),)


PROGRAMS = {
    "conditional": conditional,
    "two layers": two_layers,
    "pyro.module": tutorial,
    "plain functions": lambda: (Pair(mean_model, mean_guide, fresh=True), (torch.randn(6),)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_all_kinds(uncompiled, name):
    torch.manual_seed(0)
    assert_same(captured_and_plain(PROGRAMS[name]()[0], Trace_ELBO(), PROGRAMS[name]()[1]))


def test_compiled_for_real():
    pair, x = vae(), torch.rand(5, 1, 8, 8).round()
    assert_same(captured_and_plain(pair, Trace_ELBO(), (x,)))


def score_function_guide(x):
    p = pyro.param("p", torch.tensor(0.3), constraint=dist.constraints.unit_interval)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Bernoulli(p))


def score_function_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def looks_at_values(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z if z.sum() > 0 else -z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "guide", "objective", "why"),
    [
        (score_function_model, score_function_guide, Trace_ELBO(), "'z' is not reparameterized"),
        (looks_at_values, mean_guide, Trace_ELBO(), "cannot be recorded"),
        (mean_model, mean_guide, RenyiELBO(), "RenyiELBO is not one of those"),
        (mean_model, mean_guide, TraceEnum_ELBO(max_plate_nesting=1), "TraceEnum_ELBO is not one of those"),
    ],
)
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_what_cannot_be_captured_falls_back_to_plain_pyro_in_one_line(model, guide, objective, why):
    x = torch.randn(20)
    plain = fit(model, guide, x, epochs=2, objective=objective, compile=False)
    with pytest.warns(UserWarning, match=why) as caught:
        fitted = fit(model, guide, x, epochs=2, objective=objective, compile=True)
    (line,) = [str(w.message) for w in caught if "Plain Pyro" in str(w.message)]
    assert "\n" not in line
    assert not fitted.compiled
    np.testing.assert_array_equal(fitted.history.train_elbo, plain.history.train_elbo)


def test_no_compiler_falls_back_in_one_line():
    from torch._inductor import config

    pair = vae()
    patch = config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with patch, pytest.warns(UserWarning, match=r"^Plain Pyro is used, as the program cannot be compiled"):
        fitted = fit(pair.model, pair.guide, torch.rand(11, 1, 8, 8).round(), epochs=1, compile=True)
    assert not fitted.compiled


def fitted_both(**options):
    x = torch.rand(25, 1, 8, 8).round()
    results = []
    for compiled in (False, True):
        pair = vae()
        done = fit(pair.model, pair.guide, x, validation=x[:7], batch_size=10, compile=compiled, **options)
        assert done.compiled is compiled
        results.append((done.history, pair.snapshot()))
    return results


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 4},
        {"epochs": 6, "objective": objectives.WarmUp(4)},
        {"epochs": 3, "weight_decay": 0.1},
        {"epochs": 3, "optimizer": torch.optim.SGD, "learning_rate": 1e-4},
    ],
    ids=["short last batch", "annealed", "weight decay", "another optimizer"],
)
def test_compiled_fit_is_the_plain_one(uncompiled, monkeypatch, options):
    """Of the same noise; the last batch is short; learning rates and weights change without another compilation."""
    made = []
    monkeypatch.setattr(steps, "capture", lambda *args: made.append(1) or capture.capture(*args))
    (plain, weights), (fast, others) = fitted_both(**options)
    np.testing.assert_allclose(fast.train_elbo, plain.train_elbo, rtol=1e-4)
    np.testing.assert_allclose(fast.validation_elbo, plain.validation_elbo, rtol=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=2e-5)
    assert len(made) == 2  # whole batches and the short one, before the first step


class Changing(nn.Module):
    """A model whose mean is multiplied by a number that Python code changes between epochs."""

    def __init__(self):
        super().__init__()
        self.mean, self.factor = nn.Parameter(torch.zeros(())), 1.0

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.factor * self.mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_a_program_that_changes_is_noticed(uncompiled):
    model, x = Changing(), torch.randn(20) + 3
    pair = Pair(model, mean_guide, fresh=True)
    with pair.running():
        pair.see(get_traces(pair, (x,)))
        steps = Steps(pair, torch.optim.SGD(pair.parameters(), lr=1e-3), FitOptions())
        steps.compile((x,))
        steps.new_epoch()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            steps((x,))
        model.factor = 2.0
        steps.new_epoch()
        with pytest.warns(UserWarning, match="changed what it does"):
            steps((x,))
        assert not steps.compiled


def test_batch_normalization_keeps_its_statistics(uncompiled):
    def encoder(in_shape, out_shape):
        return nn.Sequential(nn.Flatten(-3), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, out_shape[0]))

    snapshots, x = [], torch.rand(10, 1, 8, 8).round()
    for compiled in (False, True):
        pair = vae(encoder=encoder)
        # Adam would move the bias before a normalization, whose gradient is 0 up to rounding, by the sign of rounding.
        options = {"optimizer": torch.optim.SGD, "learning_rate": 1e-4, "compile": compiled}
        assert fit(pair.model, pair.guide, x, epochs=3, batch_size=5, **options).compiled is compiled
        snapshots.append(pair.snapshot())
    plain, fast = snapshots
    names = [name for name in plain if "running" in name or "num_batches" in name]
    assert len(names) == 3
    for name in names:
        assert not torch.equal(plain[name].float(), vae(encoder=encoder).snapshot()[name].float())
        torch.testing.assert_close(fast[name], plain[name], rtol=1e-4, atol=1e-5)


def exploding(x):
    a = pyro.param("a", torch.zeros(()))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, a.exp()), obs=x)


def test_a_loss_that_is_not_finite_stops_a_compiled_fit_with_the_site(uncompiled):
    options = {"optimizer": torch.optim.SGD, "learning_rate": 1e3, "schedule": "constant", "compile": True}
    with pytest.raises(NonFiniteLossError, match=r"site '[xz]' of the") as stopped:
        fit(exploding, mean_guide, torch.randn(20), epochs=50, batch_size=10, **options)
    assert "were kept" in str(stopped.value)


def test_auto_compiles_long_work_only(uncompiled, monkeypatch):
    pair, x = vae(), torch.rand(20, 1, 8, 8).round()
    assert not fit(pair.model, pair.guide, x, epochs=2).compiled
    monkeypatch.setattr(capture, "COMPILE_SECONDS", 0.0)
    assert fit(pair.model, pair.guide, x, epochs=2).compiled


def test_a_resumed_run_goes_on_compiled(uncompiled, monkeypatch, tmp_path):
    x, folder = torch.rand(20, 1, 8, 8).round(), tmp_path / "run"
    for epochs, options in ((2, {"compile": True}), (4, {})):
        pair = vae()
        common = {"schedule": "constant", "out": folder, "resume": epochs > 2}
        assert fit(pair.model, pair.guide, x, epochs=epochs, **common, **options).compiled
    again = vae()  # with nothing left to do it is as it was, too
    common["resume"] = True
    assert fit(again.model, again.guide, x, epochs=4, **common).compiled


@pytest.mark.parametrize("wanted", ["yes", 2, None])
def test_another_word_for_compile_is_refused(wanted):
    with pytest.raises(InputError, match="Expected compile to be True, False or 'auto'"):
        fit(mean_model, mean_guide, torch.randn(5), compile=wanted)


def test_capture_says_what_it_cannot_record():
    with pytest.raises(CannotCapture, match="cannot be recorded"):
        capture.capture(lambda x: x if x.sum() > 0 else -x, torch.ones(2))


def test_full_covariance_guide_of_real_size(uncompiled):
    torch.manual_seed(0)
    model = VAE((1, 8, 8), decoder=network)
    pair = Pair(model, FullCovariance(model, encoder=network))
    assert_same(captured_and_plain(pair, Trace_ELBO(), (torch.rand(5, 1, 8, 8).round(),)))


def test_a_parameter_that_the_loss_does_not_depend_on_stays(uncompiled):
    torch.manual_seed(0)
    pair, x = vae(), torch.rand(20, 1, 8, 8).round()
    pair.model.unused = nn.Parameter(torch.ones(2, 2))
    assert fit(pair.model, pair.guide, x, epochs=2, weight_decay=0.1, compile=True).compiled
    assert torch.equal(pair.model.unused.detach(), torch.ones(2, 2))


@pytest.mark.parametrize("compiled", [False, True])
def test_products_in_bf16_learn_the_same(uncompiled, compiled):
    elbos, x = [], torch.rand(40, 1, 8, 8).round()
    for precision in ("single", "bf16"):
        pair = vae()
        options = {"epochs": 20, "batch_size": 20, "compile": compiled, "precision": precision}
        fitted = fit(pair.model, pair.guide, x, validation=x, **options)
        assert fitted.compiled is compiled
        assert all(value.dtype == torch.float32 for value in pair.parameters())
        elbos.append(fitted.history.validation_elbo)
    assert not np.array_equal(*elbos)
    np.testing.assert_allclose(*elbos, rtol=0.01)
    with pytest.raises(InputError, match="Unknown precision"):
        fit(pair.model, pair.guide, x, precision="double")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["single", "bf16"])
def test_a_compiled_fit_on_a_gpu_is_the_plain_one(precision):
    elbos, x = [], torch.rand(45, 1, 8, 8).round()
    for compiled in (False, True):
        pair = vae()
        for module in pair.all_modules():
            module.cuda()
        options = {"epochs": 5, "batch_size": 20, "compile": compiled, "precision": precision}
        fitted = fit(pair.model, pair.guide, x, validation=x, **options)
        assert fitted.compiled is compiled
        elbos.append(fitted.history.train_elbo)
    np.testing.assert_allclose(*elbos, rtol=1e-4 if precision == "single" else 1e-2)


class Weighted(nn.Module):
    """x ~ N(W z, 1) with what a subclass makes of its parameters and buffers on the way."""

    def __init__(self):
        super().__init__()
        self.weight, self.unused = nn.Parameter(torch.randn(2, 3, 4)), nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(()))
        self.count = 0

    def factor(self):
        return torch.einsum("kij,kij->", self.weight.permute(0, 2, 1), torch.arange(24.0).reshape(2, 4, 3) / 100)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + self.factor(), 1.0), obs=x)


class Replacing(Weighted):
    def factor(self):
        self.mean = 0.9995 * self.mean + 0.0005 * self.weight.detach().mean()
        return super().factor() + self.mean


class Counting(Weighted):
    def factor(self):
        self.count += 1
        return super().factor() * self.count / 3000


def weights_of(model, compiled, x=None, **options):
    x = torch.randn(20) + 3 if x is None else x
    fitted = fit(model, fixed_guide, x, epochs=3, batch_size=10, compile=compiled, **options)
    return fitted, model.weight.detach()


def fixed_guide(x):
    m = pyro.param("m", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(m * x, 1.0))


def both_weights(cls=Weighted, **options):
    weights = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = cls()
        fitted, weight = weights_of(model, compiled, **options)
        weights.append(weight)
    return fitted, *weights


def test_gradients_lie_in_memory_as_their_parameters_do(uncompiled):
    """Fused optimizers go through both side by side; one parameter is unused, so the step is PyTorch's own."""
    fitted, plain, fast = both_weights()
    assert fitted.compiled
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cls", "why"), [(Replacing, "puts new tensors"), (Counting, "something else on each run")])
def test_programs_with_a_state_of_their_own_are_left_to_pyro(uncompiled, cls, why):
    with pytest.warns(UserWarning, match=why):
        fitted, _, _ = both_weights(cls)
    assert not fitted.compiled


def test_data_in_double_precision(uncompiled):
    x = torch.randn(20).double()
    fitted, plain, fast = both_weights(x=x)
    assert fitted.compiled
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_a_hook_of_the_optimizer_is_called(uncompiled):
    def clamping(parameters, **options):
        optimizer = torch.optim.Adam(parameters, **options)
        clamp = lambda *_: [p.data.clamp_(-0.01, 0.01) for p in optimizer.param_groups[0]["params"]]  # noqa: E731
        optimizer.register_step_post_hook(clamp)
        return optimizer

    pair = vae()
    assert fit(pair.model, pair.guide, torch.rand(20, 1, 8, 8).round(), epochs=2, optimizer=clamping, compile=True)
    assert max(float(p.abs().max()) for p in pair.parameters()) <= 0.0101


def test_a_loader_with_a_generator_of_its_own_gives_the_same_batches(uncompiled):
    elbos, x = [], torch.rand(20, 1, 8, 8).round()
    for compiled in (False, "auto", True):
        loader = DataLoader(TensorDataset(x), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(0))
        pair = vae()
        elbos.append(fit(pair.model, pair.guide, loader, epochs=2, compile=compiled).history.train_elbo)
    np.testing.assert_array_equal(elbos[0], elbos[1])
    np.testing.assert_allclose(elbos[0], elbos[2], rtol=1e-4)


def test_vanishing_gradients_leave_no_denormal_numbers(monkeypatch):
    """Which would make a step several times as slow."""
    pair, x = vae(), torch.zeros(3)
    made = Steps(pair, FitOptions().optimizer_of(pair.parameters()), FitOptions())
    gradients = iter([1.0] + [0.0] * 900)

    def given(*args):
        gradient = next(gradients)
        for p in pair.parameters():
            p.grad = torch.full_like(p, gradient)
        return torch.zeros(())

    monkeypatch.setattr(steps, "loss_and_grads", given)
    for _ in range(901):
        made((x,))
        averages = torch.cat([state["exp_avg"].flatten() for state in made.optimizer.state.values()])
        assert not ((averages != 0) & (averages.abs() < torch.finfo(torch.float32).tiny)).any()
    assert not averages.any()


def test_a_weight_that_a_subclass_makes_is_used():
    class Seven(objectives.BetaELBO):
        @property
        def weight(self):
            return 7.0

    losses = []
    for objective in (Seven(), objectives.BetaELBO(7.0)):
        pair = vae()
        with pair.running(), seeded(0):
            losses.append(float(objective.differentiable_loss(pair.model, pair.guide, torch.ones(5, 1, 8, 8))))
    assert losses[0] == losses[1]


def test_a_unit_that_rounding_switches_is_no_reason_to_stop(uncompiled, monkeypatch):
    """Once in a while a rectified unit lies so near to its kink that two ways to round give two gradients."""
    pair, x = vae(), torch.rand(5, 1, 8, 8).round()
    with pair.running():
        pair.train(True)
        function = Gradients(pair, Trace_ELBO(), pair.parameters(), (x,))
        answers = [False, True]
        monkeypatch.setattr(steps, "alike", lambda *args, **options: answers.pop(0))
        assert function.agrees((x,))
        answers = [False] * 3
        assert not function.agrees((x,))


def test_ctrl_c_while_compiling_leaves_the_modules_in_evaluation_mode(monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "capture", interrupted)
    pair = vae()
    before = pair.snapshot()
    fitted = fit(pair.model, pair.guide, torch.rand(20, 1, 8, 8).round(), epochs=2, compile=True)
    assert fitted.stopped == "interrupted" and len(fitted.history.epoch) == 0
    assert not any(module.training for module in pair.all_modules())
    assert all(torch.equal(value, before[name]) for name, value in pair.snapshot().items())
