"""Dequantized grey levels, and the bits per dimension of probabilities and of densities."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

import ppl_vae
from ppl_vae import InputError, compare, data, estimate_evidence
from ppl_vae.likelihoods import Categorical, ContinuousBernoulli, DiscretizedLogistic, Gaussian
from ppl_vae.priors import StandardNormal

QUICK = {"fit.epochs": 1, "decoder.hidden": (8,), "encoder.hidden": (8,)}


@pytest.fixture
def bytes_file(tmp_path):
    """200 pictures of 3 x 2 bytes, with a file name."""
    levels = np.random.default_rng(0).integers(0, 256, (200, 3, 2)).astype(np.uint8)
    levels[0, 0] = 0, 255
    np.save(tmp_path / "x.npy", levels)
    return tmp_path / "x.npy"


def test_levels_are_spread_over_their_width(bytes_file):
    grey, made = data.load(bytes_file), data.load(bytes_file, dequantize="uniform")
    assert (grey.train.num_levels, made.train.num_levels, made.dequantize) == (256, 256, "uniform")
    for part in ("train", "validation", "test"):
        levels = (getattr(grey, part).x * 255).round()
        split = getattr(made, part)
        for x in (split.x, split.draw(torch.arange(len(split)))):
            assert torch.equal((x * 256).floor(), levels)
            assert float(x.min()) >= 0 and float(x.max()) < 1
    u = (made.train.x * 256) % 1
    assert float(u.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * u.numel()))
    assert float(u.var()) == pytest.approx(1 / 12, rel=0.15)
    assert "dequantize='uniform'" in repr(made.train)


def test_draws_are_fresh_in_training_and_fixed_elsewhere(bytes_file):
    train = data.load(bytes_file, dequantize="uniform").train
    index = torch.tensor([5, 3, 17])
    assert torch.equal(train.take(index), train.x[index])
    assert torch.equal(train[3:9].x, train.x[3:9])  # it belongs to the datum, not to the batch
    assert torch.equal(train.x, data.load(bytes_file, dequantize="uniform").train.x)
    assert not torch.equal(train.draw(index), train.draw(index))
    torch.manual_seed(1)
    first = train.draw(index)
    torch.manual_seed(1)
    assert torch.equal(first, train.draw(index))


def test_digits_have_17_levels(digits):
    made = data.load("digits", dequantize="uniform")
    assert made.binarize is None and made.test.num_levels == 17
    grey = data.load("digits", binarize=None)
    assert torch.equal((made.test.x * 17).floor(), (grey.test.x * 16).round())
    assert digits.test.num_levels is None


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.full((20, 4), 0.3), {}, "grey levels in bytes .* got torch.float64"),
        (np.ones((20, 4), dtype=np.uint8), {}, "grey levels in bytes .* up to 1"),
        (np.full((20, 4), 7, dtype=np.int64), {}, "grey levels in bytes .* got torch.int64"),
        (np.full((20, 4), 7, dtype=np.uint8), {"binarize": "dynamic"}, "binarize or dequantize; got both"),
        (np.full((20, 4), 7, dtype=np.uint8), {"dequantize": "normal"}, "'uniform' or None; got 'normal'"),
    ],
)
def test_what_cannot_be_dequantized(tmp_path, values, options, message):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError, match=message) as problem:
        data.load(tmp_path / "x.npy", **({"dequantize": "uniform"} | options))
    assert "\n" not in str(problem.value)


def uniform_levels(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", Categorical().bind((1, 3, 2))(torch.zeros(len(x), 256, 3, 2)), obs=x)


def uniform_density(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", ContinuousBernoulli().bind((1, 3, 2))(torch.zeros(len(x), 1, 3, 2)), obs=x)


def nothing(x):
    pass


def test_bits_of_densities_and_of_levels_meet(bytes_file):
    """Uniform over 256 levels is 8 bits; so is the uniform density of dequantized ones, and both are one model."""
    grey, made = data.load(bytes_file), data.load(bytes_file, dequantize="uniform")
    levels = estimate_evidence(uniform_levels, nothing, grey.test, num_samples=2)
    spread = estimate_evidence(uniform_density, nothing, made.test, num_samples=2)
    density = estimate_evidence(uniform_density, nothing, grey.test, num_samples=2)
    of_tensor = estimate_evidence(uniform_density, nothing, grey.test.x, num_samples=2)
    kinds = [(e.scored, e.num_levels) for e in (levels, spread, density, of_tensor)]
    assert kinds == [("probability", 256), ("dequantized", 256), ("density", 256), ("density", 0)]
    bits = [e.means()["bits_per_dim"].value for e in (levels, spread, density)]
    assert bits == pytest.approx([8.0, 8.0, 0.0], abs=1e-5)
    assert "(6 ln 2), of the probability of 256 levels" in str(levels)
    assert "(6 ln 2) + log2 256, of dequantized x: an upper bound on the bits of its 256 levels" in str(spread)
    assert "(6 ln 2), of a density of 256 levels: not comparable" in str(density)

    table = compare({"levels": levels, "spread": spread})
    assert table["log_px"].to_list() == pytest.approx([-6 * math.log(256)] * 2)
    assert table["log_px_diff"].to_list() == pytest.approx([0, 0], abs=1e-4)
    assert dict(table["scored"]) == {"levels": "probability", "spread": "dequantized"}
    assert "scored" not in compare({"a": spread, "b": spread})
    for other in (levels, spread):
        with pytest.raises(InputError, match=r"a density for 'density'.*dequantize='uniform'"):
            compare({"other": other, "density": density})
    with pytest.raises(InputError, match="one number of levels; got 256 for 'a' and 17 for 'b'"):
        compare({"a": levels, "b": replace(spread, num_levels=17)})
    with pytest.raises(InputError, match="same data"):
        compare({"a": levels, "b": estimate_evidence(uniform_density, nothing, made.validation, num_samples=2)})


def test_a_dequantized_gaussian_bounds_the_levels_it_implies():
    """E_u[log p(x)] - log L <= log of what p gives to the width of the level, and is near it for a wide p."""
    level = torch.arange(256.0, dtype=torch.double)[:, None]
    p = torch.distributions.Normal(torch.tensor(0.4, dtype=torch.double), 0.05)
    implied = (p.cdf((level + 1) / 256) - p.cdf(level / 256)).clamp_min(1e-300).log().squeeze()
    u = (torch.arange(1000.0, dtype=torch.double) + 0.5) / 1000
    bound = p.log_prob((level + u) / 256).mean(1) - math.log(256)
    near = slice(64, 140)
    assert bool((bound[near] <= implied[near] + 1e-9).all()) and float((implied - bound)[near].max()) < 0.01


def test_runs_keep_what_was_done(tmp_path):
    train = partial(ppl_vae.train, "vae", data="digits", num_samples=5, progress=False)
    spread = train(likelihood="gaussian", settings=QUICK | {"data.dequantize": "uniform"}, out=tmp_path / "spread")
    levels = train(likelihood="discretized_logistic", settings=QUICK, out=tmp_path / "levels")
    assert levels.model.likelihood.num_levels == 17  # as these data have
    again = ppl_vae.load(tmp_path / "spread")
    assert again.data().dequantize == "uniform" and again.config["data"]["dequantize"] == "uniform"
    assert (again.evidence.scored, again.evidence.num_levels) == ("dequantized", 17)
    assert "log2 17" in str(again.evidence)
    table = compare([tmp_path / "spread", tmp_path / "levels"])
    assert table.loc["spread", "log_px"] == pytest.approx(spread.evidence.log_px.mean() - 64 * math.log(17))
    with pytest.raises(InputError, match="did you mean 'dequantize'"):
        train(settings={"data.dequantise": "uniform"})
    with pytest.raises(InputError, match="got both for digits"):
        train(settings={"data.dequantize": "uniform", "data.binarize": "dynamic"})


def test_levels_and_dequantized_levels_with_missing_values_are_not_compared(bytes_file):
    """Each datum would have another number of values to change the unit of."""
    found = {}
    for how, likelihood in ((None, DiscretizedLogistic()), ("uniform", Gaussian())):
        sets = data.load(bytes_file, dequantize=how, missing=0.5)
        model = VAE(sets.event_shape, StandardNormal(2), likelihood)
        found[str(how)] = estimate_evidence(model, MeanField(model), sets.test, method="importance", num_samples=30)
    with pytest.raises(InputError, match="complete data to compare"):
        compare(found)
    complete = {name: replace(one, event_size=4) for name, one in found.items()}
    with pytest.raises(InputError, match=r"older version\. Evaluate it again"):
        compare(complete | {"None": replace(complete["None"], scored="")})
