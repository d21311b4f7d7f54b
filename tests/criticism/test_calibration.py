"""Calibration of guides whose posterior is known: of exact ones, and of others that are wrong in a known way.

Exact ones are held to a level of 1 - 1e-6, unless the level is what is tested.
"""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import FALSE_ALARM, limit
from pairs import (
    MEANS,
    SHARES,
    PyroTutorialVAE,
    clusters_model,
    hierarchical_model,
    inner_mixture_guide,
    inner_mixture_model,
    isotropic_model,
    mean_guide,
    mean_model,
    mixture_model,
    normal_model,
    subsampled_inside,
    two_discrete_guide,
    two_discrete_model,
)
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.guides import MeanField
from ppl_vae.models import CVAE, VAE, LinearGaussian
from scipy import stats

from ppl_vae import InputError, calibrate, likelihoods, plots, priors
from ppl_vae.criticism.simulated_ranks import LOG_JOINT, _ranked
from ppl_vae.criticism.uniformity import inside_band, simultaneous_band
from ppl_vae.missing import with_mask
from ppl_vae.utils.rng import seeded

SURE = 1 - FALSE_ALARM
QUIET = {"progress": False, "level": SURE}


def scaled(model, factor=1.0, shift=0.0):
    """The exact posterior of a linear-Gaussian model, its standard deviations times a factor and its means moved."""

    def guide(x):
        q = model.exact_posterior(x)
        factors = torch.as_tensor(factor).expand(q.mean.shape[-1])
        with pyro.plate("data", len(x)):
            moved = q.mean + torch.as_tensor(shift) * q.stddev
            pyro.sample("z", dist.MultivariateNormal(moved, scale_tril=factors[:, None] * q.scale_tril))

    return guide


def parts_of(ranks, size):
    """The ranks of many simulated data as those of many calibrations, of so many data each."""
    for start in range(0, len(ranks.ranks), size):
        rows = slice(start, start + size)
        yield replace(ranks, ranks=ranks.ranks[rows], scores=ranks.scores[rows])


@pytest.fixture
def linear():
    torch.manual_seed(1)
    return LinearGaussian((6,), latent_dim=3, sigma=0.7)


def test_the_exact_guide_passes_at_the_nominal_rate(linear):
    """200 calibrations of 200 data: alarms are at most binomial with 1 - level, of each quantity just binomial.

    The bounds fail once in a million: for the alarms of a calibration, and for each of five quantities on both sides.
    """
    level = 0.9
    found = calibrate(
        linear, ExactPosterior(linear), num_simulated=200 * 200, num_samples=50, level=level, progress=False
    )
    for ranks in (found.guide, found.resampled):
        alarms = sum(part.outside.any() for part in parts_of(ranks, 200))
        assert alarms <= stats.binom.isf(FALSE_ALARM, 200, 1 - level)
        half = simultaneous_band(200, 0.5)
        expected = stats.binom(200, 1 - half.probability)
        for j in range(len(found.names)):
            outside = sum(not inside_band(part.of(j), 0.5) for part in parts_of(ranks, 200))
            assert expected.ppf(FALSE_ALARM / 10) <= outside <= expected.isf(FALSE_ALARM / 10), found.names[j]
    np.testing.assert_allclose(found.ess, 50, rtol=1e-3)
    for level, share in ((0.5, 0.5), (0.9, 0.9)):
        error = math.sqrt(share * (1 - share) / 40_000)
        assert max(abs(c - share) for c in found.guide.coverage(level).values()) < limit(5) * error


def test_standard_deviations_off_by_a_fifth_are_found(linear):
    """In 60 calibrations of 1,000 data: with power 0.99 fewer than 55 are found once in a million."""
    least = stats.binom.ppf(FALSE_ALARM, 60, 0.99)
    for factor in (0.8, 1.25, [0.8, 1.0, 1.0]):
        guide = scaled(linear, torch.tensor(factor))
        found = calibrate(linear, guide, num_simulated=60 * 1000, num_samples=50, progress=False)
        assert sum(part.outside.any() for part in parts_of(found.guide, 1000)) >= least
        first = [part.outside[0] for part in parts_of(found.guide, 1000)]
        assert sum(first) >= least
        width = 1 / np.ravel(factor)[0]
        assert abs(math.log(found.guide.width["z[0]"] / width)) < limit() * found.guide.shapes[0].log_width_error + 0.02


def test_words(linear):
    found = calibrate(linear, scaled(linear, torch.tensor([0.77, 1.0, 1.0]), torch.tensor([0.0, -0.4, 0.0])), **QUIET)
    words = found.words()
    assert words["z[0]"] in {f"z[0]: Q is {n} times too narrow" for n in (1.2, 1.3, 1.4)}
    assert words["z[1]"] in {f"z[1]: Q lies {n} of its standard deviations too low" for n in (0.3, 0.4, 0.5)}
    assert words["z[2]"] == "z[2]: calibrated"
    assert not found.is_calibrated and found.verdict().startswith("Not calibrated: ")
    assert words["z[0]"] in found.verdict() and words["z[1]"] in found.verdict()
    assert found.verdict_of_resampled().startswith("Resampled by importance: calibrated; effective sample size median")
    assert abs(found.guide.bias["z[1]"] - 0.4) < limit() * found.guide.shapes[1].bias_error
    wide = calibrate(linear, scaled(linear, 2.0, torch.tensor([3.0, 0.0, 0.0])), **QUIET)
    assert wide.words()["z[1]"] in {f"z[1]: Q is {n} times too wide" for n in ("1.9", "2.0", "2.1")}
    assert "z[0]: Q is 2.0 times too wide and lies 1." in wide.words()["z[0]"].replace("2.1", "2.0").replace(
        "1.9", "2.0"
    )
    assert "too high" in wide.words()["z[0]"]
    assert "leaves one of 5 with probability 1e-06 at most (2e-07 for all ranks of each, Bonferroni)" in str(wide)


def test_one_number_that_is_right_by_itself():
    """The prior for all x: z has uniform ranks, log P(x, z) has not (Modrak et al.)."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    found = calibrate(normal_model, guide, torch.zeros(5), **QUIET)
    assert found.names == ("z", "log P(x, z)")
    assert found.guide.outside.tolist() == [False, True]
    assert "log P(x, z): under Q it" in found.verdict()


def test_margins_that_are_right_and_a_joint_that_is_not():
    """x = z1 + z2 + e: in the posterior the two are anticorrelated; a guide with the exact margins leaves that out."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.2), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            mean, scale = x[:, None].expand(-1, 2) / 2.04, math.sqrt(1 - 1 / 2.04)
            pyro.sample("z", dist.Normal(mean, scale).to_event(1))

    found = calibrate(model, guide, torch.zeros(5), num_samples=300, **QUIET)
    assert found.names == ("z[0]", "z[1]", "log P(x, z)", "distance (TARP)")
    assert found.guide.outside.tolist()[:3] == [False, False, True]
    total = {"sum": lambda z, x: z["z"].sum(-1)}
    assert calibrate(model, guide, torch.zeros(5), functions=total, **QUIET).guide.outside[-1]


def test_tarp_finds_a_joint_that_is_too_narrow(linear):
    found = calibrate(linear, scaled(linear, 0.7), **QUIET)
    assert found.guide.outside[found.names.index("distance (TARP)")]
    assert found.guide.coverage(0.9)["distance (TARP)"] < 0.85


def test_importance_mends_what_it_can(linear):
    mended = calibrate(linear, scaled(linear, 1.3), **QUIET)
    assert mended.guide.outside.all() and not mended.resampled.outside.any()
    lost = calibrate(linear, scaled(linear, 0.2), num_samples=100, **QUIET)
    assert lost.guide.outside.all() and lost.resampled.outside.any()
    said = lost.verdict_of_resampled()
    assert "not calibrated: " in said and "few draws count. Raise num_samples." in said


def test_ranks_are_those_of_the_draws(linear):
    """A function that is a number of z has its ranks, up to the random place between neighbours."""
    functions = {"first": lambda z, x: z["z"][:, 0], "none": lambda z, x: x[:, 0]}
    found = calibrate(linear, scaled(linear, 0.8), num_simulated=300, num_samples=40, functions=functions, **QUIET)
    both = found.guide.ranks[:, [0, found.names.index("first")]]
    assert (np.floor(41 * both[:, 0]) == np.floor(41 * both[:, 1])).all()
    np.testing.assert_allclose(found.guide.scores[:, 0], found.guide.scores[:, -2], rtol=1e-9)
    assert not found.guide.outside[-1] and abs(found.guide.ranks[:, -1].mean() - 0.5) < limit() / math.sqrt(12 * 300)


def test_a_seed_says_all_and_changes_nothing(linear):
    before = torch.get_rng_state()
    one, same, other = (
        calibrate(linear, ExactPosterior(linear), num_simulated=50, num_samples=20, seed=s, progress=False)
        for s in (3, 3, 4)
    )
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one.guide.ranks, same.guide.ranks)
    assert (one.guide.ranks != other.guide.ranks).all()
    assert dict(one.to_dataset().sizes) == {"datum": 50, "quantity": 5}


def exact_hierarchical(x):
    """z1 | x and z2 | z1, x of `hierarchical_model`: z2 ~ N(0, 2), three x given z2 with variance 1."""
    mean = x.mean(-1, keepdim=True)
    with pyro.plate("data", len(x), dim=-2):
        first = pyro.sample("z1", dist.Normal(mean / (2 + 1 / 3), math.sqrt(1 - 1 / (2 + 1 / 3))))
        pyro.sample("z2", dist.Normal((first + 3 * mean) / 4, 0.5))


def exact_mixture(x):
    """z | x of `mixture_model`, c summed out: a mixture of Gaussians."""
    residual = x[..., None] - MEANS  # [N, 2, 3]
    normal = dist.MultivariateNormal(torch.zeros(2), torch.ones(2, 2) + 0.25 * torch.eye(2))
    logits = normal.log_prob(residual.transpose(-1, -2)) + SHARES.log()
    component = dist.Normal(residual.sum(-2) / 0.25 / 9, torch.tensor(1 / 3).expand(len(x), 3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=logits), component))


def exact_clusters(x):
    with pyro.plate("data", len(x)):
        logits = dist.Normal(MEANS, 1.0).log_prob(x[:, None]) + SHARES.log()
        pyro.sample("c", dist.Categorical(logits=logits))


def exact_isotropic(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)).to_event(1))


@pytest.mark.parametrize(
    ("model", "guide", "shape", "names"),
    [
        (hierarchical_model, exact_hierarchical, (3,), ("z1", "z2")),
        (mixture_model, exact_mixture, (2,), ("z",)),
        (clusters_model, exact_clusters, (), ("c",)),
        (isotropic_model, exact_isotropic, (4,), ("z[0]", "z[1]", "z[2]", "z[3]")),
    ],
)
def test_other_programs_whose_posterior_is_known(model, guide, shape, names):
    """Several sites, one given the other; discrete ones, drawn with ties or summed out; the exact guide passes."""
    found = calibrate(model, guide, torch.randn(7, *shape), **QUIET)
    assert found.names[: len(names)] == names and found.names[len(names)] == "log P(x, z)"
    assert found.is_calibrated and not found.resampled.outside.any()
    np.testing.assert_allclose(found.ess, found.num_samples, rtol=0.01) if model is not clusters_model else None


def wrong_clusters(x):
    with pyro.plate("data", len(x)):
        logits = 0.5 * dist.Normal(MEANS, 1.0).log_prob(x[:, None]) + SHARES.log()
        pyro.sample("c", dist.Categorical(logits=logits))


def test_a_discrete_guide_that_is_wrong():
    found = calibrate(clusters_model, wrong_clusters, torch.randn(7), **QUIET)
    assert not found.is_calibrated and not found.resampled.outside.any()


@pytest.mark.parametrize(
    ("model", "guide", "shape"),
    [
        (inner_mixture_model, inner_mixture_guide, (3,)),
        (two_discrete_model, two_discrete_guide, ()),
        (mean_model, mean_guide, ()),
    ],
)
def test_weights_that_are_right_mend_guides_that_are_not(model, guide, shape):
    """Enumerated sites in plates of their own, or beside sites of the guide: resampled with right weights."""
    found = calibrate(model, guide, torch.randn(7, *shape), num_samples=2000, num_simulated=500, **QUIET)
    assert not found.is_calibrated and not found.resampled.outside.any()


def test_a_masked_latent_is_ranked_where_it_is_there():
    def model(x, mask):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).mask(mask).to_event(1))
            pyro.sample("x", dist.Normal(z * mask, 1.0).to_event(1), obs=x)

    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 * mask, (1 - mask / 2.0) ** 0.5).mask(mask).to_event(1))

    mask = torch.tensor([[1, 1], [1, 0], [1, 0], [0, 1]]).bool()
    found = calibrate(model, guide, (torch.zeros(4, 2), mask), **QUIET)
    assert found.is_calibrated and not found.resampled.outside.any()
    ranks = found.guide.ranks
    assert (
        np.isnan(ranks[:, 0]).sum() == 250 and np.isnan(ranks[:, 1]).sum() == 500 and not np.isnan(ranks[:, 2:]).any()
    )

    def moved(x, mask):
        with pyro.plate("data", len(x)):
            loc = x / 2 * mask + torch.tensor([0.0, 0.4])
            pyro.sample("z", dist.Normal(loc, (1 - mask / 2.0) ** 0.5).mask(mask).to_event(1))

    assert calibrate(model, moved, (torch.zeros(4, 2), mask), **QUIET).guide.outside.tolist()[:2] == [False, True]


def test_a_masked_latent_beside_one_that_is_summed_out():
    """Where all of a datum is masked, z is nothing, and what the guide draws there does not count."""

    def model(x, mask):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(2 * c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    found = calibrate(model, guide, (torch.zeros(4), torch.tensor([1, 0, 1, 1]).bool()), **QUIET)
    assert np.isnan(found.guide.ranks).sum(0).tolist() == [250, 0]
    assert found.guide.outside[0] and not found.resampled.outside[0]


def test_discrete_values_are_tied_whatever_they_are_rounded_to():
    """log P(x, c) of a c that is drawn again is that of the true one but for rounding, which no rank may see."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 50), torch.nn.Tanh(), torch.nn.Linear(50, 300))
    each = network(torch.eye(4)).detach()

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.OneHotCategorical(torch.ones(4) / 4))
            pyro.sample("x", dist.Normal(network(c), 8.0).to_event(1), obs=x)

    def guide(x):
        logits = dist.Normal(each, 8.0).log_prob(x[:, None]).sum(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.OneHotCategorical(logits=logits))

    found = calibrate(model, guide, torch.zeros(10, 300), **QUIET)
    assert found.is_calibrated and not found.resampled.outside.any()


def test_what_the_model_is_given_stays():
    """z ~ N(y, 1), x ~ N(z, 1): the posterior depends on the condition, which is never drawn."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + y) / 2, math.sqrt(0.5)))

    y = 3 * torch.randn(30)
    seen = []
    functions = {"y": lambda z, x, y: seen.append((x, y)) or x - y}
    found = calibrate(model, guide, (y, y), functions=functions, **QUIET)  # x is y, but not its memory
    assert found.is_calibrated
    x, given = seen[-1]
    assert set(given.tolist()) <= set(y.tolist()) and not torch.equal(x, given)


def test_missing_values_stay_missing(linear):
    x = with_mask(torch.randn(50, 6), torch.rand(50, 6) < 0.6)
    found = calibrate(linear, ExactPosterior(linear), x, **QUIET)
    assert found.is_calibrated

    def as_if_complete(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", linear.exact_posterior(torch.nan_to_num(x, nan=2.0)))

    assert not calibrate(linear, as_if_complete, x, **QUIET).is_calibrated


def test_data_that_a_program_lays_out_anew():
    """x [N, 3] is observed as [3, N], and what is missing is masked and filled: both are still the argument x."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 3, dim=-2), pyro.poutine.mask(mask=~x.T.isnan()):
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.nan_to_num(x.T))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            variance = 1 / (1 + (~x.isnan()).sum(-1))
            pyro.sample("z", dist.Normal(variance * x.nansum(-1), variance.sqrt()))

    x = with_mask(torch.randn(20, 3), torch.rand(20, 3) < 0.7)
    found = calibrate(model, guide, x, **QUIET)
    assert found.is_calibrated and not found.resampled.outside.any() and found.ess.min() > 999
    assert found.guide.scores[:, 0].std() > 0.8


def test_programs_that_take_one_batch_dimension(linear):
    """They are given copies of the data; or, where that is not possible, draw one sample in a run."""

    def one_at_a_time(factor):
        def guide(x):
            q = linear.exact_posterior(x)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.MultivariateNormal(q.mean, scale_tril=factor * q.scale_tril))
                return z.reshape(len(x), 3)

        return guide

    for factor, right in ((1.0, True), (1.4, False)):
        with pytest.warns(UserWarning, match="as copies of the data"):
            found = calibrate(linear, one_at_a_time(factor), num_samples=100, **QUIET)
        assert found.is_calibrated is right and not found.resampled.outside.any()


def test_a_plate_that_takes_a_subset_of_all_data(linear):
    with torch.no_grad():
        x = linear(size=64)
    model, guide = subsampled_inside(linear, linear.exact_posterior, 64, 10)
    found = calibrate(model, guide, x, num_samples=100, **QUIET)
    assert len(found) == 1000 and found.is_calibrated
    narrow = subsampled_inside(linear, lambda x: dist.Normal(linear.exact_posterior(x).mean, 0.2).to_event(1), 64, 10)
    assert not calibrate(*narrow, x, num_samples=100, **QUIET).is_calibrated


def test_programs_of_all_the_data_only():
    def model(x):
        with pyro.plate("data", 12):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 12):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    found = calibrate(model, guide, torch.zeros(12), num_samples=100, **QUIET)
    assert len(found) == 1000 and found.is_calibrated


def test_an_auxiliary_draw_of_the_guide_is_integrated_out():
    """Q(z | x) = E_u Q(z | u, x) is the posterior; draws of it are ranked, whatever is known of its density."""

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros(len(x)), 0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x / 2 + u, 0.5))

    assert calibrate(normal_model, guide, torch.zeros(5), **QUIET).is_calibrated


def test_an_automatic_guide():
    found = calibrate(isotropic_model, pyro.infer.autoguide.AutoNormal(isotropic_model), torch.zeros(40, 4), **QUIET)
    assert not found.is_calibrated and found.names[0] == "z[0]"


def test_our_own_programs(digits):
    for model, guide, data in (
        (VAE((1, 8, 8), priors.Mixture(2)), MeanField, None),
        (VAE((1, 8, 8), likelihood=likelihoods.Gaussian()), MeanField, digits.test[:20]),
    ):
        found = calibrate(model, guide(model), data, num_simulated=100, num_samples=50, progress=False)
        assert len(found) == 100 and np.isfinite(found.guide.ranks).all()
    pair = PyroTutorialVAE()
    found = calibrate(pair.model, pair.guide, digits.test.x[:20], num_simulated=100, num_samples=50, progress=False)
    assert found.names[:3] == ("latent[0]", "latent[1]", "latent[2]")


def test_bad_calls(linear):
    guide, x = ExactPosterior(linear), torch.randn(9, 6)
    for options, words in (
        ({"num_simulated": 5}, "num_simulated of at least 20"),
        ({"num_samples": 1}, "num_samples of at least 2"),
        ({"level": 95}, "level to be a number between 0 and 1"),
        ({"functions": [torch.norm]}, "Give a dict of callables"),
        ({"functions": {"z[0]": lambda z, x: x[:, 0]}}, "names of their own"),
        ({"functions": {"all": lambda z, x: z["z"]}}, r"test function 'all'.*one number for each row.*got shape"),
        ({"chunk_size": 0}, "chunk_size"),
    ):
        with pytest.raises(InputError, match=words):
            calibrate(linear, guide, x, **{"num_samples": 20, "num_simulated": 20} | options)


def test_what_cannot_be_calibrated_is_refused():
    def beside(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + 0.5 * torch.randn(len(x)), 0.5))

    def with_factor(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("more", -z.abs())

    def computes(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x / 2 + 1)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    x = torch.randn(9)
    for model, q, words in (
        (normal_model, beside, "random beside its sites.*Draw it by pyro.sample"),
        (with_factor, guide, "pyro.factor .more.*k-hat of estimate_evidence"),
        (computes, guide, "observed site 'x' to be one of the arguments"),
        (clusters_model, lambda x: None, "a guide that samples latents; got none"),
    ):
        with pytest.raises(InputError, match=words):
            calibrate(model, q, x, num_simulated=20, progress=False)
    with pytest.raises(InputError, match=r"Or pass data, .*calibrate\(model, guide, data\)"):
        calibrate(lambda x: normal_model(x[:, 0].sort().values), guide, num_simulated=20)
    with pytest.raises(InputError):
        calibrate(CVAE((1, 8, 8)), guide, num_simulated=20)


def test_draws_where_the_model_has_no_mass():
    """z > 0 in the model, half of the guide's draws below: they have no weight, and ranks are still those of draws."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros(len(x)), 1.0, validate_args=False))
            pyro.sample("x", dist.Normal(z, 0.05), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.clamp(0.06, 0.94), 0.05))

    with pyro.validation_enabled(False):
        try:
            found = calibrate(model, guide, torch.rand(50), **QUIET)
        except InputError as problem:
            assert "support" in str(problem) or "one space" in str(problem)
        else:
            assert not found.resampled.outside[0]


def test_the_figure(linear):
    found = calibrate(linear, scaled(linear, 0.5), num_simulated=100, num_samples=50, progress=False)
    figure = plots.calibration(found, title="a run")
    assert [axes.get_title() for axes in figure.axes] == ["a run, Q", "a run, resampled Q"]
    assert len(figure.axes[0].lines) == len(found.names)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    share = (found.guide.of(0) < 0.25).mean() - 0.25
    assert lines["z[0]"][25] == pytest.approx(share)


def test_the_command(run, tmp_path):
    small = ("--epochs", 1, "--num-samples", 5, "--set", "decoder.hidden=8", "--set", "encoder.hidden=8")
    run("train", "vae", "--out", "r", *small)
    code, out, err = run("calibrate", "r", "--num-simulated", 50, "-k", 30, "--level", 0.9)
    assert code == 0, err
    assert "Calibration of Q(z | x) on 50 (z, x)" in out and "Resampled by importance" in out
    assert (tmp_path / "r/calibration.txt").read_text().startswith("Calibration of Q(z | x)")
    assert (tmp_path / "r/figures/calibration.png").exists()
    assert run("calibrate", "r", "--level", 2)[0] == 2


def test_what_is_closer_than_rounding_is_a_tie():
    """log P of a draw that is the true z, rounded otherwise: as often above as below, by the random place alone."""
    true = torch.full((4000, 2), -100.0, dtype=torch.double)
    values = (true - torch.tensor([0.0, 1e-5])).expand(20, -1, -1)
    with seeded(0):
        found = _ranked(["z", LOG_JOINT], values, true, torch.ones(4000, 2).bool(), torch.zeros(20, 4000).double())
    assert all(inside_band(ranks, SURE) for ranks in (*found.ranks.T, *found.resampled_ranks.T))
