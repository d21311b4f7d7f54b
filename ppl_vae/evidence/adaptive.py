"""As many samples as a tolerance takes, for each datum that needs them.

One set of samples decides K, by doubling it; the answer is from K fresh ones. From the same it would be too low and too
sure of itself: a datum stops early where the heavy tail of its weights has not yet shown.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_vae.errors import InputError
from ppl_vae.evidence.diagnostics import Statistics, estimates, within
from ppl_vae.evidence.prepare import Chunk
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array

MARGIN = 0.8  # of the tolerance, for the samples that decide: the fresh ones scatter


def reach(sampler: Sampler, pilots: list[Array], tolerance: float) -> list[Statistics]:
    """Return the statistics of all chunks, after their first log-weights, [K, n], and as many more as it takes."""
    base, most = len(pilots[0]), sampler.options.most_samples
    _check_reachable(pilots, tolerance, most)
    found = []
    with progress_bar(len(sampler.prepared.source), "tolerance", "datum", sampler.options.progress) as bar:
        for pilot, chunk in zip(pilots, sampler.prepared.chunks(sampler.data_at_once), strict=True):
            counts = _enough(sampler, chunk, pilot, tolerance * MARGIN, most)
            groups = [np.flatnonzero(counts == count) for count in np.unique(counts)]
            draws = [_selected(sampler, chunk, index, int(counts[index[0]])) for index in groups]  # a group has one K
            fresh = [Statistics.of(weights, base) for weights in draws]
            found.append(Statistics.joined(fresh, np.argsort(np.concatenate(groups))))
            bar.update(chunk.num_data)
    return found


def _enough(sampler: Sampler, chunk: Chunk, weights: Array, tolerance: float, most: int) -> NDArray[np.int64]:
    """Return for each datum how many samples bring its error and its bias inside the tolerance, [n]."""
    counts = np.full(weights.shape[1], len(weights))
    index = np.arange(weights.shape[1])
    while 2 * len(weights) <= most:
        found = estimates(weights)
        over = ~within(found["mcse"], found["bias"], tolerance)
        if not over.any():
            break
        if sampler.selective:
            index, weights = index[over], weights[:, over]
        weights = np.concatenate([weights, _selected(sampler, chunk, index, len(weights))])
        counts[index] = len(weights)
    return counts


def _selected(sampler: Sampler, chunk: Chunk, index: NDArray[Any], count: int) -> Array:
    """Draw weights [count, n] for these data of a chunk."""
    if sampler.selective and len(index) < chunk.num_data:
        return sampler.weights(chunk.select(torch.from_numpy(index)), count)
    return sampler.weights(chunk, count)[:, index]


def _check_reachable(pilots: list[Array], tolerance: float, most: int) -> None:
    """Refuse a tolerance that no datum will come near to, before the long work."""
    count = len(pilots[0])
    mcse = np.concatenate([estimates(pilot)["mcse"] for pilot in pilots])
    best = mcse[np.isfinite(mcse)].min(initial=np.inf)
    times = 2 ** int(np.log2(most / count))
    if best / np.sqrt(times) > 2 * tolerance:
        raise InputError(
            f"Expected a tolerance that {most} samples can reach for some datum; got {tolerance:g}: with {count} "
            f"samples the smallest standard error is {best:.2g}, and {times * count} would make it about "
            f"{best / np.sqrt(times):.2g}. Raise tolerance or max_samples, or use proposal='refined' or method='ais'."
        )
