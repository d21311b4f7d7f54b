"""What `fit` promises: it goes on with its own settings only, keeps good weights, and trains wherever it is called."""

import contextlib
import functools
import gc
import math
from functools import partial

import numpy as np
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from torch.optim import SGD, Adam, RMSprop
from torch.optim.lr_scheduler import LambdaLR

import ppl_vae
from ppl_vae import NonFiniteLossError, priors
from ppl_vae.fitting.training import Training
from ppl_vae.networks import MLP
from ppl_vae.objectives import BetaELBO, Classifying, FreeBits, WarmUp

NETWORK = partial(MLP, hidden=(16,))
X = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (200, 4))).float()
EPOCHS = 4


def pair():
    torch.manual_seed(0)
    model = VAE((4,), prior=priors.StandardNormal(2), decoder=NETWORK)
    return model, MeanField(model, encoder=NETWORK)


def fit(programs, **options):
    given = {"data": X, "validation": X[:50], "epochs": EPOCHS, "batch_size": 50} | options
    return ppl_vae.fit(*programs, given.pop("data"), progress=False, **given)


def numbers(programs):
    return {f"{i}.{k}": v.clone() for i, p in enumerate(programs) for k, v in p.state_dict().items()}


class Own(Trace_ELBO):
    """A person's own: an option, a counter, a function."""

    def __init__(self, temperature=1.0):
        super().__init__()
        self._temperature, self.steps = np.float64(temperature), 0

    def loss_and_grads(self, *args, **kwargs):
        self.steps += 1
        return super().loss_and_grads(*args, **kwargs)


def constant(factor):
    return lambda optimizer, epochs: LambdaLR(optimizer, lambda epoch: factor)


CHANGES = {  # what is named: (first, then); each option is made anew, as by another process
    "objective=BetaELBO.*beta": (dict(objective=lambda: BetaELBO(1.0)), dict(objective=lambda: BetaELBO(20.0))),
    "objective=FreeBits": (dict(objective=lambda: FreeBits(0.1)), dict(objective=lambda: FreeBits(0.2))),
    "objective=WarmUp": (dict(objective=lambda: WarmUp(2)), dict(objective=lambda: WarmUp(3))),
    "objective=Classifying.BetaELBO.beta=1": (
        dict(objective=lambda: Classifying(BetaELBO(1.0))),
        dict(objective=lambda: Classifying(BetaELBO(2.0))),
    ),
    "objective.alpha=0.5": (
        dict(objective=lambda: RenyiELBO(alpha=0.5, num_particles=2)),
        dict(objective=lambda: RenyiELBO(alpha=0.2, num_particles=2)),
    ),
    "objective.vectorize_particles=False": ({}, dict(objective=lambda: Trace_ELBO(vectorize_particles=True))),
    "objective=TraceEnum_ELBO": ({}, dict(objective=lambda: TraceEnum_ELBO(max_plate_nesting=1))),
    "objective._temperature=1.0": (dict(objective=Own), dict(objective=lambda: Own(2.0))),
    "optimizer=Adam": ({}, dict(optimizer=partial(SGD, momentum=0.9))),
    "optimizer=RMSprop": (dict(optimizer=partial(RMSprop)), dict(optimizer=partial(torch.optim.Adagrad))),
    "optimizer.betas": ({}, dict(optimizer=partial(Adam, betas=(0.1, 0.2), fused=True))),
    "optimizer.lr=": (dict(optimizer=Adam), dict(optimizer=lambda p, lr: Adam(p, lr=2 * lr))),
    "schedule.rates=0.001 to 0.001": (dict(schedule=constant(1.0)), dict(schedule=constant(1e-6))),
    "schedule=cosine": ({}, dict(schedule="constant")),
    "epochs=4": ({}, dict(epochs=5)),
    "validation=": ({}, dict(validation=1 - X[:50])),
    r"validation=.*None": ({}, dict(validation=None)),
    "data=": ({}, dict(data=1 - X)),
    "data=.*": ({}, dict(data=X.double())),
    "learning_rate=0.001": ({}, dict(learning_rate=0.01)),
    "batch_size=50": ({}, dict(batch_size=100)),
    "seed=0": ({}, dict(seed=1)),
    "weight_decay=None": ({}, dict(weight_decay=0.1)),
    "precision=None": ({}, dict(precision="bf16")),
    "patience=3": (dict(patience=3), dict(patience=2)),
}


def made(options):
    return {name: value() if name == "objective" else value for name, value in options.items()}


@contextlib.contextmanager
def stopped(monkeypatch, epoch):
    real = Training.run_epoch

    def run_epoch(self):
        if self.epoch == epoch:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "run_epoch", run_epoch)
        yield


@pytest.mark.parametrize("named", CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_other_settings_are_refused_by_name_and_the_same_go_on_bit_for_bit(named, tmp_path, monkeypatch):
    first, then = CHANGES[named]
    programs, whole = pair(), pair()
    with stopped(monkeypatch, 2):
        fit(programs, out=tmp_path, **made(first))
    programs = pair()
    double = then.get("data", X).dtype == torch.float64
    others = [program.double() for program in pair()] if double else programs
    with pytest.raises(ppl_vae.InputError, match=rf"its own settings \(.*{named}") as error:
        fit(others, out=tmp_path, resume=True, **(made(first) | made(then)))
    assert len(str(error.value).replace(str(tmp_path), "")) < 400
    resumed = fit(programs, out=tmp_path, resume=True, **made(first))
    expected = fit(whole, **made(first))
    np.testing.assert_array_equal(resumed.history.train_elbo, expected.history.train_elbo)
    assert all(torch.equal(value, numbers(whole)[name]) for name, value in numbers(programs).items())


@pytest.mark.parametrize("make", [Own, lambda: WarmUp(2), Trace_ELBO, lambda: Classifying(BetaELBO(2.0))])
@pytest.mark.filterwarnings("ignore")
def test_what_an_objective_counts_or_finds_out_is_no_setting(make, tmp_path, monkeypatch):
    objective = make()
    with stopped(monkeypatch, 2):
        fit(pair(), out=tmp_path, objective=objective)
    assert len(fit(pair(), out=tmp_path, objective=objective, resume=True).history.epoch) == EPOCHS


def test_more_patience_and_compiled_steps_are_no_other_run(tmp_path, monkeypatch):
    with stopped(monkeypatch, 2):
        fit(pair(), out=tmp_path, patience=2)
    assert fit(pair(), out=tmp_path, patience=3, compile=True, threads=1, resume=True).compiled


@pytest.mark.parametrize(("rate", "epochs"), [(1e30, 5), (1e15, 5), (1e30, 1)])
def test_the_weights_that_are_kept_give_a_finite_loss(rate, epochs, tmp_path):
    """With one batch an epoch the loss of epoch 2 is the first to see what epoch 1 has made, or none is."""
    programs = pair()
    before = numbers(programs)
    with pytest.raises(NonFiniteLossError, match=r"The weights of the start were kept"):
        fit(programs, validation=None, batch_size=200, learning_rate=rate, epochs=epochs, out=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in numbers(programs).items())
    assert np.isfinite(ppl_vae.estimate_evidence(*programs, X[:5], num_samples=10, method="importance").log_px).all()
    left = torch.load(tmp_path / "last.pt", weights_only=True)
    assert left["best_epoch"] == 0
    assert all(torch.equal(v, left["best"][k]) for k, v in left["best"].items() if k in before)


def rates(*factors):
    return lambda optimizer, epochs: LambdaLR(optimizer, lambda epoch: factors[min(epoch, len(factors) - 1)])


@pytest.mark.parametrize("epochs", [3, 6])
def test_of_the_weights_before_the_last_are_kept_if_they_are_good(epochs):
    programs, good = pair(), pair()
    fit(good, validation=None, batch_size=200, epochs=2, schedule=rates(1.0))
    with pytest.raises(NonFiniteLossError, match="The weights of epoch 2 were kept"):
        fit(programs, validation=None, batch_size=200, epochs=epochs, schedule=rates(1.0, 1.0, 1e30))
    assert all(torch.equal(value, numbers(good)[name]) for name, value in numbers(programs).items())


@pytest.mark.parametrize("compile", [False, True])
def test_data_that_become_nan_cost_no_weights(compile):
    programs, x = pair(), X.clone()

    def schedule(optimizer, epochs):
        def factor(epoch):
            if epoch == 3:
                x[:, 0] = math.nan
            return 1.0

        return LambdaLR(optimizer, factor)

    with pytest.raises(NonFiniteLossError, match=r"got nan in epoch 4, from site .* weights of epoch 3 were kept"):
        fit(programs, data=x, validation=None, epochs=8, compile=compile, schedule=schedule)


@contextlib.contextmanager
def set_to(set_it, value, back):
    set_it(value)
    try:
        yield
    finally:
        set_it(back)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast without a cache": lambda: torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False),
}
PLAIN_MODES = {  # compiled steps are recorded otherwise in them, and equal up to rounding only
    "anomalies are looked for": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic algorithms": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "double by default": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16 by default": lambda: set_to(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "NumPy raises": lambda: np.errstate(all="raise"),
}


def all_numbers(programs, x, compile):
    history = fit(programs, data=x, validation=x[:50], compile=compile).history
    evidence = ppl_vae.estimate_evidence(*programs, x[:3], num_samples=50)
    drawn = ppl_vae.sample(programs[0], 3), ppl_vae.reconstruct(*programs, x[:5])
    return [*history.validation_elbo, *evidence.log_px, *(float(t.double().sum()) for t in drawn)]


@functools.cache
def expected_numbers(compile):
    return all_numbers(pair(), X, compile)


@pytest.mark.parametrize(
    ("mode", "compile"), [*((mode, True) for mode in MODES), *((mode, False) for mode in MODES | PLAIN_MODES)]
)
def test_a_mode_of_the_caller_changes_no_number(mode, compile):
    expected, programs = expected_numbers(compile), pair()
    with (MODES | PLAIN_MODES)[mode]():
        assert all_numbers(programs, X.clone(), compile) == expected
        assert torch.is_inference_mode_enabled() == (mode == "inference_mode")


@pytest.mark.parametrize("on", [lambda: torch.device("meta"), lambda: set_to(torch.set_default_device, "meta", None)])
def test_where_no_numbers_are_nothing_is_computed(on):
    programs = pair()
    with on():
        for ask in (
            lambda: fit(programs),
            lambda: ppl_vae.estimate_evidence(*programs, X, num_samples=50),
            lambda: ppl_vae.sample(programs[0], 3),
        ):
            with pytest.raises(ppl_vae.InputError, match="Expected a default device that holds numbers; got meta"):
                ask()


def test_programs_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        programs = pair()
        with pytest.raises(ppl_vae.InputError, match=r"made inside torch\.inference_mode"):
            fit(programs)


def test_compiled_fits_leave_nothing():
    def objects():
        gc.collect()
        return len(gc.get_objects())

    def compiled():
        assert fit(pair(), epochs=1, compile=True).compiled

    for _ in range(5):
        compiled()
    before = objects()
    for _ in range(4):
        compiled()
    assert objects() - before < 20  # 33 for each fit, once
