"""log P(x) by importance sampling, one datum at a time, with the guide as the proposal.

    log P(x) = log E_Q[w] ~ log (1/K) sum_k P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x)

The logarithm of an average is, in expectation, below log P(x) and above the ELBO (the average of the
logarithms), and rises to log P(x) as K grows (Burda et al., arXiv 1509.00519). The work goes through in
chunks of samples x data, so memory does not grow with the data, and by one number only with K.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ppl_vae.diagnostics import Array, Curve, bound_curve, estimates, pareto
from ppl_vae.draws import Draws, resampled
from ppl_vae.errors import InputError, positive_int, positive_number
from ppl_vae.evidence import Evidence
from ppl_vae.pair import Program
from ppl_vae.progress import hidden
from ppl_vae.sampler import Sampler
from ppl_vae.trust import within
from ppl_vae.work import prepared

MOST = 64  # times num_samples: how far a tolerance may raise it, unless told


def importance_sampling(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_samples: int = 1000,
    proposal: str = "guide",
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
    if compile not in (True, False, "auto"):
        raise InputError(f"Expected compile to be True, False or 'auto'; got {compile!r}.")
    if num_draws:
        positive_int("num_draws", num_draws)
    most = _most(tolerance, num_samples, max_samples)
    with prepared(model, guide, data, proposal=proposal, seed=seed) as work:
        sampler = Sampler(work, num_samples, proposal, work.rows(chunk_size), vectorize)
        parts: list[_Part] = []
        kept: list[Draws] = []
        with tqdm(total=len(work.source), desc="log P(x)", unit="datum", leave=False, disable=hidden(progress)) as bar:
            for chunk in work.chunks(sampler.data_at_once):
                if num_draws:
                    weighted = sampler.weighted(chunk, num_samples)
                    weights = weighted.log_weights.double().cpu().numpy()
                    kept.append(resampled(weighted, num_draws, chunk.num_data))
                else:
                    if not parts:
                        sampler.compile(chunk, compile)
                        if sampler.compiled:
                            bar.set_description("log P(x), compiled")
                    weights = sampler.weights(chunk, num_samples)
                parts.append(_Part(weights[:, : chunk.num_data], num_samples, keep=tolerance is not None))
                bar.update(chunk.num_data)
        if tolerance is not None:
            _check_reachable(parts, tolerance, num_samples, most)
            _refine_errors(parts, sampler, tolerance, most, hidden(progress))
        digest = work.fingerprint()
    result = {key: np.concatenate([part.numbers[key] for part in parts]) for key in parts[0].numbers}
    _check_not_nan(result["log_px"])
    own = {key: result[key] for key in ("draws", "bias", "khat", "log_px_psis")}
    return Evidence(
        log_px=result["log_px"],
        elbo=result["elbo"],
        mcse=result["mcse"],
        elbo_mcse=result["elbo_mcse"],
        ess=result["ess"],
        num_samples=num_samples,
        proposal=proposal,
        event_size=work.structure.observed_numel,
        fingerprint=digest,
        seed=seed,
        diagnostics=own,
        settings={} if tolerance is None else {"tolerance": tolerance, "max_samples": most},
        curve=_joined([part.curve for part in parts]),
        draws=Draws.concatenated(kept) if kept else None,
    )


def _most(tolerance: float | None, num_samples: int, max_samples: int | None) -> int:
    """Return how many samples a datum may get."""
    if tolerance is None:
        if max_samples is not None:
            raise InputError("Expected max_samples together with a tolerance; got it alone. Give tolerance=0.05, say.")
        return num_samples
    positive_number("tolerance", tolerance)
    most = MOST * num_samples if max_samples is None else positive_int("max_samples", max_samples)
    if not 2 <= num_samples <= most:
        raise InputError(
            f"Expected a tolerance with 2 <= num_samples <= max_samples; got {num_samples} and {most}. "
            f"The error is estimated from the samples: raise them."
        )
    return most


class _Part:
    """The numbers of a chunk's data, and their weights as long as there may come more."""

    def __init__(self, weights: Array, base: int, *, keep: bool) -> None:
        self.base = base
        self.numbers = self._numbers(weights)
        self.curve = bound_curve(weights, base)
        self.weights = weights.astype(np.float32) if keep else None

    def _numbers(self, weights: Array) -> dict[str, Array]:
        draws = np.full(weights.shape[1], float(len(weights)))
        return estimates(weights) | pareto(weights) | {"draws": draws}

    def replace(self, index: NDArray[np.int64], weights: Array) -> None:
        """Take the numbers of these data from more weights, [K', n']."""
        for key, value in self._numbers(weights).items():
            self.numbers[key][index] = value
        curve = bound_curve(weights, self.base)
        rows = len(curve.num_samples) - len(self.curve.num_samples)
        if rows > 0:
            more = np.full((rows, len(self.numbers["log_px"])), np.nan)
            bound, mcse = (np.concatenate([a, more]) for a in (self.curve.bound, self.curve.mcse))
            self.curve = Curve(curve.num_samples, bound, mcse)
        points = len(curve.num_samples)
        self.curve.bound[:points, index], self.curve.mcse[:points, index] = curve.bound, curve.mcse


def _refine_errors(parts: list[_Part], sampler: Sampler, tolerance: float, most: int, hide: bool | None) -> None:
    """Double the samples of every datum whose error or bias is above the tolerance, as often as is allowed."""
    chunks = sampler.work.chunks(sampler.data_at_once)
    with tqdm(total=len(sampler.work.source), desc="more samples", unit="datum", leave=False, disable=hide) as bar:
        for part, chunk in zip(parts, chunks, strict=True):
            weights = part.weights.astype(np.float64) if part.weights is not None else np.empty((0, 0))
            part.weights = None
            index = np.arange(chunk.num_data)
            while 2 * len(weights) <= most:
                over = ~within(part.numbers["mcse"][index], part.numbers["bias"][index], tolerance)
                if not over.any():
                    break
                if sampler.work.divisible:
                    index, weights = index[over], weights[:, over]
                some = chunk.select(torch.from_numpy(index)) if sampler.work.divisible else chunk
                weights = np.concatenate([weights, sampler.weights(some, len(weights))[:, : len(index)]])
                part.replace(index, weights)
            bar.update(chunk.num_data)


def _check_reachable(parts: list[_Part], tolerance: float, num_samples: int, most: int) -> None:
    """Refuse a tolerance that no datum will come near to, before the long work."""
    mcse = np.concatenate([part.numbers["mcse"] for part in parts])
    best = float(np.nanmin(np.where(np.isfinite(mcse), mcse, np.inf)))
    times = 2 ** int(np.log2(most / num_samples))
    if best / np.sqrt(times) > 2 * tolerance:
        raise InputError(
            f"Expected a tolerance that {most} samples can reach for some datum; got {tolerance:g}: with {num_samples} "
            f"samples the smallest standard error is {best:.2g}, and {times * num_samples} would make it about "
            f"{best / np.sqrt(times):.2g}. Raise tolerance or max_samples, or use proposal='refined' or method='ais'."
        )


def _joined(curves: list[Curve]) -> Curve:
    """Put the curves of all chunks side by side; where a chunk ends at fewer samples there is NaN."""
    longest = max((curve.num_samples for curve in curves), key=len)

    def padded(values: Array) -> Array:
        return np.pad(values, ((0, len(longest) - len(values)), (0, 0)), constant_values=np.nan)

    bound, mcse = (np.concatenate([padded(getattr(c, name)) for c in curves], axis=1) for name in ("bound", "mcse"))
    return Curve(longest, bound, mcse)


def _check_not_nan(log_px: Array) -> None:
    if np.isnan(log_px).any():
        rows = np.flatnonzero(np.isnan(log_px))
        raise InputError(
            f"Expected log-weights that are numbers; got NaN for {len(rows)} data, first in row {rows[0]}. The "
            f"weights of the model or guide may have diverged in training: load the best ones, or fit again."
        )
