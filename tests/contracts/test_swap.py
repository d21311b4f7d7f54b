"""One contract over every prior x likelihood x guide: a new part is one class on its shelf and one row here.

Each pair of a tiny VAE is held against Pyro alone (its ELBO, its traces) and against estimates that use other parts of
it: log P(x) from draws of the prior never sees the guide, so that a density that does not belong to its draws shows.
"""

import math

import numpy as np
import pyro
import pytest
import torch
from bounds import check_log_px, limit
from contracts.rows import CASES, EVENT_SHAPE, LATENT_DIM, NUM_CHAINS, NUM_DATA, NUM_SAMPLES, make
from pyro import poutine
from pyro.infer import Trace_ELBO
from safetensors.torch import load, save

from ppl_vae.evidence.ais import AnnealingPath, anneal, schedule
from ppl_vae.evidence.diagnostics import estimates
from ppl_vae.evidence.hmc import with_gradients
from ppl_vae.evidence.prepare import prepared
from ppl_vae.evidence.tempered import Latents
from ppl_vae.traces.log_weights import draw
from ppl_vae.utils.rng import seeded


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_pair(case):
    torch.manual_seed(0)
    model, guide = make(*case)
    with torch.no_grad():
        x = model(size=NUM_DATA)
    assert x.shape == (NUM_DATA, *EVENT_SHAPE)
    assert torch.isfinite(x).all()
    with prepared(model, guide, x, proposal="guide", seed=0) as work:
        check_saved(model, guide, make(*case), x)
        check_plates(model, guide, x)
        chunk = next(work.chunks(NUM_DATA))
        sides = [Latents(work.pair, chunk, work.structure, proposal) for proposal in ("prior", "guide")]
        exact = check_draws_of_both(*sides)
        check_elbo(work, chunk, sides[1], exact)
        check_annealed(*sides, exact)
        with torch.enable_grad():
            check_gradients(model, guide, x)


def check_saved(model, guide, others, x):
    """The same numbers after saving and loading into a pair that was made anew, with other weights."""
    for program, twin in zip((model, guide), others, strict=True):
        twin.load_state_dict(load(save(program.state_dict())))
        twin.eval()
    losses = []
    for programs_ in ((model, guide), others):
        with seeded(1):
            losses.append(Trace_ELBO().loss(*programs_, x))
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0])


def check_plates(model, guide, x):
    """Draws and log-probabilities under one more plate, to the left of the data."""
    with pyro.plate("samples", 5, dim=-2):
        guided = poutine.trace(guide).get_trace(x)
        scored = poutine.trace(poutine.replay(model, trace=guided)).get_trace(x)
        drawn = poutine.trace(model).get_trace(size=NUM_DATA)
    batch = (5, NUM_DATA)
    for trace, names in ((guided, "z"), (scored, "zx"), (drawn, "zx")):
        trace.compute_log_prob()
        for name in names:
            site, shape = trace.nodes[name], {"z": (LATENT_DIM,), "x": EVENT_SHAPE}[name]
            assert site["fn"].event_shape == shape
            assert site["log_prob"].shape == batch
            assert torch.isfinite(site["log_prob"]).all()
            assert site["value"].shape == (*(batch[1:] if site["is_observed"] else batch), *shape)
    for trace in (guided, drawn):
        assert len(trace.nodes["z"]["value"].flatten(0, 1).unique(dim=0)) == math.prod(batch)


def check_draws_of_both(from_prior, from_guide):
    """log P(x) by draws of the prior alone; the same by draws of both, weighed by the mixture of both.

    These weights, P(x, z) / (P(z) / 2 + Q(z | x) / 2), are bounded wherever Q lies, and their mean is P(x) only if Q
    is the density of its draws.
    """
    _, log_likelihood = from_prior(from_prior.draw(NUM_SAMPLES))
    exact = estimates(log_likelihood.double().numpy())
    u = torch.cat([side.draw(NUM_SAMPLES) for side in (from_prior, from_guide)])
    (p, ratio), (q, other) = from_prior(u), from_guide(u)
    torch.testing.assert_close(p + ratio, q + other, rtol=1e-3, atol=1e-3)  # both are log P(x, z)
    log_mixture = torch.logaddexp(p, q) - math.log(2)
    mixed = estimates((p + ratio - log_mixture).double().numpy())
    alike(mixed, exact, NUM_SAMPLES)
    return exact


def alike(one, other, num_draws):
    check_log_px(one["log_px"], np.hypot(one["mcse"], other["mcse"]), other["log_px"], num_draws, slack=0.01)


def check_elbo(work, chunk, from_guide, exact):
    """Pyro's ELBO, the mean of the log-weights and what annealing starts from are one thing, below log P(x)."""
    elbo = Trace_ELBO(num_particles=NUM_SAMPLES, vectorize_particles=True, max_plate_nesting=1)
    with seeded(2):
        log_weights = draw(work.pair, chunk.args, NUM_SAMPLES, work.structure).log_weights
    with seeded(2):
        _, ratio = from_guide(from_guide.draw(NUM_SAMPLES))
    with seeded(2):
        by_pyro = -elbo.loss(work.pair.model, work.pair.guide, *chunk.args)
    torch.testing.assert_close(ratio, log_weights, rtol=1e-3, atol=1e-3)
    # On the scale of what is summed: terms of both signs may add up to next to nothing.
    scale = float(log_weights.abs().mean(0).sum())
    assert by_pyro == pytest.approx(float(log_weights.mean(0).sum()), abs=1e-3 * scale)
    found = estimates(log_weights.double().numpy())
    error = np.hypot(exact["mcse"], found["elbo_mcse"])
    assert (found["elbo"] < exact["log_px"] + limit(NUM_DATA) * error).all()


def check_annealed(from_prior, from_guide, exact):
    """Annealing from the prior gives log P(x); from the guide, whose weights have no bound here, it moves."""
    betas = schedule(2)
    plan = AnnealingPath(betas, torch.full((len(betas), NUM_DATA), 0.1), 2)
    for side in (from_prior, from_guide):
        evaluate = with_gradients(side)
        annealed = anneal(evaluate, evaluate(side.draw(NUM_CHAINS)), plan, lambda: None)
        assert annealed.log_weights.shape == (NUM_CHAINS, NUM_DATA)
        assert torch.isfinite(annealed.log_weights).all()
        assert (annealed.acceptance > 0).all()
        if side is from_prior:
            alike(estimates(annealed.log_weights.numpy()), exact, NUM_CHAINS)


def check_gradients(model, guide, x):
    Trace_ELBO().differentiable_loss(model, guide, x).backward()
    for program in (model, guide):
        for name, parameter in program.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        assert any(parameter.grad.any() for parameter in program.parameters())
