"""log P(x) of series by particle filters: particles go on from step to step, and those that fit are chosen.

    P(x) ~ prod_r (1/K) sum_k W_r,k,    W_r,k = prod of w_t,k from one choice of particles to the next

K particles go along; where the effective sample size of their weights has fallen below K / 2, they are drawn again,
each with probability proportional to its weight (systematic resampling), and the weights start anew. Whenever that is,
the expectation of the estimate is P(x). Independent filters show its error.

Source: Doucet & Johansen, A tutorial on particle filtering and smoothing (2009); Del Moral, Doucet & Jasra, On adaptive
resampling strategies for sequential Monte Carlo methods, Bernoulli 18 (2012); Maddison et al., arXiv 1705.09279.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.evidence.diagnostics import estimates
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.importance import check_not_nan, importance_sampling
from ppl_vae.evidence.numbers import Filtering
from ppl_vae.evidence.options import FilterOptions
from ppl_vae.evidence.prepare import CHUNK_ROWS, Prepared
from ppl_vae.evidence.sequences import Sequence, check_steps, sequence_of
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array
from ppl_vae.utils.threads import Threads

LEAST = 0.5  # of the particles, that count: below it they are chosen anew


class Filtered(NamedTuple):
    """What F filters of N data found."""

    log_px: Array  # of each, [F, N]
    ess: Array  # how many particles count at each step, before any are chosen; the mean over filters, [T, N]
    resampled: Array  # the share of the filters that chose particles after it, [T, N]


def sequential_monte_carlo(prepared: Prepared, options: FilterOptions, threads: Threads) -> Evidence:
    """Estimate log P(x) of each datum by particle filters: `estimate_evidence(method="smc")`."""
    has_guide = prepared.pair.guide is not None
    if prepared.exact:
        return importance_sampling(prepared, options.of_importance(has_guide), threads)
    total = options.num_samples * options.num_filters
    check_steps(prepared, options.proposal)
    plain = importance_sampling(prepared, options.of_importance(has_guide), threads)
    parts: list[Filtered] = []
    with (
        prepared.drawing(options.seed, options.proposal) as ready,
        progress_bar(len(ready.source), "log P(x), filters", "datum", options.progress) as bar,
    ):
        for chunk in ready.chunks(max(1, (options.chunk_size or CHUNK_ROWS) // total)):
            sequence = sequence_of(ready, options.proposal, chunk, total)
            found = filtered(sequence, options.num_filters)
            parts.append(Filtered(*(values[:, : chunk.num_data] for values in found)))
            bar.update(chunk.num_data)
    found = Filtered(*(_joined(values) for values in zip(*parts, strict=True)))
    check_not_nan(found.log_px.sum(0))
    numbers = estimates(found.log_px)
    with np.errstate(invalid="ignore"):  # minus infinity, all
        apart = found.log_px.std(0, ddof=1) if options.num_filters > 1 else np.zeros_like(numbers["log_px"])
    estimated: dict[str, Any] = {name: numbers[name] for name in ("log_px", "mcse", "ess")}
    return replace(
        plain,
        **estimated,
        num_samples=options.num_filters,
        proposal=options.proposal,
        method="smc",
        diagnostics={
            "bias": numbers["bias"],
            "filter_spread": np.nan_to_num(apart, nan=0.0),
            "least_particles": np.nanmin(found.ess, 0),
            "num_resampled": np.nansum(found.resampled, 0),
            "log_px_importance": plain.log_px,
            "mcse_importance": plain.mcse,
        },
        settings={"num_samples": options.num_samples, "num_steps": len(found.ess)},
        curve=None,
        filtering=Filtering(found.ess, found.resampled),
        is_exact=False,
    )


def _joined(parts: tuple[Array, ...]) -> Array:
    """Return the numbers of several chunks side by side; where the steps of one end sooner, with NaN from there."""
    most = max(len(part) for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, most - len(part)), (0, 0)), constant_values=np.nan) for part in parts], axis=1
    )


def filtered(sequence: Sequence, num_filters: int) -> Filtered:
    """Let particles go from the first step to the last; the first K of them are one filter, and so on."""
    log_px: Tensor | None = None
    log_weights: Any = 0.0
    ess_at, resampled_at = [], []
    for t in range(sequence.num_steps):
        increments = sequence.step(t).double()
        log_weights = log_weights + increments.reshape(num_filters, -1, increments.shape[-1])
        count = log_weights.shape[1]
        log_mean = log_weights.logsumexp(1) - math.log(count)
        ess = (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()
        low = (ess < LEAST * count) & log_mean.isfinite()
        ess_at.append(ess.nan_to_num(nan=0.0).mean(0))
        last = t + 1 == sequence.num_steps
        resampled_at.append(torch.zeros_like(ess_at[-1]) if last else low.double().mean(0))
        if log_px is None:
            log_px = torch.zeros_like(log_mean)
        if last:
            log_px = log_px + log_mean
        elif bool(low.any()):
            index = torch.where(low[:, None], systematic(log_weights), torch.arange(count)[:, None].to(ess.device))
            log_px = log_px + torch.where(low, log_mean, 0.0)
            log_weights = torch.where(low[:, None], 0.0, log_weights)
            start = count * torch.arange(num_filters, device=ess.device)[:, None, None]
            sequence.choose((index + start).flatten(0, 1))
    assert log_px is not None
    numbers = (log_px, torch.stack(ess_at), torch.stack(resampled_at))
    return Filtered(*(values.cpu().numpy() for values in numbers))


def systematic(log_weights: Tensor) -> Tensor:
    """Return which particle each new one goes on from, by systematic resampling, [F, K, N], of log-weights [F, K, N].

        k_j = min{k : c_k >= (j + u) / K},    c_k = sum_{i <= k} w_i / sum_i w_i,    u ~ U(0, 1),  j = 0 .. K - 1

    Source: Kitagawa, Monte Carlo filter and smoother for non-Gaussian nonlinear state space models, Journal of
    Computational and Graphical Statistics 5 (1996).

    >>> systematic(torch.tensor([0.0, -1e9, 0.0, -1e9]).reshape(1, 4, 1)).flatten().tolist()
    [0, 0, 2, 2]
    """
    shares = log_weights.movedim(1, -1).softmax(-1)
    cumulated = shares.cumsum(-1).contiguous()
    count = shares.shape[-1]
    u = torch.rand(*shares.shape[:-1], 1, dtype=shares.dtype, device=shares.device)
    places = (torch.arange(count, device=shares.device) + u) / count * cumulated[..., -1:]
    return torch.searchsorted(cumulated, places.contiguous()).clamp(max=count - 1).movedim(-1, 1)
