"""Whether proposals reach the posterior, asked of data that the model draws: each z is an exact draw of P(z | x).

    P(w(z) > K P(x))  is small for z ~ P(z | x)    where K samples with weights w find all of P(x)

A z that would outweigh all K samples lies where the proposal hardly goes. Whether annealing comes there is seen by
going the way back from that z: both bounds on log P(x) meet, or something is missed that no sample shows. The lower one
is what the guide says of a datum that it answers: nobody anneals that.

Source: Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte Carlo, arXiv 1511.02543.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.evidence.bridge import Bridge
from ppl_vae.evidence.diagnostics import doubtful_weights, estimates, pareto
from ppl_vae.evidence.hmc import FAILURES
from ppl_vae.evidence.laplace import Fitted, Laplace
from ppl_vae.evidence.prepare import Chunk
from ppl_vae.evidence.simulated import simulate
from ppl_vae.evidence.surface import both
from ppl_vae.utils.report import Array

NUM_SIMULATED = 40
NUM_SAMPLES = 512  # that say what P(x) of a simulated datum seems to be
MARGIN = -4.0  # nats above log K: what K draws come to once is missed by the draws of many data
NUM_CHAINS = 16
TEMPERATURES = (20, 80)  # of a first way, on which most bounds meet, and of that of the rest
OPEN = 1.0  # nats between the bounds
SURELY = 100.0  # nats, where one of them is infinite


class Reach(NamedTuple):
    """How many simulated data were looked at, of how many a part of the posterior is missed, and how much of log P."""

    num_simulated: int
    num_missed: int
    lost: float  # nats, in the mean over all of them


def reach(laplace: Laplace, num_samples: int, *, joint: bool, by_guide: bool) -> Reach | None:
    """Return how many posteriors of simulated data are missed in part; None where the model's data cannot be drawn.

    Args:
        laplace: what fits mixtures.
        num_samples: K of the estimates.
        joint: whether conditions are drawn and scored, too.
        by_guide: whether the guide alone answers where its samples look well.
    """
    prepared, surface = laplace.prepared, laplace.surface
    many = min(NUM_SIMULATED, len(prepared.source))
    chunk = prepared.evenly(NUM_SIMULATED) if prepared.divisible else next(prepared.chunks(many))
    try:
        found = simulate(prepared.pair, chunk, prepared.structure, joint=joint, otherwise="")
    except InputError:
        return None
    except FAILURES:  # draws that rounding has put outside of the support
        return None
    chunk, u = found.chunk, surface.prior.of(chunk).flatten(found.sites, 1)
    try:
        apart = _missed(laplace, chunk, u, num_samples, by_guide)
        return Reach(chunk.num_data, int((apart > 0).sum()), float(apart.sum()) / chunk.num_data)
    except FAILURES:
        return None


def _missed(laplace: Laplace, chunk: Chunk, u: Tensor, num_samples: int, by_guide: bool) -> Array:
    """Return how many nats log P(x) is too low by of those data of which a part of the posterior is missed."""
    fitted = laplace.fit(chunk)
    log_joint, log_guide = laplace.surface(both, chunk, u)
    adapted = laplace.adapted(chunk, fitted, NUM_SAMPLES // 2)
    weights, _ = laplace.weigh(chunk, adapted, NUM_SAMPLES)
    log_px = torch.logsumexp(weights, 0) - math.log(NUM_SAMPLES)
    log_q = laplace.log_q(adapted, u, log_guide)
    excess, answer = (log_joint - log_q)[0] - log_px, torch.full_like(log_px, math.inf)
    if by_guide:
        plain = laplace.weigh_by_q(chunk, NUM_SAMPLES).cpu().numpy()
        numbers = estimates(plain) | pareto(plain)
        heavy, few = doubtful_weights(numbers["ess"], numbers["khat"], NUM_SAMPLES)
        of_guide = torch.from_numpy(numbers["log_px"]).to(log_px)
        lost = laplace.missed(chunk, fitted, of_guide, num_samples)
        trusted = torch.from_numpy(~(heavy | few)).to(lost.device) & ~lost
        excess = torch.where(trusted, (log_joint - log_guide)[0] - of_guide, excess)
        answer = torch.where(trusted, of_guide, answer)
    outside = (excess > math.log(num_samples) + MARGIN) | excess.isnan()
    outside[chunk.num_data :] = False
    if not bool(outside.any()):
        return np.zeros(0)
    rows = outside.nonzero()[:, 0] if laplace.prepared.divisible else torch.arange(chunk.size, device=u.device)
    part = chunk.select(rows) if laplace.prepared.divisible else chunk
    found = adapted.select(rows)
    if laplace.small:  # as is done with data in doubt
        found = laplace.filled(part, found)
    answers = torch.where(outside, answer, math.nan)[rows].cpu().numpy()
    return _open(laplace, part, found, u[:, rows], answers)


def _open(laplace: Laplace, chunk: Chunk, fitted: Fitted, u: Tensor, answers: Array) -> Array:
    """Return how far apart both bounds on log P(x) stay for those data for which they do not meet, in nats.

    The lower one is no higher than the answer that a datum has: infinity of one that is annealed, NaN is not asked for.
    """
    wanted = ~np.isnan(answers)
    for num_temperatures in TEMPERATURES:
        bridge = Bridge(laplace, chunk, fitted, NUM_CHAINS, num_temperatures)
        there = estimates(bridge.forward().log_weights.cpu().numpy())
        back = estimates(bridge.backward(u).log_weights.cpu().numpy())
        lower = np.minimum(there["log_px"], answers)
        apart, error = -back["log_px"] - lower, 2 * np.hypot(there["mcse"], back["mcse"])
        left = wanted & ~(apart + error <= OPEN)
        if not left.any():
            break
        if laplace.prepared.divisible and num_temperatures != TEMPERATURES[-1]:
            kept = torch.from_numpy(np.flatnonzero(left)).to(u.device)
            chunk, fitted, u = chunk.select(kept), fitted.select(kept), u[:, kept]
            wanted, answers = wanted[left], answers[left]
    surely = apart - error
    missed = wanted & ((surely > OPEN) | ~np.isfinite(surely))
    return np.where(np.isfinite(surely), surely, SURELY)[missed]
