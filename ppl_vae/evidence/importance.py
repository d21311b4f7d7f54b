"""log P(x) by importance sampling, one datum at a time, with the guide as the proposal.

The logarithm of an average of weights is, in expectation, below log P(x) and above the ELBO, and rises to log P(x) as K
grows (Burda et al., arXiv 1509.00519). The data go through in chunks of samples x data: memory grows by one number only
with K.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ppl_vae.errors import InputError
from ppl_vae.evidence.adaptive import to_tolerance
from ppl_vae.evidence.diagnostics import Statistics
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.laplace_sampler import sampler_of
from ppl_vae.evidence.options import ImportanceOptions
from ppl_vae.evidence.prepare import Prepared
from ppl_vae.evidence.resampling import Draws, resampled
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.utils.faults import warn
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array
from ppl_vae.utils.threads import Threads


def importance_sampling(prepared: Prepared, options: ImportanceOptions, threads: Threads) -> Evidence:
    """Estimate log P(x) of each datum by importance sampling: `estimate_evidence(method="importance")`."""
    num_samples, tolerance = options.num_samples, options.tolerance
    sampler = sampler_of(prepared, options, threads)
    kept: list[Draws] = []
    with progress_bar(len(prepared.source), "log P(x)", "datum", options.progress) as bar:
        if tolerance is None:
            parts = [Statistics.of(weights, num_samples) for weights in _weights(sampler, kept, bar)]
        else:
            pilots = list(_weights(sampler, kept, bar))
    if tolerance is not None:
        parts = to_tolerance(sampler, pilots, tolerance)
    numbers, curve = Statistics.joined(parts)
    check_not_nan(numbers["log_px"])
    estimated: dict[str, Any] = {name: numbers.pop(name) for name in ("log_px", "elbo", "mcse", "elbo_mcse", "ess")}
    return Evidence(
        **estimated,
        num_samples=num_samples,
        proposal=options.proposal,
        elbo_proposal=options.proposal,
        **prepared.facts(),
        seed=options.seed,
        diagnostics=numbers,
        settings=sampler.settings
        | ({} if tolerance is None else {"tolerance": tolerance, "max_samples": float(options.most_samples)}),
        is_exact=prepared.exact,
        curve=curve,
        draws=Draws.concatenated(kept) if kept else None,
    )


def _weights(sampler: Sampler, kept: list[Draws], bar: Any) -> Iterator[Array]:
    """Yield the log-weights of one chunk of data after the other, [K, n]; add draws from the posterior, if wanted."""
    options = sampler.options
    if options.num_draws and sampler.structure.masked and sampler.proposal == "guide":
        warn(
            "Where the model masks a latent, its posterior draws are those of the guide: nothing is known of it there."
        )
    for number, chunk in enumerate(sampler.prepared.chunks(sampler.data_at_once)):
        if options.num_draws:
            weighted = sampler.weighted(chunk, options.num_samples)
            kept.append(resampled(weighted, options.num_draws, chunk.num_data))
            weights = weighted.log_weights.double().cpu().numpy()
        else:
            if number == 0:
                sampler.compile(chunk)
                bar.set_description("log P(x), compiled" if sampler.compiled else "log P(x)")
            weights = sampler.weights(chunk, sampler.num_samples)
            weights = np.broadcast_to(weights, (options.num_samples, chunk.size))
        yield weights[:, : chunk.num_data]
        bar.update(chunk.num_data)


def check_not_nan(log_px: Array) -> None:
    """Refuse estimates that are no numbers."""
    if np.isnan(log_px).any():
        rows = np.flatnonzero(np.isnan(log_px))
        raise InputError(
            f"Expected log-weights that are numbers; got NaN for {len(rows)} data, first in row {rows[0]}. The "
            f"weights of the model or guide may have diverged in training: load the best ones, or fit again."
        )
