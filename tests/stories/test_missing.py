"""Missing values against the exact marginals and conditionals of the linear-Gaussian model, and through every door."""

import json
import math
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_errors, check_evidence, check_log_px, check_means, check_sandwich, limit
from ppl_vae.guides import Conditional, LinearGaussian, MeanField, SemiSupervised
from ppl_vae.models import CVAE, VAE, ImageCompletion
from ppl_vae.models import LinearGaussian as LinearGaussianModel
from pyro import poutine
from tiny import QUICK

import ppl_vae
from ppl_vae import InputError, data, likelihoods, missing
from ppl_vae.data.holes import find_holes
from ppl_vae.data.sources import TensorSource
from ppl_vae.distributions.unwrap import can_miss
from ppl_vae.evidence.weight_sampler import log_weights_function
from ppl_vae.generation.impute import weighted_mean
from ppl_vae.networks import MLP
from ppl_vae.parts import Likelihood
from ppl_vae.priors import StandardNormal
from ppl_vae.runs.impute import impute_run
from ppl_vae.runs.kinds import part_names
from ppl_vae.traces.log_weights import log_weights
from ppl_vae.traces.pair import Pair
from ppl_vae.traces.plates import structure_of
from ppl_vae.traces.run import get_traces

SMALL = partial(MLP, hidden=(8,))


def holes(x, probability=0.4, seed=1):
    """Hide values completely at random."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(noise < probability, math.nan, x)


def conditional(model, x):
    """Return log P(x_obs), E[x | x_obs] and Var[x | x_obs] of a linear-Gaussian model, datum by datum, densely."""
    loading, bias, variance = (t.detach().double() for t in model.weights())
    covariance = loading @ loading.T + variance * torch.eye(len(bias))
    log_px, mean, spread = [], x.double().clone(), torch.zeros(len(x), len(bias)).double()
    for n, row in enumerate(x.double()):
        o, m = ~row.isnan(), row.isnan()
        if o.any():
            normal = torch.distributions.MultivariateNormal(bias[o], covariance[o][:, o])
            log_px.append(normal.log_prob(row[o]))
        else:
            log_px.append(torch.tensor(0.0).double())
        gain = covariance[m][:, o] @ torch.linalg.inv(covariance[o][:, o])
        mean[n, m] = bias[m] + gain @ (row[o] - bias[o])
        spread[n, m] = (covariance[m][:, m] - gain @ covariance[o][:, m]).diagonal()
    return torch.stack(log_px), mean, spread


@pytest.fixture
def incomplete(linear_gaussian):
    model, x = linear_gaussian
    x = holes(x)
    x[3] = math.nan  # a datum of which nothing is known
    x[4] = linear_gaussian[1][4]  # and one without a hole
    return model, x


def test_the_exact_marginal_and_posterior_leave_out_what_is_missing(incomplete):
    model, x = incomplete
    log_px, _, _ = conditional(model, x)
    with torch.no_grad():
        np.testing.assert_allclose(model.exact_log_px(x), log_px, atol=1e-4)
        posterior = model.exact_posterior(x)
        torch.testing.assert_close(posterior.mean[3], torch.zeros(4))
        torch.testing.assert_close(posterior.covariance_matrix[3], torch.eye(4))
        torch.testing.assert_close(posterior.mean[4], model.exact_posterior(x[4:5]).mean[0])


@pytest.mark.parametrize("options", [{}, {"num_draws": 3}])
def test_all_weights_of_the_exact_posterior_are_log_p_of_what_is_observed(incomplete, options):
    model, x = incomplete
    evidence = ppl_vae.estimate_evidence(model, LinearGaussian(model), x, num_samples=10, **options)
    np.testing.assert_allclose(evidence.log_px, conditional(model, x)[0], atol=2e-4)
    assert evidence.ess.min() == pytest.approx(10, abs=0.01)
    assert evidence.event_size == pytest.approx(float((~x.isnan()).sum(1).double().mean()))
    observed = evidence.event_size * len(x)
    expected = -float(conditional(model, x)[0].sum()) / observed / math.log(2)
    assert evidence.means()["bits_per_dim"].value == pytest.approx(expected, abs=1e-4)


def test_another_guide_is_within_its_error(incomplete):
    model, x = incomplete
    guide = MeanField(model, encoder=SMALL)
    ppl_vae.fit(model, guide, x, epochs=1, learning_rate=1e-12, progress=False)
    log_px = conditional(model, x)[0].numpy()
    options = {"num_temperatures": 20, "num_chains": 64, "num_leapfrog": 3, "num_samples": 20}
    evidence = ppl_vae.estimate_evidence(model, guide, x[:6], method="sandwich", proposal="prior", **options)
    check_evidence(evidence, log_px[:6])
    low, high = evidence.sandwich.interval()
    assert low < high
    assert np.isnan(evidence.sandwich.x[3]).all()  # as of the data, so of the simulated ones
    exact = conditional(model, torch.as_tensor(evidence.sandwich.x))[0].numpy()
    check_sandwich(evidence.sandwich, exact)
    each = limit(12, dof=63)  # mean weights that are too high, of forward and of backward chains, by Student's t
    assert (evidence.sandwich.lower <= exact + each * evidence.sandwich.lower_mcse + 1e-4).all()
    assert (evidence.sandwich.upper >= exact - each * evidence.sandwich.upper_mcse - 1e-4).all()


def test_compiled_weights_know_what_is_missing(incomplete):
    model, x = incomplete
    pair = Pair(model, MeanField(model, encoder=SMALL))
    with pair.running(), pair.evaluating(), torch.no_grad():
        structure = structure_of(get_traces(pair, (x,)), num_data=64)
        function = log_weights_function(pair, (x,), 3, structure)
        for value in (x, holes(torch.randn_like(x), seed=5)):
            pyro.set_rng_seed(3)
            got = function((value,))
            pyro.set_rng_seed(3)
            torch.testing.assert_close(got, log_weights(pair, (value,), 3, structure), rtol=1e-4, atol=1e-4)


def test_fitting_incomplete_data_finds_the_model_they_came_from():
    truth, model = (LinearGaussianModel((8,), latent_dim=2, sigma=sigma) for sigma in (0.5, None))
    with torch.no_grad():
        x, test = holes(truth(size=2000)), truth(size=500)

        def lost():
            return (truth.exact_log_px(test) - model.exact_log_px(test)).mean()

        before = lost()
    options = {"epochs": 15, "batch_size": 250, "learning_rate": 0.05}
    ppl_vae.fit(model, LinearGaussian(model), x, **options, progress=False)
    assert before > 1
    assert lost() < 0.05  # nats


@pytest.mark.parametrize("wide", [False, True])
def test_imputation_against_the_exact_conditional(incomplete, wide):
    model, x = incomplete
    guide = LinearGaussian(model)
    if wide:  # then the weights differ

        def guide(x):
            posterior = model.exact_posterior(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(posterior.mean, 1.4 * posterior.stddev).to_event(1))

    _, mean, variance = conditional(model, x)
    found = ppl_vae.impute(model, guide, x, num_samples=3000, num_draws=800)
    at = x.isnan()
    assert torch.equal(found.mean[~at], x[~at])
    assert torch.equal(found.draws[:, ~at], x[~at].expand(800, -1))
    check_errors(found.mean[at], mean[at], found.mcse[at])
    squares = ((found.mean - mean) / found.mcse).square()
    check_means([float(one[gaps].mean()) for one, gaps in zip(squares, at, strict=True) if gaps.any()], 1.0)  # no less
    scaled = ((found.draws - mean)[:, at] ** 2).mean(0) / variance[at]
    assert scaled.mean() == pytest.approx(1, abs=0.03)
    assert (found.ess < 2500).all() if wide else (found.ess > 2999).all()
    assert "Nothing speaks against" in str(found)
    assert ppl_vae.impute(model, guide, x, num_samples=50).ess.shape == (64,)


@pytest.mark.parametrize("of_latents", [False, True])
def test_what_a_model_masks_is_imputed_where_its_latents_count(of_latents):
    """z ~ N(0, 1), x_1, x_2 ~ N(z, 1); of every third datum x is masked: z is of the prior, so that E[x] = 0."""
    seen = torch.arange(30) % 3 > 0
    x = torch.randn(30, 2)
    x[::2, 0] = torch.nan

    def model(x, seen):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=seen | torch.tensor(not of_latents)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            fn = missing.Observed(dist.Normal(torch.stack([z, z], -1), 1.0), 1)
            pyro.sample("x", fn.mask(seen), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            known = (~x.isnan()).sum(-1) * seen
            far = 3.0 * (~seen * of_latents)
            pyro.sample("z", dist.Normal(x.nan_to_num(0.0).sum(-1) * seen / (1 + known) + far, (1 + known) ** -0.5))

    options = dict(num_samples=500, progress=False)
    if not of_latents:
        imputed = ppl_vae.impute(model, guide, (x, seen), **options)
        exact = torch.where(seen, x[:, 1] / 2, 0.0)
        check_errors(imputed.mean[::2, 0], exact[::2], imputed.mcse[::2, 0], dof=400)
        return
    with pytest.raises(InputError, match="some that it masks together with latents of the same datum"):
        ppl_vae.impute(model, guide, (x, seen), **options)
    with pytest.warns(UserWarning, match="masks a latent, its posterior draws are those of the guide"):
        ppl_vae.to_arviz(model, guide, (x, seen), num_draws=5, **options)
    ppl_vae.impute(model, guide, (x[seen], seen[seen]), **options)


def test_draws_of_one_z_are_not_the_same_x():
    model = LinearGaussianModel((6,), latent_dim=2, sigma=0.5)
    found = ppl_vae.impute(model, LinearGaussian(model), holes(torch.randn(4, 6)), num_samples=1, num_draws=5)
    assert (found.draws[:, found.x.isnan()].std(0) > 0).all()


def test_the_weighted_mean_is_the_same_in_runs():
    log_weights_, values = torch.randn(100, 3), torch.randn(100, 3, 2) + 1000
    shares = log_weights_.double().softmax(0)[..., None]
    mean = (shares * values.double()).sum(0)
    error = (shares**2 * (values.double() - mean) ** 2).sum(0).sqrt()
    for runs in ([values], values.split(30)):
        got = weighted_mean(log_weights_, runs)
        torch.testing.assert_close(got[0].double(), mean, rtol=0, atol=1e-3)
        torch.testing.assert_close(got[1].double(), error, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cls", [cls for name, cls in part_names("likelihood").items() if name != "columns"])
def test_each_likelihood_scores_what_is_observed(cls):
    likelihood = cls().bind((2, 3))
    h = torch.randn(4, 5, *likelihood.h_shape, requires_grad=True)
    p = likelihood(h)
    x = p.sample()
    if not can_miss(p):
        return
    with_holes = holes(x)
    each = p.base_dist.log_prob(x)
    expected = torch.where(with_holes.isnan(), 0.0, each).sum((-2, -1))
    torch.testing.assert_close(p.log_prob(with_holes), expected)
    torch.testing.assert_close(p.expand((7, 4, 5)).log_prob(with_holes)[0], expected)
    assert p.support.check(with_holes).all()
    p.log_prob(with_holes).sum().backward()
    assert torch.isfinite(h.grad).all()
    nothing = torch.full_like(x, math.nan)
    assert torch.equal(p.log_prob(nothing), torch.zeros(4, 5))
    with missing.all_known(), pytest.raises(ValueError, match="within the support"):  # nobody looks
        p.log_prob(nothing)


def test_gradients_are_finite_where_the_density_has_no_value_at_zero():
    loc = torch.zeros(3, requires_grad=True)
    missing.Observed(dist.LogNormal(loc, 1.0), 1).log_prob(torch.tensor([1.0, math.nan, 2.0])).backward()
    assert torch.isfinite(loc.grad).all()
    assert loc.grad[1] == 0


def test_complete_data_are_scored_as_they_were():
    h, x = torch.randn(4, 5, 6), torch.randint(0, 2, (5, 6)).float()
    p = likelihoods.Bernoulli().bind((6,))(h)
    assert torch.equal(p.log_prob(x), dist.Bernoulli(logits=h).to_event(1).log_prob(x))


@pytest.mark.parametrize("make", [Conditional, SemiSupervised])
def test_conditional_pairs(make, digits):
    model = CVAE(digits.event_shape)
    guide, split = make(model), data.load("digits", missing=0.3).test[:40]
    ppl_vae.fit(model, guide, split, epochs=1, progress=False)
    assert ppl_vae.impute(model, guide, split, num_samples=20).draws.shape == (10, 40, 1, 8, 8)
    assert ppl_vae.reconstruct(model, guide, split).isfinite().all()
    assert np.isfinite(ppl_vae.estimate_evidence(model, guide, split, num_samples=20).log_px).all()
    if make is SemiSupervised:
        assert 0 <= ppl_vae.accuracy(guide, split) <= 1


def test_hidden_pixels_may_miss_and_visible_ones_may_not(digits):
    model = ImageCompletion(digits.event_shape)
    guide, x = Conditional(model), digits.test.x[:30].clone()
    visible = model.condition.mask
    x[:, ~visible] = holes(x[:, ~visible])
    found = ppl_vae.impute(model, guide, x, num_samples=20)
    assert torch.equal(found.mean[:, visible], x[:, visible])
    x[17, visible] = math.nan
    for call in (ppl_vae.impute, ppl_vae.estimate_evidence, partial(ppl_vae.fit, epochs=1)):
        with pytest.raises(InputError, match="y without missing values, which is a condition; got NaN, first in row 0"):
            call(model, guide, x)


def test_everything_else_takes_missing_data(small_pair):
    model, guide = small_pair
    split = data.load("digits", missing=0.3).test[:30]
    assert ppl_vae.latent_use(model, guide, split, num_samples=10).kl > 0
    assert "approximation" in str(ppl_vae.explain_gap(model, guide, split[:6], num_samples=50))
    evidence = ppl_vae.estimate_evidence(model, guide, split, num_samples=30, num_draws=5, tolerance=None)
    with pytest.warns(UserWarning, match="not to be trusted"):
        assert evidence.to_arviz() is not None
    assert "ln 2" in str(evidence)


def test_holes_of_all_batches_are_found():
    x = torch.zeros(2500, 3)
    x[7, 0] = x[2100, 2] = x[2200, 2] = math.nan
    found = find_holes(TensorSource((x, torch.arange(2500))))
    assert list(found) == [0]
    assert (found[0].number, found[0].row, found[0].where.tolist()) == (3, 7, [True, False, True])


class Counts(Likelihood):
    """Its values are not independent."""

    def distribution(self, *params):
        return dist.Multinomial(total_count=3, logits=params[0], validate_args=False)


def plain_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)


def observing_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        p = missing.Observed(dist.Normal(z[..., None].expand(*z.shape, 2), 1.0), 1)
        pyro.sample("x", p, obs=x)


def plain_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.mean(-1), 1.0))


def filling_guide(x):
    plain_guide(missing.filled(x))


def test_a_pair_of_ones_own():
    x = torch.randn(40, 2)
    x[7, 0] = math.nan
    refused = {
        (plain_model, filling_guide): "x without missing values, as Normal cannot leave them out; got NaN.*row 7",
        (observing_model, plain_guide): r"plain_guide makes z of it.*missing.filled\(x\)",
    }
    for pair, message in refused.items():
        with pytest.raises(InputError, match=message):
            ppl_vae.estimate_evidence(*pair, x)
    evidence = ppl_vae.estimate_evidence(observing_model, filling_guide, x, num_samples=4000)
    check_log_px(evidence.log_px[7], evidence.mcse[7], dist.Normal(0.0, 2**0.5).log_prob(x[7, 1]), 4000)
    found = ppl_vae.impute(observing_model, filling_guide, x, num_samples=4000)
    check_errors(found.mean[7, 0], x[7, 1] / 2, found.mcse[7, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, g, x: ppl_vae.fit(m, g, x * math.nan), "NaN only"),
        (lambda m, g, x: ppl_vae.fit(m, g, x / 0), "infinity, first in row 0"),
        (lambda m, g, x: missing.with_mask(x, x[:3]), "mask in the shape"),
        (lambda m, g, x: missing.with_mask(x, x + 2), "zeros and ones"),
        (lambda m, g, x: missing.Observed(dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), 1), "single numbers"),
        (lambda m, g, x: ppl_vae.impute(m, g, x, num_samples=0), "num_samples"),
        (lambda m, g, x: ppl_vae.impute(m, g, x, num_draws=0), "num_draws"),
        (lambda m, g, x: data.load("digits", missing=1.5), "missing.*between|above 0.*got 1.5"),
        (lambda m, g, x: ppl_vae.fit_classifier(data.load("digits", missing=0.5)), "complete data to train"),
    ],
)
def test_what_is_refused(linear_gaussian, call, message):
    model, x = linear_gaussian
    with pytest.raises(InputError, match=message):
        call(model, LinearGaussian(model), x)


def test_a_likelihood_over_whole_events_is_refused():
    model = VAE((4,), StandardNormal(2), Counts(), decoder=SMALL)
    x = torch.tensor([[3.0, 0, 0, 0]] * 9)
    x[5, 0] = math.nan
    with pytest.raises(InputError, match="as Multinomial cannot leave them out; got NaN, first in row 5"):
        ppl_vae.fit(model, MeanField(model, encoder=SMALL), x, epochs=1)


def test_hidden_values_are_the_same_every_time():
    whole, split = data.load("digits"), data.load("digits", missing=0.3)
    for name in ("train", "validation", "test"):
        x, full = getattr(split, name).x, getattr(whole, name).x
        assert torch.equal(x.isnan(), getattr(split, name)[:].x.isnan())
        assert torch.equal(x[~x.isnan()], full[~x.isnan()])
        assert float(x.isnan().float().mean()) == pytest.approx(0.3, abs=0.01)
    index = torch.tensor([5, 900])
    drawn = split.train.draw(index)
    assert torch.equal(drawn.isnan(), split.train.x[index].isnan())
    assert not torch.equal(missing.filled(drawn), missing.filled(split.train.draw(index)))  # binarized afresh
    assert "missing=0.3" in repr(split.train)
    strings = data.load("digits", strings=2, missing=0.3).test
    assert strings.x.isnan().any() and not strings.y.isnan().any()


def test_files_with_missing_values(tmp_path):
    x = np.random.default_rng(0).uniform(size=(30, 2, 3)).astype(np.float32)
    mask = (np.random.default_rng(1).uniform(size=x.shape) < 0.7).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x, x_mask=mask)
    np.save(tmp_path / "b.npy", np.where(mask == 1, x, np.nan))
    np.savez(tmp_path / "c.npz", x=(255 * x).astype(np.uint8), x_mask=mask)
    a, b, c = (data.load(tmp_path / name) for name in ("a.npz", "b.npy", "c.npz"))
    assert torch.equal(a.train.x.isnan(), b.train.x.isnan())
    assert torch.equal(a.train.x.isnan(), c.train.x.isnan())
    torch.testing.assert_close(c.train.x, a.train.x, atol=1 / 255, rtol=0, equal_nan=True)
    binary = data.load(tmp_path / "b.npy", binarize="dynamic")
    for part in (binary.train, binary.test):
        values = part.draw(torch.arange(len(part)))
        assert torch.equal(values.isnan(), part.x.isnan()) and values.isnan().any()
        assert set(missing.filled(values).unique().tolist()) <= {0.0, 1.0}
    np.savez(tmp_path / "e.npz", x=x, mask=mask, labels=np.zeros(len(x)))
    with pytest.warns(UserWarning, match=r"arrays that are not read: mask, labels. Beside x, y \(labels\) and x_mask"):
        assert not data.load(tmp_path / "e.npz").train.x.isnan().any()
    np.savez(tmp_path / "d.npz", x=x, x_mask=mask[:3])
    with pytest.raises(InputError, match="mask in the shape"):
        data.load(tmp_path / "d.npz")


def test_the_command_line(run, tmp_path):
    code, out, err = run("train", "vae", *QUICK, "--set", "data.missing=0.3")
    assert code == 0, err
    folder = tmp_path / "runs" / "vae-digits"
    assert json.loads((folder / "run.json").read_text())["data"]["missing"] == 0.3
    assert ppl_vae.load(folder).data().test.x.isnan().any()
    assert run("evaluate", folder, "--num-samples", "30")[0] == 0
    code, out, err = run("impute", folder, "--num-samples", "20", "--num-data", "20")
    assert code == 0, err
    assert "imputed.png" in out and "effective sample size" in out
    with np.load(folder / "imputed.npz") as arrays:
        assert arrays["mean"].shape == (20, 1, 8, 8) and arrays["draws"].shape == (10, 20, 1, 8, 8)
    np.save(tmp_path / "own.npy", np.where(np.eye(8), np.nan, np.ones((3, 8, 8))))
    code, out, err = run("impute", folder, "--data", tmp_path / "own.npy", "--out", tmp_path / "mended.npy", "-k", "20")
    assert code == 0, err
    mended = np.load(tmp_path / "mended.npy")
    assert np.isfinite(mended).all() and (mended[:, 0][:, ~np.eye(8, dtype=bool)] == 1).all()
    np.save(tmp_path / "whole.npy", np.ones((3, 8, 8)))
    code, _, err = run("impute", folder, "--data", tmp_path / "whole.npy")
    assert code == 2 and "without" in err


def test_a_file_is_read_as_the_data_of_the_run_were(tmp_path):
    """Bytes are levels of the run's scale (digits have 16), binarized if the run's data were."""
    from ppl_vae.data.own_files import read
    from ppl_vae.runs.new_rows import as_in_training

    levels = np.random.default_rng(0).integers(0, 17, (5, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=levels, x_mask=np.arange(5 * 64).reshape(5, 8, 8) % 7 > 0)
    grey = SimpleNamespace(data=lambda: ppl_vae.data.load("digits", binarize=None))
    x = as_in_training(read(tmp_path / "mine.npz"), grey).x
    known = ~x.isnan()
    assert (~known).sum() == 46
    np.testing.assert_array_equal(x[known], torch.from_numpy(levels).unsqueeze(1)[known] / 16)
    binary = SimpleNamespace(data=lambda: ppl_vae.data.load("digits"))
    x = as_in_training(read(tmp_path / "mine.npz"), binary).x
    assert set(x[~x.isnan()].tolist()) == {0.0, 1.0}
    dequantized = SimpleNamespace(data=lambda: ppl_vae.data.load("digits", dequantize="uniform"))
    x = as_in_training(read(tmp_path / "mine.npz"), dequantized).x
    np.testing.assert_array_equal((x[known] * 17).floor(), torch.from_numpy(levels).unsqueeze(1)[known])
    np.save(tmp_path / "floats.npy", np.full((5, 8, 8), 12.0))
    with pytest.raises(InputError, match=r"in \[0, 1\], or bytes.*from 12 to 12.*Rescale"):
        as_in_training(read(tmp_path / "floats.npy"), binary)
    unscaled = SimpleNamespace(data=lambda: ppl_vae.data.load(tmp_path / "floats.npy"))
    assert as_in_training(read(tmp_path / "mine.npz"), unscaled).scale == 255  # as `load` reads bytes


def test_a_value_that_training_never_saw_is_said(tmp_path):
    """Imputed by what the weights happened to begin with, it has a small error, too."""
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    unseen = x.copy()
    unseen[:, 2] = math.nan
    model = LinearGaussianModel((4,), latent_dim=1)
    guide = MeanField(model)
    words = r"1 of 4 values of x are missing in all 50 data \(x\[2\]\)"
    with pytest.warns(UserWarning, match=words + ": nothing is learned"):
        ppl_vae.fit(model, guide, unseen, epochs=1)
    with pytest.warns(UserWarning, match=words + " of the training: what is imputed there means nothing"):
        ppl_vae.impute(model, guide, unseen[:1], num_samples=10)
    few = {"fit.epochs": 1, "model.latent_dim": 1}
    np.savez(tmp_path / "a.npz", train=unseen, validation=x, test=unseen)
    with pytest.warns(UserWarning, match="nothing is learned"):
        ppl_vae.train(
            "linear_gaussian", data=str(tmp_path / "a.npz"), settings=few, out=tmp_path / "run", num_samples=5
        )
    with pytest.warns(UserWarning, match=words + " of the training"):
        impute_run(tmp_path / "run", num_samples=10)
    some = x.copy()
    some[:49, 2] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppl_vae.fit(model, guide, some, epochs=1)
        ppl_vae.impute(model, guide, unseen, num_samples=10)
