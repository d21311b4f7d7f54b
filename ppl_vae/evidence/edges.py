"""Posteriors at the edge of a bounded support, where the numbers of a computer are too coarse to say what z is.

Below 1 single precision has steps of 6e-8, and a tenth of Beta(0.1, 0.1) lies nearer to 1 than that. Such draws are put
on the last number, whose density is not theirs. The share of P(x) that comes from there,

    S = (1/K) sum_k w_k 1(z_k at an edge) / P(x),    w_k = P(x, z_k) / q(z_k),    z_k ~ q,

says by about how many nats log P(x) may be off, whatever estimates it. As q there is the guide, which may hardly come
to the edge, and the prior, which may hardly come to where the data let z be: the larger one counts.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.distributions.supports import bounds_of, is_discrete, support_of
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.hmc import FAILURES
from ppl_vae.evidence.options import Options
from ppl_vae.evidence.prepare import Prepared
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.traces.log_weights import Weighted
from ppl_vae.traces.plates import samples, value_by_datum
from ppl_vae.traces.run import fixed
from ppl_vae.traces.sites import Kind, of_kind
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

NUM_TRIED = 512  # draws of each datum
SURELY = 2.0  # errors that S is taken to be smaller than it seems
NEAREST = 8  # numbers beside a bound
CANNOT_DRAW: tuple[type[Exception], ...] = (*FAILURES, RuntimeError)
EQUAL = 1e-3  # nats: weights that differ by less are those of a guide that is exact


class Edge(NamedTuple):
    """Where the support of a latent ends."""

    bounds: list[float]
    num_dims: int  # of its values, [K, N, ...]; those of sites that are enumerated come before


Edges = dict[str, Edge]


def with_edges(evidence: Evidence, prepared: Prepared, options: Options, threads: Threads) -> Evidence:
    """Return evidence that knows, for each datum, the share S of P(x) that comes from the edge of a support."""
    if evidence.is_exact or (evidence.method == "importance" and evidence.proposal == "prior"):  # P(x | z_k) holds
        return evidence
    try:
        edges = _edges(prepared)
    except CANNOT_DRAW:  # a single draw that fails costs no estimate
        edges = {}
    if not edges:
        return evidence
    plain = replace(options.of_importance(True), tolerance=None, max_samples=None, num_draws=0, num_samples=NUM_TRIED)
    share = np.zeros(len(evidence))
    with seeded(options.seed):
        for proposal in ("prior",) if prepared.pair.guide is None else ("guide", "prior"):
            sampler = Sampler(prepared, replace(plain, proposal=proposal), threads)
            try:
                log_mass, equal = np.concatenate(list(_log_mass(sampler, edges)), 1)
            except CANNOT_DRAW:  # as a prior may, which costs no estimate by the guide
                continue
            if proposal == "guide" and equal.all() and evidence.proposal != "laplace":
                return evidence  # the guide is exact, and its weights hold wherever its draws are put
            with np.errstate(invalid="ignore"):  # minus infinity, both
                share = np.fmax(share, np.minimum(np.exp(log_mass - evidence.log_px), 1.0))
    return replace(evidence, diagnostics=evidence.diagnostics | {"at_edge": share})


def _edges(prepared: Prepared) -> Edges:
    """Return the bounds of the latents that have some, the same ones for all data."""
    chunk = next(prepared.chunks(1))
    with fixed(prepared.structure, chunk.subsample):
        sites = samples(poutine.trace(prepared.pair.model).get_trace(*chunk.args))
    found = {}
    for name, site in of_kind(sites, Kind.LATENT).items():
        bounds = None if is_discrete(site["fn"]) else bounds_of(support_of(site["fn"]))
        ends = [torch.as_tensor(bound) for bound in bounds or ()]
        finite = [float(end) for end in ends if end.numel() == 1 and math.isfinite(end)]
        if finite:
            found[name] = Edge(finite, value_by_datum(site, prepared.structure).dim())
    return found


def _log_mass(sampler: Sampler, edges: Edges) -> Iterator[Array]:
    """Yield log(S P(x)) at least of each datum of a chunk, and whether all weights are one number, [2, n]."""
    for chunk in sampler.prepared.chunks(sampler.data_at_once):
        drawn = sampler.weighted(chunk, NUM_TRIED)
        log_weights = drawn.log_weights.double()
        there = torch.where(_at_edge(drawn, edges), log_weights, -math.inf)
        mean, squares = (torch.logsumexp(power * there, 0) - math.log(NUM_TRIED) for power in (1, 2))
        relative = ((squares - 2 * mean).exp() - 1).clamp(min=0.0).div(NUM_TRIED).sqrt()  # error of the mean
        log_mass = (mean + torch.log1p(-SURELY * relative)).nan_to_num(nan=-math.inf)
        equal = log_weights.amax(0) - log_weights.amin(0) < EQUAL
        yield torch.stack([log_mass, equal.double()])[:, : chunk.num_data].cpu().numpy()


def _at_edge(drawn: Weighted, edges: Edges) -> Tensor:
    """Return whether a latent of each draw is one of the numbers nearest to a bound of its support, [K, N]."""
    found = torch.zeros_like(drawn.log_weights, dtype=torch.bool)
    for name in edges.keys() & drawn.latents.keys():
        z, (bounds, num_dims) = drawn.latents[name], edges[name]
        limits = torch.finfo(z.dtype)
        for bound in bounds:
            near = (z - bound).abs() <= NEAREST * max(limits.eps * abs(bound), limits.tiny)
            near = near.reshape(-1, *near.shape[-num_dims:]).any(0)
            found |= near.reshape(*near.shape[:2], -1).any(-1)
    return found
