"""log P(x) by importance sampling, one datum at a time, with the guide as the proposal.

    log P(x) = log E_Q[w] ~ log (1/K) sum_k P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x)

The logarithm of an average is, in expectation, below log P(x) and above the ELBO (the average of the
logarithms), and rises to log P(x) as K grows (Burda et al., arXiv 1509.00519). The work goes through in
chunks of samples x data, so memory does not grow with the data, and by one number only with K.
"""

from typing import Any

import numpy as np

from ppl_vae.compilation.capture import check_compile
from ppl_vae.errors import InputError, positive_int
from ppl_vae.evidence.adaptive import most_samples, reach
from ppl_vae.evidence.diagnostics import Array, Tally
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.prepare import prepared
from ppl_vae.evidence.resampling import Draws, resampled
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.traces.pair import Program
from ppl_vae.utils.progress import progress_bar


def importance_sampling(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_samples: int = 1000,
    proposal: str = "guide",
    joint: bool = False,
    tolerance: float | None = None,
    max_samples: int | None = None,
    num_draws: int = 0,
    chunk_size: int | None = None,
    vectorize: bool = True,
    compile: bool | str = "auto",
    seed: int = 0,
    progress: bool | None = None,
) -> Evidence:
    """Estimate log P(x) of each datum by importance sampling: `estimate_evidence(method="importance")`."""
    positive_int("num_samples", num_samples)
    if chunk_size is not None:
        positive_int("chunk_size", chunk_size)
    check_compile(compile)
    if num_draws:
        positive_int("num_draws", num_draws)
    most = most_samples(tolerance, num_samples, max_samples)
    with prepared(model, guide, data, proposal=proposal, seed=seed, joint=joint) as work:
        once = work.exact and not num_draws  # all weights of a datum are the same
        sampler = Sampler(work, 1 if once else num_samples, proposal, work.rows(chunk_size), vectorize)
        tallies: list[Tally] = []
        pilots: list[Array] = []
        kept: list[Draws] = []
        with progress_bar(len(work.source), "log P(x)", "datum", progress) as bar:
            for chunk in work.chunks(sampler.data_at_once):
                if num_draws:
                    weighted = sampler.weighted(chunk, num_samples)
                    weights = weighted.log_weights.double().cpu().numpy()
                    kept.append(resampled(weighted, num_draws, chunk.num_data))
                else:
                    if not tallies and not pilots:
                        sampler.compile(chunk, compile)
                        bar.set_description("log P(x), compiled" if sampler.compiled else "log P(x)")
                    weights = sampler.weights(chunk, 1 if once else num_samples)
                    weights = np.broadcast_to(weights, (num_samples, chunk.size)) if once else weights
                if tolerance is None:
                    tallies.append(Tally.of(weights[:, : chunk.num_data], num_samples))
                else:
                    pilots.append(weights[:, : chunk.num_data])
                bar.update(chunk.num_data)
        if tolerance is not None:
            tallies = reach(sampler, pilots, tolerance, most, progress)
        digest, what, exact = work.fingerprint(), work.quantity, work.exact
    result, curve = Tally.joined(tallies)
    _check_not_nan(result["log_px"])
    settings = {} if tolerance is None else {"tolerance": tolerance, "max_samples": float(most)}
    own = {key: result[key] for key in ("draws", "bias", "khat", "log_px_psis")}
    return Evidence(
        log_px=result["log_px"],
        elbo=result["elbo"],
        mcse=result["mcse"],
        elbo_mcse=result["elbo_mcse"],
        ess=result["ess"],
        num_samples=num_samples,
        proposal=proposal,
        elbo_proposal=proposal,
        event_size=work.event_size,
        fingerprint=digest,
        seed=seed,
        quantity=what,
        scored=work.scored,
        num_levels=work.num_levels,
        diagnostics=own,
        settings=settings,
        is_exact=exact,
        curve=curve,
        draws=Draws.concatenated(kept) if kept else None,
    )


def _check_not_nan(log_px: Array) -> None:
    if np.isnan(log_px).any():
        rows = np.flatnonzero(np.isnan(log_px))
        raise InputError(
            f"Expected log-weights that are numbers; got NaN for {len(rows)} data, first in row {rows[0]}. The "
            f"weights of the model or guide may have diverged in training: load the best ones, or fit again."
        )
