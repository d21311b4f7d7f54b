"""As many samples as a tolerance takes, for each datum that needs them.

One set of samples decides K, by doubling it; the answer is from K fresh ones. From the same it would be too low and too
sure of itself: a datum stops early where the heavy tail of its weights has not yet shown.

A datum whose fresh samples do not reach the tolerance goes on: as many are added as there are, to the last sample, and
none is left out. The first answer has mean P(x), as others decided its K; where only those that do not reach are
diluted, the mean of all is too low by what the first answers of these were above their last ones, on average:

    E[w_last] - P(x) = E[(w_last - w_first) 1(it went on)],

which is known of each datum (`stopping`, as a share of w_last: in nats) and stated with the bias of a finite K.
"""

from collections.abc import Iterator

import numpy as np
import torch

from ppl_vae.errors import InputError
from ppl_vae.evidence.diagnostics import Statistics, estimates, within
from ppl_vae.evidence.numbers import Index
from ppl_vae.evidence.prepare import Chunk
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array

MARGIN = 0.8  # of the tolerance, for the samples that decide: the fresh ones scatter


def to_tolerance(sampler: Sampler, pilots: list[Array], tolerance: float) -> list[Statistics]:
    """Return the statistics of all chunks, after their first log-weights, [K, n], and as many more as it takes."""
    most = sampler.options.most_samples
    _check_reachable(pilots, tolerance, most)
    found = []
    with progress_bar(len(sampler.prepared.source), "tolerance", "datum", sampler.options.progress) as bar:
        for pilot, chunk in zip(pilots, sampler.prepared.chunks(sampler.data_at_once), strict=True):
            counts = np.zeros(pilot.shape[1], dtype=int)
            for index, weights in _until(sampler, chunk, np.arange(len(counts)), pilot, tolerance * MARGIN):
                counts[index] = len(weights)
            answers = []
            for count in np.unique(counts):  # a group has one K
                index = np.flatnonzero(counts == count)
                first = _selected(sampler, chunk, index, int(count))
                for some, weights in _until(sampler, chunk, index, first, tolerance):
                    answers.append((some, _answer(weights, int(count), len(pilot))))
            order = np.argsort(np.concatenate([index for index, _ in answers]))
            found.append(Statistics.joined([answer for _, answer in answers], order))
            bar.update(chunk.num_data)
    return found


def _until(
    sampler: Sampler, chunk: Chunk, index: Index, weights: Array, tolerance: float
) -> Iterator[tuple[Index, Array]]:
    """Yield data of a chunk with log-weights [K, n] whose errors and biases are inside the tolerance, or K the most."""
    most = sampler.options.most_samples
    while len(index):
        found = estimates(weights)
        done = within(found["mcse"], found["bias"], tolerance) | (len(weights) >= most)
        done &= sampler.selective | done.all()  # what is drawn for all of them is kept for all of them
        if done.any():
            yield index[done], weights[:, done]
        index, weights = index[~done], weights[:, ~done]
        if len(index):
            more = _selected(sampler, chunk, index, min(len(weights), most - len(weights)))
            weights = np.concatenate([weights, more])


def _answer(weights: Array, first: int, base: int) -> Statistics:
    """Return the statistics of log-weights [K, n], of which the first ones were the first answer."""
    statistics = Statistics.of(weights, base)
    before = estimates(weights[:first])["log_px"] - statistics.numbers["log_px"] if first < len(weights) else 0.0
    statistics.numbers["stopping"] = np.nan_to_num(-np.expm1(before)) + np.zeros(weights.shape[1])
    return statistics


def _selected(sampler: Sampler, chunk: Chunk, index: Index, count: int) -> Array:
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
