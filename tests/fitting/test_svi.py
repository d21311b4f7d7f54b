"""Fitting: it reaches known optima, takes any pair and any objective, resumes bit for bit, and never leaks."""

import inspect
import math
import re
from dataclasses import fields, replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_evidence
from pairs import PyroTutorialVAE, mean_guide, mean_model
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import LinearGaussian
from pyro import infer, poutine
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ppl_vae import InputError, NonFiniteLossError, estimate_evidence, fit, objectives
from ppl_vae.fitting.checkpoint import RunFolder
from ppl_vae.fitting.history import History
from ppl_vae.fitting.options import FitOptions
from ppl_vae.fitting.steps import Steps
from ppl_vae.traces.pair import Pair


def test_it_reaches_the_maximum_likelihood_solution():
    """For probabilistic PCA it is known: Tipping & Bishop (1999), eigenvalues of the sample covariance."""
    with torch.no_grad():
        truth = LinearGaussian((6,), latent_dim=2, sigma=0.5)
        x = truth(size=500)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]
    variance = eigenvalues[2:].mean()
    best = -0.5 * (6 * math.log(2 * math.pi) + np.log(eigenvalues[:2]).sum() + 4 * math.log(variance) + 6)
    model = LinearGaussian((6,), latent_dim=2)
    guide = ExactPosterior(model)
    fit(model, guide, x, epochs=200, learning_rate=0.02)
    with torch.no_grad():
        assert float(model.exact_log_px(x).mean()) == pytest.approx(best, abs=0.01)
        assert float(model.likelihood.sigma**2) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(
    "objective",
    [
        infer.Trace_ELBO(num_particles=2),
        infer.Trace_ELBO(num_particles=3, vectorize_particles=True),
        infer.TraceMeanField_ELBO(),
        infer.TraceGraph_ELBO(),
        infer.TraceEnum_ELBO(),
        infer.RenyiELBO(alpha=0.0, num_particles=3),
    ],
    ids=lambda o: type(o).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_any_pyro_objective(small_pair, digits, objective):
    result = fit(*small_pair, digits.validation, epochs=6, learning_rate=0.02, objective=objective)
    assert result.history.train_elbo[-1] > result.history.train_elbo[0] + 1


@pytest.mark.filterwarnings("ignore")
def test_pyros_compiled_objectives(small_pair, digits):
    """They read parameters from Pyro's store, so they take plain functions; modules are refused in words."""
    vae = PyroTutorialVAE()
    objective = infer.JitTrace_ELBO(ignore_jit_warnings=True)
    result = fit(vae.model, vae.guide, digits.validation, epochs=4, learning_rate=0.02, objective=objective)
    assert result.history.train_elbo[-1] > result.history.train_elbo[0] + 1
    with pytest.raises(InputError, match="JitTrace_ELBO"):
        fit(*small_pair, digits.validation, epochs=1, objective=infer.JitTrace_ELBO())


def posterior_parameters(x):
    """After fitting, log P(x) says what mu is: x ~ N(mu, 2)."""
    return estimate_evidence(mean_model, mean_guide, x, num_samples=100).means()["log_px"].value


def test_plain_functions_are_fitted_and_forgotten():
    x = torch.randn(200) * math.sqrt(2) + 3
    first = fit(mean_model, mean_guide, x, epochs=100, learning_rate=0.05)
    best = float(dist.Normal(x.mean(), math.sqrt(2)).log_prob(x).mean())
    assert posterior_parameters(x) == pytest.approx(best, abs=0.02)
    second = fit(mean_model, mean_guide, x, epochs=100, learning_rate=0.05)
    np.testing.assert_array_equal(first.history.train_elbo, second.history.train_elbo)
    assert len(pyro.get_param_store()) == 0


def test_two_pairs_with_the_same_names_do_not_meet(digits):
    a, b = PyroTutorialVAE(), PyroTutorialVAE()
    before = {k: v.clone() for k, v in b.state_dict().items()}
    fit(a.model, a.guide, digits.validation, epochs=5, learning_rate=0.01)
    for name, value in b.state_dict().items():
        assert torch.equal(value, before[name])
    first = estimate_evidence(a.model, a.guide, digits.test[::10], num_samples=50)
    fit(b.model, b.guide, digits.validation, epochs=1)
    again = estimate_evidence(a.model, a.guide, digits.test[::10], num_samples=50)
    np.testing.assert_array_equal(first.log_px, again.log_px)


def test_pyros_tutorial_improves_unchanged(digits):
    vae = PyroTutorialVAE()
    before = estimate_evidence(vae.model, vae.guide, digits.test, num_samples=20).means()["log_px"].value
    fit(vae.model, vae.guide, digits.train, validation=digits.validation, epochs=10, learning_rate=0.01)
    after = estimate_evidence(vae.model, vae.guide, digits.test, num_samples=20)
    assert after.means()["log_px"].value > before + 5
    assert after.gap.mean() > 0


def test_modules_inside_plain_functions_are_fitted(small_pair, digits):
    model, guide = small_pair
    before = Pair(model, guide).snapshot()
    result = fit(poutine.scale(model, 0.5), lambda x: (guide(x),), digits.validation, epochs=5, learning_rate=0.02)
    assert result.history.train_elbo[-1] > result.history.train_elbo[0]
    assert all((Pair(model, guide).tensors()[k] != v).any() for k, v in before.items())


class Pairs(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i >= len(self.x):
            raise IndexError
        return self.x[i]


def test_any_kind_of_data_gives_the_same_fit(digits):
    x = digits.validation.x
    kinds = [x, x.numpy(), (x,), TensorDataset(x), Pairs(x), digits.validation, x.numpy().astype(float)]
    elbos = []
    for data in kinds:
        torch.manual_seed(3)
        model = LinearGaussian(digits.event_shape, latent_dim=2)
        elbos.append(fit(model, ExactPosterior(model), data, epochs=2).history.train_elbo)
    for other in elbos[1:]:
        np.testing.assert_array_equal(other, elbos[0])
    model = LinearGaussian(digits.event_shape, latent_dim=2)
    loader = DataLoader(TensorDataset(x), batch_size=32, shuffle=True)
    assert np.isfinite(fit(model, ExactPosterior(model), loader, validation=loader, epochs=2).history.train_elbo).all()


@pytest.mark.parametrize("make", ["inside", "passed"])
def test_the_elbo_is_per_datum_under_subsampled_plates(linear_gaussian, make):
    from pairs import subsample_passed, subsampled_inside

    model, _ = linear_gaussian
    with torch.no_grad():
        x = model(size=640)
        expected = float(model.exact_log_px(x).mean())
    if make == "inside":
        pair, batch_size = subsampled_inside(model, model.exact_posterior, 640, 64), 640
    else:
        pair, batch_size = subsample_passed(model, model.exact_posterior, 640), 64
    result = fit(*pair, x, validation=x, epochs=3, batch_size=batch_size, learning_rate=1e-9)
    np.testing.assert_allclose(result.history.train_elbo, expected, atol=1.0)
    np.testing.assert_allclose(result.history.validation_elbo, expected, atol=1.0)


def test_the_best_weights_are_kept_and_patience_stops(small_pair, digits):
    model, guide = small_pair
    start = Pair(model, guide).snapshot()
    options = dict(validation=digits.validation, learning_rate=0.05, schedule="constant")
    result = fit(model, guide, digits.train[:50], epochs=60, patience=5, **options)
    assert result.stopped == "patience"
    assert len(result.history.epoch) == result.best_epoch + 5
    assert int(np.argmax(result.history.validation_elbo)) + 1 == result.best_epoch
    kept = Pair(model, guide).snapshot()
    Pair(model, guide).restore(start)  # and again, but only up to the best epoch
    fit(model, guide, digits.train[:50], epochs=result.best_epoch, **options)
    for name, value in Pair(model, guide).tensors().items():
        assert torch.equal(value, kept[name]), name


def test_schedules(small_pair, digits):
    rates = fit(*small_pair, digits.validation, epochs=4).history.learning_rate
    np.testing.assert_allclose(rates, 1e-3 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2)
    constant = fit(*small_pair, digits.validation, epochs=3, schedule="constant").history.learning_rate
    np.testing.assert_allclose(constant, 1e-3)
    own = fit(
        *small_pair, digits.validation, epochs=3, schedule=lambda o, n: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)
    )
    np.testing.assert_allclose(own.history.learning_rate, [1e-3, 5e-4, 2.5e-4])


def interrupted(source_split, at):
    """Data whose batches stop with Ctrl-C at the given one, as a person would."""
    from ppl_vae.data.sources import SplitSource

    class Interrupting(SplitSource):
        count = 0

        def batches(self, batch_size, *, shuffle=False):
            for batch in super().batches(batch_size, shuffle=shuffle):
                Interrupting.count += shuffle
                if Interrupting.count == at:
                    raise KeyboardInterrupt
                yield batch

    return Interrupting(source_split, with_y=False)


@pytest.mark.parametrize("at", [2, 9, 23])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(digits, tmp_path, monkeypatch, at):
    def fresh():
        torch.manual_seed(0)
        model = PyroTutorialVAE()
        return model, (model.model, model.guide)

    options = dict(validation=digits.validation, epochs=8, batch_size=300, seed=3, patience=7)
    whole, pair = fresh()
    expected = fit(*pair, digits.train, out=tmp_path / "whole", **options)

    module, pair = fresh()
    from ppl_vae.fitting import svi

    real = svi.as_source
    source = interrupted(digits.train, at)
    monkeypatch.setattr(svi, "as_source", lambda d, p: source if d is digits.train else real(d, p))
    part = fit(*pair, digits.train, out=tmp_path / "part", resume=True, **options)
    monkeypatch.setattr(svi, "as_source", real)
    assert part.stopped == "interrupted"
    assert len(part.history.epoch) == (at - 1) // 5  # of the epochs that were done
    assert not any(m.training for m in module.modules())
    left = torch.load(tmp_path / "part" / "last.pt", weights_only=True)
    assert (len(left["rows"]), left["best_epoch"]) == (len(part.history.epoch), part.best_epoch)
    for name, value in left["best"].items():
        assert torch.equal(value, Pair(*pair).tensors()[name]), name
    torch.rand(7)
    module, pair = fresh()
    resumed = fit(*pair, digits.train, out=tmp_path / "part", resume=True, **options)
    for name in ("epoch", "train_elbo", "validation_elbo", "learning_rate"):
        np.testing.assert_array_equal(getattr(resumed.history, name), getattr(expected.history, name))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name
    assert (tmp_path / "part" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()


def test_more_epochs_of_a_finished_run(small_pair, digits, tmp_path):
    model, guide = small_pair
    start = Pair(model, guide).snapshot()
    options = dict(validation=digits.validation, schedule="constant")
    expected = fit(model, guide, digits.train, epochs=4, **options).history
    Pair(model, guide).restore(start)
    fit(model, guide, digits.train, epochs=2, out=tmp_path, **options)
    longer = fit(model, guide, digits.train, epochs=4, out=tmp_path, resume=True, **options).history
    np.testing.assert_array_equal(longer.validation_elbo, expected.validation_elbo)


def exploding(after, where):
    """A model whose site turns infinite or NaN after so many runs."""
    runs = []

    def model(x):
        runs.append(1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("mu", torch.tensor(0.0)), 1.0))
            bad = len(runs) > after
            scale = torch.tensor(float("nan") if bad and where == "x" else 1.0)
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    return model


def test_a_loss_that_is_not_finite_stops_names_the_site_and_keeps_the_weights():
    x = torch.randn(40)
    model = exploding(after=20, where="x")
    with pytest.raises(
        NonFiniteLossError, match=r"got nan in epoch \d+, from site 'x' of the model .*epoch \d+ were kept"
    ):
        fit(model, mean_guide, x, validation=x, epochs=50, batch_size=10, learning_rate=0.05)
    kept = Pair(model, mean_guide)._store["params"]
    assert all(torch.isfinite(v).all() for v in kept.values())
    assert float(kept["slope"].detach()) != pytest.approx(0.1)


def two_arguments(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(pyro.param("mu", torch.tensor(0.0)), 1.0))
        pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)


def test_a_tuple_is_passed_on_as_arguments():
    x, y = torch.randn(100), torch.full((100,), 5.0)

    def guide(x, y):
        mean_guide(x - y)

    fit(two_arguments, guide, (x + 5, y), epochs=30, learning_rate=0.05)
    evidence = estimate_evidence(two_arguments, guide, (x + 5, y), num_samples=100)
    assert evidence.means()["log_px"].value > -2.0


BAD = [
    (dict(epochs=0), "epochs.*got 0"),
    (dict(epochs=2.5), r"epochs.*got 2\.5"),
    (dict(batch_size=-3), "batch_size.*got -3"),
    (dict(learning_rate=0.0), "learning_rate.*got 0.0"),
    (dict(patience=0, validation=torch.zeros(3, 1, 8, 8)), "patience.*got 0"),
    (dict(patience=3), "without validation"),
    (dict(schedule="cosin"), "did you mean 'cosine'"),
    (dict(validation=torch.rand(3, 1, 8, 8)), "Binarize"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(small_pair, digits, options, message):
    with pytest.raises(InputError, match=message):
        fit(*small_pair, digits.train, **options)


def test_bad_data(small_pair):
    with pytest.raises(InputError, match=r"got values from .*Binarize"):
        fit(*small_pair, torch.rand(200, 1, 8, 8))
    late = torch.zeros(20_000, 1, 8, 8)
    late[15_000] = 0.5
    with pytest.raises(InputError, match="Binarize"):
        fit(*small_pair, late)
    late[15_000] = float("inf")
    with pytest.raises(InputError, match="infinity, first in row 15000"):
        fit(*small_pair, late)


def test_another_run_in_the_folder_is_not_touched(small_pair, digits, tmp_path):
    fit(*small_pair, digits.validation, epochs=1, out=tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(InputError, match="which holds one"):
        fit(*small_pair, digits.validation, epochs=1, out=tmp_path)
    with pytest.raises(InputError, match=r"batch_size=100.*got batch_size=50"):
        fit(*small_pair, digits.validation, epochs=1, batch_size=50, out=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    (tmp_path / "last.pt").write_bytes(before[: len(before) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        fit(*small_pair, digits.validation, epochs=1, out=tmp_path, resume=True)


def test_nothing_to_fit():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="without parameters"):
        fit(model, guide, torch.randn(5))


class Killed(BaseException):
    """Nothing after it is done: no handler of an interruption, either."""


def test_what_a_killed_run_left_incomplete_is_made_anew(small_pair, digits, tmp_path, monkeypatch):
    """The last thing before the kill was last.pt of the last epoch."""
    model, guide = small_pair
    start = Pair(model, guide).snapshot()
    options = dict(validation=digits.validation, epochs=3)
    fit(model, guide, digits.train, out=tmp_path / "whole", **options)
    Pair(model, guide).restore(start)
    real, count = RunFolder.write, []

    def killed(self, name, content):
        real(self, name, content)
        count.append(name)
        if count.count("last.pt") == 4:  # the start, and three epochs
            raise Killed

    monkeypatch.setattr(RunFolder, "write", killed)
    with pytest.raises(Killed):
        fit(model, guide, digits.train, out=tmp_path / "part", **options)
    monkeypatch.setattr(RunFolder, "write", real)
    fit(model, guide, digits.train, out=tmp_path / "part", resume=True, **options)
    for name in ("history.csv", "model.safetensors", "guide.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_plain_functions_learned_outlives_an_exception_and_a_refused_fit():
    x = torch.randn(40)
    model = exploding(after=60, where="x")
    with pytest.raises(NonFiniteLossError):
        fit(model, mean_guide, x, epochs=50, batch_size=10, learning_rate=0.05)
    slope = float(Pair(model, mean_guide)._store["params"]["slope"].detach())
    assert slope > 0.15
    with pytest.raises(InputError, match="NaN"):
        fit(model, mean_guide, x * float("nan"))
    assert float(Pair(model, mean_guide)._store["params"]["slope"].detach()) == slope


def test_nan_parameters_after_a_finite_loss_are_not_kept():
    def model(x):
        a = pyro.param("a", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + a.abs().sqrt(), 1.0), obs=x)

    with pytest.raises(NonFiniteLossError, match=r"model.a after epoch 1.*the start were kept"):
        fit(model, mean_guide, torch.randn(20), epochs=3)
    assert float(Pair(model, mean_guide)._store["params"]["a"].detach()) == 0.0


@pytest.mark.parametrize("batch_size", [50, 200])
def test_the_elbo_is_per_datum_with_few_data_too(linear_gaussian, batch_size):
    from pairs import subsample_passed

    model, _ = linear_gaussian
    with torch.no_grad():
        x = model(size=200)
        expected = float(model.exact_log_px(x).mean())
    pair = subsample_passed(model, model.exact_posterior, 200)
    options = dict(epochs=1, batch_size=batch_size, learning_rate=1e-9)
    result = fit(*pair, x, validation=x[:100], **options)
    assert result.history.train_elbo[0] == pytest.approx(expected, abs=0.01)
    with torch.no_grad():
        assert result.history.validation_elbo[0] == pytest.approx(float(model.exact_log_px(x[:100]).mean()), abs=0.01)


class TwoGuides(PyroTutorialVAE):
    def other_guide(self, x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.zeros(3))
            pyro.sample("latent", dist.Normal(loc, 1.0).to_event(1))

    def third_guide(self, x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.ones(3))
            pyro.sample("latent", dist.Normal(loc, 1.0).to_event(1))


def test_two_guides_of_one_object_do_not_meet(digits):
    vae = TwoGuides()
    fit(vae.model, vae.other_guide, digits.validation, epochs=2, learning_rate=0.1)
    first = float(Pair(vae.model, vae.other_guide)._store["params"]["loc"].detach()[0])
    fit(vae.model, vae.third_guide, digits.validation, epochs=1, learning_rate=1e-9)
    kept = Pair(lambda x: None, vae.other_guide)._store["params"]["loc"]
    assert float(kept.detach()[0]) == first


def test_batch_norm_is_kept_and_not_changed_by_estimates(digits):
    torch.manual_seed(0)
    vae = PyroTutorialVAE()
    vae.encoder = torch.nn.Sequential(torch.nn.BatchNorm1d(64), *vae.encoder)
    fit(vae.model, vae.guide, digits.validation, epochs=2)
    vae.train()
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    assert "encoder.0.running_mean" in before
    estimate_evidence(vae.model, vae.guide, digits.validation, num_samples=2)
    assert vae.encoder[0].training
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert "model.encoder.0.running_mean" in Pair(vae.model, vae.guide).snapshot()


def test_a_guide_with_parameters_for_each_datum():
    """Pyro's AutoNormal has them: all data in one batch, in their order, for fitting and for log P(x)."""
    x = torch.randn(30) * 2

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    guide = infer.autoguide.AutoNormal(model)
    fit(model, guide, x, epochs=400, batch_size=30, learning_rate=0.05)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).numpy()
    evidence = estimate_evidence(model, guide, x, num_samples=1000, chunk_size=100)
    check_evidence(evidence, exact)
    assert evidence.gap.mean() < 0.02  # what steps on noise leave: nearly exponential, of mean 0.006 nats
    assert evidence.gap.max() < 0.1


@pytest.mark.filterwarnings("ignore")
def test_wake_sleep_and_what_is_no_objective(small_pair, digits):
    objective = infer.ReweightedWakeSleep(num_particles=2, model_has_params=True)
    result = fit(*small_pair, digits.validation, epochs=3, learning_rate=0.02, objective=objective)
    assert result.history.train_elbo[-1] > result.history.train_elbo[0]
    with pytest.raises(InputError, match=r"the class Trace_ELBO. Write objective=Trace_ELBO\(...\)"):
        fit(*small_pair, digits.validation, objective=infer.Trace_ELBO)
    with pytest.raises(InputError, match="Pass an instance"):
        fit(*small_pair, digits.validation, objective="elbo")
    for bad in ("adam", pyro.optim.Adam({"lr": 0.1})):
        with pytest.raises(InputError, match=r"torch.optim"):
            fit(*small_pair, digits.validation, optimizer=bad)
    for bad in (-1, True, math.nan):
        with pytest.raises(InputError, match=rf"weight_decay to be a finite number of at least 0; got {bad}"):
            fit(*small_pair, digits.validation, weight_decay=bad)
    for bad in (-1, "a", 1.5):
        with pytest.raises(InputError, match=r"seed.*got"):
            fit(*small_pair, digits.validation, seed=bad)


def test_another_pair_data_or_optimizer_is_not_resumed(small_pair, digits, tmp_path):
    model, guide = small_pair
    fit(model, guide, digits.validation, epochs=1, out=tmp_path)
    torch.manual_seed(1)
    other = LinearGaussian(digits.event_shape, latent_dim=2)
    with pytest.raises(InputError, match="other names or shapes"):
        fit(other, ExactPosterior(other), digits.validation, epochs=1, out=tmp_path, resume=True)
    with pytest.raises(InputError, match=r"with its own settings .*data="):
        fit(model, guide, digits.test[:200], epochs=1, out=tmp_path, resume=True)
    with pytest.raises(InputError, match=r"optimizer=Adam.*got optimizer=SGD"):
        fit(model, guide, digits.validation, epochs=1, out=tmp_path, resume=True, optimizer=torch.optim.SGD)


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(small_pair, digits, tmp_path):
    (tmp_path / "file").write_text("")
    before = Pair(*small_pair).snapshot()
    with pytest.raises(InputError, match="Expected to write"):
        fit(*small_pair, digits.train, epochs=1, out=tmp_path / "file" / "run")
    assert all(torch.equal(v, before[k]) for k, v in Pair(*small_pair).tensors().items())


def test_grey_data_that_the_program_itself_turns_over(digits):
    vae = PyroTutorialVAE()

    def model(x):
        return vae.model(1 - x)

    x = torch.zeros(600, 1, 8, 8)
    x[500] = 0.3
    with pytest.raises(InputError, match=r"in \{0, 1\} for Bernoulli"):
        fit(model, vae.guide, x)


@pytest.mark.parametrize("data", [torch.zeros(95, 2), DataLoader(TensorDataset(torch.zeros(95, 2)), batch_size=20)])
def test_weight_decay_is_l2_on_weights_beside_the_loss_of_each_datum(data):
    """Without another gradient SGD takes a weight W to W prod_b (1 - lr weight_decay n_b), with n_b data in step b."""

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))

    unused = Unused()

    def model(x):
        pyro.module("unused", unused)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0 * unused.weight.sum() + 0 * unused.bias, 1).expand([2]).to_event(1), obs=x)

    options = {"optimizer": torch.optim.SGD, "learning_rate": 1e-3, "schedule": "constant"}
    fit(model, lambda x: None, data, epochs=2, batch_size=20, weight_decay=0.5, **options)
    step = [1 - 1e-3 * 0.5 * size for size in (20, 20, 20, 20, 15)]
    assert unused.weight.item() == pytest.approx(math.prod(step) ** 2, rel=1e-5)
    assert unused.bias.item() == 1


def test_a_latent_that_nobody_samples_is_refused_unless_it_is_summed_out():
    def model(x):
        weight = pyro.param("weight", torch.zeros(2))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=torch.zeros(2)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(weight[k], 1.0), obs=x)

    x = torch.randn(20)
    with pytest.raises(
        InputError, match=r"guide that samples 'k'.*got one that does not, and Trace_ELBO, which does not sum it out"
    ):
        fit(model, lambda x: None, x, epochs=1)
    fitted = fit(model, lambda x: None, x, epochs=1, objective=infer.TraceEnum_ELBO(max_plate_nesting=1))
    assert fitted.history.train_elbo[0] == pytest.approx(float(dist.Normal(0.0, 1.0).log_prob(x).mean()), abs=0.01)


class Unseen(nn.Module):
    """A plain module whose parameters Pyro does not hear of."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))


def test_modules_that_pyro_does_not_see_are_refused_not_left_untrained():
    programs = Unseen()
    with pytest.raises(InputError, match=r"parameters Pyro sees.*Trace_ELBO would train.*PyroModules"):
        fit(programs.model, programs.guide, torch.randn(10), epochs=1)


def test_every_option_of_a_fit_is_one_of_fit_with_the_same_default():
    of_fit = inspect.signature(fit).parameters
    declared = {field.name: field.default for field in fields(FitOptions)}
    others = {"model", "guide", "data", "validation", "out", "resume", "on_start", "progress"}
    assert set(declared) == set(of_fit) - others
    assert all(of_fit[name].default == default for name, default in declared.items() if name != "objective")
    text = inspect.getdoc(fit)
    assert all(f"\n    {name}: " in text for name in declared)


def test_an_interruption_while_the_folder_is_written_leaves_it_whole(small_pair, digits, tmp_path, monkeypatch):
    model, guide = small_pair
    real, count = RunFolder.write, []

    def interrupted(self, name, content):
        count.append(name)
        real(self, name, content)
        if len(count) == 6:  # last.pt and two more of the start, then of the first epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write", interrupted)
    fitted = fit(model, guide, digits.validation, epochs=3, out=tmp_path)
    assert (fitted.stopped, len(fitted.history.epoch)) == ("interrupted", 1)
    np.testing.assert_array_equal(RunFolder(tmp_path).read_history().train_elbo, fitted.history.train_elbo)


def test_an_interruption_while_steps_are_prepared_returns_the_fit(small_pair, digits, tmp_path, monkeypatch):
    """Compiling takes seconds: whoever stops it has a fit of no epochs, the weights of before, a folder to resume."""

    def interrupted(*_):
        raise KeyboardInterrupt

    before = [p.clone() for p in small_pair[0].parameters()]
    with monkeypatch.context() as patched:
        patched.setattr(Steps, "prepare", interrupted)
        fitted = fit(*small_pair, digits.validation, epochs=2, out=tmp_path)
    assert (fitted.stopped, len(fitted.history.epoch), small_pair[0].training) == ("interrupted", 0, False)
    assert all(map(torch.equal, before, small_pair[0].parameters()))
    assert "what there was before is kept" in repr(fitted)
    assert fit(*small_pair, digits.validation, epochs=2, out=tmp_path, resume=True).stopped == "epochs"


def test_a_fit_reads_well(small_pair, digits):
    fitted = fit(*small_pair, digits.train, validation=digits.validation, epochs=3)
    text, best = repr(fitted), fitted.history.validation_elbo[fitted.best_epoch - 1]
    assert re.match(rf"Fit: 3 epochs in \d+\.\d s.*the weights of epoch {fitted.best_epoch} are kept", text)
    assert f"{best:.3f}" in text
    assert f"{fitted.history.train_elbo[-1]:.3f}" in fitted._repr_html_()
    assert "Interrupted" in repr(replace(fitted, stopped="interrupted"))
    nothing = replace(fitted, history=History.of([]), best_epoch=0, stopped="interrupted")
    assert repr(nothing).startswith("Fit: 0 epochs")


@pytest.mark.parametrize(("warm_up", "patience"), [(4, None), (4, 1)])
def test_a_warm_up_is_not_compared(small_pair, digits, warm_up, patience):
    """Epochs in which the divergence counts less have an ELBO of their own, often the best and worth nothing."""
    options = dict(validation=digits.validation, epochs=9, patience=patience, learning_rate=3e-3)
    fitted = fit(*small_pair, digits.train, objective=objectives.WarmUp(epochs=warm_up), **options)
    compared = fitted.history.validation_elbo[warm_up:]
    assert fitted.best_epoch == warm_up + 1 + int(compared.argmax())
    assert len(fitted.history.epoch) > warm_up


def test_a_warm_up_that_the_fit_does_not_outlive(small_pair, digits):
    with pytest.warns(UserWarning, match="WarmUp ends after 30 epochs, of 2"):
        fitted = fit(
            *small_pair, digits.train, validation=digits.validation, epochs=2, objective=objectives.WarmUp(epochs=30)
        )
    assert fitted.best_epoch == 2 and fitted.warming_up and "inside the warm-up" in str(fitted)


class Slow(objectives.BetaELBO):
    """An objective of one's own that warms up and does not say for how long; or, inside another one, that does."""

    def is_warming_up(self, epoch):
        return epoch < 3


@pytest.mark.parametrize("make", [Slow, lambda: objectives.Classifying(objectives.WarmUp(epochs=3))])
def test_any_objective_may_warm_up(small_pair, digits, make, tmp_path):
    """Also where a fit is interrupted inside the warm-up, and gone on with."""
    options = dict(validation=digits.validation, patience=1, learning_rate=3e-3, progress=False, out=tmp_path)
    with pytest.warns(UserWarning, match=r"epochs, of 2 that|in the last of 2 epochs that"):
        first = fit(*small_pair, digits.train, objective=make(), epochs=2, schedule="constant", **options)
    assert first.best_epoch == 2 and first.warming_up and first.stopped == "epochs"
    fitted = fit(*small_pair, digits.train, objective=make(), epochs=7, schedule="constant", resume=True, **options)
    compared = fitted.history.validation_elbo[3:]
    assert fitted.best_epoch == 4 + int(compared.argmax()) and not fitted.warming_up


@pytest.mark.parametrize("outside", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("batch_size", [20, 60, 100])
def test_the_elbo_is_per_datum_where_a_plate_stands_for_all_data(outside, batch_size):
    """A mean with a prior, or with none, and a plate of 100 data that is given a batch; Q is exact: the ELBO is too."""
    torch.manual_seed(0)
    x, n = torch.randn(100) + 1, 100

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0)) if outside else torch.tensor(1.0)
        with pyro.plate("data", n, subsample=x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    variance = 1 / (n + 0.25)

    def guide(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        if outside:
            pyro.sample("mu", dist.Normal(variance * x_sum + shift, variance**0.5))

    x_sum = x.sum()
    covariance = torch.eye(n) + (4.0 if outside else 0.0) * torch.ones(n, n)
    mean = torch.full((n,), 0.0 if outside else 1.0)
    exact = float(dist.MultivariateNormal(mean, covariance).log_prob(x)) / n
    options = dict(epochs=1, batch_size=batch_size, learning_rate=1e-12)
    fitted = fit(model, guide, x, validation=x, **options)
    # The batches are parts of one sum: each by itself is scaled up, their mean is of all data.
    assert fitted.history.train_elbo[0] == pytest.approx(exact, abs=0.05)
    assert fitted.history.validation_elbo[0] == pytest.approx(exact, abs=0.05)
