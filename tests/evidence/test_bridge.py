"""The way from a mixture to the posterior and back: bounds on log P(x) from both sides, and what they reach."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from bounds import check_log_px
from ppl_vae.guides import MeanField
from ppl_vae.models import LinearGaussian

from ppl_vae import estimate_evidence
from ppl_vae.evidence import reach as reach_module
from ppl_vae.evidence.bridge import Bridge
from ppl_vae.evidence.diagnostics import estimates
from ppl_vae.evidence.laplace import Laplace
from ppl_vae.evidence.prepare import prepared
from ppl_vae.evidence.reach import reach
from ppl_vae.utils.threads import Threads


def test_both_ways_meet_at_the_closed_form():
    torch.manual_seed(0)
    model = LinearGaussian((20,), latent_dim=4, sigma=0.5)
    with torch.no_grad():
        x = model(size=40)
        truth = model.exact_log_px(x).numpy()
        z = model.exact_posterior(x).sample((1,))
    with prepared(model, MeanField(model), x, proposal="guide", seed=0) as ready, Threads(1) as threads:
        laplace = Laplace(ready, "guide", False, threads)
        chunk = next(laplace.prepared.chunks(40))
        bridge = Bridge(laplace, chunk, laplace.fit(chunk), 16, 40)
        forward, backward = bridge.forward(), bridge.backward(z)
    there, back = (estimates(annealed.log_weights.numpy()) for annealed in (forward, backward))
    check_log_px(there["log_px"], there["mcse"], truth, 16)
    check_log_px(back["log_px"], back["mcse"], -truth, 16)
    assert abs(there["log_px"] - truth).mean() < 0.1
    assert 0.3 < float(forward.acceptance.mean()) < 0.95


def reached(model, guide, x):
    with prepared(model, guide, x, proposal="guide", seed=0) as ready, Threads(1) as threads:
        return reach(Laplace(ready, "guide", False, threads), 1000, joint=False, by_guide=True)


def slab(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))


def spike(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        means = torch.stack([z, torch.zeros_like(z)], -2)
        either = dist.Normal(means, torch.tensor([0.003, 3.0])[:, None].expand(2, 3)).to_event(1)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), either), obs=x)


def test_simulated_data_show_a_part_of_the_posterior_that_is_missed():
    """Half of the data come from the spike: of 40, fewer than 5 do so once in a million."""
    found = reached(spike, slab, torch.randn(10, 3))
    assert found.num_simulated == 40 and found.num_missed >= 5


def test_the_long_way_is_gone_by_those_data_alone_whose_bounds_do_not_meet(monkeypatch):
    ways = []

    class Noted(Bridge):
        def __init__(self, laplace, chunk, *options):
            ways.append((options[-1], chunk.size))
            super().__init__(laplace, chunk, *options)

    monkeypatch.setattr(reach_module, "Bridge", Noted)
    found = reached(spike, slab, torch.randn(10, 3))
    (short, many), (long, few) = ways
    assert (short, long) == reach_module.TEMPERATURES
    assert found.num_missed <= few <= many

    ways.clear()
    monkeypatch.setattr(reach_module, "MARGIN", -torch.inf)  # all data are looked at: of most the bounds meet at once
    model = LinearGaussian((20,), latent_dim=4)
    assert reached(model, MeanField(model), model(size=10).detach()) == (40, 0, 0.0)
    assert ways.pop(0) == (reach_module.TEMPERATURES[0], 40)
    assert not ways or (len(ways) == 1 and 0 < ways[0][1] < 20)  # of 40, one in 1 of 20 seeds


def test_nothing_is_missed_of_posteriors_that_are_known(linear_gaussian):
    model, x = linear_gaussian
    for guide in (MeanField(model), slab_of(4)):
        assert reached(model, guide, x) == (40, 0, 0.0)


def slab_of(size):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), size), 1.0).to_event(1))

    return guide


def test_a_model_whose_data_cannot_be_drawn_is_not_tried_and_it_is_said():
    def scored(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.factor("x", dist.Normal(z, 1.0).log_prob(x).sum(-1))

    x = torch.randn(10, 3)
    assert reached(scored, slab, x) is None
    evidence = estimate_evidence(scored, slab, x)
    truth = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1).numpy()
    check_log_px(evidence.log_px, evidence.mcse, truth, np.maximum(evidence.diagnostics["draws"], 2))
    assert "was not tried" in evidence.verdict()
