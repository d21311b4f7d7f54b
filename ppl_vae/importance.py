"""log P(x) by importance sampling, one datum at a time, with the guide as the proposal.

    log P(x) = log E_Q[w] ~ log (1/K) sum_k P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x)

The logarithm of an average is, in expectation, below log P(x) and above the ELBO (the average of the
logarithms), and rises to log P(x) as K grows (Burda et al., arXiv 1509.00519). The work goes through in
chunks of samples x data, of which only sums are kept, so memory does not grow with either.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.batches import Batch, Source, as_source, fingerprint
from ppl_vae.checks import check
from ppl_vae.errors import InputError, positive_int
from ppl_vae.evidence import Evidence, Moments
from ppl_vae.pair import Pair, Program
from ppl_vae.progress import hidden
from ppl_vae.rng import seeded
from ppl_vae.structure import Structure, samples, structure_of
from ppl_vae.trace import log_weights

CHUNK_NUMBERS = 2**21  # values of the largest site held at once: 8 MB in single precision
CHUNK_ROWS = 2**13  # (sample, datum) pairs held at once: hidden layers may be wider than any site


def estimate_evidence(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_samples: int = 1000,
    proposal: str = "guide",
    chunk_size: int | None = None,
    vectorize: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Evidence:
    """Estimate log P(x) of each datum by importance sampling, and hold it against the ELBO.

        log P(x) ~ log (1/K) sum_k w_k,    w_k = P(x, z_k) / Q(z_k | x),    z_k ~ Q(z | x)

    Works for any Pyro pair whose sites stand inside a plate over the data: modules, or plain functions.

    Args:
        model: P(x, z), called as `model(*batch)`.
        guide: Q(z | x), called the same way; may be None with `proposal="prior"`.
        data: a split of ours, a tensor [N, ...], a tuple of tensors, a PyTorch Dataset or DataLoader.
        num_samples: K, how many z are drawn for each datum, exactly.
        proposal: "guide", or "prior" for the naive estimate log (1/K) sum_k P(x | z_k) with z_k ~ P(z).
        chunk_size: how many (sample, datum) pairs are evaluated at once; None chooses by their size.
        vectorize: draw many samples in one run, inside one more plate; False for programs that cannot.
        seed: of the samples; the global random state is left as it was.
        progress: show a progress bar; None shows it in a terminal and in a notebook.

    Returns:
        `Evidence`: log_px, elbo, mcse and ess per datum, [N], in nats; print it for the means.

    Raises:
        InputError: data the likelihood does not take, sites that differ, sites outside the plate over
            the data, or numbers of samples below 1.

    Source: Burda et al., arXiv 1509.00519; Doersch, arXiv 1606.05908, equations 1 and 5.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> x = model(size=64).detach()
    >>> evidence = estimate_evidence(model, Posterior(model), x, num_samples=10)
    >>> bool(abs(evidence.log_px - model.exact_log_px(x).detach().numpy()).max() < 1e-4)
    True
    """
    positive_int("num_samples", num_samples)
    if chunk_size is not None:
        positive_int("chunk_size", chunk_size)
    if proposal not in ("guide", "prior"):
        raise InputError(f"Expected proposal to be 'guide' or 'prior'; got {proposal!r}.")
    pair = Pair(model, guide)
    with seeded(seed), pair.running(), pair.evaluating(), torch.no_grad():
        source = as_source(data, pair, ordered=True)
        traces, num_run = check(pair, source, proposal=proposal)
        structure = structure_of(traces, num_run)
        _check_densities(traces)
        whole_only = 1 < len(source) == num_run  # a part of the data was tried first, and failed
        rows = chunk_size or min(CHUNK_ROWS, max(1, CHUNK_NUMBERS // structure.numel))
        at_once = min(num_samples, max(1, rows // structure.size) if structure.subsampled or whole_only else rows)
        data_at_once = len(source) if whole_only else max(1, rows // at_once)
        whole, rest = divmod(num_samples, at_once)
        parts = []
        with tqdm(total=len(source), desc="log P(x)", unit="datum", leave=False, disable=hidden(progress)) as bar:
            for batch, subsample in _chunks(source, structure, data_at_once):
                args = tuple(t.to(pair.device) for t in batch)
                moments: Moments | None = None
                for k in [at_once] * whole + [rest] * (rest > 0):
                    weights = log_weights(
                        pair, args, k, structure, proposal=proposal, subsample=subsample, vectorize=vectorize
                    )
                    more = Moments.of(weights.double().cpu().numpy())
                    moments = more if moments is None else moments + more
                parts.append(cast(Moments, moments).estimates())
                bar.update(len(args[0]) if subsample is None else len(subsample))
        digest = fingerprint(source)
    arrays = {key: np.concatenate([part[key] for part in parts])[: len(source)] for key in parts[0]}
    _check_not_nan(arrays["log_px"])
    return Evidence(
        **arrays,
        num_samples=num_samples,
        proposal=proposal,
        event_size=structure.observed_numel,
        fingerprint=digest,
        seed=seed,
    )


def _chunks(source: Source, structure: Structure, at_once: int) -> Iterator[tuple[Batch, Tensor | None]]:
    """Yield what to call the programs with, and which data their own random subset has to be."""
    if not structure.subsampled:
        for batch in source.batches(at_once):
            yield batch, None
        return
    everything = next(source.batches(len(source)))
    for index in torch.arange(len(source)).split(structure.size):
        # The subset has one size: the last is filled up with data whose results are dropped.
        yield everything, torch.cat([index, index.new_zeros(structure.size - len(index))])


def _check_densities(traces: list[Trace]) -> None:
    """Refuse a guide that puts a continuous latent on a point: it has no density to weigh by."""
    model, guided = samples(traces[0]), samples(traces[1]) if len(traces) > 1 else {}
    if any(site["infer"].get("is_auxiliary") for site in guided.values()):
        return  # an automatic guide: the density stands at the auxiliary site
    for name, site in guided.items():
        fn = site["fn"]
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        if isinstance(fn, Delta) and not bool(fn.log_density.any()) and not model[name]["fn"].support.is_discrete:
            raise InputError(
                f"Expected a guide with a density; got a point (Delta) at site {name!r}, whose weights say nothing "
                f"about log P(x). Use a guide with some width, such as mean_field."
            )


def _check_not_nan(log_px: np.ndarray[Any, Any]) -> None:
    if np.isnan(log_px).any():
        rows = np.flatnonzero(np.isnan(log_px))
        raise InputError(
            f"Expected log-weights that are numbers; got NaN for {len(rows)} data, first in row {rows[0]}. The "
            f"weights of the model or guide may have diverged in training: load the best ones, or fit again."
        )
