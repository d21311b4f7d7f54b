"""What the verdict recommends was tried on some of the doubtful data, and kept with the estimate."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pairs import isotropic_model

from ppl_vae import estimate_evidence
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.numbers import Trial


def off(x):
    """The exact posterior, but far off for the first third of the data: refined it is right."""
    with pyro.plate("data", len(x)):
        shift = 3.0 * (x[:, :1] > 0.5)
        pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5).to_event(1))


def heavy(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Cauchy(torch.zeros(40), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1000.0).to_event(1), obs=x)


def light(x):
    """No Gaussian is any help: its tails are too light."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 40), 1.5).to_event(1))


def test_what_helps_is_recommended_and_the_numbers_stay(tmp_path):
    x = torch.randn(300, 4)
    evidence = estimate_evidence(isotropic_model, off, x, method="importance", num_samples=1000, progress=False)
    assert evidence.tried["refined"] == Trial(10, 10, True)
    said = evidence.verdict()
    assert "For them alone, use proposal='refined' (of 10 tried it mended 10), or use method='auto'." in said
    assert "raise num_samples" not in said.lower()  # four times as many find as little
    assert "Of no help where they were tried: more samples." in said
    again = estimate_evidence(
        isotropic_model, off, x, method="importance", num_samples=1000, proposal="refined", progress=False
    )
    assert len(again.doubts()) < len(evidence.doubts()) / 10
    evidence.save(tmp_path / "e.nc")
    loaded = Evidence.load(tmp_path / "e.nc")
    assert (loaded.tried, loaded.verdict()) == (evidence.tried, evidence.verdict())
    without = estimate_evidence(
        isotropic_model, off, x[:20], method="importance", num_samples=1000, progress=False
    )  # too little to pay for a trial
    assert without.tried == {} and "refined" not in without.verdict()


def test_where_nothing_helps_the_verdict_says_so():
    x = 1000 * torch.randn(300, 40)
    evidence = estimate_evidence(heavy, light, x, method="importance", num_samples=1000, progress=False)
    assert len(evidence.doubts()) > 200
    assert evidence.tried and not any(trial.helps for trial in evidence.tried.values())
    said = evidence.verdict()
    assert "Use method='auto', or a better guide. Of no help where they were tried: more samples, proposal=" in said


def test_random_numbers_are_those_without_a_trial():
    torch.manual_seed(7)
    x = torch.randn(300, 4)
    before = torch.get_rng_state()
    evidence = estimate_evidence(isotropic_model, off, x, method="importance", num_samples=1000, progress=False)
    assert evidence.tried and torch.equal(torch.get_rng_state(), before)
    short = dict(num_samples=1000, num_temperatures=2, num_chains=8, num_leapfrog=1, progress=False)
    annealing = estimate_evidence(isotropic_model, off, x, method="ais", **short)
    np.testing.assert_array_equal(annealing.diagnostics["log_px_importance"], evidence.log_px)
    assert annealing.tried == {}
