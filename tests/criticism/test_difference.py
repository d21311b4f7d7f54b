"""Differences in log P(x), in parts: against closed forms, quadrature, and what must be refused or told."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds import check_errors, check_log_px, limit
from pairs import (
    MEANS,
    SHARES,
    mixture_guide,
    mixture_log_px,
    mixture_model,
    no_guide,
    normal_model,
    off_by,
)
from ppl_vae.guides import Conditional, NoLatents
from ppl_vae.guides import LinearGaussian as ExactPosterior
from ppl_vae.models import CVAE, LinearGaussian, Regressor
from tiny import IMAGES, LABELS, QUICK, SHAPE, SMALL

import ppl_vae
from ppl_vae import InputError, estimate_evidence, explain_difference, plots, priors
from ppl_vae.conditions import Label

PARTS = ("reconstruction", "latents", "gap")
QUIET = {"progress": False}
PLAIN = {"method": "importance"} | QUIET  # where how log P(x) is estimated is not what is tested


def exact_parts(model, x, offset, factor):
    """The three parts of log P(x) of `off_by` from the Gaussians' formulas, in NumPy, {name: [N]}."""
    with torch.no_grad():
        loading, bias, variance = (t.double().numpy() for t in model.weights())
    residual = x.flatten(1).double().numpy() - bias
    size, latent = loading.shape
    precision = loading.T @ loading / variance + np.eye(latent)
    posterior = np.linalg.inv(precision)
    mean = residual @ loading @ posterior / variance + offset
    covariance = factor**2 * posterior
    off = ((residual - mean @ loading.T) ** 2).sum(1) + np.trace(loading @ covariance @ loading.T)
    kl = 0.5 * (np.trace(covariance) + (mean**2).sum(1) - latent - np.linalg.slogdet(covariance)[1])
    shift = np.full(latent, offset)
    gap = 0.5 * (latent * factor**2 - latent + shift @ precision @ shift - 2 * latent * np.log(factor))
    return {
        "reconstruction": -0.5 * (size * np.log(2 * np.pi * variance) + off / variance),
        "latents": -kl,
        "gap": np.full(len(x), gap),
    }


@pytest.fixture
def two_pairs(linear_gaussian):
    """Two linear-Gaussian models with guides that are off, and 64 data of the first."""
    model, x = linear_gaussian
    other = LinearGaussian((20,), latent_dim=3, sigma=0.9)
    wrong = [(0.3, 1.2), (0.1, 0.9)]
    return x, [(m, off_by(m, *how)) for m, how in zip((model, other), wrong, strict=True)], wrong


def check_adds_up(found):
    total = found.reconstruction + found.latents + found.gap
    np.testing.assert_allclose(total, found.log_px, rtol=0, atol=1e-12 * np.abs(found.a.log_px).max())
    for side in (found.a, found.b):
        np.testing.assert_allclose(side.reconstruction + side.latents + side.gap, side.log_px, rtol=1e-14)


def test_all_parts_against_the_closed_form(two_pairs):
    x, pairs, wrong = two_pairs
    found = explain_difference(*pairs, data=x, num_samples=2000, **QUIET)
    before, after = (exact_parts(model, x, *how) for (model, _), how in zip(pairs, wrong, strict=True))
    for (model, _), parts in zip(pairs, (before, after), strict=True):  # the formulas against the model's own
        np.testing.assert_allclose(sum(parts.values()), model.exact_log_px(x).detach().numpy(), rtol=1e-4)
    check_adds_up(found)
    for name in PARTS:
        exact = after[name] - before[name]
        check_errors(getattr(found, name), exact, found.mcse(name), slack=5e-3)
        mean = found.means()[name]
        assert abs(mean.value - exact.mean()) <= limit() * mean.mcse + 5e-3
        assert mean.se == pytest.approx(np.std(getattr(found, name), ddof=1) / 8)
    for side, (model, _) in zip((found.a, found.b), pairs, strict=True):
        check_log_px(side.log_px, side.mcse, model.exact_log_px(x).detach(), 2000)


def test_the_stated_errors_are_the_spread_of_repeated_estimates(two_pairs):
    """Each number's own: parts of one pair share samples, and the gap has log P(x) from others."""
    x, pairs, _ = two_pairs
    options = {"num_samples": 300, "method": "importance"} | QUIET
    runs = [explain_difference(*pairs, data=x[:4], **options, seed=seed) for seed in range(60)]
    for name in ("log_px", *PARTS):
        values, stated = np.array([getattr(run, name) for run in runs]), np.array([run.mcse(name) for run in runs])
        # A variance of 60 nearly normal numbers, 4 data: relative error sqrt(2 / 59) each, 4 names.
        ratio = values.var(0, ddof=1) / (stated**2).mean(0)
        assert abs(ratio - 1).max() <= limit(16) * math.sqrt(2 / 59), name


def nonlinear_model(scale):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Laplace(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.sin(2 * z) + scale * z, 0.5), obs=x)

    return model


def wide_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.StudentT(6.0, 0.5 * x, 1.2))


def quadrature_parts(x, scale):
    """The parts by a sum over a fine grid of z, in NumPy and SciPy alone."""
    from scipy import stats

    z = np.linspace(-60, 60, 240_001)[:, None]
    likelihood = stats.norm.logpdf(x, np.sin(2 * z) + scale * z, 0.5)
    prior, q = stats.laplace.logpdf(z), stats.t.logpdf(z, 6, 0.5 * x, 1.2)
    step = 120 / 240_000
    log_px = np.log((np.exp(likelihood + prior)).sum(0) * step)
    reconstruction, latents = ((np.exp(q) * part).sum(0) * step for part in (likelihood, prior - q))
    return {"reconstruction": reconstruction, "latents": latents, "gap": log_px - reconstruction - latents}


def test_a_nonlinear_pair_against_quadrature():
    x = torch.linspace(-3, 3, 12)
    pairs = [(nonlinear_model(scale), wide_guide) for scale in (0.5, 1.5)]
    found = explain_difference(*pairs, data=x, num_samples=20_000, names=("flat", "steep"), **PLAIN)
    before, after = (quadrature_parts(x.double().numpy(), scale) for scale in (0.5, 1.5))
    check_adds_up(found)
    for name in PARTS:
        check_errors(getattr(found, name), after[name] - before[name], found.mcse(name), slack=1e-3)


def test_latents_that_are_summed_out_are_part_of_the_likelihood():
    """One pair draws z and sums c out, the other sums out all it has: its parts are log P(x), 0 and 0."""

    def clusters(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(MEANS[c][..., None], 1.0).expand([*c.shape, 2]).to_event(1), obs=x)

    x = 3 * torch.randn(20, 2)
    found = explain_difference(
        (mixture_model, mixture_guide),
        (clusters, no_guide),
        data=x, num_samples=4000, names=("z", "no z"), **PLAIN,
    )  # fmt: skip
    check_adds_up(found)
    exact = torch.logsumexp(dist.Normal(MEANS, 1.0).log_prob(x[..., None]).sum(1) + SHARES.log(), -1)
    np.testing.assert_allclose(found.b.reconstruction, exact, atol=1e-4)
    np.testing.assert_allclose([found.b.latents, found.b.gap], 0, atol=1e-4)
    check_log_px(found.a.log_px, found.a.mcse, mixture_log_px(x), 4000)
    # The guide is N(0, 1.5^2), the prior N(0, 1): what it pays does not depend on x.
    paid = 0.5 * (1.5**2 - 1 - 2 * math.log(1.5))
    check_errors(found.a.latents, -paid, found.a.latents_mcse, slack=1e-3)


def test_a_pair_against_itself_differs_by_noise_only(two_pairs):
    x, (pair, _), _ = two_pairs
    found = explain_difference(pair, pair, data=x, num_samples=500, names=("one", "again"), **PLAIN)
    check_adds_up(found)
    for name in PARTS:
        check_errors(getattr(found, name), 0, found.mcse(name), slack=1e-3)
    # One estimate twice is the same one; its parts are drawn anew.
    assert found.log_px.tolist() == [0.0] * len(x) and (found.gap != 0).all()
    assert "again is one again" in found.verdict()


def test_what_is_said(two_pairs):
    x, pairs, _ = two_pairs
    found = explain_difference(*pairs, data=x, num_samples=500, names=("four", "three"), **PLAIN)
    means, text = found.means(), str(found)
    assert f"three is {abs(means['log_px'].value):.2f} nats worse than four" in found.verdict()
    for name, words in (("reconstruction", "reconstruction"), ("latents", "latents (KL)"), ("gap", "gap")):
        assert f"{means[name].value:+.2f} {words}" in found.verdict()
    table, most = found.to_frame(), found.largest(3)
    assert len(table) == len(x) and most.index[0] == int(np.abs(found.log_px).argmax())
    assert f"{most.index[0]} by {most['log_px'].iloc[0]:+.2f}" in text
    for _, row in table.iterrows():  # the part that moved most, in the direction of the whole
        shares = row[list(PARTS)].astype(float) * np.sign(row["log_px"])
        assert row["part"] == shares.idxmax()


def test_doubts_of_either_are_told():
    """A guide that is too narrow for one pair: the difference is not to be believed."""
    model = LinearGaussian((20,), latent_dim=4, sigma=0.7)
    x = model(size=64).detach()
    found = explain_difference(
        (model, off_by(model, 0, 0.3)),
        (model, ExactPosterior(model)),
        data=x,
        names=("narrow", "exact"),
        method="importance",
        **QUIET,
    )
    assert found.doubtful.sum() > 32 and found.verdict().startswith("Not to be believed, as log P(x) by narrow is not")
    assert f"{int(found.doubtful.sum())} of 64 data are in doubt" in str(found)
    few = explain_difference(
        (model, off_by(model, 0, 1.1)), (model, ExactPosterior(model)), data=x, num_samples=10, **QUIET
    )
    assert few.verdict().startswith("Cannot be judged")


def test_evidence_that_was_made_before_is_taken(two_pairs):
    x, pairs, _ = two_pairs
    both = [estimate_evidence(*pair, x, num_samples=200, **PLAIN) for pair in pairs]
    found = explain_difference(*pairs, data=x, evidence=both, num_samples=50, **PLAIN)
    np.testing.assert_array_equal(found.log_px, both[1].log_px - both[0].log_px)
    assert found.num_samples == 50
    with pytest.raises(InputError, match="got one on others"):
        explain_difference(*pairs, data=x + 1, evidence=both, **PLAIN)
    with pytest.raises(InputError, match="evidence of both"):
        explain_difference(*pairs, data=x, evidence=both[:1], **PLAIN)
    with pytest.raises(InputError, match="does not hold the parts"):
        explain_difference(*both, data=x)


def test_conditional_models_and_one_without_latents():
    cvae = CVAE(SHAPE, Label(3), priors.StandardNormal(2), **SMALL)
    pair = (cvae, Conditional(cvae))
    found = explain_difference(pair, pair, data=(IMAGES, LABELS), num_samples=50, names=("a", "b"), **PLAIN)
    check_adds_up(found)
    assert found.quantity == "log P(x | y)" and "E_Q log P(x | z)" in str(found)
    joint = explain_difference(pair, pair, data=(IMAGES, LABELS), num_samples=50, names=("a", "b"), joint=True, **PLAIN)
    assert joint.quantity == "log P(x, y)"
    check_adds_up(joint)
    regressor = Regressor(SHAPE, **SMALL)
    exact = explain_difference(
        (regressor, NoLatents(regressor)), (regressor, NoLatents(regressor)),
        data=(IMAGES,), num_samples=20, names=("a", "b"), **PLAIN,
    )  # fmt: skip
    assert exact.b.latents.tolist() == exact.b.gap.tolist() == [0.0] * len(IMAGES)


def test_levels_beside_dequantized_levels(tmp_path):
    """The reconstruction of dequantized levels takes D log L, as `compare` does."""
    settings = {"fit.epochs": 1, "decoder.hidden": (8,), "encoder.hidden": (8,)}
    how = {"levels": ("discretized_logistic", {}), "dequantized": ("gaussian", {"data.dequantize": "uniform"})}
    levels, dequantized = (
        ppl_vae.train("vae", likelihood=likelihood, settings=settings | more, num_samples=30, out=tmp_path / n, **PLAIN)
        for n, (likelihood, more) in how.items()
    )
    found = explain_difference(levels, dequantized, **QUIET)
    assert dequantized.evidence.scored == "dequantized" and levels.evidence.scored == "probability"
    shift = dequantized.evidence.to_levels
    np.testing.assert_allclose(found.log_px, dequantized.evidence.log_px + shift - levels.evidence.log_px)
    check_adds_up(found)
    error = np.hypot(found.b.gap_mcse, dequantized.evidence.elbo_mcse)
    check_errors(found.b.elbo, dequantized.evidence.elbo + shift, error, dof=29, slack=1e-3)
    table = ppl_vae.compare([levels, dequantized])
    assert abs(found.means()["log_px"].value) == pytest.approx(table["log_px_diff"].max())


def test_data_that_a_model_rules_out_have_no_parts():
    def bounded(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.1))

    x = torch.tensor([0.1, 0.2, -0.3, 50.0])
    found = explain_difference((normal_model, guide), (bounded, guide), data=x, names=("normal", "uniform"), **PLAIN)
    assert found.whole.tolist() == [True, True, True, False] and found.part[3] == ""
    assert "1 data are left out of all means" in str(found)
    check_errors((found.reconstruction + found.latents + found.gap)[:3], found.log_px[:3], 0, slack=1e-9)
    assert len(found.largest(10)) == 3


def test_what_is_refused(two_pairs):
    x, (one, other), _ = two_pairs
    for arguments, options, words in (
        ((one, other), {}, "Expected data for pairs"),
        ((one, other), {"data": x, "num_samples": 1}, "num_samples of at least 2"),
        (((one[0], None), other), {"data": x}, "None for the guide"),
        ((one[0], other), {"data": x}, r"explain_difference\(\(model, guide\)"),
        ((one, other), {"data": x, "names": ("a", "a")}, "two names that differ"),
        ((one, other), {"data": x, "methode": "ais"}, "no option methode"),
    ):
        with pytest.raises(InputError, match=words):
            explain_difference(*arguments, **options, **QUIET)


def test_the_figure(two_pairs):
    x, pairs, _ = two_pairs
    found = explain_difference(*pairs, data=x, num_samples=50, **PLAIN)
    left, right = plots.difference(found).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx(
        [m.value for m in reversed(found.means().values())]
    )
    heights = np.array([bar.get_height() for bar in right.patches[:-1]]).reshape(3, -1)  # the last is the line
    order = np.argsort(found.log_px, kind="stable")
    expected = [found.log_px[group].mean() for group in np.array_split(order, heights.shape[1])]
    np.testing.assert_allclose(heights.sum(0), expected, atol=1e-9)
    pictures = torch.rand(64, 1, 5, 4)
    assert len(plots.difference(found, pictures, count=3).axes) == 2 + 6
    with pytest.raises(InputError, match="64 images"):
        plots.difference(found, x)


def test_runs_and_the_command_line(run, tmp_path):
    for prior in ("standard_normal", "mixture"):
        assert run("train", "vae", "--prior", prior, *QUICK, "--out", prior)[0] == 0
    code, out, _ = run("diff", "standard_normal", "mixture", "--figure", "why.png", "--out", "why.csv")
    assert code == 0 and "log P(x) by mixture minus log P(x) by standard_normal, 300 data" in out
    assert (tmp_path / "why.png").stat().st_size > 10_000
    lines = (tmp_path / "why.csv").read_text().splitlines()
    assert len(lines) == 301 and lines[0].startswith("datum,log_px,reconstruction,latents,gap,")
    kept = [ppl_vae.load(tmp_path / name).evidence for name in ("standard_normal", "mixture")]
    found = explain_difference("standard_normal", "mixture", **QUIET)
    np.testing.assert_array_equal(found.log_px, kept[1].log_px - kept[0].log_px)  # those of the folders
    code, out, _ = run("diff", "standard_normal", "mixture", "--num-data", 20, "-k", 30, "--split", "validation")
    assert code == 0 and "20 data" in out and "K = 30" in out
    run("train", "vae", *QUICK, "--set", "data.binarize=threshold", "--out", "hard")
    code, _, err = run("diff", "mixture", "hard")
    assert code == 2 and "same data" in err
    assert run("train", "vae", *QUICK, "--seeds", 2, "--out", "several")[0] == 0
    code, _, err = run("diff", "mixture", "several")
    assert code == 2 and "folder of one run" in err
